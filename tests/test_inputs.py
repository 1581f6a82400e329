"""Check that model outputs, params files and data files are read correctly or refused in one line.

No text takes more time than is reasonable for its length.
"""

import json
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clone import TINY
from glore_lib import solutions
from glore_lib.params import ParamsError, load_params
from glore_lib.solutions import is_consistent, normalise, results, split_steps, strip_annotations
from glore_lib.tasks import Task
from glore_lib.tasks.arithmetic import Arithmetic
from glore_lib.tasks.benchmarks import released_number
from glore_lib.tasks.grading import canonical, parse_number
from glore_lib.tasks.gsm8k import GSM8K
from glore_lib.tasks.svamp import SVAMP

# --- what a model may write ---------------------------------------------------------------------------------------

PIECES = (
    "####", "#### 7", "[BAD]", "<<", ">>", "<<1+1=2>>", "= 3", "=-4.5", "= $1,200", "5-3", "9" * 400, "1e999", "٣",
    "१२", "１８", "²", "½", "\N{RIGHT-TO-LEFT OVERRIDE}81", "\N{ARABIC LETTER MARK}", "\r\n", "\n", "\v",
    "\N{LINE SEPARATOR}", "\0", "\N{ZERO WIDTH SPACE}", "é", "tom has 3 * 4 = 12 pens", " ", ",", ".", "%", "-",
)  # fmt: skip
TEXT = st.text() | st.lists(st.sampled_from(PIECES) | st.text(max_size=3)).map("".join)
ARITHMETIC = Arithmetic("hard")
(QUESTION,) = ARITHMETIC.questions("test", 1, 0)
TASKS: list[Task] = [ARITHMETIC, GSM8K(), SVAMP("hub_700_300")]


@given(TEXT, TEXT)
@example("#### 1" * 5000, "")
@example("x" * 100_000 + "= 1", "1")
@example("9" * 100_000, "= " + "9" * 100_000)
def test_any_solution_is_split_and_graded(reliability, text: str, suffix: str):
    steps = split_steps(text)
    assert all(step == step.strip() != "" and "\n" not in step for step in steps)
    assert split_steps(solutions.join_steps(steps)) == steps
    assert "".join(steps).split() == "".join(line.strip() for line in text.split("\n")).split()
    for i in range(1, min(len(steps), 5) + 1):
        assert solutions.mark_bad(steps, i).replace("[BAD] ", "", 1) == solutions.join_steps(steps) or "[BAD]" in text
    for task in TASKS:
        answer = task.final_answer(text)
        assert answer == "" or canonical(parse_number(answer)) == answer
        assert task.is_correct(text, "7") is (answer == "7")
    assert len(ARITHMETIC.exact_step_labels(QUESTION, text)) == len(steps)
    assert all(number.strip("-.").replace(".", "", 1).isdecimal() for number in results(text))
    assert normalise(normalise(text)) == normalise(text)
    assert isinstance(is_consistent(text, suffix), bool)
    reliability("model text: any, huge numbers, other digits, right to left, many `####`", "read or ungraded")


NUMBERS = st.lists(
    st.sampled_from(["1", "2", "12", "3.5", ".5", "0.50", "1,200", "-", "- ", "= ", "=", " ", "\n", "$", "xy", "%"])
)


@given(NUMBERS.map("".join), NUMBERS.map("".join))
@example("46/2=23-5", "")
def test_a_result_is_used_where_its_value_comes_in_a_later_step(prefix: str, suffix: str):
    """The rule as it is told, with fractions and pairs of steps: what the library does in one pass over the text."""

    def numbers(step: str) -> list[tuple[int, set[Fraction]]]:
        found = []
        for m in solutions._NUMBER.finditer(step):
            value = Fraction(m[1].replace(",", ""))
            found.append((m.end(), {value, value / 100} if m[2] else {value}))
        return found

    steps = [*prefix.split("\n"), *suffix.split("\n")]
    for i, step in enumerate(prefix.split("\n")):
        ends = {m.end() for m in solutions._computed(step)}
        for values in (values for end, values in numbers(step) if end in ends):
            if not any(values & later for follows in steps[i + 1 :] for _, later in numbers(follows)):
                assert not is_consistent(prefix, suffix)
                return
    assert is_consistent(prefix, suffix)


