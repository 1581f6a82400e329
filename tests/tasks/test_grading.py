"""Final answers in plain English: known readings, and what no text may do."""

import time
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from glore_lib.tasks.grading import canonical, final_answer, is_correct, parse_number

READ = [
    ("18", "18"), ("1,234", "1234"), ("$1,234.50 per day.", "1234.5"), ("18 dollars", "18"), ("18.", "18"),
    ("1,000,000", "1000000"), ("72.0", "72"), ("72.50", "72.5"), (".5", "0.5"), ("0.10", "0.1"), ("007", "7"),
    ("50%", "50"), ("50 %", "50"), ("€3", "3"), ("£3.20", "3.2"), (r"\$18", "18"), ("$ 18", "18"), ("18kg", "18"),
    ("-5", "-5"), ("−5", "-5"), ("–5", "-5"), ("-$5", "-5"), ("$-5", "-5"), ("- 5", "-5"), ("+5", "5"), ("-0", "0"),
    ("-1,200.5", "-1200.5"), ("x-18", "18"), ("Answer - 18", "18"), ("-1/2", "-0.5"),
    ("1/2", "0.5"), ("1 / 2", "0.5"), ("1/3", "1/3"), ("2/6 of a pie", "1/3"), ("6/3", "2"), ("1 1/2 cups", "1.5"),
    ("½", "0.5"), ("1½", "1.5"), ("2⅔", "8/3"), ("-1 1/2", "-1.5"), ("3⁄4", "0.75"), ("0.5/2", "0.25"),
    ("1e3", "1000"), ("1.5E-2", "0.015"), ("2e+3", "2000"), ("5 eggs", "5"), ("5e", "5"),
    ("The answer is 18 apples", "18"), ("x = 5", "5"), ("5 + 3 = 8 pens", "8"), ("**18**", "18"), (r"\boxed{18}", "18"),
    ("5 (five)", "5"), ("$5/hour", "5"), ("18, because", "18"), ("12345678901234567890", "12345678901234567890"),
    ("18\r", "18"),
]  # fmt: skip
UNREAD = [
    "", " ", "none", "eighteen", "-", "$", "%", ".", ",", "/", "1/0", "0/0", "1 1/0", "NaN", "inf", "∞", "x", "5 =",
    "10,5", "1,23,4", "1.2.3", "1.234,5", "12,34", "8:30", "18-20", "18 - 20", "5 + 3", "3 x 4", "3*4", "10^3", "1/2/3",
    "1 234", "10²", "٣", "1٣", "٣1", "１８", "²", "Ⅷ", r"\frac{1}{2}", "1e999999999", "1e99", "1e-99", "1" * 41,
    "9" * 5000, f"1/{'9' * 5000}", f"1 {'9' * 5000}/2", f"1e{'9' * 5000}",
]  # fmt: skip


@pytest.mark.parametrize(("text", "answer"), READ)
def test_answers_that_are_read(text: str, answer: str):
    assert final_answer(f"Some step = 99\n#### {text}") == answer
    assert is_correct(f"#### {text}", answer)
    assert not is_correct(f"#### {text}", "31")


@pytest.mark.parametrize("text", UNREAD, ids=lambda text: ascii(text[:12]))
def test_texts_that_hold_no_answer_to_be_sure_of(text: str):
    assert final_answer(f"Some step = 18\n#### {text}") == ""
    assert not is_correct(f"#### {text}", "18")


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        ("", ""), ("18", ""), ("The answer is 18.", ""), ("### 18", ""), ("# # # # 18", ""),
        ("####18", "18"), ("#### 18\n", "18"), ("a\n####\t18\nb 20", "18"), ("so #### 18", "18"), ("##### 18", "18"),
        ("#### 1\n#### 2", "2"), ("#### 1 #### 2", "2"), ("#### 1\n####", ""), ("#### 1\nx\n#### y", ""),
        ("####\n18", ""),
    ],
)  # fmt: skip
def test_the_last_line_with_the_mark_counts(solution: str, answer: str):
    assert final_answer(solution) == answer


@pytest.mark.parametrize(
    ("answer", "reference", "correct"),
    [
        ("72.0", "72", True), ("1/2", "0.5", True), ("0.5", "1/2", True), ("72", "72.0", True), ("1,080", "1080", True),
        ("1080", "1,080", True), ("-7", "7", False), ("7", "-7", False), ("72.01", "72", False), ("3", "13", False),
        ("71.999999999", "72", False),
        ("12345678901234567", "12345678901234568", False), ("0.30000000000000004", "0.3", False),
        ("1/3", "1/3", True), ("2/6", "1/3", True), ("0.33", "1/3", True), ("0.333333", "1/3", True),
        ("0.3", "1/3", False), ("0.34", "1/3", True), ("0.35", "1/3", False), ("0.66", "2/3", True),
        ("0.67", "2/3", True), ("0.68", "2/3", False),
        ("0.8333333333333334", "5/6", True),
        ("3.6666666666666665", "11/3", True), ("3.66666666667", "11/3", True), ("3.66666666669", "11/3", False),
        ("-0.33", "-1/3", True), ("0.33", "-1/3", False), ("0", "1/3", False),
        ("0.50", "0.501", False), ("18", "", False), ("18", "none", False), ("", "", False),
    ],
)  # fmt: skip
def test_comparison(answer: str, reference: str, correct: bool):
    assert is_correct(f"#### {answer}", reference) is correct


@given(st.text(), st.text())
@example("#### " + "1" * 4999 + "/3", "1/3")
def test_no_text_raises(text: str, reference: str):
    for solution in (text, f"#### {text}", f"{text}####"):
        assert isinstance(final_answer(solution), str)
        assert isinstance(is_correct(solution, reference), bool)
        assert isinstance(is_correct(solution, text), bool)


@given(st.text("0123456789.,/-−+eE$% =:x#½²٣\n", max_size=30))
def test_no_text_of_numbers_raises_and_every_answer_is_canonical(text: str):
    answer = final_answer(f"#### {text}")
    if answer:
        assert canonical(Fraction(answer)) == answer == final_answer(f"#### {answer}")


@given(st.fractions(max_denominator=10**9).filter(lambda value: abs(value) < 10**12))
def test_canonical_text_is_the_same_number(value: Fraction):
    text = canonical(value)
    assert Fraction(text) == value == parse_number(text)
    assert "e" not in text.lower()
    if "/" not in text and "." in text:
        assert not text.endswith("0")


@given(st.integers(-(10**15), 10**15), st.sampled_from(["{:,}", "{}", "{:,}.00", "{}.0"]),
       st.sampled_from(["{}", "${}", "{} dollars", "{}%", "{}.", "The total is {} pounds per day."]))  # fmt: skip
def test_any_whole_number_is_read_in_any_dress(value: int, number: str, dress: str):
    solution = f"a step\n#### {dress.format(number.format(value))}"
    assert final_answer(solution) == str(value)
    assert is_correct(solution, f"{value:,}") and not is_correct(solution, str(value + 1))


@pytest.mark.parametrize("piece", ["1", " ", "-", "1,", ".", "1 ", "1/", "#", "=", "$", "e1", "1e", "- ", "9.", "\t-"])
def test_time_grows_with_the_texts_length_alone(piece: str):
    """A text of 1 MB in seconds at most, whatever it repeats; a quadratic reader would need hours."""
    many = piece * 10**6
    for text in (f"#### {many}", f"#### 1{many}", f"#### 1{many}x", f"####{' ' * 10**6}{piece}"):
        started = time.perf_counter()
        final_answer(text)
        assert time.perf_counter() - started < 10
