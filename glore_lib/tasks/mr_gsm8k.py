"""MR-GSM8K (Zeng et al. 2023): other models' solutions to GSM8K questions, with human labels of the first error.

Only a local copy is read: the hub has different records.
"""

import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from glore_lib import solutions
from glore_lib.tasks.benchmarks import released_number
from glore_lib.tasks.grading import canonical
from glore_lib.tasks.judged import JudgedSolutions, Record, validated

_NUMBERED = re.compile(r"\s*Step \d+\s*:")


class _Row(BaseModel):
    """The fields that are read from a released record."""

    model_config = ConfigDict(strict=True)
    uuid: Annotated[str, Field(min_length=1)]
    question: Annotated[str, Field(min_length=1)]
    reference_answer: int | str
    reference_solution: str
    steps: Annotated[list[str], Field(min_length=1)]
    first_error_step: Annotated[int, Field(ge=1)]


class MRGSM8K(JudgedSolutions):
    """Wrong solutions to GSM8K test questions with human labels of the first wrong step."""

    name, prefix = "MR-GSM8K", "mr-gsm8k"
    files = ("mr_gsm8k/human_first_error.jsonl",)  # type: ignore[assignment]
    hub_name = None  # type: ignore[assignment]

    def _record(self, row: Any) -> Record:
        read = validated(_Row, row)
        reference = canonical(released_number(str(read.reference_answer)))
        steps = self._steps(read)
        solution = self.written(read.reference_solution)
        right = self.is_correct(solutions.join_steps(steps), reference)
        return Record(read.uuid, read.question.strip(), reference, solution, steps, read.first_error_step, right)

    def _steps(self, read: _Row) -> list[str]:
        """Return the steps without "Step 3:", up to the one with the final answer.

        Raises ValueError if one is empty, or if the first error is not among them.
        """
        steps = [_NUMBERED.sub("", step, count=1) for step in read.steps]
        last = next((i for i, step in enumerate(steps, start=1) if solutions.ANSWER_MARK in step), len(steps))
        if read.first_error_step > last:
            raise ValueError(f"first_error_step = {read.first_error_step}: must be at most {last}, the answer's step")
        return self._lines(steps[:last])
