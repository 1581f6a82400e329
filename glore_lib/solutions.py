"""Pure functions on text: steps, prefixes, intermediate results and ``[BAD]`` marks.

A solution consists of steps separated by newlines (paper, section 2); a prefix is continued by its completion.
"""

import re

BAD = "[BAD]"
ANSWER_MARK = "####"  # starts the line with the final answer, the last line of a solution
_ANNOTATION = re.compile(r"<<[^<>]*>>")
# Unsigned, because 46-23 has no sign. Commas only between thousands: 1,5 is two numbers.
_NUMBER = re.compile(r"((?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(\s?%)?")
_RESULT = re.compile(rf"=[\s$-]*+{_NUMBER.pattern}")
# What follows a number that is part of an expression: 4S, 4(2), 2:10; after a unit, an operator or one more equation.
_EXPRESSION = re.compile(r"[A-Za-z](?![A-Za-z])|\(|:\d|[A-Za-z /]{0,40}(?:=|(?:[-+*/×÷^]|\bx)\s?[$(]?\.?\d)")


def split_steps(solution: str) -> list[str]:
    """Return the steps of a solution without surrounding white space; blank lines are not steps."""
    return [line.strip() for line in solution.split("\n") if line.strip()]


def join_steps(steps: list[str]) -> str:
    """Return the solution that :func:`split_steps` splits into these steps."""
    return "\n".join(steps)


def prefix_text(steps: list[str], i: int) -> str:
    """Return the text of P_i: the first ``i`` steps, each with its newline."""
    return "".join(f"{step}\n" for step in steps[:i])


def mark_bad(steps: list[str], i: int) -> str:
    """Insert ``[BAD]`` before step ``i`` of a draft (1-based; global refinements use 1)."""
    if not 1 <= i <= len(steps):
        raise ValueError(f"first error {i} of a draft of {len(steps)} steps: must be in 1..{len(steps)}")
    return join_steps([*steps[: i - 1], f"{BAD} {steps[i - 1]}", *steps[i:]])


def strip_annotations(text: str) -> str:
    """Remove GSM8K's calculator annotations: ``48/2 = <<48/2=24>>24`` becomes ``48/2 = 24``."""
    return _ANNOTATION.sub("", text)


def results(text: str) -> list[str]:
    """Return the values of the intermediate results in ``text``: the plain number that each equation ends with.

    Of a chain, 2 * 3 * 4 = 6 * 4 = 24, that is the last number. Algebra has none: 4S, 3/4 and 2 + x are not numbers.
    Values have no sign, currency, commas or padding zeros: $1,200.00 is 1200 and .50 is 0.5.
    """
    return [_value(number[1]) for line in strip_annotations(text).split("\n") for number in _computed(line)]


def is_consistent(prefix: str, suffix: str) -> bool:
    """Return whether each intermediate result of ``prefix`` is used later (paper, section 4.1, post-processing 2).

    A result (:func:`results`) is used if its value occurs in a later step: of the prefix, since early results of a
    chain are used before P_i ends, or of the suffix. Its own step does not count. Values are compared: 9.00 is 9 and
    3 is not in 13. A number with a percent sign has both its values, 20% is 20 and 0.2. Numbers that recur by chance
    count as used; the paper does not say how to treat them. Annotations are removed first. Linear in the text.
    """
    later: set[str] = set()
    for step in reversed(strip_annotations(suffix).split("\n")):
        later.update(*map(_values, _NUMBER.finditer(step)))
    for step in reversed(strip_annotations(prefix).split("\n")):
        if any(later.isdisjoint(_values(result)) for result in _computed(step)):
            return False
        later.update(*map(_values, _NUMBER.finditer(step)))
    return True


def _computed(step: str) -> list[re.Match[str]]:
    """Return the results of a step: group 1 has the number, group 2 its percent sign."""
    return [m for m in _RESULT.finditer(step) if not _EXPRESSION.match(step, m.end())]


def _values(number: re.Match[str]) -> set[str]:
    values = {_value(number[1])}
    if number[2]:
        whole, _, decimals = number[1].replace(",", "").partition(".")
        whole = whole.rjust(2, "0")
        values.add(_value(f"{whole[:-2]}.{whole[-2:]}{decimals}"))
    return values


def _value(number: str) -> str:
    """Return the one way to write an unsigned number: exact, where floats of many digits are not."""
    whole, _, decimals = number.replace(",", "").partition(".")
    return (whole.lstrip("0") or "0") + f".{decimals}".rstrip("0").rstrip(".")


def normalise(solution: str) -> str:
    """Return the text by which duplicates are detected: case and white space are ignored."""
    return "\n".join(" ".join(step.lower().split()) for step in split_steps(solution))
