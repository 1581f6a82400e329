"""Steps, prefixes, intermediate results and ``[BAD]`` marks: pure functions on text.

A solution is steps separated by newlines (paper, section 2); a completion of a prefix is the text that follows it.
"""

import re

BAD = "[BAD]"
ANSWER_MARK = "####"  # opens the line that holds the final answer; a solution ends with that line
_ANNOTATION = re.compile(r"<<[^<>]*>>")
_RESULT = re.compile(r"=\s*\$?(-?\d[\d,]*(?:\.\d+)?)")
_NUMBER = re.compile(r"(?:(?<![\w)%])-)?\d[\d,]*(?:\.\d+)?")  # in 46-23 the minus is no sign


def split_steps(solution: str) -> list[str]:
    """The steps of a solution, without surrounding white space; blank lines are no steps."""
    return [line.strip() for line in solution.split("\n") if line.strip()]


def join_steps(steps: list[str]) -> str:
    """The solution that :func:`split_steps` splits into these steps."""
    return "\n".join(steps)


def prefix_text(steps: list[str], i: int) -> str:
    """The text of P_i: the first ``i`` steps, each with its newline, ready to be continued."""
    return "".join(f"{step}\n" for step in steps[:i])


def mark_bad(steps: list[str], i: int) -> str:
    """The draft with ``[BAD]`` in front of step ``i`` (1-based; 1 is also where a global refinement's mark goes)."""
    if not 1 <= i <= len(steps):
        raise ValueError(f"first error {i} of a draft of {len(steps)} steps: must lie in 1..{len(steps)}")
    return join_steps([*steps[: i - 1], f"{BAD} {steps[i - 1]}", *steps[i:]])


def strip_annotations(text: str) -> str:
    """The text without GSM8K's calculator annotations: of ``48/2 = <<48/2=24>>24``, ``48/2 = 24``."""
    return _ANNOTATION.sub("", text)


def results(text: str) -> list[str]:
    """The intermediate results computed in ``text``: the number after each equals sign, without commas."""
    return [number.replace(",", "") for number in _RESULT.findall(strip_annotations(text))]


def is_consistent(prefix: str, suffix: str) -> bool:
    """Whether each intermediate result computed in ``prefix`` is used later on (paper, section 4.1, post-processing 2).

    A result counts as used if its number occurs in the suffix, or in the prefix after the equation that computed it:
    a chain's early results are used up before P_i ends. Numbers are compared whole, so 3 is not found in 13. The
    paper does not say how numbers that recur by chance are treated; here they count as used. Annotations are no text:
    each repeats the number that follows it, and every result would be used. Linear in the text.
    """
    prefix, suffix = strip_annotations(prefix), strip_annotations(suffix)
    last = {number[0].replace(",", ""): number.start() for number in _NUMBER.finditer(f"{prefix}\n{suffix}")}
    return all(last[match[1].replace(",", "")] > match.start(1) for match in _RESULT.finditer(prefix))


def normalise(solution: str) -> str:
    """The text by which duplicates are recognised: case and white space do not count, order and wording do."""
    return "\n".join(" ".join(step.lower().split()) for step in split_steps(solution))