READERS: dict[str, Callable[[str], object]] = {
    "split_steps": split_steps,
    "results": results,
    "strip_annotations": strip_annotations,
    "normalise": normalise,
    "is_consistent": lambda text: is_consistent(text, text),
    "exact_step_labels": lambda text: ARITHMETIC.exact_step_labels(QUESTION, text),
    "final_answer": lambda text: [task.final_answer(text) for task in TASKS],
}


@pytest.mark.parametrize("reader", READERS)
def test_time_grows_with_the_texts_length_alone(reader: str, reliability):
    """Texts of 200 kB in seconds at most, whatever they repeat; a quadratic reader would need hours."""
    pieces = ("=1 ", "=12\n", "= ", "=$", "=1,", "=1.", "1", "-", "<<", "<", ">>", "<<1=1>>", "<<1", "####", "#### 1\n",
              "=1 a", "=1/", "%", "= 1 x ", "\n", " \n", " ",
              "tom has 1 + 1 = 2 pens\n", "\N{RIGHT-TO-LEFT MARK}", "٣")  # fmt: skip
    for piece in pieces:
        many = piece * (200_000 // len(piece))
        started = time.perf_counter()
        READERS[reader](many)
        READERS[reader](f"= 1 {many} x")
        assert time.perf_counter() - started < 20, piece
        reliability("repetitive model text of 200 kB", "read in time that grows with its length", tried=2)


# --- params files -------------------------------------------------------------------------------------------------

LEAF = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates() | st.binary(max_size=4)
)
TREE = st.recursive(LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(LEAF, inner, max_size=3))
PARAMS = TINY.read_text(encoding="utf-8")
ODD_YAML = (
    "base_model: {source: " + "9" * 300 + "a}",
    "a: 2020-13-45", "seed: " + "9" * 5000, "[" * 1500, "&a [*a]", "a: !!bool x", "a: !!timestamp x", "a: !!int ''",
    "? [a]\n: 1", "a: {2020-01-01: 1}", "seed: {2020-01-01: 1}", "seed: {!!binary aGk=: 1}", '"\\u2028": 1',
    "a: !!python/object/apply:os.system [ls]", "seed: !!float x", "%TAG ! x", "a: ''\n---\nb: 1", "<<: 3", "a: \ud800",
    "a: &x [y, y]\nb: &z [*x, *x, *x, *x, *x, *x, *x, *x]\nc: [*z, *z, *z, *z, *z, *z, *z, *z]",
)  # fmt: skip


def refused_in_one_line(path: Path) -> bool:
    try:
        load_params(path)
    except ParamsError as error:
        assert str(error).isprintable(), "more than a line, or what no terminal shows"
        assert len(str(error)) < 3000
        return True
    return False


@pytest.fixture(scope="module")
def params_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("params") / "some.yaml"


@given(TREE)
def test_any_yaml_is_refused_in_one_line(params_file, reliability, tree: object):
    import yaml

    params_file.write_text(yaml.safe_dump(tree), encoding="utf-8", errors="surrogatepass")
    assert refused_in_one_line(params_file)
    reliability("params file: random YAML", "rejected in one line")


@pytest.mark.parametrize("text", ODD_YAML, ids=lambda text: ascii(text[:20]))
def test_yaml_that_pyyaml_stumbles_over(params_file, reliability, text: str):
    params_file.write_text(text, encoding="utf-8", errors="surrogatepass")
    assert refused_in_one_line(params_file)
    reliability("params file: random YAML", "rejected in one line")


@given(st.data())
def test_a_params_file_that_was_damaged_is_refused_in_one_line_or_valid(params_file, reliability, data: st.DataObject):
    import yaml

    start = data.draw(st.integers(0, len(PARAMS)))
    end = data.draw(st.integers(start, min(start + 40, len(PARAMS))) | st.just(len(PARAMS)))
    put_in = data.draw(st.text(max_size=5) | st.sampled_from([*PIECES, *ODD_YAML, "\t", ": ", "- ", "'", '"', "{"]))
    text = PARAMS[:start] + put_in + PARAMS[end:]
    params_file.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
    outcome = "rejected in one line"
    if not refused_in_one_line(params_file):
        read, outcome = load_params(params_file), "valid parameters"
        params_file.write_text(yaml.safe_dump(read.model_dump(mode="json")), encoding="utf-8")
        assert load_params(params_file).digest() == read.digest()  # what was read can be written and read again
    reliability("params file: truncated, or random characters inserted", outcome)


