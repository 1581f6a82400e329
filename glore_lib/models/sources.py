"""Where models are. Nothing here imports torch, which takes seconds."""

from pathlib import Path

MINI_BASE = Path(__file__).parents[1] / "assets" / "mini-base"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")  # of any adapter, as peft names them


def locate(source: str) -> tuple[str, dict[str, str]]:
    """Split ``name@commit`` into the arguments that transformers and vLLM take: a name and ``revision``."""
    name, _, commit = source.partition("@")
    return (source, {}) if Path(source).is_dir() or not commit else (name, {"revision": commit})
