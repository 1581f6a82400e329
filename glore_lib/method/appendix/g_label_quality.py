"""Labels by rollouts compared with exact or human labels (paper, appendix G)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from glore_lib.artifacts.store import Artifact
from glore_lib.method import rollouts, step_labels
from glore_lib.method import statistics as st
from glore_lib.method.evaluation import DraftSet, Numbers, Tables
from glore_lib.method.refinement import locate_first_error
from glore_lib.method.replication import Replication
from glore_lib.method.reward_models import score_steps
from glore_lib.method.step_labels import first_errors, rollout_labels
from glore_lib.params import digest
from glore_lib.run import Run
from glore_lib.tasks.mr_gsm8k import MRGSM8K

KINDS = ("orm", "balanced_orm", "sorm")
LOCATORS = ("orm", "sorm")
QUALITY = ("label_precision", "label_recall", "label_accuracy")


# Appendix G: labels by rollouts, and reward models, against someone who knows


@dataclass(frozen=True)
class Judged:
    """Solutions, the labels of ``judge`` (the task's own checker, or people), and scores by reward models; with labels
    by rollouts too, ``rolled_out``, where the solutions are to questions like those that the student learned from."""

    judge: Literal["exact", "human"]
    samples: Artifact
    truth: pd.DataFrame
    scores: Mapping[str, Artifact]
    rolled_out: DraftSet | None


def judged_solutions(lab: Replication) -> Judged:
    """The drafts on the test split where their true labels are known; else the solutions of MR-GSM8K in which people
    found the first error, as many as the run has test questions. From its first error on a solution's steps are
    labelled 0, as they are by rollouts: a label is about the prefix that the step ends."""
    drafts, p = lab.test, lab.run.params
    if p.task.name == "arithmetic":
        scores, known = {kind: drafts.scores[kind] for kind in KINDS}, drafts.draft_set
        return Judged("exact", drafts.drafts, known.exact, scores, known)
    task = MRGSM8K(p.task.calculator_annotations, p.task.test_questions)
    judged = task.judged()
    counts = p.task.model_copy(update={"test_questions": len(task.splits["test"])})
    lab.run.free()  # two runs would have two engines
    run = Run(p.model_copy(update={"task": counts}), lab.run.store, task)
    texts = digest([(s.sample_id, s.text) for s in judged])
    samples = run.frame("samples-human", "samples", task.samples, {"texts": texts}, [])
    steps = step_labels.orm_labels(samples.read())  # for its rows: one a step
    before = (steps["step"] < steps["sample_id"].map({s.sample_id: s.first_error for s in judged})).astype(int)
    people = steps.assign(label_raw=before, label=before, source="human")
    scores = {
        kind: score_steps(run, lab.reward_models[kind], f"{kind}-human", samples.read(), "test", samples)
        for kind in KINDS
    }  # fmt: skip
    if p.task.name != "gsm8k":
        return Judged("human", samples, people, scores, None)
    rolled_out = rollouts.rollouts(run, lab.student, samples.read(), "test", "human", [samples])
    labels = rollout_labels(rolled_out.read(), p.reward_models.monotone, p.reward_models.consistent)
    return Judged("human", samples, people, scores, DraftSet(samples, rolled_out, labels, people))


def label_quality(lab: Replication) -> pd.DataFrame:
    """Labels by rollouts and the reward models' verdicts against the judge's: steps, and first errors.

    ``label_…`` are against the judge; so is what ends in ``_exact`` or ``_human``, and else it is against those labels.
    First errors are of the solutions with a wrong answer in which the judge sees one.
    """
    judged, tables, numbers = judged_solutions(lab), lab.tables, []
    suffix, threshold = f"_{judged.judge}", lab.run.params.reward_models.threshold
    if judged.rolled_out:
        numbers += tables.label_quality(judged.rolled_out)
        numbers += tables.steps(judged.rolled_out.labels, judged.scores, "")
    else:
        positive = st.clustered(judged.truth["label"], judged.truth["question_id"], tables.seed)
        numbers.append(tables.row("labels", f"positive_labels{suffix}", positive))
    numbers += tables.steps(judged.truth, judged.scores, suffix)
    found = {kind: locate_first_error(scores.read(), threshold) for kind, scores in judged.scores.items()}
    if judged.rolled_out:
        rollouts = judged.rolled_out.rollouts.read()
        by_rule = {rule: rollout_labels(rollouts, *on) for rule, on in step_labels.POSTPROCESSING.items()}
        found = {rule: first_errors(labels) for rule, labels in by_rule.items()} | found
    errors = _true_errors(judged.samples, judged.truth)
    numbers += _first_errors(tables, errors, found, suffix, [("sorm", "orm"), ("balanced_orm", "orm")])
    frame = pd.DataFrame(numbers)
    return frame.assign(metric=frame["metric"].str.replace("_exact", suffix))


def _true_errors(drafts: Artifact, labels: pd.DataFrame) -> pd.Series:
    """The first step labelled 0 of each draft that is wrong and has one."""
    samples, errors = drafts.read(), first_errors(labels)
    return errors[errors.index.isin(samples.loc[~samples["is_correct"], "sample_id"])]


def _first_errors(
    tables: Tables, truth: pd.Series, found: Mapping[str, pd.Series], suffix: str, pairs: Sequence[tuple[str, str]] = ()
) -> Numbers:
    """How often the first error of a solution is put where it is, before it, after it, and nowhere.

    ``truth`` and each of ``found`` are steps by ``sample_id``; 0 and what is missing in ``found`` stand for nowhere.
    """
    numbers, hits = [], {}
    for method, places in found.items():
        at = places.reindex(truth.index, fill_value=0)
        hits[method] = at == truth
        outcomes = {
            "accuracy": hits[method], "early": (at > 0) & (at < truth), "late": at > truth, "missed": at == 0,
        }  # fmt: skip
        numbers += [tables.row(method, f"first_error_{name}{suffix}", st.proportion(o)) for name, o in outcomes.items()]
    for a, b in pairs:
        numbers += tables.compared(a, b, hits, "first_error_accuracy", suffix)
    return numbers


def _quality(tables: Tables, method: str, labels: pd.DataFrame, exact: pd.DataFrame | None) -> Numbers:
    if exact is None:
        return []
    keys = ["sample_id", "step"]
    truth = exact.set_index(keys)["label"].reindex(pd.MultiIndex.from_frame(labels[keys]))
    c = st.confusion(truth, labels["label"], labels["question_id"], tables.seed)
    return [tables.row(method, m, e) for m, e in zip(QUALITY, (c.precision, c.recall, c.accuracy), strict=True)]
