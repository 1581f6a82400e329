"""A run as the stages see it: parameters, artifacts, and models. Open one with :func:`open_run`."""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from glore_lib.artifacts import keys
from glore_lib.artifacts.manifest import stage_record_path, training_warnings
from glore_lib.artifacts.packed import DESCRIPTION, is_packed, packed_base
from glore_lib.artifacts.records import RETRAIN, checksum, left_out, warn, write
from glore_lib.artifacts.store import Artifact, Info, Store
from glore_lib.models import checks, launch, loading, tokens
from glore_lib.models.prefix_tree import Labelled, Row, pack
from glore_lib.models.sources import MINI_BASE, gguf_file, locate
from glore_lib.params import (
    SPLITS,
    Params,
    ParamsError,
    Section,
    Training,
    check_installed,
    check_source,
    digest,
    load_params,
)
from glore_lib.sampling import Sampler, probe, resumable, transformers
from glore_lib.sampling.resumable import ResumableSampler
from glore_lib.sampling.vllm import VLLMSampler
from glore_lib.tasks import Question, Task, checked_task
from glore_lib.tasks.benchmarks import Benchmark
from glore_lib.threads import cores

EXAMPLES = 16  # questions of each split that the tokenizer is tried on


@dataclass
class Run:
    """The parameters, artifacts and task of a run. Build it with :func:`open_run`."""

    params: Params
    store: Store
    task: Task
    _engine: VLLMSampler | None = field(default=None, init=False, repr=False)

    def seed(self, *parts: Any) -> int:
        """Return a 31-bit seed derived from the run's seed and ``parts``, which say what it is for."""
        return int(digest([self.params.seed, *parts]), 16) % 2**31

    def frame(
        self,
        name: str,
        schema: str,
        make: Callable[[], pd.DataFrame | tuple[pd.DataFrame, Info]],
        params: Any,
        inputs: Sequence[Artifact],
    ) -> Artifact:
        """Return the frame that ``make`` returns, made once for these parameters, inputs and code."""
        return self.store.frame(name, schema, self._key(make, params, inputs), make)

    def folder(
        self, name: str, make: Callable[[Path], Info], params: Any, inputs: Sequence[Artifact]
    ) -> Artifact:  # fmt: skip
        """Return the folder that ``make`` fills, made once for these parameters, inputs and code."""
        return self.store.folder(name, self._key(make, params, inputs), make)

    def _key(self, make: Callable, params: Any, inputs: Sequence[Artifact]) -> dict[str, Any]:
        task = f"{keys.below_package(type(self.task).__module__)}:{type(self.task).__name__}"
        of_task = self.params.task.model_dump(exclude={f"{split}_questions" for split in SPLITS})
        backend = f"sampling.{self.params.sampling.backend}"
        return {
            "task": of_task,
            "seed": self.params.seed,
            "code": keys.code_of(keys.start_of(make), task, backend),
            "params": json.loads(json.dumps(params, default=Section.computing)),
            "inputs": [artifact.id for artifact in inputs],
        }

    def questions(self, split: str) -> dict[str, Question]:
        """Return the questions of a split (``train``, ``reward``, ``validation`` or ``test``) by their id."""
        if split not in self._questions:
            counts, seed = self.params.task.counts, self.params.seed
            if split == "reward":  # those that follow the student's
                before = counts["train"]
                drawn = self.task.questions("train", before + counts[split], seed)[before:]
            else:
                drawn = self.task.questions(split, counts[split], seed)
            self._questions[split] = {question.question_id: question for question in drawn}
        return self._questions[split]

    @property
    def reward_split(self) -> str:
        """The split whose questions reward models and refiner learn from."""
        return "reward" if self.params.task.reward_questions else "train"

    @cached_property
    def _questions(self) -> dict[str, dict[str, Question]]:
        return {}

    @cached_property
    def base(self) -> str:
        """The base model: a folder, or a hub name pinned to a commit. It is made first where necessary.

        Of an unpacked run whose base model is not on this machine, it is the packed description, without weights.
        """
        if self._packed_base is None:
            return self._own_base
        try:
            own = self._own_base
        except ParamsError:
            return str(self._packed_base.folder)
        return str(self._packed_base.folder) if left_out(Path(own)) else own

    @cached_property
    def _packed_base(self) -> Artifact | None:
        return packed_base(self.store.root, self.params)

    @cached_property
    def _own_base(self) -> str:
        check_source(self.params)
        source = self.params.base_model.source
        if source == "mini-base":
            return str(MINI_BASE)
        # Their keys hold neither task nor seed, which do not affect them.
        if file := gguf_file(self.params.base_model.location):
            return str(self._unpacked(file).folder)
        if source == "scratch":
            from glore_lib.pretraining.pretrain import pretrain

            steps = self.params.base_model.pretrain_steps
            key = {"code": keys.code_of(keys.start_of(pretrain)), "steps": steps}
            return str(self.store.folder("base", key, lambda out: pretrain(out, steps=steps)).folder)
        location = self.params.base_model.location
        if self._packed_base and (commit := self._packed_base.record["info"]["model"].get("commit")):
            location = f"{locate(location)[0]}@{commit}"  # the hub may have a newer one
        return self._merged(loading.pin(location))

    def _unpacked(self, file: Path) -> Artifact:
        """Return the model in a GGUF file as an artifact; its key holds the file's content, not its place."""
        dtype, sha256 = self.params.base_model.dtype, checksum(file)
        key = {"code": keys.code_of(keys.start_of(loading.unpack_gguf)), "sha256": sha256, "dtype": dtype}
        return self.store.folder("unpacked", key, lambda out: loading.unpack_gguf(file, sha256, dtype, out))

    def _merged(self, source: str) -> str:
        """Return a model, or the artifact of an adapter merged into its base, which vLLM and further adapters need."""
        under = loading.adapter_base(source)
        if under is None:
            return source
        base, dtype = self._merged(loading.pin(under)), self.params.base_model.dtype
        key = {
            "code": keys.code_of(keys.start_of(loading.merge_adapter)), "dtype": dtype,
            "adapter": loading.fingerprint(source), "base": loading.fingerprint(base),
        }  # fmt: skip
        return str(self.store.folder("merged", key, lambda out: loading.merge_adapter(source, base, dtype, out)).folder)

    @cached_property
    def _base_fingerprint(self) -> dict[str, Any]:
        """What identifies the base model, stored with its description for :mod:`glore_lib.artifacts.packed`."""
        packed, source = self._packed_base, self.params.base_model.source
        if packed and self.base == str(packed.folder):
            model = packed.record["info"]["model"]
        elif gguf_file(self.params.base_model.location):
            model = {"artifact": Path(self.base).name}  # the files also depend on the version of transformers
        else:
            model = loading.fingerprint(self.base)  # reads all weights
        if source != "mini-base":  # which ships with the package
            about = {"source": source, "model": model}

            def make(folder: Path) -> Info:
                _ = self.tokenizer  # from the hub: only what is read is there
                loading.copy_description(self.base, folder)
                return dict(about)

            self.store.folder(DESCRIPTION, about, make)
        return model

    @cached_property
    def base_key(self) -> dict[str, Any]:
        """What identifies the base model in an artifact's key: its files or commit, not its place."""
        model = {"model": self._base_fingerprint, "dtype": self.params.base_model.dtype}
        return model | {"template": self.tokenizer.chat_template, "support": asdict(self.support)}

    @cached_property
    def support(self) -> probe.Support:
        """What the base model's architecture allows; tried once, before anything is made with it."""
        dtype = self.params.base_model.dtype

        def make(_: Path) -> Info:
            model = loading.load_model(self.base, dtype)
            return {"support": asdict(probe.probe(model, self.tokenizer, self.params.base_model.source))}

        code = keys.code_of(keys.start_of(probe.probe), backend="sampling.transformers")
        key = {"code": code, "model": self._base_fingerprint, "dtype": dtype}
        support = probe.Support(**self.store.folder("support", key, make).record["info"]["support"])
        if cost := support.cost(self.params.sampling.backend == "vllm"):
            line = f"base_model.source = {self.params.base_model.source!r}: {cost}"
            print(line)  # in the notebook
            warn(line)  # in the terminal
        return support

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base model's tokenizer, which all models of the run use."""
        return tokens.load_tokenizer(self.base, self.params.base_model.chat_template)

    def path(self, source: Artifact | None) -> str:
        """Return the folder or hub name of a model of this run, or of its base if ``source`` is None, to load it.

        Raises as :meth:`Store.open` does if the weights were left out of an archive.
        """
        if left_out(Path(self.base)) and (source is None or os.environ.get(RETRAIN)):
            self.base = str(self.store.open(Artifact(Path(self._own_base))))
        return str(self.store.open(source)) if source else self.base

    def load(self, source: Artifact | None) -> PreTrainedModel:
        """Load a language model of this run, or its base if ``source`` is None."""
        self.free()
        return loading.load_model(self.path(source), self.params.base_model.dtype, base=self.base)

    def fit(
        self,
        start: Artifact | None,
        name: str,
        examples: launch.Examples,
        training: Training,
        folder: Path,
        language_model_loss: float | None = None,
        head_rate: float = 1.0,
    ) -> Info:
        """Fine-tune a model of this run, or its base if ``start`` is None, and save it to ``folder``.

        ``name`` gives the seed; ``language_model_loss`` and ``head_rate`` are set for reward models only. See
        :func:`glore_lib.models.launch.fit` for what is returned and raised.
        """
        self.free()
        p = self.params
        job = launch.Job(
            self.path(start), self.base, p.base_model.dtype, p.finetuning, training, self.seed(name),
            language_model_loss, head_rate,
        )  # fmt: skip
        return launch.fit(job, self.tokenizer, examples, folder)

    def packed(self, solutions: Iterable[list[Labelled]], together: int) -> list[Row]:
        """Pack the solutions of each question, at most ``together`` a row, or one where the base model needs that."""
        solutions, support, limit = list(solutions), self.support, self.params.finetuning.max_length
        if support.packs(max((len(s.ids) for of_question in solutions for s in of_question), default=0)):
            limit = min(limit, support.window or limit)
        else:
            together = 1
        return [row for of_question in solutions for row in pack(of_question, together, limit)]

    def sampler(self, source: Artifact | None) -> Sampler:
        """Return a sampler of a model of this run, valid until another model is loaded or sampled.

        While a frame is being made, its samples are stored in shards.
        """
        return ResumableSampler(self.backend(source), self.store.shard, resumable.SHARD_SIZE)

    def backend(self, source: Artifact | None) -> Sampler:
        """Return what :meth:`sampler` samples with."""
        model, sampling = self.path(source), self.params.sampling
        build = partial(
            build_sampler, tokenizer=self.tokenizer, params=self.params, base=self.base, support=self.support
        )  # fmt: skip
        if sampling.ray:
            from glore_lib.sampling.ray import RaySampler

            return RaySampler(build, model, sampling)
        if sampling.backend == "transformers":
            return build(model)
        if not (self._engine and self._engine.source == model):
            self.free()
            self._engine = VLLMSampler(model, self.tokenizer, self.params.base_model.dtype, sampling, self.base)
        return self._engine

    def free(self) -> None:
        """Stop the vLLM engine, which holds the GPU. It is kept between samplings since it takes a minute to start."""
        if self._engine:
            self._engine.free()
            self._engine = None

    def finish(self, stage: str) -> pd.DataFrame:
        """Return what a notebook made or read, with seconds and tokens, and store it for the manifest.

        Warnings about trainings are printed.
        """
        used = self.store.used
        records = {
            id: {"seconds": a.record["seconds"], "info": a.record["info"]}
            | ({"stale": self.store.stale[id]} if id in self.store.stale else {})
            for id, a in used.items()
        }
        path = stage_record_path(self.store.root, self.params, stage)
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, json.dumps({"artifacts": records}, indent=1))
        for warning in training_warnings(records):
            print(f"Warning: {warning}")
        rows = [
            {"artifact": id, "seconds": r["seconds"]} | {k: v for k, v in r["info"].items() if isinstance(v, int)}
            for id, r in records.items()
        ]
        return pd.DataFrame(rows).convert_dtypes()


