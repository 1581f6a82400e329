"""ProcessBench: made-up records in the released format, and F1 by hand."""

import json
from math import isnan
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as some

from glore_lib.params import ParamsError
from glore_lib.solutions import split_steps
from glore_lib.tasks.processbench import ProcessBench, f1

WRONG = {
    "id": "gsm8k-0", "generator": "Qwen2-7B-Instruct", "problem": "Ann has 2 pens and buys 3 more. How many has she?",
    "steps": ["Ann has 2 pens.", "Then she has\n\\(2 \\times 3 = 6\\).", "So \\boxed{6}."],
    "final_answer_correct": False, "label": 1,
}  # fmt: skip
RIGHT = WRONG | {"id": "gsm8k-1", "steps": ["2 + 3 = 5", "\\boxed{5}"], "final_answer_correct": True, "label": -1}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GLORE_DATA_DIR", str(tmp_path))
    (tmp_path / "processbench").mkdir()
    return tmp_path


def load(folder: Path, *records: object, count: int = 9) -> ProcessBench:
    (folder / "processbench" / "gsm8k.json").write_text(json.dumps(records))
    return ProcessBench(False, count)


def test_released_step_i_is_our_step_i_from_1_and_none_is_0(folder: Path):
    wrong, right = load(folder, WRONG, RIGHT).judged()
    assert split_steps(wrong.text) == ["Ann has 2 pens.", "Then she has \\(2 \\times 3 = 6\\).", "So \\boxed{6}."]
    assert (wrong.first_error, right.first_error) == (2, 0)
    assert wrong.question_id == right.question_id != right.sample_id


def test_the_released_verdict_on_the_final_answer_is_kept(folder: Path):
    lucky = RIGHT | {"id": "gsm8k-2", "label": 0}
    samples = load(folder, WRONG, RIGHT, lucky).samples()
    assert samples["is_correct"].tolist() == [False, True, True]
    assert len(load(folder, WRONG, RIGHT, lucky, count=2).samples()) == 2


def test_rows_of_the_hub(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("GLORE_DATA_DIR", raising=False)
    asked = []

    def hub(*arguments: object, **options: object) -> datasets.Dataset:
        asked.append((arguments, options))
        return datasets.Dataset.from_list([WRONG, RIGHT])

    monkeypatch.setattr(datasets, "load_dataset", hub)
    assert [s.first_error for s in ProcessBench(False, 9).judged()] == [2, 0]
    assert asked == [(("Qwen/ProcessBench", None), {"split": "gsm8k"})]


@pytest.mark.parametrize(
    ("record", "part"),
    [
        (WRONG | {"label": 3}, "label = 3: must be below 3"),
        (WRONG | {"label": -2}, "label = -2"),
        (WRONG | {"label": True}, "label = True"),
        (WRONG | {"steps": ["one", " \n"]}, "steps: step 2 is empty"),
        (WRONG | {"steps": []}, "steps = []"),
        (WRONG | {"final_answer_correct": "no"}, "final_answer_correct = no"),
        ({k: v for k, v in WRONG.items() if k != "id"}, "id = "),
        ("text", "it = text"),
    ],
)
def test_records_of_another_shape(folder: Path, record: object, part: str):
    with pytest.raises(ParamsError) as error:
        load(folder, RIGHT, record).judged()
    assert "processbench/gsm8k.json, line 1: ProcessBench is not as released: ValueError: " in str(error.value)
    assert part in str(error.value) and "\n" not in str(error.value)


def test_f1_by_hand():
    """Of four with an error one is found, of two without one: 2 (1/4) (1/2) / (3/4) = 1/3."""
    truth = pd.Series({"a": 2, "b": 1, "c": 3, "d": 1, "e": 0, "f": 0})
    found = pd.Series({"a": 2, "b": 2, "c": 0, "e": 1, "f": 0, "not one of them": 1})  # d: none
    estimates = f1(truth, found, pd.Series({name: name for name in truth.index}))
    assert {name: e.value for name, e in estimates.items()} == {
        "error_accuracy": 0.25, "correct_accuracy": 0.5, "f1": pytest.approx(1 / 3)
    }  # fmt: skip
    assert (estimates["f1"].n, estimates["error_accuracy"].n, estimates["correct_accuracy"].n) == (6, 4, 2)
    assert estimates["f1"].ci_low < 1 / 3 < estimates["f1"].ci_high


@given(some.lists(some.tuples(some.integers(0, 3), some.integers(0, 3)), min_size=1, max_size=30))
def test_f1_is_that_of_the_authors_code(pairs: list[tuple[int, int]]):
    truth, found = (
        pd.Series(values, index=[f"s{i}" for i in range(len(pairs))]) for values in zip(*pairs, strict=True)
    )
    estimates = f1(truth, found, pd.Series(truth.index, truth.index))
    match = (truth == found).to_numpy()
    wrong, right = (match[where] for where in (truth > 0, truth == 0))
    if not len(wrong) or not len(right):
        assert isnan(estimates["f1"].value) and estimates["f1"].n == 0
        return
    one, other = np.mean(wrong), np.mean(right)
    assert estimates["f1"].value == pytest.approx(2 * one * other / (one + other) if one + other else 0)


def test_a_constant_prediction_has_an_f1_of_0():
    """It is right on one kind of solutions at most, which is why the authors chose this mean."""
    truth = pd.Series([0, 0, 1, 1, 2])
    for place in (0, 1):
        assert f1(truth, pd.Series(place, truth.index), truth.index.to_series()).get("f1").value == 0
