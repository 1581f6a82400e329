"""Value-based local refinement (paper, appendix J)."""

import pandas as pd

from glore_lib.method import statistics as st
from glore_lib.method.appendix.g_label_quality import LOCATORS, _first_errors, _true_errors
from glore_lib.method.refinement import RefinementSpec, refine
from glore_lib.method.replication import Replication

# Appendix J: value-based refinement


def best_prefixes(step_scores: pd.DataFrame) -> pd.Series:
    """The step at which value-based refinement begins in each sample: the one after the prefix P_i that is scored
    highest (the shortest of equals), by ``sample_id``.

    The last step is no prefix to go on from, and the question alone (P_0) has no score: a sample of one step begins
    anew, and no other does.
    """
    last = step_scores.groupby("sample_id")["step"].transform("max")
    inner = step_scores[step_scores["step"] < last].sort_values(["score", "step"], ascending=[False, True])
    best = inner.groupby("sample_id")["step"].first() + 1
    return best.reindex(step_scores["sample_id"].unique(), fill_value=1)


def value_refinement(lab: Replication) -> pd.DataFrame:
    """Of the wrong drafts of the test split: the share fixed from the step after the most valued prefix (``value+…``)
    and from the first step at or below T (``local+…``), both with the prefix left to the refiner and forced on it; and
    where each begins, seen from the true first error."""
    test, force = lab.test, lab.run.params.refiner.force_prefix
    other = "free" if force else "forced"
    begins = {f"local+{k}": errors for k, errors in test.first_errors.items()}
    every = test.drafts.read()["sample_id"]
    values = {f"value+{k}": best_prefixes(test.scores[k].read()).reindex(every, fill_value=0) for k in LOCATORS}
    specs = {kind: RefinementSpec(steps) for kind, steps in values.items()}
    specs |= {f"{kind}_{other}": RefinementSpec(steps, not force) for kind, steps in values.items()}
    specs[f"local+orm_{other}"] = RefinementSpec(begins["local+orm"], not force)
    refined = {kind: test.refined[kind] for kind in begins} | refine(lab.run, lab.refiner, test.drafts, "test", specs)
    refined[f"local+sorm_{other}"] = test.refined[f"local+sorm_{other}"]
    right = lab.tables.right(test.drafts, refined)
    fixed = right[~right["greedy"]].drop(columns="greedy")
    numbers = [lab.tables.row(kind, "fixed_fraction", st.proportion(fixed[kind])) for kind in fixed]
    pairs = [(f"value+{k}{way}", f"local+{k}{way}") for way in ("", f"_{other}") for k in LOCATORS]
    for a, b in pairs:
        numbers += lab.tables.compared(a, b, fixed, "fixed_fraction")
    if test.draft_set.exact is not None:
        numbers += _first_errors(lab.tables, _true_errors(test.drafts, test.draft_set.exact), begins | values, "_exact")
    return pd.DataFrame(numbers)
