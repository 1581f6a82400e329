"""What is learned, token by token, and that training does what its parameters say."""

import math
from itertools import chain
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy, logsigmoid

from glore_lib.artifacts.records import UNFINISHED
from glore_lib.models.language_model import LanguageModel
from glore_lib.models.loading import adapt, load_model, save_model
from glore_lib.models.prefix_tree import IGNORE, collate, next_tokens, pack
from glore_lib.models.reward_head import RewardModel, load_reward_model
from glore_lib.models.training import QuietTrainer, solution_example, train
from glore_lib.params import Finetuning, ParamsError, Training
from glore_lib.tasks.arithmetic import Arithmetic
from tiny import labelled_rows, solution_rows

QUESTIONS = Arithmetic("easy").questions("train", 16, 0)


def finetuning(batch: int = 8, micro: int = 8, max_length: int = 256, method: str = "full", **options) -> Finetuning:
    return Finetuning(method=method, batch_size=batch, micro_batch_size=micro, max_length=max_length, **options)


def training(steps: int, learning_rate: float = 5e-3, epochs: int = 1000) -> Training:
    return Training(epochs=epochs, max_steps=steps, learning_rate=learning_rate)


@pytest.fixture
def model(tiny_base):
    return LanguageModel(load_model(str(tiny_base), "float32"))


@pytest.fixture(scope="module")
def examples(tokenizer) -> list[dict[str, list[int]]]:
    return solution_rows(tokenizer, QUESTIONS)


@pytest.mark.parametrize(("learn_from", "first_learned"), [(1, 4), (2, 6), (3, 9)])
def test_exact_tokens_and_labels_of_an_example(tokenizer, learn_from, first_learned):
    example = solution_example(tokenizer, "tom has\n", ["3", "4 5", "#### 5"], learn_from)
    tokens = ["<s>", "tom", "has", "\n", "3", "\n", "4", "5", "\n", "####", "5", "\n", "</s>"]
    assert tokenizer.convert_ids_to_tokens(example.ids) == tokens
    assert example.labels == {i - 1: example.ids[i] for i in range(first_learned, 13)}


def test_where_the_end_pads_it_is_still_learned(llama2_tokenizer):
    """Llama-2 has no pad token, and one that only its padding showed would learn to write no end."""
    assert llama2_tokenizer.pad_token_id == llama2_tokenizer.eos_token_id
    solutions = [solution_example(llama2_tokenizer, "tom has\n", steps) for steps in (["3", "#### 3"], ["#### 3"])]
    rows = pack(solutions, 1, 100)
    batch = collate(rows, llama2_tokenizer.pad_token_id)
    for row, labels, visible in zip(rows, batch["labels"], batch["visible"], strict=True):
        length = len(row["input_ids"])
        assert [*labels[labels != IGNORE]][-1] == llama2_tokenizer.eos_token_id
        assert visible.tolist() == [True] * length + [False] * (len(visible) - length)


def test_overfitting_eight_examples(model, examples, tokenizer, tmp_path):
    info = train(model, examples[:8], finetuning(), training(80, 1e-2), tokenizer.pad_token_id, 0, tmp_path)
    losses = [point["loss"] for point in info["losses"]]
    assert info["steps"] == info["losses"][-1]["step"] == 80
    assert losses[-1] < 0.2 * losses[0]
    tokens = sum(len(e["input_ids"]) for e in examples[:8])
    assert (info["sequences"], info["too_long"], info["tokens_trained"]) == (8, 0, 80 * tokens)


def test_the_first_loss_is_the_mean_over_learned_tokens(model, examples, tokenizer, tmp_path):
    batch = collate(examples[:8], tokenizer.pad_token_id)
    with torch.inference_mode():
        logits = model.model(input_ids=batch["input_ids"], attention_mask=batch["visible"].long()).logits
    learned = [row["labels"] for row in examples[:8]]
    for row, tokens in zip(examples[:8], learned, strict=True):
        assert row["input_ids"][-len(tokens) :] == tokens
    predicted = [
        row[len(e["input_ids"]) - len(e["labels"]) - 1 : len(e["input_ids"]) - 1]
        for row, e in zip(logits, examples[:8], strict=True)
    ]
    expected = cross_entropy(torch.cat(predicted), torch.tensor([*chain(*learned)]))
    info = train(model, examples[:8], finetuning(), training(1), tokenizer.pad_token_id, 0, tmp_path)
    assert info["losses"][0]["loss"] == pytest.approx(expected.item(), abs=1e-3)


