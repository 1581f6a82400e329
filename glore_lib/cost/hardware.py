"""What machines and models are like: speed and memory, parameters, widths and tokenizers."""

import json
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from huggingface_hub import try_to_load_from_cache
from tokenizers import Tokenizer

from glore_lib.models.sources import ADAPTER_FILES, MINI_BASE, gguf_file, locate
from glore_lib.params import Finetuning, ParamsError

if TYPE_CHECKING:  # torch and transformers take seconds to import: only models that need them wait for them
    from transformers import PretrainedConfig

CHARACTERS_PER_TOKEN = 3.0  # SmolLM2's tokenizer on GSM8K: 3.9 in questions, 2.7 in solutions


@dataclass(frozen=True)
class Hardware:
    """The speed that a machine reaches in practice.

    FLOP/s by dtype in training and in forward passes, bytes/s from memory, seconds to start a layer, bytes of memory,
    and bytes of it that Python and its libraries take.
    """

    training: dict[str, float]
    reading: dict[str, float]
    bandwidth: float
    layer_seconds: float
    memory: float
    source: str
    process: float = 0


def _cpu(training: dict[str, float], reading: dict[str, float], source: str) -> Hardware:
    """Return two cores of a CPU: 10 GB/s, 0.9 ms to start a layer, 0.5 GiB for Python and libraries (0.55 measured)."""
    return Hardware(training, reading, 10e9, 0.9e-3, math.inf, source, process=0.5 * 2**30)


def _gpu(name: str, bfloat16: float, float32: float, bandwidth: float, memory: float) -> Hardware:
    """Return a GPU from its data sheet (dense TFLOP/s, GB/s, GB) and assumed efficiencies."""
    peak = {"bfloat16": bfloat16 * 1e12, "float32": float32 * 1e12}
    return Hardware(
        {dtype: 0.35 * flops for dtype, flops in peak.items()}, {dtype: 0.5 * flops for dtype, flops in peak.items()},
        0.7 * bandwidth * 1e9, 0.8e-3, memory * 1e9,
        f"{name}'s data sheet: {bfloat16:g} TFLOP/s bfloat16, {float32:g} float32, {bandwidth:g} GB/s; assumed: "
        "training reaches 35 %, forward passes 50 %, memory 70 %; starting a layer takes 0.8 ms (transformers)",
    )  # fmt: skip


HARDWARE = {
    "cpu": _cpu(
        {"float32": 80e9, "bfloat16": 300e9}, {"float32": 55e9, "bfloat16": 320e9},
        "measured on two cores of an AMD EPYC with AVX512-BF16: training 80 GFLOP/s in float32 (the mini runs) and 300 "
        "in bfloat16 (Qwen2.5-Coder-0.5B), forward passes 55 and 320; starting a layer takes 0.9 ms",
    ),
    "cpu-avx2": _cpu(
        {"float32": 80e9, "bfloat16": 2e9}, {"float32": 75e9, "bfloat16": 20e9},
        "measured on two cores of an AMD EPYC without instructions for bfloat16, with Qwen2.5-Coder-0.5B: training 82 "
        "GFLOP/s in float32 and 2 in bfloat16, decoding 64 rows 76 and 19; assumed: a layer starts as on cpu",
    ),
    "a100-80gb": _gpu("A100 80GB SXM", 312, 19.5, 2039, 80),
    "h100-80gb": _gpu("H100 SXM", 989, 67, 3350, 80),
    "rtx-4090": _gpu("RTX 4090", 165, 82.6, 1008, 24),
}  # fmt: skip


# Output tokens/s of vLLM 0.5.4 with Mistral-7B on one H100, as LambdaLabsML/vllm-benchmark measured them.
VLLM_RATE, MISTRAL_PARAMETERS = 3281.0, 7.24e9
VLLM_SOURCE = (
    f"sampling by vLLM: {VLLM_RATE:,.0f} tokens/s of a 7B model on an H100 (LambdaLabsML/vllm-benchmark, vLLM 0.5.4); "
    "assumed: other models and GPUs follow their parameters and memory bandwidth"
)


