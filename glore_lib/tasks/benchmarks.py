"""The common base of published data sets: reading records, splits, prompts and grading.

Records are read from the folder in the environment variable ``GLORE_DATA_DIR`` if it is set, else from the hub.
"""

import csv
import hashlib
import json
import os
import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

from glore_lib.params import ParamsError
from glore_lib.tasks import Question, grading

DATA_DIR = "GLORE_DATA_DIR"
VALIDATION_PERCENT = 10  # of the train split, by hash of the question's text

Rows = list[dict[str, Any]]


class Benchmark(ABC):
    """A published data set, a :class:`glore_lib.tasks.Task`. ``folder`` is its local copy, None to read the hub."""

    name: str
    files: tuple[str, ...]  # of a local copy, relative to its folder
    hub_name: str | None  # None if it is not on the hub
    example: tuple[str, str]  # a question and its solution, for the one-shot prompt; written for this project

    def __init__(self) -> None:
        value = os.environ.get(DATA_DIR)
        self.folder = Path(value) if value else None

    @abstractmethod
    def _read(self) -> tuple[list[Question], list[Question]]:
        """Return the train and the test questions as released, in a fixed order."""

    @cached_property
    def splits(self) -> dict[str, list[Question]]:
        """Return the questions of train, validation and test; no text is in two splits, or twice in one.

        Of equal texts the first one stays; a text that is also in test is dropped from train. Validation is a part of
        the released train split. Raises ParamsError if the data can't be read.
        """
        try:
            train, test = self._read()
            _check(train + test)
        except ParamsError:
            raise
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:  # unexpected rows
            reason = f"{self.name} is not as released: {type(error).__name__}: {error}"
            raise ParamsError(f"{self._source()}: {' '.join(reason.split())}; {self._remedy()}") from None
        texts = {_key(q.question): q for q in reversed(test)}  # the first of equal texts stays
        test = [q for q in test if texts[_key(q.question)] is q]
        rest = {_key(q.question): q for q in reversed(train)}
        train = [q for q in train if rest[_key(q.question)] is q and _key(q.question) not in texts]
        held_out = [_bucket(q.question) < VALIDATION_PERCENT for q in train]
        return {
            "train": [q for q, out in zip(train, held_out, strict=True) if not out],
            "validation": [replace(q, split="validation") for q, out in zip(train, held_out, strict=True) if out],
            "test": test,
        }

    def check_data(self, counts: Mapping[str, int]) -> None:
        """Read the data; raise ParamsError if it can't be read or a split has too few questions."""
        for split, questions in self.splits.items():
            if counts.get(split, 0) > len(questions):
                raise ParamsError(
                    f"task.{split}_questions = {counts[split]}: must be at most {len(questions)}, the size of the "
                    f"{split} split of {self.name}"
                )

    def questions(self, split: str, count: int, seed: int) -> list[Question]:
        """Return the first ``count`` questions of a split shuffled with ``seed``: a larger count extends a smaller one.

        Raises ParamsError if the split has fewer.
        """
        self.check_data({split: count})
        found = list(self.splits[split])
        random.Random(f"{split}/{seed}").shuffle(found)
        return found[:count]

    def prompt(self, question: str) -> str:
        """Return the question and ``Answer:``, each on its own line."""
        return f"Question: {question}\nAnswer:\n"

    def refine_prompt(self, question: str, marked_draft: str) -> str:
        """Return the question, the marked draft and ``Refined answer:``."""
        return f"Question: {question}\nDraft:\n{marked_draft}\nRefined answer:\n"

    def one_shot_prompt(self, question: str) -> str:
        """Return the prompt after :attr:`example` and a blank line."""
        example, solution = self.example
        return f"{self.prompt(example)}{solution}\n\n{self.prompt(question)}"

    def final_answer(self, solution: str) -> str:
        """Return the number after the last ``####``; see :mod:`glore_lib.tasks.grading`."""
        return grading.final_answer(solution)

    def is_correct(self, solution: str, reference_answer: str) -> bool:
        """Return whether the final answer equals the reference as a number."""
        return grading.is_correct(solution, reference_answer)

    def exact_step_labels(self, question: Question, solution: str) -> None:
        """Return None: the data sets have no step labels."""
        return None  # noqa: RET501

    def _local_rows(self, file: str) -> Rows:
        """Read the rows of a local JSON, JSON Lines or CSV file."""
        if not self.folder.is_dir():  # type: ignore[union-attr]
            raise ParamsError(f"{self._source()}: no such folder; {self._remedy()}")
        try:
            # Spreadsheets and editors on Windows write a byte order mark.
            with (self.folder / file).open(encoding="utf-8-sig", newline="") as stream:  # type: ignore[operator]
                if file.endswith(".csv"):
                    return list(csv.DictReader(stream))
                return json.load(stream) if file.endswith(".json") else list(_json_lines(stream))
        except OSError as error:
            raise ParamsError(f"{self._source()}: {file}: {error.strerror}; {self._remedy()}") from None
        except (RecursionError, ValueError, csv.Error) as error:
            reason = " ".join(str(error).split())
            raise ParamsError(f"{self._source()}: {file} is not readable: {reason}; {self._remedy()}") from None

    def _hub_rows(self, split: str, config: str | None = None) -> Rows:
        """Read the rows of a split on the hub."""
        if self.hub_name is None:
            raise ParamsError(f"{self._source()}: the hub does not have this split; {self._remedy()}")
        import datasets

        try:
            return datasets.load_dataset(self.hub_name, config, split=split).to_list()
        except Exception as error:  # no network, unknown name, full disk: the hub's client raises many types
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise ParamsError(
                f"{self._source()} and {self.hub_name} can't be read from the hub ({reason}); {self._remedy()}"
            ) from None

    def _source(self) -> str:
        return f"{DATA_DIR} is not set" if self.folder is None else f"{DATA_DIR} = {str(self.folder)!r}"

    def _remedy(self) -> str:
        remedy = f"set it to a folder that holds {' and '.join(self.files)}"
        if self.hub_name is None:
            return remedy
        return f"{remedy}, or {'go online' if self.folder is None else 'unset it'} to read {self.hub_name} from the hub"


def _json_lines(stream: Iterable[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(stream, start=1):
        try:
            if line.strip():
                yield json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number}: {error.msg}") from None


def _check(questions: list[Question]) -> None:
    """Raise ValueError for a duplicate id, an empty question, or text that is not valid Unicode."""
    seen = set()
    for q in questions:
        if q.question_id in seen or not q.question:
            raise ValueError(f"{q.question_id} {'occurs twice' if q.question else 'is an empty question'}")
        seen.add(q.question_id)
        f"{q.question}{q.reference_solution}".encode()  # fails for half a surrogate pair


def released_number(text: str) -> Fraction:
    """Return the number in a data set's field; raise ValueError if there is none.

    A decimal as long as 0.16666666666666666, which a program wrote for 1/6, is read as the fraction.
    """
    if len(text) > 40 or "e" in text.lower():  # no answer to a word problem; 1e99999999 would exhaust the memory
        raise ValueError(f"{text[:40]!r} is no answer")
    value = Fraction(text.strip().replace(",", ""))
    return value.limit_denominator(1000) if len(text.partition(".")[2]) > 10 else value


def _key(question: str) -> str:
    """Return the text by which questions are compared: case and white space do not count."""
    return " ".join(question.lower().split())


def _bucket(question: str) -> int:
    """Return a number below 100 that depends only on the question's text."""
    return int.from_bytes(hashlib.sha256(_key(question).encode()).digest()[:4], "big") % 100
