"""The transformers backend: batched decoding with a key-value cache.

What requests have in common (the question of samples and of rollouts) is read and kept once (see :mod:`.attention`);
prompts are bucketed by length; rows that are finished leave the batch. Random numbers belong to the sample, not to the
batch, so that a result does not depend on what it happens to be batched with (up to floating-point rounding).
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import Cache, DynamicCache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer

from glore_lib.models import memory_for
from glore_lib.params import ParamsError
from glore_lib.sampling import Completion, Request, attention, newline_tokens
from glore_lib.sampling.attention import SharedPrefix
from glore_lib.solutions import ANSWER_MARK

ROOM = 32
DROP_AT = 0.2  # finished rows leave once they are this share of the batch: each time, the whole cache is copied


@dataclass
class _Row:
    """A sample while it grows."""

    request: int
    uniforms: np.ndarray  # one random number a token, in [0, 1)
    tokens: list[int] = field(default_factory=list)
    line: int = 0  # where the last line starts in ``tokens``
    finished: bool = False


class RoomyLayer(DynamicLayer):
    """A layer's keys and values, grown ``ROOM`` tokens at a time: the layer it extends copies them at every token."""

    _buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if not self._has_room(end):
            shape = (*key_states.shape[:-2], end + ROOM, key_states.shape[-1])
            buffers = key_states.new_empty(shape), value_states.new_empty(shape)
            if start:
                buffers[0][:, :, :start], buffers[1][:, :, :start] = self.keys, self.values
            self._buffers = buffers
        self._buffers[0][:, :, start:end], self._buffers[1][:, :, start:end] = key_states, value_states
        self.keys, self.values = (buffer[:, :, :end] for buffer in self._buffers)
        return self.keys, self.values

    def _has_room(self, end: int) -> bool:
        """Whether ``keys`` still is the buffer's beginning (rows may have been dropped since) and ``end`` fits."""
        if self._buffers is None or self.keys.data_ptr() != self._buffers[0].data_ptr():
            return False
        return end <= self._buffers[0].shape[-2]


