"""Find final answers in solutions, read them as exact rational numbers and compare them. No function here raises.

The answer follows the last ``####``, on the same line (GSM8K's convention; paper, section 2).
"""

import re
from decimal import Decimal, localcontext
from fractions import Fraction

from glore_lib.solutions import ANSWER_MARK

# Longer numbers are no answers; the bounds also keep every computation small.
_MAX_CHARACTERS = 40
_MAX_EXPONENT = 30

_PLAIN = str.maketrans(
    {"−": "-", "–": "-", "‑": "-", "⁄": "/", "½": " 1/2", "⅓": " 1/3", "⅔": " 2/3", "¼": " 1/4", "¾": " 3/4"}
    | dict.fromkeys("$€£¥\\")
)
_NUMBER = re.compile(
    r"(?P<sign>\A\s*-\s*|(?<![\w)])-)?"  # "-18", "- 18" at the start; not the hyphen of "x-18"
    r"(?P<number>(?<!\d)(?:(?<!\w)\.)?[0-9][0-9.,]*)(?P<exponent>[eE][-+]?[0-9]+)?"
    r"(?:(?:\s+(?P<numerator>[0-9]+))?\s?/\s?(?P<denominator>[0-9][0-9.,]*))?"  # "1/2", "1 1/2"
)
_WRITTEN = re.compile(r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]*)(?:\.[0-9]+)?")  # commas only between thousands
# Not a single number: "8:30", "18-20", "5 + 3", "1 234", r"\frac{1}{2}".
_GOES_ON = re.compile(r"\s*+(?:(?:[-+*/x×÷:^]|\}\{)\s*+)?[0-9]")


def parse_number(text: str) -> Fraction | None:
    """Return the first number in ``text``, or after its last equals sign; None if there is no unambiguous number.

    Thousands commas, decimals, fractions ("1/2", "1 1/2"), signs and exponents are read; currency signs, per cent signs
    and units are ignored. A range, a time or an unevaluated expression is not a number. Linear in the text.
    """
    text = text.rpartition("=")[2].translate(_PLAIN)
    match = _NUMBER.search(text)
    if not match:
        return None
    rest = text[match.end() :]
    if rest[:1].isnumeric() or _GOES_ON.match(rest):
        return None
    parts = [_parse_written(match["number"], match["exponent"] or "")]
    if match["denominator"]:
        parts += [_parse_written(match["numerator"] or "0", ""), _parse_written(match["denominator"], "")]
    if None in parts or (match["denominator"] and not parts[2]):
        return None
    value = parts[0]
    if match["numerator"]:
        value += parts[1] / parts[2]  # type: ignore[operator]
    elif match["denominator"]:
        value /= parts[2]  # type: ignore[operator]
    return -value if match["sign"] else value  # type: ignore[operator]


def _parse_written(number: str, exponent: str) -> Fraction | None:
    number = number.rstrip(".,")  # the sentence's full stop or comma
    if len(number) > _MAX_CHARACTERS or len(exponent) > 4 or abs(int(exponent[1:] or 0)) > _MAX_EXPONENT:
        return None
    return Fraction(number.replace(",", "") + exponent) if _WRITTEN.fullmatch(number) else None


def canonical(value: Fraction) -> str:
    """Format ``value`` as a decimal if it terminates ("1234.5", "0.5"), else as a fraction ("1/3")."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest != 1:
        return str(value)
    with localcontext(prec=500):  # more digits than the bounds above allow, so that the division is exact
        return f"{Decimal(value.numerator) / Decimal(value.denominator):f}"


def final_answer(solution: str) -> str:
    """Return the final answer in canonical form, or "" if the solution has none."""
    _, mark, after = solution.rpartition(ANSWER_MARK)
    value = parse_number(after.partition("\n")[0]) if mark else None
    return "" if value is None else canonical(value)


def is_correct(solution: str, reference_answer: str) -> bool:
    """Return whether the final answer equals ``reference_answer`` as a number; False without an answer.

    No decimal equals a reference such as 1/3. For these, a decimal with at least two places is accepted if it is less
    than one unit of its last place away (0.33, 0.333, 0.67 for 2/3). Everything else must be exact.
    """
    answer, reference = final_answer(solution), parse_number(reference_answer)
    if not answer or reference is None:
        return False
    value, decimals = Fraction(answer), len(answer.partition(".")[2])
    if "/" in canonical(reference) and decimals >= 2:
        return abs(value - reference) < Fraction(1, 10 ** min(decimals, 12))  # the last digits of a float are noise
    return value == reference
