"""Train a language model on rows that may hold several solutions of a question."""

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from glore_lib.models.prefix_tree import IGNORE


class LanguageModel(nn.Module):
    """A language model that learns labelled tokens, from each solution in a row as if it were alone.

    The labels are those of :func:`glore_lib.models.prefix_tree.next_tokens`.
    """

    accepts_loss_kwargs = True  # the Trainer then passes the number of labels in all micro-batches of a step

    def __init__(self, model: PreTrainedModel | PeftModel):
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, visible: torch.Tensor, label_at: torch.Tensor, labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | None = None, **_: torch.Tensor,
    ) -> dict[str, torch.Tensor]:  # fmt: skip
        """Return the mean cross-entropy of the labels in a batch of :func:`glore_lib.models.prefix_tree.collate`.

        For a micro-batch that is its share of the mean over all ``num_items_in_batch`` labels.
        """
        logits = self.model(input_ids=input_ids, use_cache=False, **attended(self.model, visible)).logits
        rows, places = torch.nonzero(labels != IGNORE, as_tuple=True)
        predicted = logits[rows, label_at[rows, places]].float()
        loss = nn.functional.cross_entropy(predicted, labels[rows, places], reduction="sum")
        return {"loss": loss / (len(rows) if num_items_in_batch is None else num_items_in_batch)}


def attended(model: nn.Module, visible: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the attention mask and positions of a batch of :func:`glore_lib.models.prefix_tree.collate`.

    The mask of rows that branch is [batch, 1, length, length] and additive: SDPA would convert booleans in every layer.
    """
    if visible.ndim == 2:
        return {"attention_mask": visible.long()}
    dtype = torch.float32 if torch.is_autocast_enabled() else model.dtype
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)  # type: ignore[arg-type]
    mask = mask.masked_fill(~visible, torch.finfo(dtype).min)[:, None]  # type: ignore[arg-type]
    return {"attention_mask": mask, "position_ids": visible.sum(2) - 1}
