"""Count test questions that occur in the other splits."""

from collections.abc import Callable, Iterable, Mapping
from re import findall

import pandas as pd

from glore_lib.tasks import Question

GRAM = 8  # consecutive words that two questions rarely share by chance, unless one template wrote both


def contamination(questions: Callable[[str], Mapping[str, Question]], splits: Iterable[str]) -> pd.DataFrame:
    """Count the test questions that other ``splits`` repeat, by text and by 8 consecutive words.

    ``questions`` returns the questions of a split. Case, punctuation and white space do not count. The last column is
    the share of all 8-word sequences of the test questions that occur in the other split.
    """
    test = [_words(q.question) for q in questions("test").values()]
    rows = []
    for split in [split for split in splits if split != "test"]:
        other = [_words(q.question) for q in questions(split).values()]
        texts, known = set(other), {gram for words in other for gram in _grams(words)}
        found = [[gram in known for gram in _grams(words)] for words in test]
        grams = [each for question in found for each in question]
        rows.append(
            {
                "split": split, "questions": len(other), "test questions": len(test),
                "same text": sum(words in texts for words in test), "share 8 words": sum(map(any, found)),
                "8 words in common, %": round(100 * sum(grams) / len(grams), 1) if grams else "n = 0",
            }
        )  # fmt: skip
    return pd.DataFrame(rows).set_index("split")


def _words(text: str) -> tuple[str, ...]:
    return tuple(findall(r"\w+", text.lower()))


def _grams(words: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [words[i : i + GRAM] for i in range(len(words) - GRAM + 1)]