def test_the_seed_makes_the_loss_curve(tiny_base, examples, tokenizer, tmp_path):
    def curve(seed: int) -> list[dict]:
        torch.manual_seed(torch.seed())  # whatever happened before
        model = LanguageModel(load_model(str(tiny_base), "float32"))
        settings = finetuning(4, 4), training(4)
        return train(model, examples, *settings, tokenizer.pad_token_id, seed, tmp_path)["losses"]

    assert curve(1) == curve(1)
    assert curve(1) != curve(2)


@pytest.mark.parametrize(
    ("epochs", "max_steps", "steps"), [(1, 100, 4), (3, 100, 12), (3, 5, 5)], ids=["one epoch", "three", "max_steps"]
)
def test_steps_are_epochs_within_the_limit(model, examples, tokenizer, tmp_path, epochs, max_steps, steps):
    settings = finetuning(4, 2), training(max_steps, 1e-4, epochs)
    info = train(model, examples[:13], *settings, tokenizer.pad_token_id, 0, tmp_path)
    assert info["steps"] == steps
    assert max(point["step"] for point in info["losses"]) == steps


def test_too_long_sequences_are_left_out_and_counted(model, examples, tokenizer, tmp_path):
    lengths = sorted(len(e["input_ids"]) for e in examples)
    limit = lengths[9]
    kept = sum(length <= limit for length in lengths)
    settings = finetuning(max_length=limit), training(1)
    info = train(model, examples, *settings, tokenizer.pad_token_id, 0, tmp_path)
    assert (info["sequences"], info["too_long"]) == (kept, 16 - kept)
    assert 0 < kept < 16


def test_with_nothing_to_train_on_the_model_stays_as_it_was(model, tokenizer, tmp_path):
    before = weights(model)
    info = train(model, [], finetuning(), training(1), tokenizer.pad_token_id, 0, tmp_path)
    assert info == {"steps": 0, "sequences": 0, "too_long": 0, "tokens_trained": 0, "padding": 0.0, "losses": []}
    assert torch.equal(weights(model), before)


def test_only_too_long_sequences_are_an_error(model, examples, tokenizer, tmp_path, reliability):
    lengths = sorted(len(e["input_ids"]) for e in examples)
    settings = finetuning(max_length=lengths[0] - 1), training(1)
    told = (
        rf"^finetuning\.max_length = {lengths[0] - 1}: all 16 training sequences are longer, the shortest {lengths[0]}"
    )
    with pytest.raises(ParamsError, match=rf"{told} and the longest {lengths[-1]} tokens; raise it$"):
        train(model, examples, *settings, tokenizer.pad_token_id, 0, tmp_path)
    reliability("training: every sequence is longer than finetuning.max_length", "error in one line, no model saved")


@pytest.fixture(scope="module")
def step_examples(tokenizer) -> list[dict[str, list[int]]]:
    """Solutions with one label each to five labels each, so that no two micro-batches have equally many."""
    return labelled_rows(tokenizer, QUESTIONS[:8], [1 + i % 5 for i in range(8)])


def reward_model(tiny_base, weight: float) -> RewardModel:
    model = RewardModel(load_model(str(tiny_base), "float32"), weight)
    torch.manual_seed(9)
    torch.nn.init.normal_(model.head.weight)
    return model


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_the_reward_models_loss_by_hand(tiny_base, step_examples, tokenizer, weight):
    model = reward_model(tiny_base, weight)
    batch = collate(step_examples, tokenizer.pad_token_id)
    losses, word_losses = [], []
    with torch.inference_mode():
        loss = model(**batch)["loss"].item()
        for row in step_examples:
            hidden = model.model.model(input_ids=torch.tensor([row["input_ids"]]))[0][0]
            scores = hidden @ model.head.weight[0] + model.head.bias
            predicted = torch.log_softmax(model.model.lm_head(hidden), -1)
            for at, label in zip(row["label_at"], row["labels"], strict=True):
                losses.append(-logsigmoid(scores[at] if label else -scores[at]).item())
            for at, word in zip(row["lm_at"], row["lm_labels"], strict=True):
                word_losses.append(-predicted[at, word].item())
    assert len(losses) == sum(1 + i % 5 for i in range(8))
    expected = sum(losses) / len(losses) + weight * sum(word_losses) / len(word_losses)
    assert loss == pytest.approx(expected, rel=1e-4)


