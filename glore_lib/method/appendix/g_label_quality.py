"""Rollout labels compared with exact or human labels (paper, appendix G)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from glore_lib import statistics as st
from glore_lib.artifacts.store import Artifact
from glore_lib.method import rollouts, step_labels
from glore_lib.method.appendix.measures import first_error_numbers, true_errors
from glore_lib.method.evaluation import DraftSet
from glore_lib.method.refinement import locate_first_error
from glore_lib.method.replication import Replication
from glore_lib.method.reward_models import score_steps
from glore_lib.method.step_labels import first_errors, rollout_labels
from glore_lib.params import ParamsError, digest
from glore_lib.run import Run
from glore_lib.tasks.judged import JudgedSolutions
from glore_lib.tasks.mr_gsm8k import MRGSM8K
from glore_lib.tasks.processbench import ProcessBench, f1

KINDS = ("orm", "balanced_orm", "sorm")


@dataclass(frozen=True)
class Judged:
    """Solutions with the labels of ``judge`` (the task's checker, or humans) and scores by reward models.

    ``rolled_out`` adds rollout labels if the questions are like those that the student learned from.
    """

    judge: Literal["exact", "human"]
    samples: Artifact
    truth: pd.DataFrame
    scores: Mapping[str, Artifact]
    rolled_out: DraftSet | None


def judged_solutions(lab: Replication) -> Judged:
    """Return the test drafts if their exact labels are known, otherwise MR-GSM8K's solutions with human labels.

    Of MR-GSM8K there are as many solutions as the run has test questions. Steps from the first error on are labelled 0,
    as rollouts label them: a label is about the whole prefix.
    """
    drafts, p = lab.test, lab.run.params
    if p.task.name == "arithmetic":
        scores, known = {kind: drafts.scores[kind] for kind in KINDS}, drafts.draft_set
        return Judged("exact", drafts.drafts, known.exact, scores, known)  # type: ignore[arg-type]
    task = MRGSM8K(p.task.calculator_annotations, p.task.test_questions)
    run, samples, scores = _scored(lab, task, "human")
    steps = step_labels.orm_labels(samples.read())  # for its rows, one per step
    before = (steps["step"] < steps["sample_id"].map(_first_errors(task))).astype(int)
    human = steps.assign(label_raw=before, label=before, source="human")
    if p.task.name != "gsm8k":
        return Judged("human", samples, human, scores, None)
    rolled_out = rollouts.rollouts(run, lab.student, samples.read(), "test", "human", [samples])
    labels = rollout_labels(rolled_out.read(), p.reward_models.monotone, p.reward_models.consistent)
    return Judged("human", samples, human, scores, DraftSet(samples, rolled_out, labels, human))


def _scored(lab: Replication, task: JudgedSolutions, name: str) -> tuple[Run, Artifact, dict[str, Artifact]]:
    """Return a run on a data set of judged solutions, these solutions, and their scores by each reward model."""
    p, judged = lab.run.params, task.judged()
    counts = p.task.model_copy(update={"test_questions": len(task.splits["test"])})
    lab.run.free()  # otherwise there would be two engines
    run = Run(p.model_copy(update={"task": counts}), lab.run.store, task)
    texts = digest([(s.sample_id, s.text) for s in judged])
    samples = run.frame(f"samples-{name}", "samples", task.samples, {"texts": texts}, [])
    scores = {
        kind: score_steps(run, lab.reward_models[kind], f"{kind}-{name}", samples.read(), "test", samples)
        for kind in KINDS
    }  # fmt: skip
    return run, samples, scores


def _first_errors(task: JudgedSolutions) -> dict[str, int]:
    return {s.sample_id: s.first_error for s in task.judged()}


def constant_locators(errors: pd.Series) -> dict[str, pd.Series]:
    """Return the places that locators which read nothing name: step 1, and the most frequent step of ``errors``.

    The second knows the truth that it is compared with, so a method below it is no locator.
    """
    most = errors.mode().min() if len(errors) else 1
    return {"always_first": pd.Series(1, errors.index), "always_most_frequent": pd.Series(most, errors.index)}


def processbench(lab: Replication) -> pd.DataFrame:
    """Compute ProcessBench's F1 of each reward model, with the run's threshold, on its GSM8K split.

    Metrics are ``error_accuracy``, ``correct_accuracy`` and ``f1``. Raises ParamsError if the run's models read
    generated problems alone, or if the data is not at hand.
    """
    p = lab.run.params
    if p.task.name == "arithmetic":
        raise ParamsError("task.name = 'arithmetic': its models read generated problems alone; must be gsm8k or svamp")
    task = ProcessBench(p.task.calculator_annotations, p.task.test_questions)
    _, samples, scores = _scored(lab, task, "processbench")
    truth, questions = pd.Series(_first_errors(task)), samples.read().set_index("sample_id")["question_id"]
    found = {kind: locate_first_error(s.read(), p.reward_models.threshold) for kind, s in scores.items()}
    rows = [
        lab.tables.row(method, metric, estimate)
        for method, places in found.items()
        for metric, estimate in f1(truth, places, questions).items()
    ]
    return pd.DataFrame(rows)


def label_quality(lab: Replication) -> pd.DataFrame:
    """Compare rollout labels and the reward models' predictions with the judge's labels: steps, first errors.

    Metrics ``label_…`` and those that end in ``_exact`` or ``_human`` use the judge's labels, the others those by
    rollouts. First errors are those of the wrong solutions in which the judge finds one. Beside them are those of
    :func:`constant_locators`.
    """
    judged, tables = judged_solutions(lab), lab.tables
    suffix, threshold = f"_{judged.judge}", lab.run.params.reward_models.threshold
    samples = judged.samples.read()
    outcomes = tables.steps(samples, judged.truth, judged.scores, suffix)
    if judged.rolled_out:
        outcomes |= tables.label_quality(judged.rolled_out)
        outcomes |= tables.steps(samples, judged.rolled_out.labels, judged.scores, "")
    else:
        positive = st.Outcome.of(judged.truth["label"], judged.truth["question_id"])
        outcomes["labels", f"positive_labels{suffix}"] = positive
    found = {kind: locate_first_error(scores.read(), threshold) for kind, scores in judged.scores.items()}
    if judged.rolled_out:
        rollouts = judged.rolled_out.rollouts.read()
        by_rule = {rule: rollout_labels(rollouts, *on) for rule, on in step_labels.POSTPROCESSING.items()}
        found = {rule: first_errors(labels) for rule, labels in by_rule.items()} | found
    errors = true_errors(judged.samples, judged.truth)
    found |= constant_locators(errors)
    pairs = [("sorm", "orm"), ("balanced_orm", "orm"), *((kind, "always_most_frequent") for kind in KINDS)]
    numbers = first_error_numbers(tables, errors, found, suffix, pairs)
    frame = pd.concat([tables.numbers(outcomes), pd.DataFrame(numbers)], ignore_index=True)
    return frame.assign(metric=frame["metric"].str.replace("_exact", suffix))
