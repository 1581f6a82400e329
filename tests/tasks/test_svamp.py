"""SVAMP: both splits of the released data where it is at hand, made-up records elsewhere."""

import csv
import json
import os
import re
from fractions import Fraction
from pathlib import Path

import datasets
import pytest

from clone import TINY
from glore_lib.params import ParamsError, load_params
from glore_lib.tasks import checked_task
from glore_lib.tasks.svamp import SVAMP

SPLITS = ("train", "validation", "test")
BOTH = ("hub_700_300", "mawps_asdiv_1000")


def key(text: str) -> str:
    return " ".join(text.lower().split())


def evaluate(equation: str, numbers: list[Fraction]) -> Fraction:
    """Evaluate a prefix-notation equation over ``numbers`` with a stack."""
    stack: list[Fraction] = []
    for token in reversed(equation.split()):
        if token in "+-*/":
            a, b = stack.pop(), stack.pop()
            stack.append(a + b if token == "+" else a - b if token == "-" else a * b if token == "*" else a / b)
        else:
            stack.append(numbers[int(token[6:])] if token.startswith("number") else Fraction(token))
    (value,) = stack
    return value


# --- the released data --------------------------------------------------------------------------------------------


def test_local_700_300_is_by_id(data_dir: Path):
    task = SVAMP("hub_700_300")
    train = task.splits["train"] + task.splits["validation"]
    assert {q.question_id for q in train} == {f"svamp-chal-{i}" for i in range(1, 701)}
    assert [q.question_id for q in task.splits["test"]] == [f"svamp-chal-{i}" for i in range(701, 1001)]
    assert 120 < len(task.splits["validation"]) < 160  # a fifth
    assert task.caption == "SVAMP, 700/300 by ID order"


def test_companion_split_tests_on_all_1000(data_dir: Path):
    task = SVAMP("mawps_asdiv_1000")
    assert {q.question_id for q in task.splits["test"]} == {f"svamp-chal-{i}" for i in range(1, 1001)}
    assert task.caption == "SVAMP, trained on MAWPS and ASDiv-A, tested on all 1,000"


