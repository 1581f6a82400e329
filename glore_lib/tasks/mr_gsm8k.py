"""MR-GSM8K (Zeng et al. 2023): other models' solutions to GSM8K questions, with the first error that people found.

The task's only split is test. Only a local copy is read: what the hub has are other records.
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
    """What is read of a released record."""

    model_config = ConfigDict(strict=True)
    uuid: Annotated[str, Field(min_length=1)]
    question: Annotated[str, Field(min_length=1)]
    reference_answer: int | str
    reference_solution: str
    steps: Annotated[list[str], Field(min_length=1)]
    first_error_step: Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Judged:
    """A solution and its first wrong step, 1-based, as people found it."""

    sample_id: str
    question_id: str
    text: str
    first_error: int


class MRGSM8K(GSM8K):
    """Wrong solutions to GSM8K test questions, the first wrong step of each found by people."""

    name = "MR-GSM8K"
    files = ("mr_gsm8k/human_first_error.jsonl",)
    hub_name = None

    def __init__(self, calculator_annotations: bool, count: int) -> None:
        """The first ``count`` records, or all where there are fewer."""
        super().__init__(calculator_annotations)
        self.count = count

    def _read(self) -> tuple[list[Question], list[Question]]:
        return [], list({q.question_id: q for q, _ in self._judged}.values())

    def judged(self) -> list[Judged]:
        """The solutions; raises ParamsError as :meth:`check_data` does."""
        self.check_data({})
        return [judged for _, judged in self._judged]

    def samples(self) -> pd.DataFrame:
        """The solutions as records ``samples``; raises ParamsError as :meth:`check_data` does."""
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
        found = []
        for number, row in enumerate(rows, start=1):
            record = _checked(number, row)
            text = record.question.strip()
            question_id = ids.setdefault(" ".join(text.lower().split()), f"mr-gsm8k-{len(ids):06d}")
            steps = self._steps(number, record)
            reference = canonical(released_number(str(record.reference_answer)))
            question = Question(question_id, "test", text, reference, self.written(record.reference_solution))
            sample_id = f"{question_id}/{record.uuid}"
            judged = Judged(sample_id, question_id, solutions.join_steps(steps), record.first_error_step)
            found.append((question, judged))
        if len({judged.sample_id for _, judged in found}) < len(found):
            raise ValueError("a uuid is there twice")
        return found[: self.count]

    def _steps(self, number: int, record: _Record) -> list[str]:
        """A record's steps as ours: each one a line, without its "Step 3:" and what else our solutions do not have, up
        to the one with the final answer ("The answer is: 8", after it, says the answer again). Released step i is so
        our step i. Raises ValueError where none would be left of a step, or the first error is not among them."""
        steps = [" ".join(self.written(_NUMBERED.sub("", step, count=1)).split()) for step in record.steps]
        last = next((i for i, step in enumerate(steps, start=1) if solutions.ANSWER_MARK in step), len(steps))
        if "" in steps[:last]:
            raise ValueError(f"record {number}: steps: step {steps.index('') + 1} is empty")
        if record.first_error_step > last:
            raise ValueError(
                f"record {number}: first_error_step = {record.first_error_step}: must be at most {last}, its steps up "
                "to the final answer"
            )
        return steps[:last]


def _checked(number: int, row: object) -> _Record:
    try:
        return _Record.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "it"
        raise ValueError(f"record {number}: {name} = {str(first['input'])[:60]}: {first['msg']}") from None