class TransformersSampler:
    """A :class:`glore_lib.sampling.Sampler`; ``rows`` is the largest number of samples decoded at a time."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: int):
        self.model, self.tokenizer, self.rows = model.eval(), tokenizer, rows
        self.model.set_attn_implementation(attention.NAME)
        self._newlines = torch.tensor(newline_tokens(tokenizer))

    def sample(
        self, requests: list[Request], temperature: float, max_new_tokens: int, progress: str
    ) -> list[list[Completion]]:
        self._check(max((len(r.prompt) for r in requests), default=0) + max_new_tokens)
        completions: list[list[Completion]] = [[] for _ in requests]
        memory = memory_for("sampling.rows", self.rows, "lower it")
        with memory, tqdm(total=sum(r.n for r in requests), desc=progress, unit="sample", leave=False) as bar:
            for batch in self._batches(requests):
                rows = self._decode(requests, batch, temperature, max_new_tokens)
                texts = self.tokenizer.batch_decode([row.tokens for row in rows], skip_special_tokens=True)
                for row, text in zip(rows, texts, strict=True):
                    completions[row.request].append(Completion(text, row.finished, len(row.tokens)))
                bar.update(len(rows))
        return completions

    def _check(self, length: int) -> None:
        """Raises ParamsError for models whose attention is not the plain one that prefixes are shared by."""
        config = self.model.config.get_text_config()
        window = getattr(config, "sliding_window", None)
        if getattr(config, "attn_logit_softcapping", None) or (window and length > window):
            raise ParamsError(
                f"base_model.source: {config.model_type} caps its attention scores, or its window of {window} tokens "
                f"is shorter than the {length} of a prompt and its answer: this backend can't sample it"
            )

    def _batches(self, requests: list[Request]) -> list[list[int]]:
        """Indices of requests, longest prefixes first, in batches of at most ``rows`` samples (or one request).

        Requests with the same prefix stand beside each other, and so do those that begin with another's prompt.
        """
        order = sorted(range(len(requests)), key=lambda i: (-requests[i].shared, requests[i].prompt))
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
        shared, cache, mask, fork = self._read([requests[i] for i in batch])
        rows_of = torch.tensor([k for k, i in enumerate(batch) for _ in range(requests[i].n)], device=fork.device)
        if mask.shape[1]:
            cache.batch_select_indices(fork[rows_of])
        shared, mask = shared.keep(rows_of), mask[rows_of]
        position = shared.mask.sum(1)[shared.groups] + mask.sum(1)
        tokens = torch.tensor([requests[row.request].prompt[-1] for row in rows], device=fork.device)
        alive = rows
        for t in range(limit):
            mask = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=1)
            logits = self._forward(tokens[:, None], mask, position[:, None], cache, shared)
            position = position + 1
            tokens = self._choose(logits, alive, temperature, t)
            self._append(alive, tokens)
            active = torch.tensor([not row.finished for row in alive])
            if not active.any():
                break
            if 1 - active.float().mean() >= DROP_AT:
                keep = active.nonzero()[:, 0].to(fork.device)
                alive = [row for row in alive if not row.finished]
                cache.batch_select_indices(keep)
                shared, mask, position, tokens = shared.keep(keep), mask[keep], position[keep], tokens[keep]
        return rows

    def _read(self, requests: list[Request]) -> tuple[SharedPrefix, Cache, torch.Tensor, torch.Tensor]:
        """Reads all prompts but for their last tokens: each distinct prefix once, and of what comes after it, each text
        that another one begins with only as that one's beginning (the prefixes P_1, P_2, ... of one solution).

        Returns the prefixes, with the requests' groups; the cache of the texts after them; for each request the mask
        of its own tokens there, [requests, longest]; and its row there.
        """
        distinct = list(dict.fromkeys(request.prefix for request in requests))
        ids, mask = self._pad(distinct)
        prefixes = DynamicCache(config=self.model.config)
        self._forward(ids, mask, (mask.cumsum(1) - 1).clamp(min=0), prefixes, None)
        place = {prefix: k for k, prefix in enumerate(distinct)}
        groups = [place[request.prefix] for request in requests]
        texts, row_of = _longest([(g, *r.prompt[r.shared : -1]) for g, r in zip(groups, requests, strict=True)])
        cache = Cache(layer_class_to_replicate=RoomyLayer)
        ids, own = self._pad([text[1:] for text in texts])
        if ids.shape[1]:
            shared = SharedPrefix(prefixes, mask, torch.tensor([text[0] for text in texts], device=ids.device))
            before = mask.sum(1)[shared.groups]
            self._forward(ids, own, before[:, None] + (own.cumsum(1) - 1).clamp(min=0), cache, shared)
        fork = torch.tensor(row_of, device=ids.device)
        lengths = torch.tensor([len(r.prompt) - r.shared - 1 for r in requests], device=ids.device)
        return (
            SharedPrefix(prefixes, mask, torch.tensor(groups, device=ids.device)), cache,
            own[fork] * (own[fork].cumsum(1) <= lengths[:, None]), fork,
        )  # fmt: skip

    def _pad(self, prompts: list[tuple[int, ...]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Left-padded token ids and the mask of what is no padding, both [prompts, longest]."""
        width, device = max(map(len, prompts)), self.model.device
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        return ids, mask

    def _forward(
        self, ids: torch.Tensor, mask: torch.Tensor, position: torch.Tensor, cache: Cache, shared: SharedPrefix | None
    ) -> torch.Tensor:
        """The logits [rows, vocabulary] after the last token."""
        output = self.model(
            input_ids=ids, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True,
            logits_to_keep=1, shared=shared,
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


def _longest(texts: list[tuple[int, ...]]) -> tuple[list[tuple[int, ...]], list[int]]:
    """The texts that no other begins with, and for each of ``texts`` the place of one that begins with it."""
    longest: list[tuple[int, ...]] = []
    places = {}
    for text in sorted(set(texts), reverse=True):  # what begins with a text comes right before it
        if not (longest and longest[-1][: len(text)] == text):
            longest.append(text)
        places[text] = len(longest) - 1
    return longest, [places[text] for text in texts]
