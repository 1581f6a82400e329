"""Runs in which there is nothing to learn from, nothing to count or no number at all: a clear error or "n = 0"."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from test_replication import SETTINGS, assert_numbers_are_sound, script, show

from glore_lib.method import reward_models
from glore_lib.method.refinement import global_pairs, local_pairs
from glore_lib.method.replication import Replication
from glore_lib.models import training
from glore_lib.models.language_model import LanguageModel
from glore_lib.models.loading import load_model
from glore_lib.models.training import train
from glore_lib.params import ParamsError, Training
from glore_lib.reporting import results, tables
from glore_lib.reporting.tables import wide
from glore_lib.tasks.arithmetic import Arithmetic
from tiny import open_tiny, rollout_rows, sample_rows, solution_rows

QUESTIONS = Arithmetic("easy").questions("train", 8, 0)


def train_with(base: Path, folder: Path, tokenizer, learning_rate: float, steps: int) -> dict:
    run = open_tiny(base, folder / "artifacts")
    settings = Training(epochs=steps, max_steps=steps, learning_rate=learning_rate)
    model = LanguageModel(load_model(str(base), "float32"))
    return train(model, solution_rows(tokenizer, QUESTIONS), run.params.finetuning, settings, 0, 0, folder)


def test_a_loss_that_is_no_number_ends_the_training(tiny_base, tmp_path, tokenizer, reliability):
    for rate in (1e30, 1e38):
        with pytest.raises(ParamsError, match=r"^learning_rate = .*: the loss is (nan|inf) in step \d+; lower it"):
            train_with(tiny_base, tmp_path, tokenizer, rate, 6)
        reliability("training: the loss becomes NaN or infinite", "error in one line, no model saved", "this training")


def test_weights_that_are_no_numbers_after_the_last_step_are_no_model(
    tiny_base, tmp_path, tokenizer, monkeypatch, reliability
):
    def spoil(trainer: training.QuietTrainer, **options: None) -> None:
        next(trainer.model.parameters()).data[0, 0] = torch.inf

    monkeypatch.setattr(training.QuietTrainer, "train", spoil)
    with pytest.raises(ParamsError, match=r"weights are not finite after step 1, the last; lower it"):
        train_with(tiny_base, tmp_path, tokenizer, 1e-3, 1)
    reliability("training: the loss becomes NaN or infinite", "error in one line, no model saved", "this training")


def save_all(lab: Replication, out: Path) -> dict[str, str]:
    """Write all tables and figures as notebooks 05 and 06 do; return the tables' texts."""
    results.save_run(lab, out / "run")
    results.write_comparison([out / "run"], out)
    assert len(list((out / "figures").glob("*.png"))) == len(results.DRAW) + len(results.DIAGRAMS)
    return {path.stem: path.read_text() for path in (out / "tables").glob("*.md")}


def cells(table: str, method: str) -> list[str]:
    (line,) = [line for line in table.splitlines() if f"| {method} " in line]
    return [cell.strip() for cell in line.strip("|").split("|")[2:]]


def test_all_drafts_right_so_that_none_is_to_refine(tiny_base, tmp_path, monkeypatch, capsys, reliability):
    run = open_tiny(tiny_base, tmp_path / "artifacts", **SETTINGS)
    script(run, monkeypatch, right=1.0)
    lab = Replication(run)
    assert_numbers_are_sound(lab.numbers)
    saved = save_all(lab, tmp_path / "out")
    assert cells(saved["table3"].split("Paired")[0], "global") == ["n = 0", ""]
    assert cells(saved["table3"].split("Paired")[1], "local+sorm-global") == ["n = 0", "n = 0"]
    assert "n = 0" in cells(saved["table1"].split("Paired")[0], "orm")  # false positives: there is no wrong step
    assert lab.gate()["holds"].tolist()[1] == "n = 0"
    assert "n = 0" in tables.training_label_quality(lab).to_string() or lab.data.samples.read()["is_correct"].all()
    assert lab.refiner.record["info"]["steps"] == 0
    show(lab)
    capsys.readouterr()
    run.finish("05_evaluation")
    warned = capsys.readouterr().out.splitlines()
    assert "Warning: refiner stays untrained: there was nothing to learn from." in warned
    assert not [line for line in warned if "student" in line or "-model-orm-" in line]
    reliability(
        "all drafts right: no wrong draft to refine",
        "table cells say n = 0; the refiner stays untrained, with a warning in notebook, report and manifest",
    )


