"""Pure functions on text: steps, prefixes, intermediate results and ``[BAD]`` marks.

A solution consists of steps separated by newlines (paper, section 2); a prefix is continued by its completion.
"""

import re

BAD = "[BAD]"
ANSWER_MARK = "####"  # starts the line with the final answer, the last line of a solution
_ANNOTATION = re.compile(r"<<[^<>]*>>")
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?"  # commas only between thousands: 1,5 is two numbers
_RESULT = re.compile(rf"=\s*\$?(-?{_DIGITS})")
_NUMBER = re.compile(rf"(?:(?<![\w)%])-)?{_DIGITS}")  # the minus in 46-23 is not a sign


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
    """Return the intermediate results in ``text``: the number after each equals sign, without commas."""
    return [number.replace(",", "") for number in _RESULT.findall(strip_annotations(text))]


def is_consistent(prefix: str, suffix: str) -> bool:
    """Return whether each intermediate result of ``prefix`` is used later (paper, section 4.1, post-processing 2).

    A result is used if its number occurs in the suffix, or in the prefix after its equation: early results of a chain
    are used before P_i ends. Whole numbers are compared, so 3 is not found in 13. The paper does not say how to treat
    numbers that recur by chance; here they count as used. Annotations are removed first: each repeats the number after
    it, so that every result would be used. Linear in the text.
    """
    prefix, suffix = strip_annotations(prefix), strip_annotations(suffix)
    last = {number[0].replace(",", ""): number.start() for number in _NUMBER.finditer(f"{prefix}\n{suffix}")}
    return all(last[match[1].replace(",", "")] > match.start(1) for match in _RESULT.finditer(prefix))


def normalise(solution: str) -> str:
    """Return the text by which duplicates are detected: case and white space are ignored."""
    return "\n".join(" ".join(step.lower().split()) for step in split_steps(solution))
