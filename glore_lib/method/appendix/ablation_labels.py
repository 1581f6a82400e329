"""Ablations of the step labels."""

import pandas as pd

from glore_lib import statistics as st
from glore_lib.method import rollouts, step_labels
from glore_lib.method.appendix.measures import label_numbers, with_parameters
from glore_lib.method.evaluation import Tables
from glore_lib.method.replication import Replication
from glore_lib.method.step_labels import rollout_labels
from glore_lib.params import ParamsError

RULES = step_labels.POSTPROCESSING | {"consistent_alone": (False, True)}


def label_rules(lab: Replication) -> pd.DataFrame:
    """Compare the SORM's training labels with each post-processing step on and off.

    Measured are the share of positive labels (with all rules also by step number) and, where the exact labels are
    known, their quality.
    """
    tables, rollouts, samples = lab.tables, lab.data.rollouts.read(), lab.data.samples.read()
    labelled = samples[samples["sample_id"].isin(rollouts["sample_id"])]
    exact = step_labels.exact_labels(lab.run, labelled, lab.run.reward_split)
    seed = lab.run.seed("labels", "sorm", lab.data.samples.record["name"])  # that of the SORM
    numbers = []
    for rule, switches in RULES.items():
        every = rollout_labels(rollouts, *switches)
        for method, labels in {rule: every, f"{rule}+balanced": step_labels.balance_steps(every, seed)}.items():
            numbers.append(_positive(tables, method, "positive_labels", labels))
            numbers += label_numbers(tables, method, labels, exact)
            if rule == "consistent":
                for step, of_step in labels.groupby("step"):
                    numbers.append(_positive(tables, method, f"positive_labels_of_step@{step}", of_step))
    return pd.DataFrame(numbers)


def rollout_counts(lab: Replication, drafts: int) -> pd.DataFrame:
    """Compare labels by K rollouts, for K in powers of two up to twice the run's, on validation drafts.

    All rollouts of the first ``drafts`` drafts are sampled, without early stopping. Raises ParamsError if ``drafts`` is
    less than 1.
    """
    if drafts < 1:
        raise ParamsError(f"drafts = {drafts}: must be a whole number greater than 0")
    rm, validation = lab.run.params.reward_models, lab.validation
    most = 2 * rm.rollouts_per_step
    exhaustive = with_parameters(lab.run, "reward_models", rollouts_per_step=most, early_stop=False)
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
            at_k = [
                _positive(lab.tables, rule, "positive_labels", labels),
                *label_numbers(lab.tables, rule, labels, exact),
            ]
            numbers += [row | {"metric": f"{row['metric']}@{k}"} for row in at_k]
    return pd.DataFrame(numbers)


def _positive(tables: Tables, method: str, metric: str, labels: pd.DataFrame) -> dict:
    return tables.row(method, metric, st.clustered(labels["label"], labels["question_id"]))
