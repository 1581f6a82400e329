"""MR-GSM8K: the released records where they are at hand, made-up ones elsewhere."""

import json
from pathlib import Path

import pytest

from glore_lib.params import ParamsError
from glore_lib.solutions import split_steps, strip_annotations
from glore_lib.tasks.gsm8k import GSM8K
from glore_lib.tasks.mr_gsm8k import MRGSM8K

RECORD = {
    "uuid": "u1", "question": "Ann has 2 pens and buys 3 more. How many has she?", "reference_answer": 5,
    "reference_solution": "2+3 = <<2+3=5>>5\n#### 5",
    "steps": ["Step 1: Ann has 2 pens.", "Step 2:  She has\n2*3 = <<2*3=6>>6 pens.", "Step 3: #### 6",
              "Step 4: The answer is: 6"],
    "first_error_step": 2, "first_error_reason": "more is plus",
}  # fmt: skip


def load(folder: Path, *records: object, count: int = 9, annotations: bool = False) -> MRGSM8K:
    path = folder / "mr_gsm8k" / "human_first_error.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return MRGSM8K(annotations, count)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GLORE_DATA_DIR", str(tmp_path))
    return tmp_path


def test_released_step_i_is_our_step_i(folder: Path):
    (solution,) = load(folder, RECORD).judged()
    assert split_steps(solution.text) == ["Ann has 2 pens.", "She has 2*3 = 6 pens.", "#### 6"]
    assert solution.first_error == 2
    (annotated,) = load(folder, RECORD, annotations=True).judged()
    assert split_steps(annotated.text)[1] == "She has 2*3 = <<2*3=6>>6 pens."


def test_the_released_records(data_dir: Path):
    task = MRGSM8K(False, 1000)
    released = [json.loads(line) for line in (data_dir / task.files[0]).read_text().splitlines()]
    judged = task.judged()
    assert len(judged) == len(released) == 240
    for record, solution in zip(released, judged, strict=True):
        steps, i = split_steps(solution.text), record["first_error_step"]
        assert solution.first_error == i
        assert strip_annotations(record["steps"][i - 1].partition(":")[2]).split() == steps[i - 1].split()
    texts = {q.question.lower() for q in task.splits["test"]}
    learned = GSM8K().splits
    assert not texts & {q.question.lower() for split in ("train", "validation") for q in learned[split]}


def test_samples_are_graded_and_of_one_question_each(folder: Path):
    again = RECORD | {"uuid": "u2", "question": RECORD["question"].upper(), "steps": ["Step 1: 2+3 = 5", "#### 5"]}
    task = load(folder, RECORD, again | {"first_error_step": 1})
    assert [q.reference_answer for q in task.questions("test", 1, 0)] == ["5"]
    samples = task.samples()
    assert samples["question_id"].nunique() == 1 and samples["sample_id"].is_unique
    assert samples["is_correct"].tolist() == [False, True]
    assert samples["final_answer"].tolist() == ["6", "5"]
    assert len(load(folder, RECORD, again | {"first_error_step": 1}, count=1).samples()) == 1


@pytest.mark.parametrize(
    ("record", "parts"),
    [
        (
            RECORD | {"first_error_step": 4},
            ["ValueError: first_error_step = 4: must be at most 3"],
        ),
        (
            RECORD | {"first_error_step": 0},
            ["ValueError: first_error_step = 0", "greater than or equal to 1"],
        ),
        (RECORD | {"first_error_step": "2"}, ["first_error_step = 2", "valid integer"]),
        (RECORD | {"steps": []}, ["ValueError: steps = []", "at least 1 item"]),
        (
            RECORD | {"steps": ["Step 1: ", "#### 6"]},
            ["ValueError: steps: step 1 is empty"],
        ),
        (
            {k: v for k, v in RECORD.items() if k != "uuid"},
            ["ValueError: uuid", "required"],
        ),
        (RECORD | {"reference_answer": "many"}, ["many"]),
        (RECORD | {"reference_answer": "1,5"}, ["line 1: ", "'1,5' is not a number"]),
        (["no", "record"], ["ValueError: it = ", "dictionary"]),
    ],
)
def test_records_of_another_shape(folder: Path, record: object, parts: list[str]):
    with pytest.raises(ParamsError) as error:
        load(folder, record).judged()
    for part in (f"GLORE_DATA_DIR = '{folder}'", "MR-GSM8K", "mr_gsm8k/human_first_error.jsonl, line 1: ", *parts):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_a_solution_that_is_there_twice(folder: Path):
    with pytest.raises(ParamsError, match=r"line 2: .* u1 occurs twice"):
        load(folder, RECORD, RECORD).check_data({})


def test_no_local_copy(folder: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ParamsError, match=r"human_first_error\.jsonl: No such file"):
        MRGSM8K(False, 1).check_data({})
    monkeypatch.delenv("GLORE_DATA_DIR")
    with pytest.raises(ParamsError, match=r"GLORE_DATA_DIR is not set: the hub does not have .* mr_gsm8k/human_first"):
        MRGSM8K(False, 1).check_data({})
