"""Expert iteration (paper, sections 3 and 4.1, step 1; appendix B)."""

import pandas as pd

from glore_lib.artifacts.store import Artifact
from glore_lib.method.students import (
    Student,
    fine_tune,
    sample_solutions,
    sft_student,
    solution_rows,
    validation_accuracy,
)
from glore_lib.run import Run
from glore_lib.solutions import normalise


def merge_solutions(before: pd.DataFrame, samples: pd.DataFrame, source: str, cap: int) -> pd.DataFrame:
    """Return D_i = R_i ∪ D_(i-1): add the correct samples, without duplicates by normalised text.

    ``cap`` is the maximum number of distinct new solutions per question and round; the first samples are kept.
    """
    seen = {(q, normalise(text)) for q, text in zip(before["question_id"], before["text"], strict=True)}
    rows, added = [], {}  # type: ignore[var-annotated]
    for row in samples[samples["is_correct"]].itertuples():
        key = (row.question_id, normalise(row.text))
        if key not in seen and added.get(row.question_id, 0) < cap:
            seen.add(key)
            added[row.question_id] = added.get(row.question_id, 0) + 1
            rows.append({"question_id": row.question_id, "text": row.text, "source": source})
    return pd.concat([before, pd.DataFrame(rows, columns=before.columns)], ignore_index=True)


def first_student(run: Run) -> Student:
    """Return the student that round 1 samples from: fine-tuned on reference solutions, or the base model itself."""
    if run.params.student.start == "sft":
        return sft_student(run)
    return Student(None, "base", run.frame("sft-data", "solutions", lambda: solution_rows([], "none"), {}, []))


def round_samples(run: Run, student: Student, i: int) -> Artifact:
    """Sample K solutions per training question from ``student`` for round ``i`` (record ``samples``)."""
    p, one_shot = run.params.student, student.model is None
    return sample_solutions(run, student, "train", p.samples_per_question, p.temperature, f"ei{i}", one_shot=one_shot)


def expert_iteration(run: Run) -> tuple[Student, pd.DataFrame]:
    """Run expert iteration; return the converged student and a frame with one row per round.

    Each round samples K solutions per training question from the last student, adds the correct ones to the data, and
    fine-tunes the base model on all of it. Rounds end with the first whose student's validation maj@1 is not at least
    ``student.convergence`` above that of the student before, or after ``student.rounds``. The last round's student is
    returned, as in the paper, also if another one scored higher.
    """
    p = run.params.student
    questions = run.questions("train")
    student = first_student(run)
    reached = validation_accuracy(run, student)
    first = {"round": 0, "student": student.policy, "new": 0}
    table = [first | {"solutions": len(student.data.read()), "maj@1": reached}]  # type: ignore[union-attr]
    for i in range(1, p.rounds + 1):
        samples = round_samples(run, student, i)
        before = student.data
        merged = run.frame(
            f"ei{i}-data", "solutions",
            lambda: merge_solutions(before.read(), samples.read(), f"round {i}", p.max_kept_per_question),  # type: ignore[union-attr]  # noqa: B023
            {"cap": p.max_kept_per_question}, [before, samples],  # type: ignore[list-item]
        )  # fmt: skip
        pairs = [(questions[r.question_id], r.text) for r in merged.read().itertuples()]
        student = Student(fine_tune(run, f"ei{i}", pairs, p.training, merged), f"ei{i}", merged)
        last, reached = reached, validation_accuracy(run, student)
        drawn = samples.read()
        table.append(
            {
                "round": i, "student": student.policy, "new": len(merged.read()) - len(before.read()),  # type: ignore[union-attr]
                "solutions": len(merged.read()), "maj@1": reached, "sampled right": drawn["is_correct"].mean(),
                "questions solved": drawn.groupby("question_id")["is_correct"].any().mean(),
            }
        )  # fmt: skip
        if reached - last < p.convergence:
            break
    return student, pd.DataFrame(table)
