"""Helpers of benchmarks/sampler.py and benchmarks/label_cost.py.

They count the tokens that a model processes, sample with `model.generate` or with the transformers backend without
sharing between completions, and describe the machine.
"""

import json
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria

from glore_lib.sampling import Completion, Ends, Request
from glore_lib.sampling.rows import Row
from glore_lib.sampling.transformers import TransformersSampler
from glore_lib.solutions import ANSWER_MARK

Sample = Callable[[list[Request], int], int]  # requests, new tokens at most; returns the tokens of the texts


@dataclass
class Work:
    """Tokens that a model processed, padding included: one per row in decoding, more in reading."""

    decoded: int = 0
    read: int = 0

    def watch(self, model: PreTrainedModel) -> RemovableHandle:
        # The output layer is not asked where a prompt is read.
        return model.base_model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, model: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        ids = kwargs["input_ids"]
        if ids.shape[1] == 1:
            self.decoded += ids.numel()
        else:
            self.read += ids.numel()


class AnswerEnds(StoppingCriteria):
    """Stop each row at an end token, or after the line with the final answer."""

    def __init__(self, ends: Ends, start: int):
        self.ends, self.start = ends, start
        self.lengths: torch.Tensor | None = None  # of the finished texts, else 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        if self.lengths is None:
            self.lengths = torch.zeros(len(input_ids), dtype=torch.long, device=input_ids.device)
        last, running = input_ids[:, -1], self.lengths == 0
        ended = running & self._among(last, self.ends.tokens)
        rows = (running & self._among(last, self.ends.newlines)).nonzero()[:, 0]
        texts = self.ends.tokenizer.batch_decode(input_ids[rows, self.start :])
        ended[rows] |= torch.tensor([ANSWER_MARK in text for text in texts], dtype=torch.bool, device=ended.device)
        self.lengths[ended] = input_ids.shape[1] - self.start
        return self.lengths > 0

    @staticmethod
    def _among(last: torch.Tensor, ids: frozenset[int]) -> torch.Tensor:
        return torch.isin(last, torch.tensor(sorted(ids), device=last.device))


def generating(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, n: int, temperature: float) -> Sample:
    """Return ``model.generate`` on all requests at once, sampling from the whole distribution as the backend does."""
    where = Ends(tokenizer, model.generation_config)

    def generate(requests: list[Request], tokens: int) -> int:
        batch = tokenizer.pad({"input_ids": [list(r.prompt) for r in requests]}, padding_side="left")
        inputs = {name: torch.tensor(batch[name], device=model.device) for name in ("input_ids", "attention_mask")}
        ends = AnswerEnds(where, inputs["input_ids"].shape[1])
        torch.manual_seed(requests[0].seed)
        found = model.generate(
            **inputs, do_sample=True, temperature=temperature, top_k=0, top_p=1.0, num_return_sequences=n,
            max_new_tokens=tokens, pad_token_id=tokenizer.pad_token_id, eos_token_id=sorted(where.tokens),
            use_cache=True, stopping_criteria=[ends],
        )  # fmt: skip
        return int(torch.where(ends.lengths > 0, ends.lengths, found.shape[1] - ends.start).sum())

    return generate


class _Own(tuple):
    """Token ids that are equal only to themselves."""

    __hash__, __eq__ = object.__hash__, object.__eq__


class _Unshared(Request):
    @cached_property
    def prefix(self) -> tuple[int, ...]:
        return _Own(self.prompt[: self.shared])


class Alone(TransformersSampler):
    """The transformers backend with a separate row for every completion.

    Unless ``share_questions``, the question is read separately too. Completions are the same up to rounding.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: int, share_questions: bool):
        super().__init__(model, tokenizer, rows)
        self._kind = Request if share_questions else _Unshared

    def sample(self, requests: list[Request], *args: Any) -> list[list[Completion]]:
        apart = [self._kind(r.prompt, 1, r.seed, j, r.common) for r in requests for j in range(r.first, r.first + r.n)]
        found = iter(super().sample(apart, *args))
        return [[next(found)[0] for _ in range(r.n)] for r in requests]

    def _waiting(self, requests: list[Request], temperature: float) -> list[Row]:
        order = sorted(range(len(requests)), key=lambda i: (-requests[i].shared, requests[i].prompt))
        return [Row(requests[i], [i]) for i in order]


def machine() -> dict[str, Any]:
    """Describe this machine."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line for line in lines if line.startswith("model name")]
    return {
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cpu": names[0].split(": ")[1] if names else platform.machine(),
        "threads": torch.get_num_threads(), "torch": torch.__version__, "python": platform.python_version(),
    }  # fmt: skip


def write_record(path: Path | None, record: dict[str, Any]) -> None:
    """Print the machine, and write it with the record as JSON if a path is given."""
    record = {"machine": machine()} | record
    print("\n" + ", ".join(f"{name}: {value}" for name, value in record["machine"].items()))
    if path:
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
