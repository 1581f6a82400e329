"""ProcessBench (Zheng et al. 2024), its GSM8K split: solutions with human labels of the first error, or of none."""

from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from glore_lib import statistics as st
from glore_lib.tasks.judged import JudgedSolutions, Record, validated


class _Row(BaseModel):
    """The fields that are read from a released record; ``label`` is 0-based, -1 if every step is right."""

    model_config = ConfigDict(strict=True)
    id: Annotated[str, Field(min_length=1)]
    problem: Annotated[str, Field(min_length=1)]
    steps: Annotated[list[str], Field(min_length=1)]
    final_answer_correct: bool
    label: Annotated[int, Field(ge=-1)]


class ProcessBench(JudgedSolutions):
    """Right and wrong solutions to GSM8K test questions. Reference answers are not released."""

    name, prefix = "ProcessBench", "processbench"
    files = ("processbench/gsm8k.json",)  # type: ignore[assignment]
    hub_name, hub_split = "Qwen/ProcessBench", "gsm8k"

    def _record(self, row: Any) -> Record:
        read = validated(_Row, row)
        if read.label >= len(read.steps):
            raise ValueError(f"label = {read.label}: must be below {len(read.steps)}, the number of steps")
        steps = self._lines(read.steps)
        return Record(read.id, read.problem.strip(), "", "", steps, read.label + 1, read.final_answer_correct)


def f1(truth: pd.Series, found: pd.Series, questions: pd.Series) -> dict[str, st.Estimate]:
    """Estimate ProcessBench's F1 and the two accuracies of which it is the harmonic mean, as its authors compute it.

    ``error_accuracy`` is the share of solutions with an error whose first error is found exactly,
    ``correct_accuracy`` the share of the others in which none is found. ``truth``, ``found`` and ``questions`` are
    [solutions], indexed by ``sample_id``: a step, or 0 for none, and the question's id. Intervals are bootstrapped over
    questions. F1 is 0 if both accuracies are, and not known if there are no solutions of one kind.
    """
    hit, wrong = found.reindex(truth.index, fill_value=0) == truth, truth > 0
    ids = questions.reindex(truth.index)
    outcomes = [st.Outcome.of(hit, ids, where) for where in (wrong, ~wrong)]
    one, other = (st.resampled([outcome]) for outcome in outcomes)
    mean = st.Resampled(
        float(_harmonic(one.value, other.value)), _harmonic(one.replicates, other.replicates), len(truth), ids.nunique()
    )
    return {"error_accuracy": one.estimate(), "correct_accuracy": other.estimate(), "f1": mean.estimate()}


def _harmonic(a: Any, b: Any) -> np.ndarray:
    total = np.asarray(a + b)
    return 2 * np.asarray(a * b) / np.where(total == 0, 1, total)