@pytest.mark.parametrize("score", [0.5, *(pytest.param(end, marks=pytest.mark.long) for end in (0.0, 1.0))])
def test_reward_models_that_say_the_same_of_all(tiny_base, tmp_path, monkeypatch, reliability, score: float):
    run = open_tiny(tiny_base, tmp_path / "artifacts", **SETTINGS)
    script(run, monkeypatch)

    def constant(model, rows, pad: int) -> list[float]:
        return [score for row in rows for _ in row["labels"]]

    monkeypatch.setattr(reward_models, "_score", constant)
    lab = Replication(run)
    numbers = lab.numbers
    assert_numbers_are_sound(numbers)
    value = numbers.set_index(["method", "metric"])["value"]
    rate = "step_false_positive_rate" if score > 0.5 else "step_false_negative_rate"
    assert value["sorm", rate] == 1
    assert value["sorm", "step_accuracy"] == value["orm", "step_accuracy"]
    if score > 0.5:
        assert value["sorm", "step_accuracy"] == value["all_positive", "step_accuracy"]
        assert (lab.test.first_errors["sorm"] == 0).all()  # and all drafts are refined from their last step
    assert value["reranked", "accuracy"] == value["greedy", "accuracy"]  # ties go to the draft
    save_all(lab, tmp_path / "out")
    show(lab)
    reliability(
        "a reward model that collapsed: one score for all", "all numbers are computed; reranking keeps the draft"
    )


def test_no_question_is_ever_solved(tiny_base, tmp_path, monkeypatch, reliability):
    run = open_tiny(tiny_base, tmp_path / "artifacts", **SETTINGS)
    script(run, monkeypatch, right=0.0)
    lab = Replication(run)
    assert_numbers_are_sound(lab.numbers)
    value = lab.numbers.set_index(["method", "metric"])["value"]
    assert value["greedy", "accuracy"] == value["oracle_bo3", "accuracy"] == value["global", "fixed_fraction"] == 0
    assert tables.sample_counts(lab.data).loc["all wrong", "count"] == 8
    assert lab.refiner.record["info"]["steps"] == 0
    save_all(lab, tmp_path / "out")
    show(lab)
    reliability(
        "no question is ever solved, no trace verifies", "accuracies of 0 with their n; the refiner stays untrained"
    )


def test_without_a_verifying_trace_there_are_no_pairs(reliability):
    samples = sample_rows(("q", "a\nb\n#### 1", False), ("q", "a\nc\n#### 1", False))
    rollouts = rollout_rows({("q", "s0"): [["w"], ["w"], ["w"]], ("q", "s1"): [["w"], ["w"], ["w"]]})
    for monotone in (False, True):
        assert local_pairs(samples, rollouts, monotone, consistent=True).empty
        assert global_pairs(samples).empty
        reliability("no question is ever solved, no trace verifies", "no pairs")


def test_a_cell_of_nothing_says_so():
    nothing = {"task": "t", "method": "m", "value": np.nan, "ci_low": np.nan, "ci_high": np.nan, "n": 0}
    numbers = pd.DataFrame([nothing | {"metric": metric} for metric in ("fixed_fraction", "fixed_fraction_p")])
    assert set(wide(numbers, ["fixed_fraction", "fixed_fraction_p"]).to_numpy().ravel()) == {"n = 0"}