@dataclass(frozen=True)
class ModelSize:
    """The size of a model. ``keys`` is the width of a token's keys in one layer, all heads together.

    ``body`` counts the parameters without those of the embeddings and the output layer. ``linear`` holds the sum of the
    inputs and outputs of each layer that LoRA can adapt, by the layer's name.
    """

    layers: int
    hidden: int
    vocabulary: int
    keys: int
    feed_forward: int
    parameters: int
    body: int
    linear: dict[str, int]

    def trained(self, finetuning: Finetuning) -> int:
        """Return how many parameters are trained: all, or those of the adapters.

        Raises :class:`ParamsError` if no layer has one of the names in ``finetuning.lora_targets``.
        """
        if finetuning.method == "full":
            return self.parameters
        ends = tuple(f".{target}" for target in finetuning.lora_targets)
        if missing := [e[1:] for e in ends if not any(f".{name}".endswith(e) for name in self.linear)]:
            names = ", ".join(sorted({name.rpartition(".")[2] for name in self.linear}))
            raise ParamsError(f"finetuning.lora_targets = {missing}: no such layers; the model has {names}")
        return finetuning.lora_rank * sum(n for name, n in self.linear.items() if f".{name}".endswith(ends))


def vllm_rate(size: ModelSize, hardware: Hardware) -> float:
    """Return the output tokens/s of vLLM, as :data:`VLLM_SOURCE` says."""
    bandwidth = hardware.bandwidth / HARDWARE["h100-80gb"].bandwidth
    return VLLM_RATE * MISTRAL_PARAMETERS / size.parameters * bandwidth


def llama_size(config: dict[str, Any]) -> ModelSize:
    """Return the size of a Llama without biases from its configuration, without importing torch."""
    layers, hidden, heads = (config[name] for name in ("num_hidden_layers", "hidden_size", "num_attention_heads"))
    width, vocabulary = config["intermediate_size"], config["vocab_size"]
    head = config.get("head_dim") or hidden // heads
    queries, keys = heads * head, (config.get("num_key_value_heads") or heads) * head
    shapes = {f"self_attn.{name}_proj": (hidden, out) for name, out in (("q", queries), ("k", keys), ("v", keys))}
    shapes["self_attn.o_proj"] = queries, hidden
    shapes |= {f"mlp.{name}_proj": (hidden, width) for name in ("gate", "up", "down")}
    linear = {f"model.layers.{i}.{name}": sum(shape) for i in range(layers) for name, shape in shapes.items()}
    outer = dict.fromkeys(("model.embed_tokens", "lm_head"), hidden + vocabulary)
    embeddings = hidden * vocabulary * (1 if config.get("tie_word_embeddings") else 2)
    norms = hidden * (2 * layers + 1)
    body = layers * sum(math.prod(shape) for shape in shapes.values()) + norms
    return ModelSize(layers, hidden, vocabulary, keys, width, body + embeddings, body, linear | outer)


