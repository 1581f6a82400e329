"""Final answers in plain English: known readings, and what no text may do."""

import re
import time
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from glore_lib.tasks.grading import canonical, final_answer, is_correct, parse_number

READ = {
    "plain numbers": {
        "18": "18", "18.": "18", " 18 ": "18", "18\r": "18", "007": "7", "0": "0", "-0": "0", "72.0": "72",
        "72.50": "72.5", ".5": "0.5", "0.10": "0.1", "1.000": "1", "12345678901234567890": "12345678901234567890",
        "...5": "5",
    },
    "units": {
        "18 dollars": "18", "18kg": "18", "18 kg.": "18", "5 eggs": "5", "25 cm²": "25", "25 m^2": "25",
        "3.5 m2": "3.5", "60 km/h": "60", "5 dollars/hour": "5", "18-year-old": "18", "90°": "90", "20 °C": "20",
        "5'": "5", "5e": "5", "18 яиц": "18", "18 個": "18", "7 pairs": "7",
    },
    "currencies": {
        "$18": "18", "$ 18": "18", "18$": "18", "€3": "3", "£3.20": "3.2", "¥500": "500", "US$5": "5", "5 USD": "5",
        "USD 5": "5", "Rs. 500": "500", "Rs.500": "500", "50¢": "50", "50 cents": "50", "-$5": "-5", "$-5": "-5",
        "$5/hour": "5", "$1,234.50 per day.": "1234.5",
    },
    "per cent": {
        "50%": "50", "50 %": "50", "50 percent": "50", "12.5 per cent": "12.5", "0.5": "0.5", "50% off": "50",
    },
    "fractions": {
        "1/2": "0.5", "1 / 2": "0.5", "1/3": "1/3", "2/6 of a pie": "1/3", "6/3": "2", "-1/2": "-0.5",
        "0.5/2": "0.25", "1,000/2": "500", "½": "0.5", "⅞": "0.875", "3⁄4": "0.75",
    },
    "mixed numbers": {
        "1 1/2 cups": "1.5", "1½": "1.5", "2⅔": "8/3", "-1 1/2": "-1.5",
    },
    "thousands separators": {
        "1,234": "1234", "1,000,000": "1000000", "1,234.5": "1234.5", "-1,200.5": "-1200.5", "1'000": "1000",
        "1’000": "1000", "1’000’000.5": "1000000.5", "1\u00a0000": "1000", "1\u202f000\u202f000": "1000000",
        "1\u2009000": "1000", "12\u00a0345 eggs": "12345", "5\u00a0eggs": "5", "18, because": "18", "18,": "18",
    },
    "LaTeX": {
        "\\boxed{18}": "18", "$18$": "18", "$\\boxed{18}$": "18", "\\(18\\)": "18", "\\[18\\]": "18", "\\$18": "18",
        "18\\%": "18", "\\frac{1}{2}": "0.5", "$\\dfrac{2}{3}$": "2/3", "1\\frac{1}{2}": "1.5",
        "-\\frac{1}{2}": "-0.5", "\\frac{-1}{2}": "-0.5", "\\boxed{\\frac{1}{4}}": "0.25", "18\\text{ eggs}": "18",
        "\\boxed{18 \\text{ cm}}": "18", "\\text{The answer is } 18": "18", "\\mathbf{18}": "18", "1{,}000": "1000",
        "1\\,000": "1000", "$x = 5$": "5", "x \\approx 5": "5", "3 \\times 4 = 12": "12", "$-5$": "-5",
        "\\boxed{-5}": "-5",
    },
    "Markdown": {
        "**18**": "18", "*18*": "18", "`18`": "18", "__18__": "18", "**$18**": "18", "**18 eggs**": "18",
        "The answer is **18**.": "18",
    },
    "words": {
        "The answer is 18": "18", "The answer is: 18 apples.": "18", "the answer is 5": "5", "Answer: 5": "5",
        "She pays $5 in total.": "5", "It costs 5 dollars!": "5", "(18)": "18", "\"18\"": "18",
        "pre-tax price: 5": "5", "5 more apples": "5", "5 left over": "5", "5 each": "5", "5 m": "5",
    },
    "signs": {
        "-5": "-5", "−5": "-5", "–5": "-5", "- 5": "-5", "+5": "5", "minus 5": "-5", "negative 5": "-5",
        "Minus $5": "-5", "x = -5": "-5", "x = minus 5": "-5", "The answer is -5": "-5",
        "The answer is negative 5.": "-5", "Answer: -5": "-5", "(-5)": "-5",
    },
    "equations": {
        "x = 5": "5", "3 * 4 = 12": "12", "5 + 3 = 8 pens": "8", "$5 + $3 = $8": "8", "(2 + 3) * 4 = 20": "20",
        "10 / 4 = 2.5": "2.5", "10/4 = 5/2 = 2.5": "2.5", "3 × 4 = 12": "12", "Total = $18": "18", "= 18": "18",
        "18 = 18.00": "18", "x == 5": "5",
    },
    "remarks": {
        "18 eggs (3 dozen = 36)": "18", "18 (= 3 * 6)": "18", "5 (five)": "5", "18 (rounded from 17.6).": "18",
        "$18 (USD)": "18",
    },
    "times and dates": {
        "5 pm": "5", "5 o'clock": "5",
    },
    "approximations": {
        "≈ 5": "5", "~5": "5", "about 5": "5", "approximately 5.5 hours": "5.5", "10/3 ≈ 3.33": "3.33",
    },
    "scientific notation": {
        "1e3": "1000", "1.5E-2": "0.015", "2e+3": "2000",
    },
    "other scripts": {
        "答案是 18": "18",
    },
}  # fmt: skip
UNREAD = {
    "plain numbers": [
        "1.2.3", "1..2", "v1.2", "1_000", "0x12", "#5", "", "-", "none", "?", "NaN", "inf", "∞", "x", "1" * 41,
        "9" * 5000, "5" + " eggs" * 40,
    ],
    "units": [
        "5'6\"", "5 ft 6 in", "2 hours 30 minutes", "5 H2O", "12 quarters", "3 dozen",
    ],
    "currencies": [
        "3,50 €", "$5 and 50 cents", "$1.50 = 150 cents", "$5$6",
    ],
    "per cent": [
        "50% = 0.5", "50% of 50",
    ],
    "fractions": [
        "1/0", "0/0", "1/2/3", "x/2", "1/x", "1 over 2", "3 out of 4", "1/3rd", "half", "2 thirds", "1/2 or 0.5",
    ],
    "mixed numbers": [
        "1-1/2", "1 1/0", "1 1", "1 and 1/2", "1 and a half", "5 and a quarter",
    ],
    "thousands separators": [
        "1 000", "1 234", "1\u00a000", "1234\u00a0567", "1,000'000", "1,23,4", "1,00,000", "12,34", "1, 000", "1٬000",
    ],
    "decimal commas": [
        "10,5", "0,5", "0,500", "1.234,5", "1.000.000", "1'000,5", "3,14159", "2,50",
    ],
    "LaTeX": [
        "\\sqrt{4}", "2\\pi", "\\pm 5", "5^{2}", "\\frac{1}{x}", "\\frac12", "\\boxed{18", "1.5 \\times 10^3",
        "5\\text{0}", "\\boxed{5} \\boxed{6}",
    ],
    "Markdown": [
        "**5**6", "3*4*5", "~~5~~ 6", "# 18", "~~5~~",
    ],
    "words": [
        "It costs 5!", "5 apples and 3 pears", "more than 5", "at least 5", "5 or more", "not 5", "isn’t 5",
        "no 5", "No. 5", "over 5",
        "5 for each of the 3", "A5", "x5", "5x", "5 x", "5k", "$5K", "5M", "2 million", "5 hundred", "twice 5", "5!",
        "√4", "2π", "5 squared", "|5|", "5?", "5;6", "5\u202e1", "5\u200b",
    ],
    "signs": [
        "Answer - 18", "x-18", "--5", "-(-5)", "minus -5", "5-", "5+", "±5", "+/-5", "5 ± 1", "— 5", "x minus 5",
        "10 minus 5", "5 below zero",
    ],
    "equations": [
        "7 days = 1 week", "one week = 7 days", "2x = 10", "x + 5 = 10", "-x = 5", "x/2 = 5", "x² = 25", "5 =",
        "5 = x", "x != 5", "x >= 5", "x < 5", "x ≠ 5", "5 + 3", "3 x 4", "3*4", "10^3", "10²", "half = 5",
        "3 * 4 = 12, 12 + 1 = 13", "-> 18",
    ],
    "remarks": [
        "18 (20)", "18 (or 20)", "18 (not 20)", "18 (3 * 6)", "five (5)", "18 eggs (3 dozen = 36", "2(3)",
        "2 (x + 3)", "5 + (3 pens)", "18, since 3 * 6 = 18", "18. Check: 3 * 6",
    ],
    "times and dates": [
        "8:30", "8:30 am", "2024-01-01", "1/2/2024", "May 5, 2024", "3:1",
    ],
    "ranges and lists": [
        "18-20", "18 - 20", "18–20", "5 to 6", "between 5 and 6", "5 or 6", "5, 6", "1,2", "5 and 6", "5 5", "1. 18",
        "1) 18",
    ],
    "approximations": [
        "5 or so",
    ],
    "scientific notation": [
        "1.5 × 10^3", "1.5 x 10³", "1e99", "1e-99", "1e999999999", "1ee3",
    ],
    "number words and ordinals": [
        "five", "eighteen", "five 5", "3rd", "5th", "a 5th", "Ⅷ", "5 Ⅷ",
    ],
    "other scripts": [
        "٣", "1٣", "٣1", "１８", "१८", "十八", "5万", "²",
    ],
}  # fmt: skip
LINES = [(line, answer) for lines in READ.values() for line, answer in lines.items()]
LINES += [(line, "") for lines in UNREAD.values() for line in lines]


