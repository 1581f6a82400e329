"""What architectures allow: the probe on transformers' own models, and samples of those that need the slower ways."""

import pytest
import torch
from transformers import PreTrainedModel

from architectures import PAGE, outcome, tiny_model
from glore_lib.models.prefix_tree import Labelled
from glore_lib.models.reward_head import RewardModel
from glore_lib.params import ParamsError
from glore_lib.sampling import Request
from glore_lib.sampling.probe import Support, probe
from glore_lib.sampling.transformers import build
from tiny import open_tiny

FALL_BACK = ("stablelm", "gpt_neo", "gpt_oss", "xglm", "nemotron", "gemma2", "mamba", "bloom")
FAST = ("llama", "gemma3_text", "opt")


@pytest.mark.parametrize("name", [*FAST, *FALL_BACK, "bert"])
def test_the_table_says_what_the_probe_finds(tokenizer, name):
    (line,) = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(f"| {name} |")]
    found = outcome(name, tiny_model(name, tokenizer), tokenizer)
    assert [cell.strip() for cell in line.split("|")[2:4]] == [found.sampling, found.rows]
    assert (found.sampling == "fallback") == (name in FALL_BACK)
    assert (found.rows == "unpacked") == (name in ("mamba", "bloom"))


def written(model: PreTrainedModel, prompt: tuple[int, ...], n: int) -> tuple[int, ...]:
    """Return what ``generate`` writes after one prompt, greedily."""
    ids = torch.tensor([prompt])
    text = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=n)
    return tuple(text[0, len(prompt) :].tolist())


@pytest.mark.parametrize("name", [*FAST, *FALL_BACK])
def test_every_question_gets_the_answer_that_generate_gives_it(tokenizer, name, reliability):
    shared = name in FAST
    sampler = build(tiny_model(name, tokenizer), tokenizer, 4, shared)
    prompts = [tuple(tokenizer(text).input_ids) for text in ("tom has 3", "ann has 4", "there are 5 6 7 8")]
    answers = sampler.sample([Request(prompt, 2, 0) for prompt in prompts], 0.0, 6, "test")
    reference = tiny_model(name, tokenizer)
    for prompt, completions in zip(prompts, answers, strict=True):
        assert {c.ids for c in completions} == {written(reference, prompt, 6)}
    assert len({c.ids for completions in answers for c in completions}) == 3
    if not shared:
        reliability("base model: its attention ignores the shared prefix", "sampled with `generate`, in one line")


@pytest.mark.parametrize("name", ["mamba", "llama"])
def test_a_run_tries_its_base_model_once_and_says_what_it_costs(tokenizer, name, tmp_path, capfd, monkeypatch):
    tiny_model(name, tokenizer).save_pretrained(tmp_path / name)
    tokenizer.save_pretrained(tmp_path / name)
    fine = name == "llama"
    for _ in range(2):
        run = open_tiny(tmp_path / name, tmp_path / "artifacts")
        assert run.base_key["support"] == {"shared_prefix": fine, "packed_rows": fine, "window": None}
        line = "its architecture samples with model.generate, which reads the question again for every completion; "
        assert [text.count(line) for text in capfd.readouterr()] == [not fine] * 2  # notebook and terminal
        monkeypatch.setattr("glore_lib.models.loading.load_model", lambda *_: pytest.fail("tried again"))
    solutions = [Labelled([5, 6, 7, 8], 2, {3: 1}), Labelled([5, 6, 7, 9], 2, {3: 0})]
    assert [len(row["labels"]) for row in run.packed([solutions], 2)] == ([2] if fine else [1, 1])


def test_what_no_way_reads_rightly_is_refused(tokenizer, reliability):
    message = r"^base_model\.source = 'a/b': bert cannot be .* \(outputs differ .*\); name a causal language model$"
    with pytest.raises(ParamsError, match=message):
        probe(tiny_model("bert", tokenizer), tokenizer, "a/b")
    reliability("base model: not causal", "rejected in one line")


def test_a_window_bounds_packed_rows(tokenizer):
    support = probe(tiny_model("mistral", tokenizer, sliding_window=200), tokenizer, "x")
    assert support == Support(True, True, 200)
    assert support.packs(200)
    assert not support.packs(201)
    short = probe(tiny_model("mistral", tokenizer, sliding_window=4), tokenizer, "x")
    assert not (short.shared_prefix or short.packed_rows)


@pytest.mark.parametrize(
    ("name", "settings", "width"), [("gemma3_text", {}, 32), ("opt", {"word_embed_proj_dim": 16}, 16)]
)
def test_the_head_is_as_wide_as_the_output_embeddings(tokenizer, name, settings, width, reliability):
    model = RewardModel(tiny_model(name, tokenizer, **settings))
    hidden = model.hidden(torch.tensor([[5, 6, 7]]), torch.ones(1, 3, dtype=torch.bool))
    assert hidden.shape[-1] == model.head.in_features == width
    reliability("base model: no hidden_size, or projected embeddings", "a reward model of the right width")
