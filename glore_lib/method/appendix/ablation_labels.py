"""Ablations of the step labels."""

from typing import Any

import pandas as pd

from glore_lib.method import rollouts, step_labels
from glore_lib.method import statistics as st
from glore_lib.method.appendix.g_label_quality import _quality
from glore_lib.method.evaluation import Tables
from glore_lib.method.replication import Replication
from glore_lib.method.step_labels import rollout_labels
from glore_lib.params import ParamsError, Section
from glore_lib.run import Run

# Post-processing 1 and 2 on and off, as (monotone, consistent).
RULES = {
    "raw": (False, False),
    "monotone": (True, False),
    "consistent_alone": (False, True),
    "consistent": (True, True),
}


# Ablations of the labels


def label_rules(lab: Replication) -> pd.DataFrame:
    """The SORM's training labels with each of the three post-processing steps on and off: how many are positive (also
    by step number, with all three and without balancing) and, where the exact labels are known, how good they are."""
    tables, rollouts, samples = lab.tables, lab.data.rollouts.read(), lab.data.samples.read()
    labelled = samples[samples["sample_id"].isin(rollouts["sample_id"])]
    exact = step_labels.exact_labels(lab.run, labelled, "train")
    seed = lab.run.seed("labels", "sorm", lab.data.samples.record["name"])  # as the SORM's own
    numbers = []
    for rule, switches in RULES.items():
        every = rollout_labels(rollouts, *switches)
        for method, labels in {rule: every, f"{rule}+balanced": step_labels.balance_steps(every, seed)}.items():
            numbers.append(_positive(tables, method, "positive_labels", labels))
            numbers += _quality(tables, method, labels, exact)
            if rule == "consistent":
                for step, of_step in labels.groupby("step"):
                    numbers.append(_positive(tables, method, f"positive_labels_of_step@{step}", of_step))
    return pd.DataFrame(numbers)


def rollout_counts(lab: Replication, drafts: int) -> pd.DataFrame:
    """Labels by the first K rollouts, for K up to twice the run's in powers of two, of the first ``drafts`` drafts of
    the validation split (or all, where there are fewer), on which all rollouts are drawn."""
    if drafts < 1:
        raise ParamsError(f"drafts = {drafts}: must be a whole number greater than 0")
    rm, validation = lab.run.params.reward_models, lab.validation
    most = 2 * rm.rollouts_per_step
    exhaustive = _with(lab.run, "reward_models", rollouts_per_step=most, early_stop=False)
    chosen = validation.drafts.read().head(drafts)
    drawn = rollouts.rollouts(
        exhaustive, lab.student, chosen, "validation", "drafts-validation", [validation.drafts]
    ).read()
    exhaustive.free()
    exact = step_labels.exact_labels(lab.run, chosen, "validation")
    numbers = []
    for k in (2**i for i in range(most.bit_length()) if 2**i <= most):
        for rule in ("raw", "consistent"):
            labels = rollout_labels(drawn[drawn["rollout"] < k], *RULES[rule])
            at_k = [_positive(lab.tables, rule, "positive_labels", labels), *_quality(lab.tables, rule, labels, exact)]
            numbers += [row | {"metric": f"{row['metric']}@{k}"} for row in at_k]
    return pd.DataFrame(numbers)


def _with(run: Run, section: str, **values: Any) -> Run:
    """The run with other parameters in a section, on the same artifacts."""
    run.free()  # two runs would have two engines
    changed: Section = getattr(run.params, section).model_copy(update=values)
    return Run(run.params.model_copy(update={section: changed}), run.store, run.task)


def _positive(tables: Tables, method: str, metric: str, labels: pd.DataFrame) -> dict:
    return tables.row(method, metric, st.clustered(labels["label"], labels["question_id"], tables.seed))