@pytest.mark.parametrize(("line", "answer"), LINES, ids=[ascii(line[:20]) for line, _ in LINES])
def test_answer_lines(line: str, answer: str):
    """Each line is read as its known value, or not at all: no other number on it counts as right."""
    assert final_answer(f"Some step = 99\n#### {line}") == answer
    assert is_correct(f"#### {line}", answer) is bool(answer)
    others = {canonical(Fraction(number)) for number in re.findall("[0-9]{1,9}", line, re.ASCII)} - {answer}
    assert not any(is_correct(f"#### {line}", other) for other in others)


def test_the_answer_lines_are_many_and_each_is_there_once(reliability):
    assert len({line for line, _ in LINES}) == len(LINES) > 150
    for kind in READ | UNREAD:
        counts = (len(READ.get(kind, ())), len(UNREAD.get(kind, ())))
        for outcome, tried in zip(("read as its known value", "ambiguous: ungraded"), counts, strict=True):
            if tried:
                reliability(f"answer line: {kind}", outcome, tried=tried)


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        ("", ""), ("18", ""), ("The answer is 18.", ""), ("### 18", ""), ("# # # # 18", ""),
        ("####18", "18"), ("#### 18\n", "18"), ("a\n####\t18\nb 20", "18"), ("so #### 18", "18"), ("##### 18", "18"),
        ("#### 1\n#### 2", "1"), ("#### 1 #### 2", ""), ("#### 1\n####", "1"), ("#### x\n#### 1", ""),
        ("####\n18", ""), ("#### 18\r\n", "18"),
    ],
)  # fmt: skip
def test_the_first_line_with_the_mark_counts_as_in_sampling(solution: str, answer: str):
    assert final_answer(solution) == answer


@given(st.lists(st.sampled_from(["####", "#", " 1", "23", "\n", "\r", "a step"])).map("".join))
@example("#### 1\n#### 2")
@example("a step\n####\n#### 2")
def test_what_follows_the_line_that_ends_a_sample_changes_no_answer(text: str):
    """A sampler ends with the first line that holds the mark."""
    before, mark, after = text.partition("####")
    assert final_answer(before + mark + after.partition("\n")[0]) == final_answer(text)


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
