"""Load, adapt and save base models and adapters. Weights on disk are safetensors only.

A model is named by its ``source``: a folder, a hub name, or a hub name at a commit, ``name@commit``.

There are two kinds of adapters. Those that a run trains lie beside a note that names the model they were trained on,
and are merged whenever they are loaded. A run that starts from the adapter of another library merges it once
(:func:`merge_adapter`).
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from huggingface_hub.errors import GatedRepoError
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import safe_open
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.pytorch_utils import Conv1D
from transformers.utils.hub import cached_file, extract_commit_hash

from glore_lib.artifacts.records import LEFT_OUT, RECORD, WEIGHTS, check_weights, checksum
from glore_lib.models.sources import ADAPTER_FILES, locate
from glore_lib.params import MADE_HERE, Finetuning, ParamsError, expanded, is_path

START_FILE = "start.json"  # beside an adapter of this library: see _note
UNPACKING_BYTES = 8  # of memory for each weight of a GGUF file: in float32, and in the model
# What reading a damaged GGUF file raises.
GGUF_ERRORS = (AttributeError, LookupError, NotImplementedError, OverflowError, TypeError, ValueError)
# The files in a model's folder that the model or its tokenizer may read.
MODEL_FILES = (".safetensors", ".json", ".txt", ".model", ".tiktoken", ".gguf")
NOT_READ = (RECORD, LEFT_OUT, START_FILE, "README.txt", "LICENSE.txt", "NOTICE.txt")


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
        config = _optional_file(source, ADAPTER_FILES[0]) or cached_file(name, "config.json", **options)
    return f"{name}@{extract_commit_hash(config, None)}"


def fingerprint(source: str) -> dict[str, Any]:
    """Return what identifies a model's content: a hub name's commit, or the SHA-256 of each file that is read.

    For an adapter in a folder this includes the model that it was trained on.
    """
    folder = Path(source)
    if not folder.is_dir():
        name, options = locate(source)
        return {"source": name, "commit": options["revision"]}
    files = {path.relative_to(folder).as_posix(): checksum(path) for path in _files(folder)}
    note = _note(source)
    return {"files": files} | (note | {"start": fingerprint(note["start"])} if note else {})


def _files(folder: Path) -> list[Path]:
    """Return the files of a model that are read."""
    paths = [p for p in folder.iterdir() if p.suffix in MODEL_FILES and p.name not in NOT_READ]
    return sorted([*paths, *folder.rglob("*.jinja")])  # chat templates, some in a subfolder


def copy_description(source: str, folder: Path) -> None:
    """Copy what describes a model to ``folder``: its configuration and tokenizer, all but the weights."""
    name, options = locate(source)
    here = Path(source) if Path(source).is_dir() else Path(str(cached_file(name, "config.json", **options))).parent
    for path in _files(here):
        if path.suffix not in (WEIGHTS, ".gguf"):
            copy = folder / path.relative_to(here)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)


def load_model(source: str, dtype: str, place: torch.device | None = None, base: str | None = None) -> PreTrainedModel:
    """Load a causal language model to ``place``; None means the GPU if there is one. A run's adapters are merged.

    ``base`` is the base model of the run that ``source`` belongs to, for adapters that were trained on it. Raises
    ParamsError if there is no such model, if its weights are quantised or incomplete, or if the GPU's memory is full.

    An adapter trained with QLoRA is merged into the rounded weights it was trained over, unpacked to ``dtype``. Merged
    into the original weights it would be another model than the one that was trained, and sampling from four bits
    would unpack the weights for every token.
    """
    note = _note(source, base)
    if note:
        under = load_model(note["start"], dtype, place, base)
        if "double_quantisation" in note:
            _round(under, note["double_quantisation"])
        return PeftModel.from_pretrained(under, source).merge_and_unload()
    load_config(source)  # raises if the weights are quantised
    options = {"dtype": getattr(torch, dtype), "use_safetensors": True, "output_loading_info": True}
    model, found = from_pretrained(AutoModelForCausalLM, source, **options)
    if missing := sorted(found["missing_keys"]):  # transformers fills them with random numbers
        raise ParamsError(
            f"base_model.source = {source!r}: its files lack {len(missing)} weights of {type(model).__name__}, such as "
            f"{missing[0]}; name a causal language model with all of its weights"
        )
    with raise_on_oom("base_model.dtype", dtype, "set it to bfloat16, or base_model.source to a smaller model"):
        return model.to(place or device())


def load_config(source: str) -> PreTrainedConfig:
    """Load a model's configuration; raise ParamsError if its weights are quantised."""
    config = from_pretrained(AutoConfig, source)
    for part in (config, config.get_text_config()):
        if quantised := getattr(part, "quantization_config", None):
            method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised.quant_method
            raise ParamsError(
                f"base_model.source = {source!r}: its weights are quantised ({getattr(method, 'value', method)}), and "
                "no model can be trained from them; name the original model, or load it with transformers and save "
                "model.dequantize()"
            )
    return config


