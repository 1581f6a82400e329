"""What the two ways to decode with transformers share: rows of completions, how tokens are drawn, where texts end."""

from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from glore_lib.models.loading import raise_on_oom
from glore_lib.sampling import Answers, Completion, Ends, Growing, Request

Uniforms = dict[tuple[int, int], np.ndarray]  # each completion's random numbers, by position after the common part


@dataclass
class Row(Growing):
    """Completions that are equal so far, each as (index of its request, its number)."""

    request: Request  # of the first completion; the others have the same prompt
    completions: list[tuple[int, int]]

    @property
    def text(self) -> tuple[int, ...]:
        """The tokens of the prompt and the completion."""
        return (*self.request.prompt, *self.tokens)

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
        found: dict[tuple[int, int], Completion] = {}
        memory = raise_on_oom("sampling.rows", self.rows, "lower it")
        with memory, tqdm(total=sum(r.n for r in requests), desc=progress, unit="sample", leave=False) as bar:
            waiting = self._waiting(requests, temperature)
            while waiting:
                ended, waiting = self._decode_some(requests, waiting, temperature, max_new_tokens)
                texts = self.tokenizer.batch_decode([row.tokens for row in ended], skip_special_tokens=True)
                for row, text in zip(ended, texts, strict=True):
                    completion = Completion(text, row.finished, tuple(row.tokens))
                    found |= dict.fromkeys(row.completions, completion)
                    bar.update(len(row.completions))
        return [[found[i, j] for j in range(r.first, r.first + r.n)] for i, r in enumerate(requests)]

    def _waiting(self, requests: list[Request], temperature: float) -> list[Row]:
        """Make a row for each distinct prompt, longest prefixes first; equal prefixes and beginnings are adjacent."""
        rows: dict[tuple, Row] = {}
        for i in sorted(range(len(requests)), key=lambda i: (-requests[i].shared, requests[i].prompt)):
            request = requests[i]
            row = rows.setdefault((request.prompt, request.common), Row(request, []))
            row.completions += [(i, j) for j in range(request.first, request.first + request.n)]
        return list(rows.values())

    def _decode_some(
        self, requests: list[Request], waiting: list[Row], temperature: float, limit: int
    ) -> tuple[list[Row], list[Row]]:
        """Decode some of the rows to their ends; return the rows that ended and those that still wait."""
        raise NotImplementedError

    def _uniforms(self, requests: list[Request], rows: list[Row], limit: int) -> Uniforms:
        return {
            (i, j): np.random.default_rng([requests[i].seed, j]).random(row.request.start + limit, dtype=np.float32)
            for row in rows
            for i, j in row.completions
        }

    def _choose(self, logits: torch.Tensor, rows: list[Row], uniforms: Uniforms, temperature: float) -> list[list[int]]:
        """Choose a token for each completion of each row; with a temperature, by inverse transform sampling."""
        if not temperature:
            return [[token] * len(row.completions) for token, row in zip(logits.argmax(-1).tolist(), rows, strict=True)]
        drawn = [[uniforms[c][row.request.start + len(row.tokens)] for c in row.completions] for row in rows]
        width = max(map(len, drawn))
        u = torch.tensor([[*numbers, *[0.0] * (width - len(numbers))] for numbers in drawn], device=logits.device)
        cumulative = torch.softmax(logits / temperature, -1).cumsum(-1)
        tokens = torch.searchsorted(cumulative, u * cumulative[:, -1:], right=True).clamp(max=logits.shape[-1] - 1)
        return [row[: len(numbers)] for row, numbers in zip(tokens.tolist(), drawn, strict=True)]
