"""Steps, prefixes, marks, intermediate results and the consistency rule: hand-worked cases and invariants."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glore_lib.solutions import BAD, is_consistent, join_steps, mark_bad, normalise, prefix_text, results, split_steps

STEP = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), min_size=1).map(str.strip)
STEPS = st.lists(STEP.filter(bool), min_size=1, max_size=8)


def test_split_steps():
    assert split_steps("") == split_steps(" \n\n\t\n") == []
    assert split_steps("\n a \n\n b c\n#### 3\n") == ["a", "b c", "#### 3"]


@given(STEPS)
def test_steps_survive_joining(steps: list[str]):
    assert split_steps(join_steps(steps)) == steps


@given(STEPS)
def test_a_prefix_and_the_rest_make_the_solution(steps: list[str]):
    whole = join_steps(steps) + "\n"
    for i in range(len(steps) + 1):
        prefix = prefix_text(steps, i)
        assert whole.startswith(prefix) and split_steps(prefix) == steps[:i]
        assert prefix + prefix_text(steps[i:], len(steps) - i) == whole


def test_prefix_text():
    assert prefix_text(["a", "b", "c"], 0) == ""
    assert prefix_text(["a", "b", "c"], 2) == "a\nb\n"


def test_mark_bad():
    steps = ["a", "b", "c"]
    assert mark_bad(steps, 1) == "[BAD] a\nb\nc"
    assert mark_bad(steps, 3) == "a\nb\n[BAD] c"


@pytest.mark.parametrize("i", [-1, 0, 4])
def test_mark_bad_outside_the_draft(i: int):
    with pytest.raises(ValueError, match=r"must be in 1\.\.3"):
        mark_bad(["a", "b", "c"], i)


@given(STEPS, st.data())
def test_the_mark_is_in_front_of_one_step_and_changes_nothing_else(steps: list[str], data: st.DataObject):
    i = data.draw(st.integers(1, len(steps)))
    marked = mark_bad(steps, i).split("\n")
    assert marked[i - 1] == f"{BAD} {steps[i - 1]}"
    assert [*marked[: i - 1], steps[i - 1], *marked[i:]] == steps


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("tom has 3 * 4 = 12 pens", ["12"]),
        ("a 1+1=2\nb 2 + 2 = $4.50 each\n#### 5", ["2", "4.5"]),
        ("It costs 600*2=$1,200.00, which is 1,200/7=171.43.", ["1200", "171.43"]),
        ("11-20 = -9, so", ["9"]),
        ("a = .50\nb = $ 007.10\nc = 0.0\nd = 000", ["0.5", "7.1", "0", "0"]),
        ("x = 1,5 and y = 12,345,6", ["1", "12345"]),  # commas between thousands only
        ("3+4=7+2=9", ["9"]),
        ("2*($20/shirt - $5/shirt) = 2*$15/shirt = $30/shirt in all", ["30"]),
        ("1.5 years = 18 months", ["18"]),
        ("1+1=2 and 2+2=4 so 4*2 = 8", ["2", "4", "8"]),
        ("b = 4S\n7 * x = 4 x 3\nc = 3/4\nd = 4(2+1)\n2:10+1:00 = 3:10", []),
        ("it weighs 2 * 5 = 10kg (or 9 miles/hour)", ["10"]),
        ("1/4 = 25% of it", ["25"]),
        ("x = y, 18 pens\n5 =\n6", []),
        ("Natalia sold 48/2 = <<48/2=24>>24 clips", ["24"]),
    ],
)
def test_results(text: str, found: list[str]):
    assert results(text) == found


@pytest.mark.parametrize(
    ("prefix", "suffix", "consistent"),
    [
        pytest.param("", "anything", True, id="nothing computed yet"),
        pytest.param("tom has 18 pens", "so it is", True, id="no equation, no result"),
        pytest.param("a 3 * 4 = 12 pens\n", "b 12 + 5 = 17 pens\n#### 17", True, id="used in the suffix"),
        pytest.param("a 3 * 4 = 12 pens\n", "b 13 + 5 = 18 pens\n#### 18", False, id="never used"),
        pytest.param("a 3 * 4 = 12 pens\nb 12 + 5 = 17 pens\n", "c 17 - 2 = 15\n#### 15", True, id="used in prefix"),
        pytest.param("a 3 * 4 = 12 pens\nb 12 + 5 = 17 pens\n", "c 12 - 2 = 10\n#### 10", False, id="last unused"),
        pytest.param("a 3 * 4 = 12 pens\nb 6 + 5 = 11 pens\n", "c 11 - 2 = 9\n#### 9", False, id="first unused"),
        pytest.param("a 1 + 2 = 3 pens\n", "b 13 + 30 = 43 pens\n#### 43", False, id="3 is not in 13, 30 or 43"),
        pytest.param("a 600 * 2 = 1,200\n", "b 1200 / 2 = 600", True, id="commas do not count"),
        pytest.param("a 600 * 2 = $1200\n", "b $1,200/2 = $600", True, id="nor do currency signs"),
        pytest.param("a 12 + 5 = 17 pens\n", "#### 17", True, id="the final result is used by the answer line"),
        pytest.param("a 12 + 5 = 17 pens\n#### 17", "", True, id="the answer line lies in the prefix"),
        pytest.param("a 5 / 2 = 2.5\n", "b 2 * 5 = 10", False, id="2.5 is not 2"),
        pytest.param("a 3 * 4 = 12 pens", "12 + 5 = 17", True, id="a prefix that ends without a newline"),
        pytest.param("a 3 * 4 = <<3*4=12>>12 pens\n", "b 1 + 1 = <<1+1=2>>2", False, id="an annotation is no use"),
        pytest.param("a 3 * 4 = <<3*4=12>>12 pens\n", "b 12 + 1 = <<12+1=13>>13", True, id="used, annotated"),
        pytest.param("a 3 * 4 = 12 pens and 12 are his\n", "b 1 + 1 = 2", False, id="named again on its own line"),
        pytest.param("a 3 * 4 = 12, 12 + 1 = 13\n", "b 13 + 1 = 14", False, id="used on its own line"),
        pytest.param("a 3 * 4 = 12, 12 + 1 = 13\n", "b 13 + 12 = 25", True, id="two results, both used"),
        pytest.param("a 4.50 * 2 = 9.00\n", "b 9 + 1 = 10", True, id="9.00 is 9"),
        pytest.param("a 1 / 2 = .50\n", "b 0.5 * 4 = 2", True, id=".50 is 0.5"),
        pytest.param("a 100 / 2 = 50\n", "b 5 * 3 = 15", False, id="50 is not 5"),
        pytest.param("a 3 * 4 = 12\n", "b 12.5 + 0.12 = 12.62", False, id="12 is not 12.5"),
        pytest.param("a so x = 4S\n", "b 2 + 3 = 5", True, id="4S is no result"),
        pytest.param("a r = 6 boys\n", "b 6c + c = 70", True, id="used as a coefficient"),
        pytest.param("a 20 / 100 = 20%\n", "b 0.2 * 50 = 10", True, id="a percentage used as a share"),
        pytest.param("a 10 / 50 = 0.2\n", "b so 20 % are red", True, id="a share used as a percentage"),
        pytest.param("a 100 - 80 = 20\n", "b 0.2 * 50 = 10", False, id="20 without its sign is not 0.2"),
        pytest.param("a 1 / 20 = 5%\n", "b 0.05 * 100 = 6", True, id="5% is 0.05"),
        pytest.param("a 5 * 30 = 150%\n", "b 1.5 * 100 = 6", True, id="150% is 1.5"),
        pytest.param("a 3 - 12 = -9\n", "b 20 - 9 = 11", True, id="a sign does not count"),
        pytest.param("a 2 * 3 * 4 = 6 * 4 = 24\n", "b 24 + 1 = 25", True, id="only the end of a chain is a result"),
    ],
)
def test_consistency(prefix: str, suffix: str, consistent: bool):
    assert is_consistent(prefix, suffix) is consistent


def test_a_result_after_a_minus_without_spaces_is_used():
    assert is_consistent("In May she sold 46/2 = 23 clips.\n", "That is 46-23 clips fewer.")


@given(st.text(), st.text())
def test_the_consistency_rule_takes_any_text(prefix: str, suffix: str):
    everything = " ".join(results(prefix))
    assert is_consistent(prefix, f"{suffix} {everything}")


def test_normalise():
    assert normalise(" Tom  has 3\n\n#### 3 ") == normalise("tom HAS 3\n####  3") == "tom has 3\n#### 3"
    assert normalise("a\nb") != normalise("b\na") and normalise("1 + 2 = 3") != normalise("2 + 1 = 3")


@given(st.text())
def test_normalising_twice_changes_nothing_more(text: str):
    assert normalise(normalise(text)) == normalise(text)
