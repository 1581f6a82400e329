"""What the two ways to decode with transformers share: rows of completions, how tokens are drawn, where texts end."""

from dataclasses import dataclass
from itertools import accumulate, islice

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from glore_lib.models.loading import raise_on_oom
from glore_lib.sampling import Answers, Completion, Ends, Growing, Request

Uniforms = np.ndarray  # [completions, positions after the common part], each completion's random numbers


@dataclass
class Row(Growing):
    """Completions that are equal so far, as indices of all completions in the order of their requests."""

    request: Request  # of the first completion; the others have the same prompt
    completions: list[int]

    @property
    def text(self) -> tuple[int, ...]:
        """The tokens of the prompt and the completion."""
        return (*self.request.prompt, *self.tokens)

    def __post_init__(self) -> None:
        self.start = self.request.start

    def ended(self, limit: int) -> bool:
        """Return whether the completion has ended, at the latest at ``limit`` tokens."""
        return self.finished or len(self.tokens) == limit


class RowSampler:
    """A :class:`glore_lib.sampling.Sampler` that decodes rows, at most ``rows`` at a time.

    Subclasses say which rows there are and decode some of them. Random numbers belong to the completion, so that up to
    rounding results depend neither on the batch nor on the subclass.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: int):
        self.model, self.tokenizer, self.rows = model.eval(), tokenizer, rows
        self.attention = model.config._attn_implementation  # the model's own
        self.ends = Ends(tokenizer, model.generation_config)

    def sample(self, requests: list[Request], temperature: float, max_new_tokens: int, progress: str) -> Answers:
        """Raise ParamsError if memory runs out; see :class:`glore_lib.sampling.Sampler`."""
        found: dict[int, Completion] = {}
        uniforms = _uniforms(requests, max_new_tokens)
        memory = raise_on_oom("sampling.rows", self.rows, "lower it")
        with memory, tqdm(total=sum(r.n for r in requests), desc=progress, unit="sample", leave=False) as bar:
            waiting = self._waiting(requests, temperature)
            while waiting:
                ended, waiting = self._decode_some(waiting, uniforms, temperature, max_new_tokens)
                texts = self.tokenizer.batch_decode([row.tokens for row in ended], skip_special_tokens=True)
                for row, text in zip(ended, texts, strict=True):
                    completion = Completion(text, row.finished, tuple(row.tokens))
                    found |= dict.fromkeys(row.completions, completion)
                    bar.update(len(row.completions))
        in_order = (found[c] for c in range(len(found)))
        return [list(islice(in_order, r.n)) for r in requests]

    def _waiting(self, requests: list[Request], temperature: float) -> list[Row]:
        """Make a row for each distinct prompt, longest prefixes first; equal prefixes and beginnings are adjacent."""
        rows: dict[tuple, Row] = {}
        first = list(accumulate((r.n for r in requests), initial=0))
        for i in sorted(range(len(requests)), key=lambda i: (-requests[i].shared, requests[i].prompt)):
            request = requests[i]
            row = rows.setdefault((request.prompt, request.common), Row(request, []))
            row.completions += range(first[i], first[i + 1])
        return list(rows.values())

    def _decode_some(
        self, waiting: list[Row], uniforms: Uniforms, temperature: float, limit: int
    ) -> tuple[list[Row], list[Row]]:
        """Decode some of the rows to their ends; return the rows that ended and those that still wait."""
        raise NotImplementedError

    def _choose(self, logits: torch.Tensor, rows: list[Row], uniforms: Uniforms, temperature: float) -> list[list[int]]:
        """Choose a token for each completion of each row; with a temperature, by inverse transform sampling."""
        if not temperature:
            return [[token] * len(row.completions) for token, row in zip(logits.argmax(-1).tolist(), rows, strict=True)]
        counts = np.array([len(row.completions) for row in rows])
        at = [row.start + len(row.tokens) for row in rows]
        u = np.zeros((len(rows), counts.max()), dtype=np.float32)
        which = [completion for row in rows for completion in row.completions]
        u[np.arange(counts.max()) < counts[:, None]] = uniforms[which, np.repeat(at, counts)]
        cumulative = torch.softmax(logits / temperature, -1).cumsum(-1)
        drawn = torch.from_numpy(u).to(logits.device) * cumulative[:, -1:]
        tokens = torch.searchsorted(cumulative, drawn, right=True).clamp(max=logits.shape[-1] - 1)
        return [row[:count] for row, count in zip(tokens.tolist(), counts, strict=True)]


def _uniforms(requests: list[Request], limit: int) -> Uniforms:
    numbers = np.empty((sum(r.n for r in requests), max((r.start for r in requests), default=0) + limit), np.float32)
    completions = ((r, j) for r in requests for j in range(r.first, r.first + r.n))
    for row, (request, j) in zip(numbers, completions, strict=True):
        row[:] = np.random.default_rng([request.seed, j]).random(len(row), dtype=np.float32)
    return numbers