def measured_size(config: "PretrainedConfig") -> ModelSize:
    """Return the size of a model with any configuration. Layers are created on the meta device, without weights."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    kinds = (torch.nn.Linear, torch.nn.Embedding, Conv1D)
    linear = {name: sum(layer.weight.shape) for name, layer in model.named_modules() if isinstance(layer, kinds)}
    outer = {e.weight for e in (model.get_input_embeddings(), model.get_output_embeddings()) if e is not None}
    hidden = config.hidden_size
    heads = getattr(config, "num_attention_heads", None) or 1  # state-space models have none
    head = getattr(config, "head_dim", None) or hidden // heads
    return ModelSize(
        config.num_hidden_layers, hidden, config.vocab_size,
        head * (getattr(config, "num_key_value_heads", None) or heads),
        int(np.mean(getattr(config, "intermediate_size", None) or 4 * hidden)),  # some have a width for each layer
        model.num_parameters(), model.num_parameters() - sum(weight.numel() for weight in outer), linear,
    )  # fmt: skip


# Published shapes: these models are gated on the hub, so their configurations often cannot be read.
LLAMA_2 = {
    size: {
        "hidden_size": hidden, "intermediate_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
        "vocab_size": 32000,
    }
    for size, hidden, width, layers, heads in (("7b", 4096, 11008, 32, 32), ("13b", 5120, 13824, 40, 40))
}  # fmt: skip


def _location(source: str) -> tuple[str, dict[str, Any]]:
    """Return the name of a base model and the options to open its configuration and tokenizer."""
    if file := gguf_file(source):
        return str(file.parent), {"gguf_file": file.name}
    if (Path(source) / ADAPTER_FILES[0]).exists():
        from glore_lib.models.loading import adapter_base

        if base := adapter_base(source):
            return _location(base)
    name, revision = locate(source)
    return str(MINI_BASE) if source in ("mini-base", "scratch") else name, {"local_files_only": True, **revision}


def _local_file(source: str, file: str) -> Path | None:
    """Return a file of a model in a folder or in the hub's cache; None if this machine does not have it."""
    name, options = _location(source)
    if Path(name).is_dir():
        return Path(name, file) if Path(name, file).is_file() else None
    try:
        found = try_to_load_from_cache(name, file, revision=options.get("revision"))
    except ValueError:  # no name that the hub could have
        return None
    return Path(found) if isinstance(found, str) else None


def _is_local(source: str) -> bool:
    return gguf_file(source) is not None or _local_file(source, "config.json") is not None


@cache
def model_size(source: str) -> tuple[ModelSize, str]:
    """Return a base model's size and where it is from; raise ParamsError if it is not known on this machine."""
    path = _local_file(source, "config.json")
    config = json.loads(path.read_text(encoding="utf-8")) if path else {}
    if config.get("model_type") == "llama" and not (config.get("attention_bias") or config.get("mlp_bias")):
        with suppress(KeyError):  # it leaves values to transformers
            return llama_size(config), "from its configuration"
    if _is_local(source):
        from transformers import AutoConfig

        name, options = _location(source)
        with suppress(OSError, ValueError):
            config = AutoConfig.from_pretrained(name, **options).get_text_config()
            return measured_size(config), "from its configuration"
    for size, shape in LLAMA_2.items():
        if f"llama-2-{size}" in source.lower():
            return llama_size(shape), "from Llama 2's published shape"
    raise ParamsError(
        f"base_model.source = {source!r}: its size is not known; name a folder, a model in this machine's hub cache, "
        "or a Llama 2"
    )


Counter = Callable[[list[str], bool], np.ndarray]  # the tokens of each text, with or without special tokens


def token_counter(source: str) -> tuple[Counter, str]:
    """Return a function that counts tokens, and a description of how it counts."""
    encode: Callable[..., Any] | None = None
    if path := _local_file(source, "tokenizer.json"):
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        encode = tokenizer.encode_batch_fast
    elif _is_local(source):
        from transformers import AutoTokenizer

        name, options = _location(source)
        with suppress(OSError, ValueError):
            loaded = AutoTokenizer.from_pretrained(name, **options)
            encode = lambda texts, **special: loaded(texts, **special).input_ids  # noqa: E731
    if encode is None:
        return (
            lambda texts, special: np.array([len(text) for text in texts]) / CHARACTERS_PER_TOKEN,
            f"{CHARACTERS_PER_TOKEN:g} characters a token, because the tokenizer is not on this machine",
        )

    def count(texts: list[str], special: bool) -> np.ndarray:
        return np.array([*map(len, encode(texts, add_special_tokens=special))])

    return count, "the model's tokenizer"