def base_and_adapters(source: str, base: str | None = None) -> tuple[str, list[str]]:
    """Return the full model under a saved one, and the folders of the adapters on it in the order of training.

    ``base`` is the base model of the run that ``source`` belongs to.
    """
    note = _note(source, base)
    if not note:
        return source, []
    full, adapters = base_and_adapters(note["start"], base)
    return full, [*adapters, source]


def _note(source: str, base: str | None = None) -> dict[str, Any] | None:
    """Read the note beside an adapter of this library; None if ``source`` is none.

    ``start`` is the model that it was trained on: ``base``, where that is given and the note says ``on_base``, wherever
    it was then. ``double_quantisation`` says how that was quantised, if it was. Raises ParamsError if there is no such
    folder, or if its weights were left out of an archive.
    """
    check_weights(Path(source))
    path = Path(source) / START_FILE
    if not path.exists():
        return None
    note = json.loads(path.read_text(encoding="utf-8"))
    if base and note.get("on_base"):
        return note | {"start": base}
    if not is_path(note["start"]):
        return note
    start = (Path(source) / note["start"]).resolve()
    if not start.is_dir():
        raise ParamsError(
            f"{path}: this adapter was trained on the model in {start}, and there is no such folder; put the model "
            "there, or merge the adapter into it with peft and name the merged model"
        )
    return note | {"start": str(start)}


def adapter_base(source: str) -> str | None:
    """Return the model that an adapter of another library was trained on; None if ``source`` is no such adapter.

    Raises ParamsError if its configuration names none, or a folder that does not exist.
    """
    with _explained(source):
        path = _optional_file(source, ADAPTER_FILES[0])
    if path is None or (Path(source) / START_FILE).exists():
        return None
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
        base, revision = config["base_model_name_or_path"], config.get("revision")
        folder = Path(path).parent / expanded(base)
    except (ValueError, KeyError, TypeError):
        raise ParamsError(
            f"base_model.source = {source!r}: its adapter_config.json must name its base model in "
            "base_model_name_or_path, and does not"
        ) from None
    if folder.is_dir():
        return str(folder.resolve())
    if is_path(base):
        raise ParamsError(
            f"base_model.source = {source!r}: an adapter on the model in {base!r}, and there is no such folder; set "
            "base_model_name_or_path in its adapter_config.json to where the model is now"
        )
    return f"{base}@{revision}" if revision else base


