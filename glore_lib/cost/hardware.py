"""What machines and models are like: speed and memory, parameters, widths and tokenizers."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PretrainedConfig, PreTrainedModel

from glore_lib.models.loading import MINI_BASE, adapt, locate, smollm2_gguf
from glore_lib.params import Finetuning, ParamsError

CHARACTERS_PER_TOKEN = 3.0  # SmolLM2's tokenizer on GSM8K: 3.9 in questions, 2.7 in solutions


@dataclass(frozen=True)
class Hardware:
    """The speed that a machine reaches in practice.

    FLOP/s by dtype in training and in forward passes, bytes/s from memory, seconds to start a layer, bytes of memory.
    """

    training: dict[str, float]
    reading: dict[str, float]
    bandwidth: float
    layer_seconds: float
    memory: float
    source: str


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
    "cpu": Hardware(
        {"float32": 80e9, "bfloat16": 155e9}, {"float32": 55e9, "bfloat16": 120e9}, 10e9, 0.9e-3, math.inf,
        "measured on two cores of an AMD EPYC with AVX512-BF16: training 80 GFLOP/s in float32 (the mini runs) and 155 "
        "in bfloat16 (SmolLM2-135M), forward passes 55 and 120; starting a layer takes 0.9 ms",
    ),
    "a100-80gb": _gpu("A100 80GB SXM", 312, 19.5, 2039, 80),
    "h100-80gb": _gpu("H100 SXM", 989, 67, 3350, 80),
    "rtx-4090": _gpu("RTX 4090", 165, 82.6, 1008, 24),
}  # fmt: skip


class ModelSize:
    """The size of a model with this configuration. No weights are loaded: layers are created on the meta device."""

    def __init__(self, config: PretrainedConfig):
        self.config = config
        self.layers, self.hidden, self.vocabulary = config.num_hidden_layers, config.hidden_size, config.vocab_size
        heads = config.num_attention_heads
        head = getattr(config, "head_dim", None) or self.hidden // heads
        self.keys = head * (getattr(config, "num_key_value_heads", None) or heads)  # all heads together
        self.feed_forward = getattr(config, "intermediate_size", None) or 4 * self.hidden
        self.parameters = self._on_meta().num_parameters()

    def _on_meta(self) -> PreTrainedModel:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(self.config)

    def trained(self, finetuning: Finetuning) -> int:
        """Return how many parameters are trained: all, or those of the adapters."""
        method = "full" if finetuning.method == "full" else "lora"
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            model = adapt(self._on_meta(), finetuning.model_copy(update={"method": method}), 0)
        return sum(p.numel() for p in model.parameters() if p.requires_grad)


# Published shapes: these models are gated on the hub, so their configurations often cannot be read.
LLAMA_2 = {
    "7b": LlamaConfig(),
    "13b": LlamaConfig(hidden_size=5120, intermediate_size=13824, num_hidden_layers=40, num_attention_heads=40),
}


def _location(source: str) -> tuple[str, dict[str, Any]]:
    """Return the name of a base model and the options to open its configuration and tokenizer."""
    if source == "smollm2-135m":
        folder, file = smollm2_gguf()
        return folder, {"gguf_file": file}
    name, revision = locate(source)
    return str(MINI_BASE) if source in ("mini-base", "scratch") else name, {"local_files_only": True, **revision}


@cache
def model_size(source: str) -> tuple[ModelSize, str]:
    """Return a base model's size and where it is from; raise ParamsError if it is not known on this machine."""
    name, options = _location(source)
    try:
        return ModelSize(AutoConfig.from_pretrained(name, **options).get_text_config()), "from its configuration"
    except (OSError, ValueError):
        for size, config in LLAMA_2.items():
            if f"llama-2-{size}" in source.lower():
                return ModelSize(config), "from Llama 2's published shape"
        raise ParamsError(
            f"base_model.source = {source!r}: its size is not known; name a folder, a model in this machine's hub "
            "cache, or a Llama 2"
        ) from None


Counter = Callable[[list[str], bool], np.ndarray]  # the tokens of each text, with or without special tokens


def token_counter(source: str) -> tuple[Counter, str]:
    """Return a function that counts tokens, and a description of how it counts."""
    name, options = _location(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
    except (OSError, ValueError):
        return (
            lambda texts, special: np.array([len(text) for text in texts]) / CHARACTERS_PER_TOKEN,
            f"{CHARACTERS_PER_TOKEN:g} characters a token, because the tokenizer is not on this machine",
        )

    def count(texts: list[str], special: bool) -> np.ndarray:
        return np.array([len(ids) for ids in tokenizer(texts, add_special_tokens=special).input_ids])

    return count, "the model's tokenizer"
