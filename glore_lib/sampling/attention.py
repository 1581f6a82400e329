"""Attention to a prefix that several rows share: its keys and values are stored and read once per group of rows.

Decoding speed is bound by reading the cache. The samples of a question, and the rollouts of its steps, begin with the
same question, which makes up most of their tokens. Registered with transformers as an attention implementation, so
that it works with any model that uses the attention interface.
"""

# transformers declares the tensors of a cache layer as optional.
# mypy: disable-error-code="union-attr, index"

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, Cache, DynamicCache, PretrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, eager_mask

NAME = "shared_prefix"
# Arguments that change nothing in inference, or not within the window that TransformersSampler minds.
KNOWN = {"scaling", "dropout", "is_causal", "sliding_window", "position_ids", "use_cache"}


def window(config: PretrainedConfig) -> int | None:
    """Return the number of tokens that the narrowest attention window of a model sees, None if all see every token."""
    layers = DynamicCache(config=config).layers
    return min((layer.sliding_window for layer in layers if layer.is_sliding), default=None)


@dataclass
class SharedPrefix:
    """The prefixes' cache (one row per group) and the group of each row. A group may have lost rows since."""

    cache: Cache
    mask: torch.Tensor  # [groups, prefix length], 1 where there is a token
    groups: torch.Tensor  # [rows], the group of each row

    def __post_init__(self) -> None:
        self.bias = torch.zeros(self.mask.shape, device=self.mask.device).masked_fill(self.mask == 0, -torch.inf)
        counts = torch.bincount(self.groups, minlength=len(self.mask))
        self.width = int(counts.max())
        # A group's rows take adjacent slots: one matrix product per group, padded to the largest group.
        order = torch.argsort(self.groups, stable=True)
        place = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[self.groups[order]]
        self.slots = torch.empty_like(order)
        self.slots[order] = self.groups[order] * self.width + place

    def regrouped(self, groups: torch.Tensor) -> "SharedPrefix":
        """Return the same prefixes for other rows, given the group of each."""
        return SharedPrefix(self.cache, self.mask, groups)

    def keep(self, rows: torch.Tensor) -> "SharedPrefix":
        """Return the prefixes of some of the rows; groups without rows are dropped."""
        alive, groups = torch.unique(self.groups[rows], return_inverse=True)
        if len(alive) < len(self.mask):
            self.cache.batch_select_indices(alive)
        return SharedPrefix(self.cache, self.mask[alive], groups)

    def group(self, rows: torch.Tensor) -> torch.Tensor:
        """Reshape [rows, heads, n, d] to [groups, heads, width * n, d]; empty slots are zero."""
        padded = rows.new_zeros((len(self.mask) * self.width, *rows.shape[1:]))
        padded[self.slots] = rows
        padded = padded.view(len(self.mask), self.width, *rows.shape[1:])
        return padded.transpose(1, 2).flatten(2, 3)

    def ungroup(self, groups: torch.Tensor, n: int) -> torch.Tensor:
        """Reshape [groups, heads, width * n, d] to [rows, heads, n, d]: the inverse of :meth:`group`."""
        return groups.unflatten(2, (self.width, n)).transpose(1, 2).flatten(0, 1)[self.slots]


def shared_prefix_attention(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor,
    shared: SharedPrefix | None = None, **kwargs: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Compute the attention of queries [rows, heads, n, d] to their shared prefix and to their own keys and values.

    ``attention_mask`` [rows, 1, n, own length] is additive, as from ``eager_mask``. Without ``shared`` this is
    ordinary attention. Returns [rows, n, heads, d]. Raises TypeError for attention of other kinds, such as with capped
    scores or sinks.
    """
    if unknown := {name for name, given in kwargs.items() if given is not None and given is not False} - KNOWN:
        raise TypeError(f"attention with {', '.join(sorted(unknown))}")
    if shared is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    rows, heads, n, d = query.shape
    kv_heads = key.shape[1]
    layer = shared.cache.layers[module.layer_idx]
    # Query heads that share keys become further queries of one head.
    query = (query * kwargs["scaling"]).reshape(rows, kv_heads, -1, d)
    before = shared.group(query) @ layer.keys.transpose(-1, -2) + shared.bias[:, None, None].to(query.dtype)
    own = (query @ key.transpose(-1, -2)).unflatten(2, (-1, n)) + attention_mask[:, :, None]
    scores = torch.cat([shared.ungroup(before, query.shape[2]), own.flatten(2, 3)], dim=-1)
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    length = layer.keys.shape[2]
    output = shared.ungroup(shared.group(weights[..., :length]) @ layer.values, query.shape[2])  # type: ignore[operator]
    output = output + weights[..., length:] @ value
    return output.reshape(rows, heads, n, d).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, shared_prefix_attention)
AttentionMaskInterface.register(NAME, eager_mask)