def build_sampler(
    model: str, tokenizer: PreTrainedTokenizerBase, params: Params, base: str, support: probe.Support
) -> Sampler:  # fmt: skip
    """Build a sampler of a model of a run on ``base``, in the process that calls this."""
    dtype = params.base_model.dtype
    if params.sampling.backend == "vllm":
        return VLLMSampler(model, tokenizer, dtype, params.sampling, base)
    loaded = loading.load_model(model, dtype, base=base)
    return transformers.build(loaded, tokenizer, params.sampling.rows, support.shared_prefix)


def open_run(params_file: str, overrides: dict[str, Any], artifacts: str) -> Run:
    """Open the run of a params file, changed by ``overrides``; artifacts go to the folder ``artifacts``.

    See :func:`glore_lib.params.load_params` for the overrides. Raises :class:`glore_lib.params.ParamsError` before any
    work if the parameters, the data or the base model cannot be used.
    """
    params = load_params(params_file, overrides)
    task = checked_task(params)
    if not is_packed(Path(artifacts), params):
        check_installed(params)
    launch.quiet()
    if not os.environ.keys() & {"OMP_NUM_THREADS", "MKL_NUM_THREADS"}:  # torch follows these
        torch.set_num_threads(cores())
    run = Run(params, Store(Path(artifacts)), task)
    _check_base(run)
    return run


def _check_base(run: Run) -> None:
    """Raise ParamsError if the base model, its tokenizer or its context does not suit the run. Loads no weights."""
    p = run.params
    if p.base_model.source == "scratch":  # not made yet; the mini base has its tokenizer and shape
        folder = str(MINI_BASE)
        tokenizer = tokens.load_tokenizer(folder, p.base_model.chat_template)
    else:
        folder, tokenizer = run.base, run.tokenizer
    loading.check_base(folder, p.finetuning)
    # Generated questions are alike in all splits, and take a second to draw.
    drawn = p.task.counts if isinstance(run.task, Benchmark) else ["train"]
    splits = [[*run.questions(split).values()] for split in drawn]
    some = [question for questions in splits for question in questions[:EXAMPLES]]
    checks.check_tokenizer(tokenizer, folder, p.base_model.source, run.task, some)
    every = [question.question for questions in splits for question in questions]
    checks.check_context(tokenizer, folder, p, run.task, every)
