"""Reward models: a language model with a scalar head."""

from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from glore_lib.models.language_model import attended
from glore_lib.models.loading import device, load_model, save_model

HEAD_FILE = "reward_head.safetensors"


class ScalarHead(nn.Linear):
    """A linear layer that FSDP can wrap by its class: it stays float32 whatever the model's dtype."""


class RewardModel(nn.Module):
    """p(correct | question, prefix) after each step: a language model with a scalar head on its last hidden states.

    The head starts at zero, so an untrained reward model scores 0.5 everywhere. With ``language_model_loss`` > 0 the
    model is also trained to predict the solution's tokens, which Cobbe et al. (2021) found to help.
    """

    accepts_loss_kwargs = True  # the Trainer then passes the number of labels in all micro-batches of a step

    def __init__(self, model: PreTrainedModel | PeftModel, language_model_loss: float = 0.0):
        super().__init__()
        self.model, self.language_model_loss = model, language_model_loss
        language_model = model.get_base_model() if isinstance(model, PeftModel) else model
        self.backbone = [language_model.base_model]  # a list, so that the weights are not registered twice
        self.lm_head = [language_model.get_output_embeddings()]  # type: ignore[operator]
        width = self.lm_head[0].weight.shape[1]  # some configurations have no or another hidden_size
        self.head = ScalarHead(width, 1, dtype=torch.float32, device=language_model.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(
        self, input_ids: torch.Tensor, visible: torch.Tensor, label_at: torch.Tensor,
        labels: torch.Tensor | None = None, lm_at: torch.Tensor | None = None, lm_labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:  # fmt: skip
        """Return logits [batch, labels] at ``label_at`` for a batch of :func:`glore_lib.models.prefix_tree.collate`.

        With ``labels`` (0, 1, or -100 for none) also return the mean binary cross-entropy; for a micro-batch, its share
        of the mean over all ``num_items_in_batch`` labels.
        """
        hidden = self.hidden(input_ids, visible)
        logits = self.head(_at(hidden, label_at).float())[..., 0]
        if labels is None:
            return {"logits": logits}
        known = labels != -100
        # If processes share a batch, one may get no labels: their mean would be NaN, their sum is 0.
        reduction = "mean" if known.any() else "sum"
        loss = nn.functional.binary_cross_entropy_with_logits(logits[known], labels[known].float(), reduction=reduction)
        if self.language_model_loss:
            assert lm_at is not None and lm_labels is not None
            predicted = self.lm_head[0](_at(hidden, lm_at))
            lm_loss = nn.functional.cross_entropy(
                predicted.flatten(0, 1).float(), lm_labels.flatten(), reduction=reduction
            )
            loss = loss + self.language_model_loss * lm_loss
        if num_items_in_batch is not None:
            loss = loss * known.sum() / num_items_in_batch
        return {"loss": loss, "logits": logits}

    def hidden(self, input_ids: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """Return the last hidden states [batch, length, width]."""
        inputs = attended(self.backbone[0], visible)  # type: ignore[arg-type]
        return self.backbone[0](input_ids=input_ids, use_cache=False, **inputs).last_hidden_state  # type: ignore[operator]

    def save(
        self, tokenizer: PreTrainedTokenizerBase, start: str, folder: Path, on_base: bool = False
    ) -> None:  # fmt: skip
        """Save the model with :func:`save_model`, and the head beside it."""
        save_model(self.model, tokenizer, start, folder, on_base)
        save_file(self.head.state_dict(), folder / HEAD_FILE)


def _at(hidden: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return the hidden states [batch, places, width] at some places of each row; any state at -100."""
    return hidden.gather(1, places.clamp(min=0)[..., None].expand(-1, -1, hidden.shape[-1]))


def load_reward_model(folder: str, dtype: str, base: str | None = None) -> RewardModel:
    """Load a reward model that :meth:`RewardModel.save` saved, of a run on the model ``base``."""
    model = RewardModel(load_model(folder, dtype, base=base))
    model.head.load_state_dict(load_file(Path(folder) / HEAD_FILE))
    return model.to(device())
