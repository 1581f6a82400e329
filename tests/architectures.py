"""Try transformers' causal language models as tiny random ones, and write the table of docs/models.md.

python tests/architectures.py
"""

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from glore_lib.pretraining.pretrain import build_tokenizer
from glore_lib.reporting.quoted_tables import filled
from glore_lib.sampling import attention
from glore_lib.sampling.plain import PlainSampler
from glore_lib.sampling.probe import Trial
from glore_lib.sampling.transformers import TransformersSampler

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
COLUMNS = ("architecture", "sampling", "reward model", "reason")
LARGEST = 5_000_000  # parameters
# Sizes of the tiny models, by the names that configurations use.
SIZES = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "word_embed_proj_dim", "embedding_size"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "decoder_ffn_dim", "shared_intermediate_size"), 64),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 32),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk", "top_k_experts"), 2),
    **dict.fromkeys(("head_dim", "v_head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "rotary_dim"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    "num_key_value_heads": 2, "qk_head_dim": 16, "n_group": 1, "topk_group": 1, "max_position_embeddings": 512,
    "initializer_range": 0.2, "init_std": 0.2,
}  # fmt: skip
# What a configuration needs besides.
OTHERS: dict[str, dict[str, Any]] = {
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 16, "n_groups": 2, "expand": 2},
    **{key: {"num_key_value_heads": 4} for key in ("axk1", "axk2", "longcat_flash", "minicpm3", "youtu")},
    **{key: {"num_hidden_layers": 4} for key in ("qwen3_5_text", "qwen3_5_moe_text", "qwen3_next", "qwen4_exp_text")},
}  # fmt: skip


def tiny_config(name: str, tokenizer: PreTrainedTokenizerBase, **settings: Any) -> PretrainedConfig:
    """Return a configuration of an architecture with every known size reduced."""
    text = CONFIG_MAPPING[name]().get_text_config(decoder=True)
    known = {field for field in SIZES if not isinstance(getattr(type(text), field, None), property)}
    known &= {field for field in known if isinstance(getattr(text, field, ""), int | float | None)}
    sizes = {field: SIZES[field] for field in known}
    sizes |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    sizes |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    return type(text)(**sizes | OTHERS.get(name, {}) | settings)


def tiny_model(name: str, tokenizer: PreTrainedTokenizerBase, **settings: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(tiny_config(name, tokenizer, **settings)).eval()


@dataclass
class Outcome:
    """A row of the table."""

    name: str
    sampling: str
    rows: str
    reason: str


def outcome(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Outcome:
    """Try a model as :func:`glore_lib.sampling.probe.probe` does, and say why."""
    trial = Trial(model, tokenizer)
    alone, packed = trial.of_rows(1), trial.of_rows(2)
    plain, fast = trial.of_sampler(PlainSampler), trial.of_sampler(TransformersSampler)
    if plain or alone:
        return Outcome(name, "refused", "refused", _short(plain or alone or ""))
    reasons = [f"{what}: {_short(problem)}" for what, problem in (("sampling", fast), ("rows", packed)) if problem]
    if not (fast and packed) and (window := attention.window(model.config)):
        reasons.append(f"beyond its window of {window:,} tokens: fallback, unpacked")
    return Outcome(name, "fallback" if fast else "fast", "unpacked" if packed else "packed", "; ".join(reasons))


def _short(problem: str) -> str:
    changed = problem.replace("outputs differ from those of the text alone, by", "differs by")
    return changed.replace(" of what its beginning changes", "")[:100]


def outcomes(names: list[str]) -> list[Outcome]:
    """Try all architectures that can be built this small."""
    tokenizer, rows = build_tokenizer(), []
    for name in names:
        try:
            with torch.device("meta"):
                size = tiny_model(name, tokenizer).num_parameters()
            if size > LARGEST:
                raise ValueError(f"{size:,} parameters")
            model = tiny_model(name, tokenizer)
            model(input_ids=torch.arange(5, 20)[None])
        except Exception as error:  # configurations that need more than sizes, other modalities, missing packages
            print(f"{name}: not built: {type(error).__name__}: {' '.join(str(error).split())[:150]}", file=sys.stderr)
            continue
        rows.append(outcome(name, model, tokenizer))
        print(f"{name}: {rows[-1].sampling}, {rows[-1].rows}", file=sys.stderr, flush=True)
    return rows


def page_with(page: str, rows: list[Outcome]) -> str:
    """Return the page with its table replaced, and how many architectures had each outcome."""
    lines = [COLUMNS, ["---"] * len(COLUMNS)]
    lines += [[row.name, row.sampling, row.rows, row.reason.replace("|", r"\|")] for row in rows]
    counts = Counter((row.sampling, row.rows) for row in rows).most_common()
    summary = ", ".join(f"{n} {sampling} and {packed}" for (sampling, packed), n in counts)
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return filled(page, "architectures", f"{len(rows)} architectures: {summary}.\n\n{table}")


if __name__ == "__main__":
    made = outcomes(sys.argv[1:] or list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
    if sys.argv[1:]:
        print(*made, sep="\n")
    else:
        PAGE.write_text(page_with(PAGE.read_text(encoding="utf-8"), made), encoding="utf-8")