def merge_adapter(source: str, base: str, dtype: str, folder: Path) -> dict[str, Any]:
    """Merge an adapter of another library into its ``base``, and save the model to ``folder``.

    The tokenizer is the adapter's if it has one, else that of the base. Raises ParamsError if the adapter is not in
    safetensors, cannot be merged, or does not fit the base.
    """
    name, options = locate(source)
    with _explained(source):
        files = [cached_file(name, file, **options) for file in ADAPTER_FILES]
    model = load_model(base, dtype, torch.device("cpu"))
    ends = model.get_input_embeddings(), model.get_output_embeddings()
    try:
        adapted = PeftModel.from_pretrained(model, str(Path(files[0]).parent))  # type: ignore[arg-type]
        with safe_open(files[1], "pt") as stored:
            found = set(stored.keys())
        own = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
        if odd := sorted(own ^ found - set(adapted.state_dict())):  # peft would leave them out
            raise ValueError(f"{len(odd)} weights are in one of the two only, such as {odd[0]}")
        changed = (model.get_input_embeddings(), model.get_output_embeddings()) != ends  # peft puts its layers there
        if changed and model.config.get_text_config().tie_word_embeddings:
            raise ValueError("it changes either the input or the output embeddings, which are the same weights")
        merged = adapted.merge_and_unload(safe_merge=True)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ParamsError(
            f"base_model.source = {source!r}: an adapter that can't be merged into {base!r} "
            f"({' '.join(str(error).split())}); name an adapter in peft's format, such as LoRA, of this model"
        ) from None
    merged.save_pretrained(folder)
    has_tokenizer = _optional_file(source, "tokenizer_config.json")
    from_pretrained(AutoTokenizer, source if has_tokenizer else base).save_pretrained(folder)
    return {"parameters": merged.num_parameters()}


def _optional_file(source: str, file: str) -> str | None:
    """Return the path of a model's file, from the hub or its cache; None if the model has no such file."""
    name, options = locate(source)
    missing = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    return cached_file(name, file, **options, **missing)


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
            f"base_model.source = {source!r}: no model there ({str(error).splitlines()[0]})"
            f"{'' if Path(source).is_dir() else ', and no such folder'}; name {', '.join(MADE_HERE)}, a folder in "
            "transformers format, or a model on the hub"
        ) from None


def unpack_gguf(file: Path, sha256: str, dtype: str, folder: Path) -> dict[str, Any]:
    """Write the model in a GGUF file to ``folder`` in transformers format, its weights unpacked to ``dtype``.

    Returns the file's ``sha256`` and the model's name in it. Raises ParamsError if the file is damaged or its weights
    are incomplete, if transformers does not know the architecture, or if the unpacked weights do not fit in memory.
    """
    refused = partial("base_model.source = {!r}: {}; {}".format, str(file))
    try:
        reader = _reader(file)
        described = {key: str(reader.fields[f"general.{key}"].contents()) for key in ("architecture", "name")}
        weights = sum(int(tensor.n_elements) for tensor in reader.tensors)
    except GGUF_ERRORS as error:
        why = f"no GGUF file, or a damaged one ({' '.join(f'{type(error).__name__}: {error}'.split())})"
        raise ParamsError(refused(why, "copy it again and compare its SHA-256")) from None
    needed, free = weights * UNPACKING_BYTES, psutil.virtual_memory().available
    if needed > free:
        room = f"unpacking its {weights:,} weights takes {needed / 2**30:,.0f} GiB of memory, and {free / 2**30:,.1f}"
        raise ParamsError(refused(f"{room} are free", "use a machine with more, or name a smaller model"))
    options = {"gguf_file": file.name, "trust_remote_code": False}
    try:
        given: Any = AutoModelForCausalLM.from_pretrained(
            file.parent, dtype=getattr(torch, dtype), output_loading_info=True, **options
        )
        loaded, found = given
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **options)
    except (OSError, RuntimeError, *GGUF_ERRORS) as error:
        why = f"transformers can't read its {described['architecture']} model ({str(error).splitlines()[0]})"
        raise ParamsError(refused(why, "name a folder in transformers format or another file")) from None
    if missing := sorted(found["missing_keys"]):
        why = f"it lacks {len(missing)} weights of {type(loaded).__name__}, such as {missing[0]}"
        raise ParamsError(refused(why, "name a file with all of its weights, not a part or an adapter"))
    if end := reader.fields.get("tokenizer.ggml.eos_token_id"):  # not every version of transformers reads it
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(int(end.contents()))
    # A model loaded from GGUF refuses to be saved; another one with the same weights does not.
    with torch.device("meta"):
        fresh = type(loaded)(loaded.config)
    fresh.load_state_dict(loaded.state_dict(), assign=True)
    fresh.tie_weights()
    fresh.config.__dict__.pop("quantization_config", None)
    fresh.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"parameters": fresh.num_parameters(), "sha256": sha256} | described