@pytest.mark.parametrize("content", [PARAMS.replace("\n", "\r\n").encode(), b"\xef\xbb\xbf" + PARAMS.encode()])
def test_a_params_file_from_windows_is_read(params_file, reliability, content: bytes):
    params_file.write_bytes(content)
    assert load_params(params_file) == load_params(TINY)
    reliability("params file: Windows line ends, byte order mark", "read correctly")


# --- data files ---------------------------------------------------------------------------------------------------


def gsm8k_row(i: int) -> dict[str, str]:
    return {"question": f"How many are {i} and one?", "answer": f"{i}+1 = <<{i}+1={i + 1}>>{i + 1}\n#### {i + 1}"}


def svamp_row(i: int) -> dict[str, str | float]:
    return {"ID": f"chal-{i}", "Body": f"Tom has {i} pens and gets 1.", "Question": "How many now?", "Answer": i + 1.0}


def lines(rows: list[dict]) -> bytes:
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with small data sets; a test overwrites the file that it damages."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("gsm8k", "svamp"):
        (folder / name).mkdir()
    (folder / "gsm8k" / "test.jsonl").write_bytes(lines([gsm8k_row(i) for i in range(1000, 1010)]))
    return folder


def gsm8k(data: Path, train: bytes) -> GSM8K:
    (data / "gsm8k" / "train.jsonl").write_bytes(train)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLORE_DATA_DIR", str(data))
        return GSM8K()


def svamp(data: Path, challenge: bytes, split: str = "hub_700_300") -> SVAMP:
    (data / "svamp" / "SVAMP.json").write_bytes(challenge)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLORE_DATA_DIR", str(data))
        return SVAMP(split)


def refusal(task: Task) -> str:
    with pytest.raises(ParamsError) as error:
        task.check_data({"train": 1, "validation": 0, "test": 1})
    assert "\n" not in str(error.value)
    return str(error.value)


GOOD = [gsm8k_row(i) for i in range(40)]


@given(st.data())
def test_a_damaged_data_file_is_refused_in_one_line_or_read(data, reliability, drawn: st.DataObject):
    content = lines(GOOD[:5])
    start = drawn.draw(st.integers(0, len(content)))
    end = drawn.draw(st.integers(start, min(start + 9, len(content))) | st.just(len(content)))
    put_in = drawn.draw(st.binary(max_size=3) | st.sampled_from([piece.encode() for piece in PIECES]))
    task = gsm8k(data, content[:start] + put_in + content[end:])
    outcome = "read"
    try:
        task.check_data({})
        for q in (q for questions in task.splits.values() for q in questions):
            assert q.question and task.is_correct(q.reference_solution, q.reference_answer)
    except ParamsError as error:
        outcome = "rejected in one line"
        assert "\n" not in str(error) and str(data) in str(error)
    reliability("data file: truncated, or random bytes inserted", outcome)


SPOILED: dict[str, tuple[bytes, str]] = {
    "truncated within a line": (lines(GOOD)[:-20], "train.jsonl is not readable: line 40: Unterminated string"),
    "other columns": (lines([{"q": "1?", "a": "1"}]), "GSM8K is not as released: KeyError: 'answer'"),
    "rows that are lists": (b'["question", "answer"]\n', "GSM8K is not as released: TypeError"),
    "an empty file": (b"", "task.train_questions = 1: must be at most 0, the size of the train split of GSM8K"),
    "an empty question": (lines([gsm8k_row(0) | {"question": " "}]), "line 1: GSM8K is not as released: ValueError: "),
    "half a surrogate pair": (lines([gsm8k_row(0) | {"question": "\ud800"}]), "GSM8K is not as released: Unicode"),
    "an answer that is not a number": (lines([gsm8k_row(0) | {"answer": "#### 1/0"}]), "' 1/0' is not a number"),
    "an answer of 100,000,000 digits": (lines([gsm8k_row(0) | {"answer": "#### 1e99999999"}]), "is not a number"),
    "two answers": (lines([gsm8k_row(0) | {"answer": "#### 1\n#### 2"}]), "is not a number"),
    "a thousand brackets": (b"[" * 100_000, "train.jsonl is not readable: "),
}  # fmt: skip