def test_an_untrained_head_loses_one_bit(tiny_base, step_examples, tokenizer):
    model = RewardModel(load_model(str(tiny_base), "float32"))
    assert model(**collate(step_examples, tokenizer.pad_token_id))["loss"].item() == pytest.approx(math.log(2))


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def assert_accumulation_changes_nothing(build, rows, tokenizer, folder) -> None:
    trained, curves = [], []
    for micro in (8, 2):
        model = build()
        before = weights(model)
        info = train(model, rows, finetuning(8, micro), training(3, 1e-3), tokenizer.pad_token_id, 0, folder)
        curves.append([point["loss"] for point in info["losses"]])
        trained.append(weights(model) - before)
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)
    assert (trained[0] - trained[1]).norm() < 0.01 * trained[0].norm()


def test_four_micro_batches_are_one_batch_for_language_models(tiny_base, examples, tokenizer, tmp_path):
    assert_accumulation_changes_nothing(
        lambda: LanguageModel(load_model(str(tiny_base), "float32")), examples[:8], tokenizer, tmp_path
    )


def test_four_micro_batches_are_one_batch_for_reward_models(tiny_base, step_examples, tokenizer, tmp_path):
    assert_accumulation_changes_nothing(lambda: reward_model(tiny_base, 0.0), step_examples, tokenizer, tmp_path)


def test_sequences_of_like_length_are_trained_together(model, tokenizer, tmp_path):
    """Half of the rows are ten times as long as the others; drawn at random, half of the pairs would be mixed."""
    rows = [row for n in (10, 100) * 40 for row in pack([next_tokens([5] * n, 1)], 1, n)]
    read = []
    model.register_forward_pre_hook(lambda _, __, kwargs: read.append(kwargs["visible"]), with_kwargs=True)
    train(model, rows, finetuning(2, 2), training(40, 1e-3), tokenizer.pad_token_id, 0, tmp_path)
    assert sum(mask.sum().item() for mask in read) == 40 * 110
    assert sum((~mask).any().item() for mask in read) <= 5


def test_qlora_learns_and_reloads_as_it_was_trained(wide_base, examples, tokenizer, tmp_path):
    """With all that saves memory at once."""
    saving = finetuning(8, 4, method="qlora", optimiser="paged_adamw_8bit", gradient_checkpointing=True)
    model = LanguageModel(adapt(load_model(str(wide_base), "float32"), saving, 0))
    info = train(model, examples[:8], saving, training(60, 2e-2), tokenizer.pad_token_id, 0, tmp_path)
    losses = [point["loss"] for point in info["losses"]]
    assert losses[-1] < 0.3 * losses[0]
    save_model(model.model, tokenizer, str(wide_base), tmp_path / "student")
    reloaded = LanguageModel(load_model(str(tmp_path / "student"), "float32"))
    assert_same_loss(model, reloaded, collate(examples[:8], 0))


def test_a_qlora_reward_model_learns_and_reloads_as_it_was_trained(wide_base, step_examples, tokenizer, tmp_path):
    qlora = finetuning(method="qlora")
    model = RewardModel(adapt(load_model(str(wide_base), "float32"), qlora, 0))
    info = train(model, step_examples, qlora, training(60, 2e-2), tokenizer.pad_token_id, 0, tmp_path)
    losses = [point["loss"] for point in info["losses"]]
    assert losses[-1] < 0.3 * losses[0]
    model.save(tokenizer, str(wide_base), tmp_path / "rm")
    assert_same_loss(model, load_reward_model(str(tmp_path / "rm"), "float32"), collate(step_examples, 0))


@torch.no_grad()
def assert_same_loss(trained: torch.nn.Module, reloaded: torch.nn.Module, batch: dict[str, torch.Tensor]) -> None:
    trained, reloaded = (model.train()(**batch)["loss"].item() for model in (trained, reloaded))
    assert trained == pytest.approx(reloaded, rel=1e-3)


@pytest.mark.parametrize("kind", ["language model", "reward model"])
def test_gradient_checkpointing_computes_twice_and_learns_the_same(
    kind, tiny_base, examples, step_examples, tokenizer, tmp_path
):
    trained, calls = [], []
    for checkpointing in (False, True):
        options = finetuning(gradient_checkpointing=checkpointing)
        language_model = adapt(load_model(str(tiny_base), "float32"), options, 0)
        model = (RewardModel if kind == "reward model" else LanguageModel)(language_model)
        calls.append(0)

        def count(*_: object) -> None:
            calls[-1] += 1

        language_model.model.layers[0].mlp.register_forward_pre_hook(count)
        rows = step_examples if kind == "reward model" else examples[:8]
        train(model, rows, options, training(2, 1e-3), tokenizer.pad_token_id, 0, tmp_path)
        trained.append(weights(model))
    assert calls == [2, 4]
    torch.testing.assert_close(trained[0], trained[1])


