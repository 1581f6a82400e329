"""The transformers backend: batched decoding with a key-value cache.

The prefix that requests share (the question of samples and of rollouts) is read and stored once (see
:mod:`.attention`). Completions of one prompt are decoded as one row while they are equal, and fork when they draw
different tokens: most tokens of eight samples of a question are common to several. Finished rows leave the batch.
"""

# transformers declares the tensors of a cache layer as optional.
# mypy: disable-error-code="union-attr, index"

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import Cache, DynamicCache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer

from glore_lib.sampling import Answers, Request, attention
from glore_lib.sampling.attention import SharedPrefix
from glore_lib.sampling.plain import PlainSampler
from glore_lib.sampling.rows import Row, RowSampler, Uniforms

ROOM = 32  # tokens that a cache grows by
DROP_AT = 0.2  # remove finished rows at this share of the batch: each removal copies the whole cache
READ_TOKENS = {"cpu": 2048, "cuda": 32768}  # read at a time: they fit a CPU's caches, or fill a GPU
SPREAD = 4  # completions per row of a batch: most share a row


class PreallocatedLayer(DynamicLayer):
    """Preallocate memory for a layer's keys and values; its base class copies them at every token."""

    _buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append keys and values [rows, heads, new, width]; return all of them [rows, heads, length, width]."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        start = self.keys.shape[2]
        self._show(len(key_states), start + key_states.shape[2])
        self.keys[:, :, start:], self.values[:, :, start:] = key_states, value_states
        return self.keys, self.values  # type: ignore[return-value]

    def fork(self, sources: torch.Tensor, targets: torch.Tensor, rows: int) -> None:
        """Copy the rows ``sources`` to ``targets``, some of which may be new, up to ``rows`` in total."""
        self._show(rows, self.keys.shape[2])
        for states in (self.keys, self.values):
            states[targets] = states[sources]

    def _show(self, rows: int, length: int) -> None:
        """Resize ``keys`` and ``values``, keeping their contents."""
        held = self._buffers
        is_held = held and self.keys.data_ptr() == held[0].data_ptr()  # not after rows were dropped
        if not (is_held and rows <= len(held[0]) and length <= held[0].shape[2]):
            room = (rows + rows // 2 if rows > len(self.keys) else rows), length + ROOM  # type: ignore[arg-type]
            self._buffers = held = tuple(_grown(states, *room) for states in (self.keys, self.values))  # type: ignore[arg-type, assignment]
        self.keys, self.values = (buffer[:rows, :, :length] for buffer in held)


def _grown(states: torch.Tensor, rows: int, length: int) -> torch.Tensor:
    grown = states.new_zeros(rows, states.shape[1], length, states.shape[3])
    grown[: len(states), :, : states.shape[2]] = states
    return grown


@dataclass
class _Batch:
    """Rows that are decoded together, with their caches. A place without a row is free."""

    places: list[Row | None]
    shared: SharedPrefix
    cache: Cache
    mask: torch.Tensor  # [places, own length], 1 where there is a token
    position: torch.Tensor  # [places], position of the next token

    def take(self, forks: list[tuple[int, Row]], limit: int) -> list[Row]:
        """Copy each fork's source to a free place, of at most ``limit``; return the forks that found none."""
        free = [place for place, row in enumerate(self.places) if not row]
        free += range(len(self.places), limit)
        placed = list(zip(forks, free, strict=False))
        if placed:
            self.places += [None] * (placed[-1][1] + 1 - len(self.places))
            for (_, fork), place in placed:
                self.places[place] = fork
            self._copy([source for (source, _), _ in placed], [place for _, place in placed])
        return [fork for _, fork in forks[len(placed) :]]

    def _copy(self, sources: list[int], targets: list[int]) -> None:
        come_from = torch.arange(len(self.places), device=self.mask.device)
        come_from[targets] = torch.tensor(sources, device=self.mask.device)
        for layer in self.cache.layers:
            layer.fork(come_from[targets], torch.tensor(targets, device=self.mask.device), len(self.places))
        self.mask, self.position = self.mask[come_from], self.position[come_from]
        self.shared = self.shared.regrouped(self.shared.groups[come_from])

    def drop_free(self) -> None:
        """Remove the free places."""
        keep = [place for place, row in enumerate(self.places) if row]
        self.places = [self.places[place] for place in keep]
        rows = torch.tensor(keep, device=self.mask.device)
        self.cache.batch_select_indices(rows)
        self.shared, self.mask, self.position = self.shared.keep(rows), self.mask[rows], self.position[rows]


def build(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: int, shared_prefix: bool
) -> "TransformersSampler | PlainSampler":
    """Build a sampler, a plain one where the model's attention cannot share prefixes."""
    return (TransformersSampler if shared_prefix else PlainSampler)(model, tokenizer, rows)


class TransformersSampler(RowSampler):
    """A :class:`glore_lib.sampling.Sampler` that decodes at most ``rows`` different texts at a time.

    Texts longer than an attention window of the model are decoded by :class:`.plain.PlainSampler`.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: int):
        super().__init__(model, tokenizer, rows)
        self._window = attention.window(model.config)

    @cached_property
    def _plain(self) -> PlainSampler:
        self.model.set_attn_implementation(self.attention)
        return PlainSampler(self.model, self.tokenizer, self.rows)

    def sample(self, requests: list[Request], temperature: float, max_new_tokens: int, progress: str) -> Answers:
        """See :meth:`RowSampler.sample`."""
        longest = max((len(r.prompt) for r in requests), default=0) + max_new_tokens
        if self._window and longest > self._window:
            return self._plain.sample(requests, temperature, max_new_tokens, progress)
        self.model.set_attn_implementation(attention.NAME)
        return super().sample(requests, temperature, max_new_tokens, progress)

    def _decode_some(
        self, waiting: list[Row], uniforms: Uniforms, temperature: float, limit: int
    ) -> tuple[list[Row], list[Row]]:
        size = self._batch_size(waiting, temperature)
        ended, left = self._decode(waiting[:size], uniforms, temperature, limit)
        return ended, waiting[size:] + left

    def _batch_size(self, waiting: list[Row], temperature: float) -> int:
        """Return how many of the waiting rows to decode together. Greedy rows never fork."""
        completions = np.cumsum([len(row.completions) if temperature else 1 for row in waiting[: self.rows]])
        return max(1, int((completions <= (SPREAD if temperature else 1) * self.rows).sum()))

    @torch.inference_mode()
    def _decode(
        self, rows: list[Row], uniforms: Uniforms, temperature: float, limit: int
    ) -> tuple[list[Row], list[Row]]:
        """Decode rows to their ends; return the finished rows, and the forks that did not fit the batch."""
        batch = self._read(rows)
        ended: list[Row] = []
        left: list[Row] = []
        pad = self.tokenizer.pad_token_id
        last = [row.text[-1] for row in batch.places]
        while any(batch.places):
            ids = torch.tensor(last, device=self.model.device)[:, None]
            batch.mask = torch.cat([batch.mask, batch.mask.new_ones(len(ids), 1)], dim=1)
            logits = self._forward(ids, batch.mask, batch.position[:, None], batch.cache, batch.shared)
            batch.position = batch.position + 1
            growing = [place for place, row in enumerate(batch.places) if row]
            grown: list[Row] = [batch.places[place] for place in growing]  # type: ignore[misc]
            forks = _append(grown, self._choose(logits[growing], grown, uniforms, temperature))
            self.ends.note([*grown, *(fork for _, fork in forks)])
            over = [place for place, row in zip(growing, grown, strict=True) if row.ended(limit)]
            ended += [batch.places[place] for place in over]  # type: ignore[misc]
            for place in over:
                batch.places[place] = None
            ended += [fork for _, fork in forks if fork.ended(limit)]
            left += batch.take([(growing[k], fork) for k, fork in forks if not fork.ended(limit)], self.rows)
            if any(batch.places) and batch.places.count(None) >= DROP_AT * len(batch.places):
                batch.drop_free()
            last = [row.tokens[-1] if row else pad for row in batch.places]
        return ended, left

    def _read(self, rows: list[Row]) -> _Batch:
        """Compute the caches of all rows, without their last tokens, in parts of :data:`READ_TOKENS`."""
        by_prefix: dict[tuple[int, ...], list[Row]] = {}
        for row in rows:
            by_prefix.setdefault(row.request.prefix, []).append(row)
        parts: list[list[Row]] = []
        read = limit = READ_TOKENS[self.model.device.type]
        for prefix, same in by_prefix.items():
            tokens = len(prefix) + sum(len(row.text) - len(prefix) for row in same)
            if read + tokens > limit:
                parts.append([])
                read = 0
            parts[-1] += same
            read += tokens
        return _joined([self._read_part(part) for part in parts])

    def _read_part(self, rows: list[Row]) -> _Batch:
        """Read some rows at once.

        Each distinct prefix is read once. A text that begins another (P_1, P_2, ... of a solution) is read with it.
        """
        distinct = list(dict.fromkeys(row.request.prefix for row in rows))
        ids, mask = self._pad(distinct)
        prefixes = DynamicCache(config=self.model.config)
        self._forward(ids, mask, (mask.cumsum(1) - 1).clamp(min=0), prefixes, None, reads=True)
        place = {prefix: k for k, prefix in enumerate(distinct)}
        groups = [place[row.request.prefix] for row in rows]
        own_texts = [row.text[row.request.shared : -1] for row in rows]
        texts, row_of = _longest([(g, *text) for g, text in zip(groups, own_texts, strict=True)])
        cache = Cache(layer_class_to_replicate=PreallocatedLayer)
        ids, own = self._pad([text[1:] for text in texts])
        if ids.shape[1]:
            shared = SharedPrefix(prefixes, mask, torch.tensor([text[0] for text in texts], device=ids.device))
            before = mask.sum(1)[shared.groups]
            position = before[:, None] + (own.cumsum(1) - 1).clamp(min=0)
            self._forward(ids, own, position, cache, shared, reads=True)
        fork = torch.tensor(row_of, device=ids.device)
        if ids.shape[1]:
            cache.batch_select_indices(fork)
        lengths = torch.tensor([len(text) for text in own_texts], device=ids.device)
        shared = SharedPrefix(prefixes, mask, torch.tensor(groups, device=ids.device))
        own = own[fork] * (own[fork].cumsum(1) <= lengths[:, None])
        return _Batch(list(rows), shared, cache, own, mask.sum(1)[shared.groups] + lengths)

    def _pad(self, prompts: list[tuple[int, ...]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return left-padded token ids and the mask, 0 at padding; both [prompts, longest]."""
        width, device = max(map(len, prompts)), self.model.device
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        return ids, mask

    def _forward(
        self, ids: torch.Tensor, mask: torch.Tensor, position: torch.Tensor, cache: Cache, shared: SharedPrefix | None,
        reads: bool = False,
    ) -> torch.Tensor:  # fmt: skip
        """Return the logits [rows, vocabulary] after the last token; reading needs none, and fills the cache alone."""
        output = (self.model.base_model if reads else self.model)(
            input_ids=ids, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True,
            shared=shared,
        )  # fmt: skip
        return output.last_hidden_state if reads else output.logits[:, -1].float()


def _joined(parts: list[_Batch]) -> _Batch:
    """Make one batch of several."""
    if len(parts) == 1:
        return parts[0]
    prefixes, cache = DynamicCache(), Cache(layer_class_to_replicate=PreallocatedLayer)
    masks, own_masks = [part.shared.mask for part in parts], [part.mask for part in parts]
    width, own_width = (max(mask.shape[1] for mask in some) for some in (masks, own_masks))
    for i in range(len(parts[0].shared.cache.layers)):
        read = [(part.shared.cache.layers[i].keys, part.shared.cache.layers[i].values) for part in parts]
        keys, values = (_stacked(states, width) for states in zip(*read, strict=True))
        prefixes.update(keys, values, i)
        if own_width:
            own = [
                (part.cache.layers[i].keys, part.cache.layers[i].values) if part.mask.shape[1]
                else tuple(states[:, :, :0][part.shared.groups] for states in of_prefixes)
                for part, of_prefixes in zip(parts, read, strict=True)
            ]  # fmt: skip
            keys, values = (_stacked(states, own_width) for states in zip(*own, strict=True))
            cache.update(keys, values, i)
    first = accumulate(map(len, masks), initial=0)
    groups = torch.cat([part.shared.groups + n for part, n in zip(parts, first, strict=False)])
    mask, own_mask = (
        torch.cat([nn.functional.pad(m, (w - m.shape[1], 0)) for m in some])
        for some, w in ((masks, width), (own_masks, own_width))
    )
    places, position = [row for part in parts for row in part.places], torch.cat([part.position for part in parts])
    return _Batch(places, SharedPrefix(prefixes, mask, groups), cache, own_mask, position)


def _stacked(states: Sequence[torch.Tensor], length: int) -> torch.Tensor:
    """Concatenate states [rows, heads, length, width], padded on the left to a length."""
    return torch.cat([nn.functional.pad(s, (0, 0, length - s.shape[2], 0)) for s in states])


def _append(rows: list[Row], tokens: list[list[int]]) -> list[tuple[int, Row]]:
    """Append to each row its first completion's token; return forks for other tokens, with the index of their row."""
    forks = []
    for k, (row, drawn) in enumerate(zip(rows, tokens, strict=True)):
        first = drawn[0]
        if len(drawn) > 1 and drawn.count(first) < len(drawn):
            by_token: dict[int, list[int]] = {}
            for completion, token in zip(row.completions, drawn, strict=True):
                by_token.setdefault(token, []).append(completion)
            row.completions = by_token.pop(first)
            forks += [(k, Row(row.request, c, tokens=[*row.tokens, t], line=row.line)) for t, c in by_token.items()]
        row.tokens.append(first)
    return forks


def _longest(texts: list[tuple[int, ...]]) -> tuple[list[tuple[int, ...]], list[int]]:
    """Return the texts that are no prefix of another, and for each text the index of one that it is a prefix of."""
    longest: list[tuple[int, ...]] = []
    places = {}
    for text in sorted(set(texts), reverse=True):  # a text comes right after those it is a prefix of
        if not (longest and longest[-1][: len(text)] == text):
            longest.append(text)
        places[text] = len(longest) - 1
    return longest, [places[text] for text in texts]