@pytest.mark.parametrize("what", SPOILED)
def test_data_files_that_are_refused(data, reliability, what: str):
    content, message = SPOILED[what]
    assert message in refusal(gsm8k(data, content))
    reliability(f"data file: {what}", "rejected in one line")


BAD_ROWS = {  # of each file the line on which the bad row stands, or ends
    "gsm8k/train.jsonl": (lines(GOOD[:2]) + b"\n" + lines([gsm8k_row(2) | {"answer": "It is.\n#### 1,5"}]), 4),
    "svamp/SVAMP.json": (json.dumps([svamp_row(1), svamp_row(2) | {"Answer": "1,5"}], indent=4).encode(), 8),
    "svamp/mawps-asdiv-a_svamp.train.csv": (b'Question,Numbers,Answer\n"one\nmore ?",3,4.0\nnumber0 ?,3,"1,5"\n', 4),
}


@pytest.mark.parametrize("file", BAD_ROWS)
def test_a_bad_row_is_named_by_its_file_and_line(data, reliability, file: str):
    """The answer 1,5 is neither 15 nor 1.5: thousands commas alone are read, as in grading."""
    content, line = BAD_ROWS[file]
    gsm8k(data, lines(GOOD)), svamp(data, json.dumps([svamp_row(1)]).encode())
    (data / file).write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLORE_DATA_DIR", str(data))
        task = GSM8K() if "gsm8k" in file else SVAMP("mawps_asdiv_1000" if "csv" in file else "hub_700_300")
    message = refusal(task)
    assert f": {file}, line {line}: {task.name} is not as released: ValueError: " in message
    assert "1,5' is not a number that grading reads" in message
    reliability("data file: a decimal comma", "rejected in one line that names file and line")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1,500", 1500), (" 12 ", 12), ("-3.50", Fraction(-7, 2)), ("2/3", Fraction(2, 3)), ("145.0", 145),
     ("0.16666666666666666", Fraction(1, 6)), ("1,5", None), ("0,500", None), ("1.5,0", None), ("15,00", None),
     ("five", None), ("5 eggs", None), ("1e3", None), ("", None), ("1_000", None), ("nan", None), ("٣", None)],
)  # fmt: skip
def test_numbers_of_data_sets(text: str, value: Fraction | None):
    if value is None:
        with pytest.raises(ValueError, match="is not a number"):
            released_number(text)
    else:
        assert released_number(text) == value


def test_an_id_that_is_there_twice_is_refused(data, reliability):
    rows = [svamp_row(i) for i in (2, 1, 2)]
    message = refusal(svamp(data, json.dumps(rows, indent=0).encode()))
    assert "svamp/SVAMP.json, line 14: " in message and "svamp-chal-2 occurs twice" in message
    reliability("data file: a duplicate id", "rejected in one line")


def test_data_files_from_windows_are_read_right(data, reliability):
    train = gsm8k(data, lines(GOOD)).splits["train"]
    for content in (b"\xef\xbb\xbf" + lines(GOOD), lines(GOOD).replace(b"\n", b"\r\n"), lines(GOOD) + b"\n\n"):
        assert gsm8k(data, content).splits["train"] == train
        reliability("data file: Windows line ends, byte order mark, blank lines", "read correctly")
    companion = b"\xef\xbb\xbfQuestion,Numbers,Answer\r\nAnn has number0 pens and one more ?,3,4.0\r\n"
    (data / "svamp" / "mawps-asdiv-a_svamp.train.csv").write_bytes(companion)
    task = svamp(data, b"\xef\xbb\xbf" + json.dumps([svamp_row(1)]).encode(), "mawps_asdiv_1000")
    (question,) = task.splits["train"] + task.splits["validation"]
    assert question.question == "Ann has 3 pens and one more ?"
    reliability("data file: Windows line ends, byte order mark, blank lines", "read correctly")


def test_a_question_of_test_is_dropped_from_train(data, reliability):
    again = gsm8k_row(1003) | {"question": " how many ARE 1003 and one?"}
    task = gsm8k(data, lines([*GOOD, again]))
    assert task.splits["train"] == gsm8k(data, lines(GOOD)).splits["train"]
    assert len(task.splits["test"]) == 10
    reliability("data file: a test question in train", "dropped from train")
