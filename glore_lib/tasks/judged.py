"""Other models' solutions to GSM8K questions with human labels of the first wrong step: the base of such data sets."""

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from math import nan
from typing import Any, NamedTuple, TypeVar

import pandas as pd
from pydantic import BaseModel, ValidationError

from glore_lib import solutions
from glore_lib.tasks import Question
from glore_lib.tasks.benchmarks import question_key
from glore_lib.tasks.gsm8k import GSM8K

Row = TypeVar("Row", bound=BaseModel)


@dataclass(frozen=True)
class Judged:
    """A solution and the human label of its first wrong step, 1-based; 0 if every step is right."""

    sample_id: str
    question_id: str
    text: str
    first_error: int
    is_correct: bool


class Record(NamedTuple):
    """A released record, converted."""

    name: str
    question: str
    reference_answer: str
    reference_solution: str
    steps: list[str]
    first_error: int
    is_correct: bool


class JudgedSolutions(GSM8K):
    """A data set of judged solutions. The only split is test."""

    prefix: str  # of the questions' ids
    hub_split = "test"

    def __init__(self, calculator_annotations: bool, count: int) -> None:
        """Read the first ``count`` records, or all if there are fewer."""
        super().__init__(calculator_annotations)
        self.count = count

    @abstractmethod
    def _record(self, row: Any) -> Record:
        """Convert a row; raise ValueError if it has another shape. Step i of the record stays step i."""

    def _read(self) -> tuple[list[Question], list[Question]]:
        return [], list({q.question_id: q for q, _ in self._judged}.values())

    def judged(self) -> list[Judged]:
        """Return the solutions; raise ParamsError like :meth:`check_data`."""
        self.check_data({})
        return [judged for _, judged in self._judged]

    def samples(self) -> pd.DataFrame:
        """Return the solutions as records ``samples``; raise ParamsError like :meth:`check_data`."""
        return pd.DataFrame(
            [
                {"question_id": s.question_id, "sample_id": s.sample_id, "policy": "others", "temperature": nan,
                 "seed": 0, "text": s.text, "final_answer": self.final_answer(s.text), "is_correct": s.is_correct,
                 "finished": True}
                for s in self.judged()
            ]
        )  # fmt: skip

    @cached_property
    def _judged(self) -> list[tuple[Question, Judged]]:
        rows = self._hub_rows(self.hub_split) if self.folder is None else self._local_rows(self.files[0])
        ids: dict[str, str] = {}
        found: dict[str, tuple[Question, Judged]] = {}
        for place, row in rows:
            with self._reading(place):
                r = self._record(row)
                question_id = ids.setdefault(question_key(r.question), f"{self.prefix}-{len(ids):06d}")
                sample_id, text = f"{question_id}/{r.name}", solutions.join_steps(r.steps)
                if sample_id in found:
                    raise ValueError(f"{r.name} occurs twice")
                question = Question(question_id, "test", r.question, r.reference_answer, r.reference_solution)
                found[sample_id] = question, Judged(sample_id, question_id, text, r.first_error, r.is_correct)
        return list(found.values())[: self.count]

    def _lines(self, steps: list[str]) -> list[str]:
        """Return steps as one line each, as the run writes solutions; raise ValueError if one is empty."""
        lines = [" ".join(self.written(step).split()) for step in steps]
        if "" in lines:
            raise ValueError(f"steps: step {lines.index('') + 1} is empty")
        return lines


def validated(kind: type[Row], row: object) -> Row:
    """Return a released row as ``kind``; raise ValueError that names the first field of another shape."""
    try:
        return kind.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "it"
        raise ValueError(f"{name} = {str(first['input'])[:60]}: {first['msg']}") from None