def test_companion_keeps_every_distinct_question_of_3138(data_dir: Path):
    with (data_dir / "svamp" / "mawps-asdiv-a_svamp.train.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 3138
    distinct = {}
    for i, row in enumerate(rows):
        numbers = [float(number) for number in row["Numbers"].split()]
        distinct.setdefault(re.sub(r"number(\d+)", lambda m, n=numbers: f"{n[int(m[1])]:g}", key(row["Question"])), i)
    task = SVAMP("mawps_asdiv_1000")
    kept = {int(q.question_id.rpartition("-")[2]): q for split in ("train", "validation") for q in task.splits[split]}
    assert len(kept) == len(distinct) and set(kept) == set(distinct.values())
    assert not any("number" in re.sub(r"numbers?\b", "", q.question) for q in kept.values())


def test_companion_answers_are_the_values_of_their_equations(data_dir: Path):
    """The release's own slips apart: 17 of its questions have a wrong or rounded answer, going by their equation."""
    with (data_dir / "svamp" / "mawps-asdiv-a_svamp.train.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    task = SVAMP("mawps_asdiv_1000")
    slips = 0
    for q in task.splits["train"] + task.splits["validation"]:
        row = rows[int(q.question_id.rpartition("-")[2])]
        assert float(Fraction(q.reference_answer)) == pytest.approx(float(row["Answer"]), rel=1e-12)
        numbers = [Fraction(n).limit_denominator(1000) if len(n) > 10 else Fraction(n) for n in row["Numbers"].split()]
        value = evaluate(row["Equation"], numbers)
        if abs(float(value) - float(row["Answer"])) > 1e-9:
            slips += 1
        else:
            assert value == Fraction(q.reference_answer), row
    assert slips == 17


@pytest.mark.parametrize("split", BOTH)
def test_answers_are_graded_right_in_any_dress(data_dir: Path, split: str):
    task = SVAMP(split)
    for q in (q for name in SPLITS for q in task.splits[name]):
        assert q.reference_solution == "" and q.question == q.question.strip()
        value = Fraction(q.reference_answer)
        for answer in (q.reference_answer, str(value), f"{float(value)!r} pens", f"${float(value):,.9f}."):
            assert task.is_correct(f"a step\n#### {answer}", q.reference_answer), (q, answer)
        assert not task.is_correct(f"#### {float(value + 1)}", q.reference_answer)


@pytest.mark.parametrize("split", BOTH)
def test_splits_are_disjoint_by_text(data_dir: Path, split: str):
    texts = [key(q.question) for name in SPLITS for q in SVAMP(split).splits[name]]
    assert len(texts) == len(set(texts))


def test_known_records(data_dir: Path):
    challenge = {q.question_id: q for name in SPLITS for q in SVAMP("hub_700_300").splits[name]}
    assert challenge["svamp-chal-1"].question == (
        "Each pack of dvds costs 76 dollars. If there is a discount of 25 dollars on each pack, "
        "How much do you have to pay to buy each pack?"
    )
    assert challenge["svamp-chal-1"].reference_answer == "51"
    assert challenge["svamp-chal-3"].question.startswith("Paco had 26 salty cookies and 17 sweet cookies. He ate 14 ")
    companion = {q.question_id: q for name in SPLITS for q in SVAMP("mawps_asdiv_1000").splits[name]}
    first, interest = companion["svamp-mawps-asdiv-000000"], companion["svamp-mawps-asdiv-000006"]
    assert "Bryan has 56 books in each of his 9 bookshelves ," in first.question and first.reference_answer == "504"
    assert "interest rate of 3 % ." in interest.question and "in 2.5 years" in interest.question
    assert interest.reference_answer == "5.25"
    assert companion["svamp-mawps-asdiv-000023"].reference_answer == "5/6"  # 0.8333333333333334 in the file


def test_the_worked_example_is_right_and_not_of_the_data_set(data_dir: Path):
    task = SVAMP("hub_700_300")
    question, solution = task.example
    assert task.one_shot_prompt("Q?") == f"{task.prompt(question)}{solution}\n\n{task.prompt('Q?')}"
    for a, op, b, c in re.findall(r"(\d+) ([-+*]) (\d+) = (\d+)", solution):
        assert {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[op] == int(c)
    assert task.final_answer(solution) == c
    texts = {key(q.question) for split in BOTH for name in SPLITS for q in SVAMP(split).splits[name]}
    assert key(question) not in texts


# --- made-up records ----------------------------------------------------------------------------------------------


def challenge(i: int) -> dict:
    return {"ID": f"chal-{i}", "Body": f"Tom had {i} pens and lost one", "Question": "How many are left?",
            "Equation": f"( {i}.0 - 1.0 )", "Answer": float(i - 1), "Type": "Subtraction"}  # fmt: skip


def write(folder: Path, companion: list[tuple[str, str, str]]) -> None:
    (folder / "svamp").mkdir()
    shuffled = [challenge(i) for i in [*range(1000, 0, -1)]]
    (folder / "svamp" / "SVAMP.json").write_text(json.dumps(shuffled), encoding="utf-8")
    with (folder / "svamp" / "mawps-asdiv-a_svamp.train.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([("Question", "Numbers", "Answer"), *companion])


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GLORE_DATA_DIR", str(tmp_path))
    write(
        tmp_path,
        [
            ("He has " + " , ".join(f"number{i}" for i in range(12)) + " pens , how many ?",
             " ".join(f"{i}.0" for i in range(20, 32)), "2.50"),
            ("She ate number0 of number1 pies .", "0.16666666666666666 12.75", "0.3333333333333333"),
            ("Tom had 5 pens  and lost one, how many are LEFT?", "1.0", "4.0"),
        ],
    )  # fmt: skip
    return tmp_path


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"student.start": "sft"}, "student.start = 'sft': .*; set it to one_shot"),
        ({"student.sft_control": True}, "student.sft_control = true: .*; set it to false"),
        ({"reward_models.figure4": True}, "reward_models.figure4 = true: .*; set it to false"),
    ],
)
def test_fine_tuning_on_solutions_that_there_are_none_of_is_refused(small: Path, settings, told, reliability):
    training = {"epochs": 1, "max_steps": 1, "learning_rate": 1e-3}
    one_shot = {"task.name": "svamp", "student.start": "one_shot", "reward_models.figure4_training": training}
    checked_task(load_params(TINY, one_shot))
    with pytest.raises(ParamsError, match=rf"^{told}$") as error:
        checked_task(load_params(TINY, one_shot | settings))
    assert "SVAMP, 700/300 by ID order has none" in str(error.value)
    reliability("params: fine-tuning on reference solutions, and the data set has none", "rejected in one line")


