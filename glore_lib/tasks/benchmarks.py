"""The common base of published data sets: reading records, splits, prompts and grading.

Records are read from the folder in the environment variable ``GLORE_DATA_DIR`` if it is set, else from the hub.
"""

import csv
import hashlib
import json
import os
import random
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from typing import Any, TextIO

from glore_lib.params import ParamsError, expanded
from glore_lib.tasks import Question, grading

DATA_DIR = "GLORE_DATA_DIR"

Rows = list[tuple[str, Any]]  # each with its place: file and line
_UNEXPECTED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)  # rows of another shape


class Benchmark(ABC):
    """A published data set, a :class:`glore_lib.tasks.Task`. ``folder`` is its local copy, None to read the hub."""

    name: str
    files: tuple[str, ...]  # of a local copy, relative to its folder
    hub_name: str | None  # None if it is not on the hub
    example: tuple[str, str]  # a question and its solution, for the one-shot prompt; written for this project
    validation_percent = 10  # of the train split, by hash of the question's text

    def __init__(self) -> None:
        value = os.environ.get(DATA_DIR)
        self.folder = expanded(value) if value else None

    @abstractmethod
    def _read(self) -> tuple[list[Question], list[Question]]:
        """Return the train and the test questions as released, in a fixed order."""

    @cached_property
    def splits(self) -> dict[str, list[Question]]:
        """Return the questions of train, validation and test; no text is in two splits, or twice in one.

        Of equal texts the first one stays; a text that is also in test is dropped from train. Validation is a part of
        the released train split. Raises ParamsError if the data can't be read.
        """
        train, test = self._read()
        if both := {q.question_id for q in train} & {q.question_id for q in test}:
            reason = f"{self.name} is not as released: {min(both)} is in train and in test"
            raise ParamsError(f"{self._source()}: {reason}; {self._remedy()}")
        texts = {question_key(q.question): q for q in reversed(test)}  # the first of equal texts stays
        test = [q for q in test if texts[question_key(q.question)] is q]
        rest = {question_key(q.question): q for q in reversed(train)}
        train = [q for q in train if rest[question_key(q.question)] is q and question_key(q.question) not in texts]
        held_out = [_bucket(q.question) < self.validation_percent for q in train]
        return {
            "train": [q for q, out in zip(train, held_out, strict=True) if not out],
            "validation": [replace(q, split="validation") for q, out in zip(train, held_out, strict=True) if out],
            "test": test,
        }

    def check_data(self, counts: Mapping[str, int]) -> None:
        """Read the data; raise ParamsError if it can't be read or a split has too few questions."""
        for split, questions in self.splits.items():
            # Those for reward models follow the student's.
            drawn = [name for name in (split, *(["reward"] if split == "train" else [])) if name in counts]
            if sum(counts[name] for name in drawn) > len(questions):
                asked = " + ".join(f"task.{name}_questions" for name in drawn)
                raise ParamsError(
                    f"{asked} = {sum(counts[name] for name in drawn)}: must be at most {len(questions)}, the size of "
                    f"the {split} split of {self.name}"
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

    def _questions(self, split: str, rows: Rows, read: Callable[[str, int, Any], Question]) -> list[Question]:
        """Convert rows with ``read(split, number, row)``; raise ParamsError that names the file and line of a bad row.

        Bad are rows of another shape, an empty question, a repeated id, and text that is not valid Unicode.
        """
        found: dict[str, Question] = {}
        for number, (place, row) in enumerate(rows):
            with self._reading(place):
                q = read(split, number, row)
                if not q.question or q.question_id in found:
                    raise ValueError("the question is empty" if not q.question else f"{q.question_id} occurs twice")
                f"{q.question}{q.reference_solution}".encode()  # fails for half a surrogate pair
                found[q.question_id] = q
        return list(found.values())

    @contextmanager
    def _reading(self, place: str) -> Iterator[None]:
        """Turn an error in a row into a ParamsError that names its place."""
        try:
            yield
        except _UNEXPECTED as error:
            reason = " ".join(f"{self.name} is not as released: {type(error).__name__}: {error}".split())
            raise ParamsError(f"{self._source()}: {place}: {reason}; {self._remedy()}") from None

    def _local_rows(self, file: str) -> Rows:
        """Read the rows of a local JSON, JSON Lines or CSV file."""
        if not self.folder.is_dir():  # type: ignore[union-attr]
            raise ParamsError(f"{self._source()}: no such folder; {self._remedy()}")
        read = {"csv": _csv_rows, "json": _json_rows}.get(file.rpartition(".")[2], _json_lines)
        try:
            # Spreadsheets and editors on Windows write a byte order mark.
            with (self.folder / file).open(encoding="utf-8-sig", newline="") as stream:  # type: ignore[operator]
                return [(f"{file}, line {line}", row) for line, row in read(stream)]
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
            rows = datasets.load_dataset(self.hub_name, config, split=split).to_list()
        except Exception as error:  # no network, unknown name, full disk: the hub's client raises many types
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise ParamsError(
                f"{self._source()} and {self.hub_name} can't be read from the hub ({reason}); {self._remedy()}"
            ) from None
        return [(f"{self.hub_name}, {split} row {number}", row) for number, row in enumerate(rows)]

    def _source(self) -> str:
        return f"{DATA_DIR} is not set" if self.folder is None else f"{DATA_DIR} = {str(self.folder)!r}"

    def _remedy(self) -> str:
        remedy = f"set it to a folder that holds {' and '.join(self.files)}"
        if self.hub_name is None:
            return remedy
        return f"{remedy}, or {'go online' if self.folder is None else 'unset it'} to read {self.hub_name} from the hub"


def _csv_rows(stream: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(stream)
    for row in reader:
        yield reader.line_num, row


def _json_rows(stream: TextIO) -> Iterator[tuple[int, Any]]:
    """Yield the elements of a JSON list, each with the line on which it begins."""
    text, at, line = stream.read(), 0, 1
    if not isinstance(rows := json.loads(text), list):
        raise ValueError("it must be a list of records")
    for row in rows:
        begin = re.compile(r"[\s,]*\[?[\s,]*" if at == 0 else r"[\s,]*").match(text, at).end()  # type: ignore[union-attr]
        line += text.count("\n", at, begin)
        yield line, row
        at = json.JSONDecoder().raw_decode(text, begin)[1]
        line += text.count("\n", begin, at)


def _json_lines(stream: TextIO) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(stream, start=1):
        try:
            if line.strip():
                yield number, json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number}: {error.msg}") from None


def released_number(text: str) -> Fraction:
    """Return the number in a data set's field; raise ValueError if :mod:`glore_lib.tasks.grading` would not read it.

    A decimal as long as 0.16666666666666666, which a program wrote for 1/6, is read as the fraction.
    """
    value = grading.parse_number(text) if re.fullmatch(r"\s*-?[0-9.,/]+\s*", text) else None
    if value is None:
        raise ValueError(f"{text[:40]!r} is not a number that grading reads, such as 1234.5, 1,234.5 or 1/2")
    return value.limit_denominator(1000) if len(text.partition(".")[2]) > 10 else value


def question_key(question: str) -> str:
    """Return the text by which questions are compared: case and white space do not count."""
    return " ".join(question.lower().split())


def _bucket(question: str) -> int:
    """Return a number below 100 that depends only on the question's text."""
    return int.from_bytes(hashlib.sha256(question_key(question).encode()).digest()[:4], "big") % 100
