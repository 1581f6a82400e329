"""MR-GSM8K (Zeng et al. 2023): other models' solutions to GSM8K questions, with human labels of the first error.

The only split is test. Only a local copy is read: the hub has different records.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from math import nan
from typing import Annotated

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from glore_lib import solutions
from glore_lib.tasks import Question
from glore_lib.tasks.benchmarks import released_number
from glore_lib.tasks.grading import canonical
from glore_lib.tasks.gsm8k import GSM8K

_NUMBERED = re.compile(r"\s*Step \d+\s*:")


class _Record(BaseModel):
    """The fields that are read from a released record."""

    model_config = ConfigDict(strict=True)
    uuid: Annotated[str, Field(min_length=1)]
    question: Annotated[str, Field(min_length=1)]
    reference_answer: int | str
    reference_solution: str
    steps: Annotated[list[str], Field(min_length=1)]
    first_error_step: Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Judged:
    """A solution and the human label of its first wrong step, 1-based."""

    sample_id: str
    question_id: str
    text: str
    first_error: int


class MRGSM8K(GSM8K):
    """Wrong solutions to GSM8K test questions with human labels of the first wrong step."""

    name = "MR-GSM8K"
    files = ("mr_gsm8k/human_first_error.jsonl",)  # type: ignore[assignment]
    hub_name = None  # type: ignore[assignment]

    def __init__(self, calculator_annotations: bool, count: int) -> None:
        """Read the first ``count`` records, or all if there are fewer."""
        super().__init__(calculator_annotations)
        self.count = count

    def _read(self) -> tuple[list[Question], list[Question]]:
        return [], list({q.question_id: q for q, _ in self._judged}.values())

    def judged(self) -> list[Judged]:
        """Return the solutions; raise ParamsError like :meth:`check_data`."""
        self.check_data({})
        return [judged for _, judged in self._judged]

    def samples(self) -> pd.DataFrame:
        """Return the solutions as records ``samples``; raise ParamsError like :meth:`check_data`."""
        references = {q.question_id: q.reference_answer for q in self.splits["test"]}
        return pd.DataFrame(
            [
                {"question_id": s.question_id, "sample_id": s.sample_id, "policy": "others", "temperature": nan,
                 "seed": 0, "text": s.text, "final_answer": self.final_answer(s.text),
                 "is_correct": self.is_correct(s.text, references[s.question_id]), "finished": True}
                for s in self.judged()
            ]
        )  # fmt: skip

    @cached_property
    def _judged(self) -> list[tuple[Question, Judged]]:
        rows = self._hub_rows("test") if self.folder is None else self._local_rows(self.files[0])
        ids: dict[str, str] = {}
        found: dict[str, tuple[Question, Judged]] = {}
        for place, row in rows:
            with self._reading(place):
                record = _checked(row)
                text = record.question.strip()
                question_id = ids.setdefault(" ".join(text.lower().split()), f"mr-gsm8k-{len(ids):06d}")
                sample_id = f"{question_id}/{record.uuid}"
                if sample_id in found:
                    raise ValueError("the uuid occurs twice")
                reference = canonical(released_number(str(record.reference_answer)))
                question = Question(question_id, "test", text, reference, self.written(record.reference_solution))
                solution = solutions.join_steps(self._steps(record))
                found[sample_id] = question, Judged(sample_id, question_id, solution, record.first_error_step)
        return list(found.values())[: self.count]

    def _steps(self, record: _Record) -> list[str]:
        """Convert a record's steps to lines without "Step 3:", up to the one with the final answer; i stays i.

        Raises ValueError if a step is empty, or if the first error is not among the steps.
        """
        steps = [" ".join(self.written(_NUMBERED.sub("", step, count=1)).split()) for step in record.steps]
        last = next((i for i, step in enumerate(steps, start=1) if solutions.ANSWER_MARK in step), len(steps))
        if "" in steps[:last]:
            raise ValueError(f"steps: step {steps.index('') + 1} is empty")
        if record.first_error_step > last:
            raise ValueError(f"first_error_step = {record.first_error_step}: must be at most {last}, the answer's step")
        return steps[:last]


def _checked(row: object) -> _Record:
    try:
        return _Record.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "it"
        raise ValueError(f"{name} = {str(first['input'])[:60]}: {first['msg']}") from None
