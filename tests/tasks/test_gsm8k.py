"""GSM8K: the released data where it is at hand, made-up records elsewhere; and what all published data sets share."""

import json
import re
from itertools import combinations
from pathlib import Path

import datasets
import pytest

from glore_lib import params
from glore_lib.params import ParamsError
from glore_lib.solutions import is_consistent, prefix_text, split_steps, strip_annotations
from glore_lib.tasks import load_task
from glore_lib.tasks.gsm8k import GSM8K

SPLITS = ("train", "validation", "test")


def record(i: int, question: str | None = None) -> dict[str, str]:
    """Make a record whose answer is i + 1."""
    return {
        "question": question or f"Ann has {i} pens and gets one more. How many pens has she?",
        "answer": f"Ann now has {i}+1 = <<{i}+1={i + 1}>>{i + 1} pens.\n#### {i + 1:,}",
    }


def parameters(annotations: bool) -> params.Task:
    counts = {f"{split}_questions": 1 for split in SPLITS}
    return params.Task(name="gsm8k", calculator_annotations=annotations, **counts)


def write(folder: Path, train: list[dict], test: list[dict]) -> Path:
    (folder / "gsm8k").mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train), ("test", test)):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / "gsm8k" / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a local copy of 300 train and 40 test records."""
    monkeypatch.setenv("GLORE_DATA_DIR", str(tmp_path))
    return write(tmp_path, [record(i) for i in range(300)], [record(i) for i in range(1000, 1040)])


# --- the released data --------------------------------------------------------------------------------------------


def test_every_released_reference_is_graded_right(data_dir: Path):
    task = GSM8K()
    assert len(task.splits["train"]) + len(task.splits["validation"]) == 7473
    assert len(task.splits["test"]) == 1319
    for q in (q for split in SPLITS for q in task.splits[split]):
        assert task.is_correct(q.reference_solution, q.reference_answer), q
        assert not task.is_correct(q.reference_solution, f"{int(q.reference_answer) + 1}")
        assert task.final_answer(q.reference_solution) == q.reference_answer


def test_released_answers_as_they_stand_in_the_files_are_graded_right(data_dir: Path):
    task = GSM8K()
    for name in ("train", "test"):
        for line in (data_dir / "gsm8k" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            answer = json.loads(line)["answer"]
            assert task.is_correct(answer, answer.split("####")[1])


def test_most_true_prefixes_are_consistent_with_their_own_continuation_and_few_with_another(data_dir: Path):
    """docs/concepts/sorm.md: 4.0 % fail, and 88 % of other solutions as continuations do."""
    splits, own, other = GSM8K().splits, [], []
    solutions = [split_steps(q.reference_solution) for split in ("train", "validation") for q in splits[split]]
    assert len(solutions) == 7473
    for steps, foreign in zip(solutions, [*solutions[1:], solutions[0]], strict=True):
        for i in range(1, len(steps)):
            prefix = prefix_text(steps, i)
            own.append(is_consistent(prefix, prefix_text(steps[i:], len(steps))))
            other.append(is_consistent(prefix, prefix_text(foreign, len(foreign))))
    assert len(own) == 26720
    assert 0.035 < 1 - sum(own) / len(own) < 0.041  # the earlier rule: 0.076; plain strings, step by step: 0.071
    assert sum(other) / len(other) < 0.15


def test_references_are_a_step_a_line_without_annotations(data_dir: Path):
    task = GSM8K()
    for q in (q for split in SPLITS for q in task.splits[split]):
        *steps, last = q.reference_solution.split("\n")
        assert steps and split_steps(q.reference_solution) == [*steps, last]
        assert last == f"#### {q.reference_answer}"
        assert "<<" not in q.reference_solution and ">>" not in q.reference_solution
        assert not any("####" in step for step in steps)


def test_kept_annotations_are_all_that_differs(data_dir: Path):
    plain, annotated = ({q.question_id: q for q in GSM8K(kept).splits["train"]} for kept in (False, True))
    assert annotated["gsm8k-train-000000"].reference_solution == (
        "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\n"
        "Natalia sold 48+24 = <<48+24=72>>72 clips altogether in April and May.\n#### 72"
    )
    for question_id, q in annotated.items():
        assert strip_annotations(q.reference_solution) == plain[question_id].reference_solution
        assert GSM8K().is_correct(q.reference_solution, q.reference_answer)


def test_the_worked_example_is_annotated_where_solutions_are(small: Path):
    (question, plain), (same, annotated) = (load_task(parameters(kept)).example for kept in (False, True))
    assert question == same and "<<" not in plain and plain == strip_annotations(annotated)
    for step in annotated.split("\n")[:-1]:
        left, inside, after = re.search(r"(\S+ \S \S+) = <<(.*)>>(\d+)", step).groups()
        assert inside == f"{left.replace(' ', '')}={after}"
    assert load_task(parameters(True)).one_shot_prompt("Q?").count("<<") == 4


def test_the_caption_says_that_annotations_are_kept(small: Path):
    assert GSM8K().caption == "GSM8K, its own train and test splits"
    assert GSM8K(True).caption == "GSM8K, its own train and test splits, annotated"


def test_known_record(data_dir: Path):
    found = {q.question_id: q for q in GSM8K().splits["train"] + GSM8K().splits["validation"]}
    assert found["gsm8k-train-000000"].reference_solution == (
        "Natalia sold 48/2 = 24 clips in May.\nNatalia sold 48+24 = 72 clips altogether in April and May.\n#### 72"
    )
    assert found["gsm8k-train-000001"].question.startswith("Weng earns $12 an hour for babysitting.")
    assert set(found) == {f"gsm8k-train-{i:06d}" for i in range(7473)}


def test_released_splits_are_disjoint_by_text_and_validation_is_a_tenth(data_dir: Path):
    splits = GSM8K().splits
    texts = {split: {" ".join(q.question.lower().split()) for q in splits[split]} for split in SPLITS}
    assert all(len(texts[split]) == len(splits[split]) for split in SPLITS)
    assert not any(texts[a] & texts[b] for a, b in combinations(SPLITS, 2))
    assert 0.08 < len(splits["validation"]) / 7473 < 0.12
    assert all(q.split == split for split in SPLITS for q in splits[split])


# --- what all published data sets share, on made-up records -------------------------------------------------------


def test_the_last_line_is_the_normalised_answer_and_blank_lines_go(small: Path):
    answer = "It is 600 * 2 = $<<600*2=1200>>1,200.\n\nSo.\n#### 1,200"
    write(small, [{"question": " Q? ", "answer": answer}], [record(0)])
    splits = GSM8K().splits
    (q,) = splits["train"] + splits["validation"]
    assert q.reference_solution == "It is 600 * 2 = $1,200.\nSo.\n#### 1200"
    assert (q.question, q.reference_answer) == ("Q?", "1200")


def test_questions_are_a_seeded_draw(small: Path):
    task = GSM8K()
    drawn = task.questions("train", 50, seed=1)
    assert len({q.question for q in drawn}) == 50
    assert drawn == GSM8K().questions("train", 50, seed=1)
    assert drawn[:20] == task.questions("train", 20, seed=1)
    assert drawn != task.questions("train", 50, seed=2)
    assert drawn != sorted(drawn, key=lambda q: q.question_id)
    everything = task.questions("train", len(task.splits["train"]), seed=3)
    assert sorted(everything, key=lambda q: q.question_id) == task.splits["train"]


@pytest.mark.parametrize("split", SPLITS)
def test_more_questions_than_there_are(small: Path, split: str):
    task = GSM8K()
    available = len(task.splits[split])
    assert len(task.questions(split, available, seed=0)) == available
    with pytest.raises(ParamsError) as error:
        task.questions(split, available + 1, seed=0)
    assert str(error.value).startswith(f"task.{split}_questions = {available + 1}: ")
    assert str(available) in str(error.value) and "\n" not in str(error.value)


def test_validation_depends_on_a_questions_text_alone(small: Path):
    before = {q.question for q in GSM8K().splits["validation"]}
    write(small, [record(i) for i in reversed(range(0, 300, 2))], [record(1000)])
    after = {q.question for q in GSM8K().splits["validation"]}
    assert before and after == before & {record(i)["question"] for i in range(0, 300, 2)}


def test_repeated_questions_are_kept_once_and_never_in_train_and_test(small: Path):
    train = [record(i) for i in range(100)]
    shouted = record(7) | {"question": record(7)["question"].upper().replace(" ", "  ")}
    write(small, [*train, shouted, record(3), record(500)], [record(500), record(501), record(500), record(60)])
    splits = GSM8K().splits
    assert [q.question_id for q in splits["test"]] == ["gsm8k-test-000000", "gsm8k-test-000001", "gsm8k-test-000003"]
    kept = {q.question_id for q in splits["train"] + splits["validation"]}
    assert kept == {f"gsm8k-train-{i:06d}" for i in range(100) if i != 60}


def test_prompts(small: Path):
    task = GSM8K()
    assert task.prompt("How many?") == "Question: How many?\nAnswer:\n"
    refine = task.refine_prompt("How many?", "1+1 = 2\n[BAD] 2+2 = 5")
    assert "How many?\n" in refine and "1+1 = 2\n[BAD] 2+2 = 5\n" in refine and refine.endswith(":\n")
    one_shot = task.one_shot_prompt("How many?")
    assert one_shot.endswith("\n\n" + task.prompt("How many?"))


def test_the_worked_example_is_right_and_not_of_the_data_set(data_dir: Path):
    task = GSM8K()
    question, solution = task.example
    assert task.one_shot_prompt("Q?").startswith(f"{task.prompt(question)}{solution}\n")
    for a, op, b, c in re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", solution):
        assert {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b), "/": int(a) / int(b)}[op] == int(c)
    assert task.final_answer(solution) == c
    assert question not in {q.question for split in SPLITS for q in task.splits[split]}


def test_no_exact_labels(small: Path):
    task = GSM8K()
    assert task.exact_step_labels(task.splits["test"][0], "1+1 = 2\n#### 2") is None


# --- data that is not there ---------------------------------------------------------------------------------------


def data_error(task: GSM8K) -> str:
    with pytest.raises(ParamsError) as error:
        task.check_data({})
    assert "\n" not in str(error.value) and "GLORE_DATA_DIR" in str(error.value)
    return str(error.value)


def test_check_data_passes_where_the_data_is_there(small: Path):
    assert GSM8K().check_data({}) is None


def test_a_missing_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "not here"
    monkeypatch.setenv("GLORE_DATA_DIR", str(folder))
    message = data_error(GSM8K())
    assert f"GLORE_DATA_DIR = '{folder}': no such folder" in message
    assert "gsm8k/train.jsonl and gsm8k/test.jsonl" in message and "openai/gsm8k" in message


def test_a_missing_file(small: Path):
    (small / "gsm8k" / "test.jsonl").unlink()
    message = data_error(GSM8K())
    assert f"GLORE_DATA_DIR = '{small}': gsm8k/test.jsonl: No such file" in message and "train.jsonl and" in message


@pytest.mark.parametrize(
    "text",
    [
        "not JSON\n", '{"question": "Q?"}\n', '["Q?", "#### 1"]\n', '{"question": "Q?", "answer": "no mark"}\n',
        '{"question": null, "answer": "#### 1"}\n', '{"question": "Q?", "answer": "#### x"}\n',
        "\N{BYTE ORDER MARK}{}\n",
    ],
)  # fmt: skip
def test_a_file_of_another_content(small: Path, text: str):
    (small / "gsm8k" / "train.jsonl").write_text(text, encoding="utf-8")
    assert f"GLORE_DATA_DIR = '{small}': " in data_error(GSM8K())


def test_a_file_that_is_no_text(small: Path):
    (small / "gsm8k" / "train.jsonl").write_bytes(b"\xff\xfe\x00")
    assert "gsm8k/train.jsonl is not readable" in data_error(GSM8K())


def test_the_hub_is_read_where_no_folder_is_named(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def load(name: str, config: str, split: str) -> datasets.Dataset:
        asked.append((name, config, split))
        return datasets.Dataset.from_list([record(i) for i in (range(40) if split == "train" else range(50, 55))])

    monkeypatch.delenv("GLORE_DATA_DIR", raising=False)
    monkeypatch.setattr(datasets, "load_dataset", load)
    task = GSM8K()
    assert sum(len(task.splits[split]) for split in SPLITS) == 45
    assert asked == [("openai/gsm8k", "main", "train"), ("openai/gsm8k", "main", "test")]


@pytest.mark.parametrize("error", [ConnectionError("no\nnetwork"), ValueError("no cache"), RuntimeError("?")])
def test_an_unreachable_hub(monkeypatch: pytest.MonkeyPatch, error: Exception):
    def load(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setenv("GLORE_DATA_DIR", "")
    monkeypatch.setattr(datasets, "load_dataset", load)
    message = data_error(GSM8K())
    assert message.startswith("GLORE_DATA_DIR is not set and openai/gsm8k can't be read from the hub")
    assert type(error).__name__ in message and "gsm8k/train.jsonl" in message and "unset" not in message
