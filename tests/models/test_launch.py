"""Training in two processes (CPU, gloo) equals training in one, with DDP and with FSDP; a failure is reported once."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.elastic.multiprocessing.errors import record
from transformers.trainer_pt_utils import LengthGroupedSampler

from glore_lib.artifacts.records import UNFINISHED
from glore_lib.models.launch import _failure
from glore_lib.models.loading import load_model
from glore_lib.models.prefix_tree import IGNORE, collate, next_tokens, pack
from glore_lib.models.reward_head import RewardModel
from glore_lib.models.training import SharedOrder
from glore_lib.params import ParamsError, Training
from glore_lib.tasks.arithmetic import Arithmetic
from tiny import labelled_rows, open_tiny, solution_rows

# 19 in batches of 8: an epoch ends with 3, of which the second process gets one, or, of 17, none.
QUESTIONS = Arithmetic("easy").questions("train", 19, 0)
TRAINING = Training(epochs=2, max_steps=100, learning_rate=1e-3)


@pytest.fixture(scope="module")
def solutions(tokenizer) -> list[dict[str, list[int]]]:
    return solution_rows(tokenizer, QUESTIONS)


@pytest.fixture(scope="module")
def labelled(tokenizer) -> list[dict[str, list[int]]]:
    """Give each solution one to eight labels, so that the two processes rarely have equally many."""
    return labelled_rows(tokenizer, QUESTIONS[:17], [1 + 3 * i % 8 for i in range(17)])


def trained(base: Path, folder: Path, examples: list, weight: float | None = None, **options) -> tuple[dict, dict]:
    """Fine-tune; return the info and the weights that were saved."""
    settings = {"batch_size": 8, "micro_batch_size": 2, "max_length": 256, "method": "full"} | options
    run = open_tiny(base, folder / "artifacts", **{f"finetuning__{key}": value for key, value in settings.items()})
    out = folder / "out"
    out.mkdir()
    info = run.fit(None, "x", examples, TRAINING, out, weight)
    tensors = {f"{path.name}/{k}": v for path in out.glob("*.safetensors") for k, v in load_file(path).items()}
    assert not (out / "processes").exists()
    return info, tensors


def assert_two_learn_what_one_does(base: Path, folder: Path, *args, method: str, parallel: str, **options) -> None:
    for name in ("one", "two"):
        (folder / name).mkdir()
    info, weights = trained(base, folder / "one", *args, method=method, **options)
    shared, shared_weights = trained(
        base, folder / "two", *args, method=method, processes=2, parallel=parallel, **options
    )
    assert [point["loss"] for point in shared.pop("losses")] == pytest.approx(
        [point["loss"] for point in info.pop("losses")], rel=1e-5
    )
    for told in (info, shared):  # each process pads its own part of a batch
        assert 0 <= told.pop("padding") < 0.2
    assert info == shared
    assert info["steps"] == 6
    assert {name: (t.shape, t.dtype) for name, t in weights.items()} == {
        name: (t.shape, t.dtype) for name, t in shared_weights.items()
    }
    # Adam makes steps of one size from gradients of any: where these are all but 0, rounding gives their sign.
    one, two = (torch.cat([t.flatten() for _, t in sorted(w.items())]) for w in (weights, shared_weights))
    assert (one - two).norm() < 1e-4 * one.norm()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "parallel"),
    [
        ("full", "fsdp"), ("lora", "ddp"),
        *(pytest.param(*other, marks=pytest.mark.long) for other in (("full", "ddp"), ("lora", "fsdp"))),
    ],
)  # fmt: skip
def test_two_processes_train_the_student_of_one(method, parallel, tiny_base, solutions, tmp_path):
    assert_two_learn_what_one_does(tiny_base, tmp_path, solutions, method=method, parallel=parallel)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", [pytest.param("ddp", marks=pytest.mark.long), "fsdp"])
def test_two_processes_train_the_reward_model_of_one(parallel, tiny_base, labelled, tmp_path):
    assert_two_learn_what_one_does(tiny_base, tmp_path, labelled, 0.3, method="full", parallel=parallel)


LATE = """import os
if os.environ.get("RANK") == "1":
    import time
    import transformers.trainer as trainer
    look = trainer.sort_checkpoints
    def look_late(output_dir, **options):
        time.sleep(3)
        assert os.path.isdir(output_dir), "removed before all had ended"
        return look(output_dir, **options)
    trainer.sort_checkpoints = look_late
"""


@pytest.mark.slow
def test_checkpoints_are_there_until_the_last_process_has_looked_for_them(tiny_base, solutions, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(LATE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    info, _ = trained(tiny_base, tmp_path, solutions, processes=2)
    assert info["steps"] == 6
    assert not (tmp_path / "out" / UNFINISHED / "training").exists()


def test_the_processes_take_the_examples_in_the_order_of_one(solutions):
    lengths = [len(example["input_ids"]) for example in solutions]
    torch.manual_seed(3)
    one = list(LengthGroupedSampler(8, lengths=lengths))
    torch.manual_seed(3)
    order = SharedOrder(8, lengths, 4)
    assert list(order) == [*one, 19]
    assert len(order) == 20


def test_nothing_is_learned_from_what_fills_a_batch_up(tiny_base, tokenizer):
    model = RewardModel(load_model(str(tiny_base), "float32"), 0.3)
    names = ("parents", "label_at", "labels", "lm_at", "lm_labels")
    filler = {"input_ids": [0]} | {name: [IGNORE] for name in names}
    loss = model(**collate([filler, filler], 0), num_items_in_batch=torch.tensor(5))["loss"]
    loss.backward()
    assert loss == 0
    assert all((p.grad == 0).all() for p in model.parameters())


def test_a_process_that_fails_is_reported_once(tiny_base, tmp_path):
    unknown = pack([next_tokens([5, 10**6], 1)], 1, 2)
    message = r"^finetuning\.processes = 2: one failed, all were stopped; its last lines:"
    with pytest.raises(RuntimeError, match=message) as error:
        trained(tiny_base, tmp_path, unknown * 8, processes=2)
    lines = str(error.value).splitlines()
    assert lines[-1] == "IndexError: index out of range in self"
    assert len(lines) <= 6


def test_a_params_error_of_a_process_is_raised_as_one(tmp_path, monkeypatch):
    """Judge by the files of torch's launcher: the first failure counts, not those that follow from it."""

    @record
    def fail(error: Exception) -> None:
        raise error

    for rank, error in (("1", ParamsError("finetuning.micro_batch_size = 8: out of memory")), ("0", OSError("lost"))):
        (tmp_path / rank).mkdir()
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / rank / "error.json"))
        with pytest.raises(type(error)):
            fail(error)
    told = _failure(2, tmp_path, "")
    assert isinstance(told, ParamsError)
    assert str(told) == "finetuning.micro_batch_size = 8: out of memory"


def test_a_killed_process_is_reported_by_the_launcher(tmp_path):
    told = _failure(2, tmp_path, "a\nb\nc\nd\ne\nexitcode : -9 (pid: 1)\n")
    assert str(told).splitlines()[1:] == ["b", "c", "d", "e", "exitcode : -9 (pid: 1)"]