def test_a_folder_of_data_is_found_from_here_and_from_home(small: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(small.parent))
    for value in (f"~/{small.name}", os.path.relpath(small)):
        monkeypatch.setenv("GLORE_DATA_DIR", value)
        SVAMP("hub_700_300").check_data({"train": 500})


def test_ids_are_ordered_as_numbers(small: Path):
    task = SVAMP("hub_700_300")
    assert [q.question_id for q in task.splits["test"]] == [f"svamp-chal-{i}" for i in range(701, 1001)]


def test_placeholders_are_filled_and_a_question_that_test_has_is_dropped_from_train(small: Path):
    task = SVAMP("mawps_asdiv_1000")
    found = {q.question_id: q for name in ("train", "validation") for q in task.splits[name]}
    assert set(found) == {"svamp-mawps-asdiv-000000", "svamp-mawps-asdiv-000001"}
    many, pies = (found[f"svamp-mawps-asdiv-00000{i}"] for i in (0, 1))
    assert many.question == "He has " + " , ".join(str(i) for i in range(20, 32)) + " pens , how many ?"
    assert many.reference_answer == "2.5"
    assert (pies.question, pies.reference_answer) == ("She ate 1/6 of 12.75 pies .", "1/3")
    assert len(task.splits["test"]) == 1000


def test_a_placeholder_without_its_number(small: Path):
    path = small / "svamp" / "mawps-asdiv-a_svamp.train.csv"
    path.write_text("Question,Numbers,Answer\nHe has number1 pens ?,3.0,3.0\n", encoding="utf-8")
    with pytest.raises(ParamsError, match="GLORE_DATA_DIR"):
        SVAMP("mawps_asdiv_1000").check_data({})


@pytest.mark.parametrize(
    ("split", "file"),
    [("hub_700_300", "SVAMP.json"), ("mawps_asdiv_1000", "SVAMP.json"),
     ("mawps_asdiv_1000", "mawps-asdiv-a_svamp.train.csv")],
)  # fmt: skip
def test_a_missing_file(small: Path, split: str, file: str):
    SVAMP(split).check_data({})
    (small / "svamp" / file).unlink()
    with pytest.raises(ParamsError) as error:
        SVAMP(split).check_data({})
    assert str(error.value).startswith(f"GLORE_DATA_DIR = '{small}': svamp/{file}: No such file")
    assert "\n" not in str(error.value)


def test_more_questions_than_there_are(small: Path):
    with pytest.raises(ParamsError, match=r"^task\.test_questions = 301: must be at most 300,"):
        SVAMP("hub_700_300").questions("test", 301, seed=0)
    with pytest.raises(ParamsError, match=r"^task\.test_questions = 301: must be at most 300,"):
        SVAMP("hub_700_300").check_data({"train": 1, "test": 301})


def test_the_hubs_split_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch):
    ids = {"train": [5, 900, 12], "test": [1, 700]}

    def load(name: str, config: str | None, split: str) -> datasets.Dataset:
        assert (name, config) == ("ChilleD/SVAMP", None)
        return datasets.Dataset.from_list([challenge(i) | {"Answer": f"{i - 1}.0"} for i in ids[split]])

    monkeypatch.delenv("GLORE_DATA_DIR", raising=False)
    monkeypatch.setattr(datasets, "load_dataset", load)
    task = SVAMP("hub_700_300")
    train = {q.question_id: q for name in ("train", "validation") for q in task.splits[name]}
    assert set(train) == {"svamp-chal-5", "svamp-chal-900", "svamp-chal-12"}
    assert train["svamp-chal-900"].reference_answer == "899"
    assert train["svamp-chal-900"].question == "Tom had 900 pens and lost one, How many are left?"
    assert [q.question_id for q in task.splits["test"]] == ["svamp-chal-1", "svamp-chal-700"]
    assert task.caption == "SVAMP, the hub's 700/300 split"


def test_an_id_in_train_and_in_test(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("GLORE_DATA_DIR", raising=False)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_list([challenge(3)]))
    with pytest.raises(ParamsError, match="svamp-chal-3 is in train and in test"):
        SVAMP("hub_700_300").check_data({})


def test_the_companion_needs_a_folder(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("GLORE_DATA_DIR", raising=False)
    with pytest.raises(ParamsError) as error:
        SVAMP("mawps_asdiv_1000").check_data({})
    message = str(error.value)
    assert message.startswith("GLORE_DATA_DIR is not set: ") and "\n" not in message
    assert "svamp/mawps-asdiv-a_svamp.train.csv and svamp/SVAMP.json" in message
