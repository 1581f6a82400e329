"""The transformers backend: batched decoding with a key-value cache.

Each distinct prompt is read once and its cache forked for its samples; prompts are bucketed by length; rows that are
finished leave the batch. Random numbers belong to the sample, not to the batch, so that a result does not depend on
what it happens to be batched with (up to floating-point rounding).
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from glore_lib.sampling import Completion, Request
from glore_lib.solutions import ANSWER_MARK

DROP_AT = 0.2  # finished rows leave once they are this share of the batch: each time, the whole cache is copied


@dataclass
class _Row:
    """A sample while it grows."""

    request: int
    uniforms: np.ndarray  # one random number a token, in [0, 1)
    tokens: list[int] = field(default_factory=list)
    line: int = 0  # where the last line starts in ``tokens``
    finished: bool = False


class TransformersSampler:
    """A :class:`glore_lib.sampling.Sampler`; ``rows`` is the largest number of samples decoded at a time."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: int):
        self.model, self.tokenizer, self.rows = model.eval(), tokenizer, rows
        self._newlines = torch.tensor(
            ["\n" in token for token in tokenizer.batch_decode([[i] for i in range(len(tokenizer))])]
        )

    def sample(
        self, requests: list[Request], temperature: float, max_new_tokens: int, progress: str
    ) -> list[list[Completion]]:
        order = sorted(range(len(requests)), key=lambda i: (-len(requests[i].prompt), i))
        completions: list[list[Completion]] = [[] for _ in requests]
        with tqdm(total=sum(r.n for r in requests), desc=progress, unit="sample", leave=False) as bar:
            for batch in self._batches(requests, order):
                rows = self._decode(requests, batch, temperature, max_new_tokens)
                texts = self.tokenizer.batch_decode([row.tokens for row in rows], skip_special_tokens=True)
                for row, text in zip(rows, texts, strict=True):
                    completions[row.request].append(Completion(text, row.finished, len(row.tokens)))
                bar.update(len(rows))
        return completions

    def _batches(self, requests: list[Request], order: list[int]) -> list[list[int]]:
        """Indices of requests, longest prompts first, each batch of at most ``rows`` samples (or one request)."""
        batches: list[list[int]] = []
        size = 0
        for i in order:
            if not batches or size + requests[i].n > self.rows:
                batches.append([])
                size = 0
            batches[-1].append(i)
            size += requests[i].n
        return batches

    @torch.inference_mode()
    def _decode(self, requests: list[Request], batch: list[int], temperature: float, limit: int) -> list[_Row]:
        rows = [
            _Row(i, np.random.default_rng([requests[i].seed, j]).random(limit, dtype=np.float32))
            for i in batch
            for j in range(requests[i].first, requests[i].first + requests[i].n)
        ]  # fmt: skip
        fork = torch.tensor([k for k, i in enumerate(batch) for _ in range(requests[i].n)])
        cache = DynamicCache(config=self.model.config)
        ids, mask = self._pad([requests[i].prompt for i in batch])
        logits = self._forward(ids, mask, (mask.cumsum(1) - 1).clamp(min=0), cache)[fork]
        cache.batch_select_indices(fork.to(ids.device))
        mask = mask[fork]
        position = mask.sum(1)
        alive, active = rows, torch.ones(len(rows), dtype=torch.bool)
        for t in range(limit):
            tokens = self._choose(logits, alive, temperature, t)
            self._append(alive, tokens)
            active = torch.tensor([not row.finished for row in alive])
            if t + 1 == limit or not active.any():
                break
            if 1 - active.float().mean() >= DROP_AT:
                keep = active.nonzero()[:, 0].to(ids.device)
                alive = [row for row in alive if not row.finished]
                cache.batch_select_indices(keep)
                mask, position, tokens = mask[keep], position[keep], tokens[keep]
            mask = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=1)
            logits = self._forward(tokens[:, None], mask, position[:, None], cache)
            position = position + 1
        return rows

    def _pad(self, prompts: list[tuple[int, ...]]) -> tuple[torch.Tensor, torch.Tensor]:
        width, device = max(map(len, prompts)), self.model.device
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        return ids, mask

    def _forward(
        self, ids: torch.Tensor, mask: torch.Tensor, position: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        output = self.model(
            input_ids=ids, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True,
            logits_to_keep=1
        )  # fmt: skip
        return output.logits[:, -1].float()

    def _choose(self, logits: torch.Tensor, rows: list[_Row], temperature: float, t: int) -> torch.Tensor:
        """One token a row; with a temperature, by inverting the cumulative distribution at the row's random number."""
        if not temperature:
            return logits.argmax(-1)
        cumulative = torch.softmax(logits / temperature, -1).cumsum(-1)
        u = torch.tensor(np.array([row.uniforms[t] for row in rows]), device=logits.device)[:, None]
        return torch.searchsorted(cumulative, u * cumulative[:, -1:], right=True)[:, 0].clamp(max=logits.shape[-1] - 1)

    def _append(self, rows: list[_Row], tokens: torch.Tensor) -> None:
        eos = self.tokenizer.eos_token_id
        tokens = tokens.cpu()
        newline = self._newlines[tokens].tolist()
        ended = []
        for row, token, is_newline in zip(rows, tokens.tolist(), newline, strict=True):
            if row.finished:
                continue
            row.tokens.append(token)
            row.finished = token == eos
            if is_newline:
                ended.append(row)
        lines = self.tokenizer.batch_decode([row.tokens[row.line :] for row in ended]) if ended else []
        for row, line in zip(ended, lines, strict=True):
            row.line = len(row.tokens)
            row.finished = ANSWER_MARK in line
