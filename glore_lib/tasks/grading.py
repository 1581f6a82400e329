"""Find final answers in solutions, read them as exact rational numbers and compare them. No function here raises.

The rule (docs/concepts/evaluation.md has examples):

1. The answer is what follows ``####`` on the first line that has it, the line that ends a sample (GSM8K's convention;
   paper, section 2). Its Markdown and LaTeX, and a closing remark in parentheses, do not count.
2. It is one number; beside it stand only words, units, currency signs and punctuation. A second number, an operator or
   a word that changes the number ("or", "than", "half", "million") leaves no answer.
3. A number consists of the digits 0-9 and a decimal point. Thousands may be separated by commas, apostrophes or
   non-breaking spaces. Fractions ("1/2", "1 1/2", "½"), exponents ("1e3") and signs ("-", "minus") are read.
4. After an equals sign ("=", "≈") stands the answer; before it a name, a calculation or the same number.
5. Units do not count: "50%", "50 cents" and "$50" are 50. In doubt there is no answer, and the solution is wrong.
"""

import re
import unicodedata
from decimal import Decimal, localcontext
from fractions import Fraction

from glore_lib.solutions import ANSWER_MARK

# Longer texts and numbers are no answers; the bounds also keep every computation small.
_MAX_TEXT = 200
_MAX_CHARACTERS = 40
_MAX_EXPONENT = 30

_PLAIN = str.maketrans(
    dict.fromkeys("−–‑", "-")
    | dict.fromkeys("≈≃~", "=")
    | {"⁄": "/", "’": "'"}
    | {c: f" {unicodedata.normalize('NFKD', c).replace('⁄', '/')}" for c in "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"}
)
_MARKUP = [
    (re.compile(pattern), plain)
    for pattern, plain in (
        (r"(?<![\w*_`])([*_`]{1,3})(?=\S)([^*_`]+)(?<=\S)\1(?![\w*_`])", r"\2"),  # Markdown: **18**
        (r"(?<=[0-9])\s*(?=\\[dt]?frac)", " "),  # 1\frac{1}{2}
        (r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"\1/\2"),
        (r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}", r" \1"),
        (r"\\(?:boxed|fbox)\s*\{([^{}]*)\}", r"\1"),
        (r"\\approx(?![a-z])", "="),
        (r"\\(?:times|cdot|div)(?![a-z])", "×"),
        (r"\\[,:; ]|\{,\}", "\N{THIN SPACE}"),
        (r"\\([$%()\[\]])", r"\1"),
        (r"(?<=[0-9])[\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}\N{THIN SPACE}](?=[0-9]{3}(?![0-9]))", "'"),
        # A remark: "18 eggs (3 dozen = 36)", but not "18 (20)" or "18 (or 20)".
        (r"\A([^()]*[0-9][^()]*)\s\((?!(?:or|not?)\b)(?=[^()]*(?:[^\W\d_]{2}|=))[^()]*\)[\s.]*\Z", r"\1"),
    )
]
_NUMBER = re.compile(
    r"(?P<sign>(?:\A|(?<=\bis ))\s*(?:[-+]\s*|(?:minus|negative)\s+)|(?<![^\s(\[$€£¥₹:'\"])[-+])?(?:[$€£¥₹]\s?)?"
    r"(?P<number>(?:(?<![\w.])\.|(?<!\w))[0-9][0-9.,']*)(?P<exponent>[eE][-+]?[0-9]+)?"
    r"(?:(?:\s+(?P<numerator>[0-9]+))?\s?/\s?(?P<denominator>[0-9][0-9.,']*))?",  # "1/2", "1 1/2"
    re.IGNORECASE,
)
_WRITTEN = re.compile(r"(?:[1-9][0-9]{0,2}(?:(?:,[0-9]{3})+|(?:'[0-9]{3})+)|[0-9]*)(?:\.[0-9]+)?")
_LETTER = r"[^\W\d_]"
_PUNCTUATION = r"""\s.,:;'"“”()\[\]$€£¥₹¢%°"""
_BEFORE = re.compile(rf"(?:{_LETTER}|[{_PUNCTUATION}]|(?<={_LETTER}{{2}})-(?={_LETTER}{{2}}))*")
_AFTER = re.compile(  # not "5!", "5x", "5/x", "5-x", "5k", "5th"
    rf"(?!!|\s*(?:[xkKMB]|/\s*{_LETTER}|bn|st|nd|rd|th)\b)(?:{_LETTER}|[{_PUNCTUATION}!]|/(?={_LETTER})|-(?={_LETTER}{{2}}))*"
)
_UNIT_POWER = re.compile(r"\b([cdkm]?m|in|ft|feet|yd|mi)(?:[²³]|\^?[23])(?![\w^.,/])")  # "m²", "m^2"
_DOUBT = re.compile(
    r"n't\b|\b(?:n?or|not?|than|least|most|between|minus|negative|plus|pi|π|squared|cubed|root|half|halves|double|twice|triple|"
    r"quarters?|thirds?|(?:four|fif|six|seven|eigh|nin|ten|hundred|thousand)ths?|zero|one|two|three|four|five|six|"
    r"seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen|(?:twen|thir|for|fif|six|seven|"
    r"eigh|nine)ty|dozens?|hundreds?|thousands?|(?:m|b|tr)illions?)\b|\b(?:x|over|under|above|below|up to)\s+\Z",
    re.IGNORECASE,
)
_TERM = r"[$€£¥₹]?[0-9][0-9.,']*%?"
_CALCULATION = re.compile(rf"[\s(]*{_TERM}[\s)]*(?:[-+*/x×·÷:][\s(]*{_TERM}[\s)]*)+")


def parse_number(text: str) -> Fraction | None:
    """Return the number in ``text`` by the rule above, without its first step; None if there is no answer.

    Linear in the text.
    """
    text = text.strip()
    if len(text) > _MAX_TEXT:
        return None
    text = text.translate(_PLAIN)
    for pattern, plain in _MARKUP:
        text = pattern.sub(plain, text)
    *before, last = (part.strip() for part in text.split("="))
    value = _only_number(last)
    if all(_are_words(part) or _CALCULATION.fullmatch(part) or _only_number(part) == value for part in before):
        return value
    return None


def _only_number(text: str) -> Fraction | None:
    """Return the number in a text of one number and words."""
    match = _NUMBER.search(text)
    if not match:
        return None
    before, after = text[: match.start()], _UNIT_POWER.sub(r"\1", text[match.end() :])
    if not (_are_words(before) and _are_words(after, _AFTER)):
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
    negative = (match["sign"] or "").strip().lower() in ("-", "minus", "negative")
    return -value if negative else value  # type: ignore[operator]


def _are_words(text: str, allowed: re.Pattern[str] = _BEFORE) -> bool:
    return bool(allowed.fullmatch(text)) and not _DOUBT.search(text) and not any(map(str.isnumeric, text))


def _parse_written(number: str, exponent: str) -> Fraction | None:
    number = number.rstrip(".,'")  # the sentence's full stop, comma or quotation mark
    if len(number) > _MAX_CHARACTERS or len(exponent) > 4 or abs(int(exponent[1:] or 0)) > _MAX_EXPONENT:
        return None
    return Fraction(re.sub("[,']", "", number) + exponent) if _WRITTEN.fullmatch(number) else None


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
    line = solution.partition(ANSWER_MARK)[2].partition("\n")[0]
    value = parse_number(line.lstrip("#"))
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