def test_mixed_precision_computes_in_bfloat16_and_keeps_float32(tiny_base, examples, tokenizer, tmp_path):
    seen, losses = [], []
    for mixed in (True, False):  # in this order: the trainer keeps its precision in global state
        model = LanguageModel(load_model(str(tiny_base), "float32"))
        model.model.model.layers[0].mlp.up_proj.register_forward_hook(lambda *call: seen.append(call[-1].dtype))
        options = finetuning(mixed_precision=mixed)
        info = train(model, examples[:8], options, training(3, 1e-3), tokenizer.pad_token_id, 0, tmp_path)
        losses.append([point["loss"] for point in info["losses"]])
        assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert seen == [torch.bfloat16] * 3 + [torch.float32] * 3
    assert losses[0] == pytest.approx(losses[1], rel=0.01) and losses[0] != losses[1]


@pytest.mark.parametrize("bits", [32, 8])
def test_the_paged_optimisers_are_used(bits, model, examples, tokenizer, tmp_path, monkeypatch):
    used = []
    monkeypatch.setattr(QuietTrainer, "log", lambda self, *_: used.append(self.optimizer.optimizer))
    options = finetuning(optimiser=f"paged_adamw_{bits}bit")
    train(model, examples[:8], options, training(1), tokenizer.pad_token_id, 0, tmp_path)
    assert (used[0].is_paged, used[0].args.optim_bits) == (True, bits)


def test_too_little_memory_is_told_in_one_line(model, examples, tokenizer, tmp_path, monkeypatch):
    def forward(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation")

    monkeypatch.setattr(model, "forward", forward)
    with pytest.raises(ParamsError) as error:
        train(model, examples[:8], finetuning(), training(1), tokenizer.pad_token_id, 0, tmp_path)
    assert str(error.value) == (
        "finetuning.micro_batch_size = 8: out of memory (CUDA out of memory. Tried to allocate 2.00 GiB.); lower it or "
        "finetuning.max_length, or set finetuning.gradient_checkpointing: true or method: qlora"
    )


class Interrupted(Exception):
    pass


def interrupt(monkeypatch: pytest.MonkeyPatch, step: int) -> list[int]:
    """Has training end with the step; the steps that were made."""
    made, log = [], QuietTrainer.log

    def logged(self, logs, *_):
        log(self, logs)
        if "loss" in logs:
            made.append(self.state.global_step)
            if self.state.global_step == step:
                raise Interrupted

    monkeypatch.setattr(QuietTrainer, "log", logged)
    return made


@pytest.mark.parametrize("kind", ["language model", "lora", "reward model"])
@pytest.mark.parametrize(
    ("stops", "damage", "first"),
    [(13, None, 11), (13, "truncated", 6), (8, "truncated", 1), (17, "flipped", 11), (13, "missing", 6)],
)
def test_an_interrupted_training_goes_on_from_a_checkpoint_to_the_same_model(
    kind, stops, damage, first, tiny_base, examples, step_examples, tokenizer, tmp_path, monkeypatch, capfd
):
    """Epochs of 5 steps with accumulation and, of the adapter, dropout: 10 lies between two, 15 is damaged or not."""
    rows = (step_examples * 3)[:18] if kind == "reward model" else (examples * 2)[:18]
    options = finetuning(4, 2, method="lora" if kind == "lora" else "full")

    def trained(folder: Path) -> tuple[dict, torch.Tensor]:
        model = adapt(load_model(str(tiny_base), "float32"), options, 0)
        model = (RewardModel if kind == "reward model" else LanguageModel)(model)
        (folder / UNFINISHED).mkdir(parents=True, exist_ok=True)
        info = train(model, rows, options, training(19, 1e-3), tokenizer.pad_token_id, 0, folder)
        assert list((folder / UNFINISHED).iterdir()) == []
        return info, weights(model)

    info, expected = trained(tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt(patch, stops)
        with pytest.raises(Interrupted):
            trained(tmp_path / "cut")
    last = max((tmp_path / "cut").rglob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    spoil(last / "optimizer.pt", damage)
    capfd.readouterr()
    made = interrupt(monkeypatch, 0)
    resumed, got = trained(tmp_path / "cut")
    assert made[0] == first
    state = "is missing" if damage == "missing" else "was modified"
    assert (f"{last.name}: optimizer.pt {state}" in capfd.readouterr().err) == bool(damage)
    assert resumed.pop("seconds_before") > 0 if first > 1 else True
    assert {**resumed, "seconds_before": 0.0} == info
    assert torch.equal(got, expected)


def spoil(path: Path, damage: str | None) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= damage == "flipped"
    path.write_bytes(content[: len(content) // 2] if damage == "truncated" else content)
    if damage == "missing":
        path.unlink()