def _reader(file: Path) -> Any:
    """Open a GGUF file for reading."""
    from gguf import GGUFReader

    class Reader(GGUFReader):
        def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
            # Beyond the end its base class reads nothing, once for each of as many items as a damaged file claims.
            if offset + np.dtype(dtype).itemsize * int(count) > len(self.data):
                raise ValueError("the file ends early")
            return super()._get(offset, dtype, count, override_order)

    return Reader(file)


def adapt(model: PreTrainedModel, finetuning: Finetuning, seed: int) -> PreTrainedModel | PeftModel:
    """Prepare a model for training: unchanged, or frozen with LoRA adapters, its weights in four bits for QLoRA.

    ``seed`` sets the adapters' random initial values. Raises ParamsError if bitsandbytes does not work, and as
    :func:`check_targets` does.
    """
    check_targets(model, finetuning)
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


def check_base(source: str, finetuning: Finetuning) -> None:
    """Raise ParamsError if a model cannot be fine-tuned as the parameters say. No weights are loaded."""
    config = load_config(source)
    if finetuning.method != "full":
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        check_targets(model, finetuning)


def check_targets(model: PreTrainedModel, finetuning: Finetuning) -> None:
    """Raise ParamsError if a LoRA target names no layer that can be adapted, or QLoRA finds none to quantise."""
    if finetuning.method == "full":
        return
    layers = dict(model.named_modules())
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    known = {n: layer for n, layer in layers.items() if isinstance(layer, nn.Linear | Conv1D) and layer not in ends}
    for target in finetuning.lora_targets:
        found = [layer for name, layer in layers.items() if f".{name}".endswith(f".{target}")]
        if not found:
            problem = "the model has no such layer"
        elif not all(isinstance(layer, nn.Linear | nn.Embedding | Conv1D) for layer in found):
            problem = f"no adapter fits {type(found[0]).__name__}"
        elif model.config.get_text_config().tie_word_embeddings and any(layer in ends for layer in found):
            problem = "the model's input and output embeddings are the same weights"
        else:
            continue
        names = dict.fromkeys(name.rpartition(".")[2] for name in known)
        raise ParamsError(f"finetuning.lora_targets = {target!r}: {problem}; its layers are {', '.join(names)}")
    if finetuning.method == "qlora" and not _quantised(model):
        kinds = sorted({type(layer).__name__ for layer in known.values()})
        raise ParamsError(
            f"finetuning.method = 'qlora': quantises linear layers, and this model has {' and '.join(kinds)} instead; "
            "set it to lora"
        )


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
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, start: str, folder: Path,
    on_base: bool = False,
) -> None:  # fmt: skip
    """Save weights and tokenizer; for an adapted model, the adapter and a note of the model it needs.

    ``start`` is the source of the model that was trained. A folder is saved as a relative path, so that artifacts can
    be moved together. ``on_base`` says that it is the run's base, which the run finds wherever it is moved.
    """
    model.save_pretrained(folder)  # type: ignore[arg-type]
    tokenizer.save_pretrained(folder)
    if isinstance(model, PeftModel):
        # Artifacts are written to a temporary folder beside their final one, so the relative path stays right.
        relative = os.path.relpath(Path(start).resolve(), folder.resolve()) if Path(start).is_dir() else start
        states = [p.quant_state for p in model.parameters() if hasattr(p, "quant_state")]
        note = {"double_quantisation": states[0].nested} if states else {}
        note |= {"on_base": True} if on_base else {}
        (folder / START_FILE).write_text(json.dumps({"start": relative} | note), encoding="utf-8")
