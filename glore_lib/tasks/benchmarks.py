"""What the published data sets share: where their records come from, their splits, prompts and grading.

Records come from the folder that the environment variable ``GLORE_DATA_DIR`` names, else from the hub.
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
    """A published data set as the stages see it; see :class:`glore_lib.tasks.Task`.

    ``folder`` is the local copy, None where the hub is read; it is looked up once, when the object is made.
    """

    name: str
    files: tuple[str, ...]  # what a local copy must hold, relative to its folder
    hub_name: str | None  # None where the hub does not have it
    example: tuple[str, str]  # a question and its solution, for the one-shot prompt; written for this project

    def __init__(self) -> None:
        value = os.environ.get(DATA_DIR)
        self.folder = Path(value) if value else None

    @abstractmethod
    def _read(self) -> tuple[list[Question], list[Question]]:
        """The train and the test questions as released, in a fixed order."""

    @cached_property
    def splits(self) -> dict[str, list[Question]]:
        """The questions of train, validation and test. No text is in two splits, nor twice in one.

        A text that comes again is kept at its first place; one that test has too is dropped from train. Validation
        is a part of train alone. Raises ParamsError where the data can't be read.
        """
        try:
            train, test = self._read()
            _check(train + test)
        except ParamsError:
            raise
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:  # rows of another shape
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
        """Reads the data; raises a one-line ParamsError that names GLORE_DATA_DIR where that can't be done, or the
        parameter that asks for more questions than a split has."""
        for split, questions in self.splits.items():
            if counts.get(split, 0) > len(questions):
                raise ParamsError(
                    f"task.{split}_questions = {counts[split]}: must be at most {len(questions)}, all that {self.name} "
                    f"has of {split}"
                )

    def questions(self, split: str, count: int, seed: int) -> list[Question]:
        """The first ``count`` questions of a split shuffled by ``seed``, so that more begin with the fewer.

        Raises ParamsError where the split has fewer.
        """
        self.check_data({split: count})
        found = list(self.splits[split])
        random.Random(f"{split}/{seed}").shuffle(found)
        return found[:count]

    def prompt(self, question: str) -> str:
        """The question and ``Answer:``, each on a line of its own."""
        return f"Question: {question}\nAnswer:\n"

    def refine_prompt(self, question: str, marked_draft: str) -> str:
        """The question, the marked draft and ``Refined answer:``."""
        return f"Question: {question}\nDraft:\n{marked_draft}\nRefined answer:\n"

    def one_shot_prompt(self, question: str) -> str:
        """The prompt after :attr:`example` and a blank line."""
        example, solution = self.example
        return f"{self.prompt(example)}{solution}\n\n{self.prompt(question)}"

    def final_answer(self, solution: str) -> str:
        """The number after the last ``####``; see :mod:`glore_lib.tasks.grading`."""
        return grading.final_answer(solution)

    def is_correct(self, solution: str, reference_answer: str) -> bool:
        """Whether the final answer is the reference's number, however both are written."""
        return grading.is_correct(solution, reference_answer)

    def exact_step_labels(self, question: Question, solution: str) -> None:
        """None: the data sets don't tell which steps are right."""
        return None  # noqa: RET501 - said rather than left out

    def _local_rows(self, file: str) -> Rows:
        """The rows of one local JSON, JSON-lines or CSV file."""
        if not self.folder.is_dir():
            raise ParamsError(f"{self._source()}: no such folder; {self._remedy()}")
        try:
            # Editors on Windows put a byte order mark first, and spreadsheets do.
            with (self.folder / file).open(encoding="utf-8-sig", newline="") as stream:
                if file.endswith(".csv"):
                    return list(csv.DictReader(stream))
                return json.load(stream) if file.endswith(".json") else list(_json_lines(stream))
        except OSError as error:
            raise ParamsError(f"{self._source()}: {file}: {error.strerror}; {self._remedy()}") from None
        except (RecursionError, ValueError, csv.Error) as error:
            reason = " ".join(str(error).split())
            raise ParamsError(f"{self._source()}: {file} is not readable: {reason}; {self._remedy()}") from None

    def _hub_rows(self, split: str, config: str | None = None) -> Rows:
        """The rows of one split on the hub."""
        if self.hub_name is None:
            raise ParamsError(f"{self._source()}: the hub does not have this split; {self._remedy()}")
        import datasets

        try:
            return datasets.load_dataset(self.hub_name, config, split=split).to_list()
        except Exception as error:  # no network, no such name, a full disk: the hub's client raises of every kind
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
    """Raises ValueError where an id is there twice, or a question is empty or of no text that can be written down."""
    seen = set()
    for q in questions:
        if q.question_id in seen or not q.question:
            raise ValueError(f"{q.question_id} {'is there twice' if q.question else 'is an empty question'}")
        seen.add(q.question_id)
        f"{q.question}{q.reference_solution}".encode()  # half of a surrogate pair is none


def released_number(text: str) -> Fraction:
    """The number that a data set's field holds; raises ValueError where it holds none.

    Fields written by a program hold 1/6 as 0.16666666666666666: so long a decimal is read as the fraction behind it.
    """
    if len(text) > 40 or "e" in text.lower():  # no answer to a word problem; 1e99999999 would fill the memory
        raise ValueError(f"{text[:40]!r} is no answer")
    value = Fraction(text.strip().replace(",", ""))
    return value.limit_denominator(1000) if len(text.partition(".")[2]) > 10 else value


def _key(question: str) -> str:
    """The text by which questions are told apart: case and white space do not count."""
    return " ".join(question.lower().split())


def _bucket(question: str) -> int:
    """A number below 100 that depends on the question's text alone."""
    return int.from_bytes(hashlib.sha256(_key(question).encode()).digest()[:4], "big") % 100
