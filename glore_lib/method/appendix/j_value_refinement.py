"""Value-based local refinement (paper, appendix J)."""

import pandas as pd

from glore_lib import statistics as st
from glore_lib.method.appendix.measures import LOCATORS, first_error_numbers, true_errors
from glore_lib.method.refinement import RefinementSpec, refine
from glore_lib.method.replication import Replication


def best_prefixes(step_scores: pd.DataFrame) -> pd.Series:
    """Return the step at which value-based refinement begins: the one after the prefix with the highest score.

    Of equal scores the shortest prefix wins (index ``sample_id``). Neither the last step nor the question alone (P_0),
    which has no score, is a candidate; a sample of one step begins at step 1.
    """
    last = step_scores.groupby("sample_id")["step"].transform("max")
    inner = step_scores[step_scores["step"] < last].sort_values(["score", "step"], ascending=[False, True])
    best = inner.groupby("sample_id")["step"].first() + 1
    return best.reindex(step_scores["sample_id"].unique(), fill_value=1)


def value_refinement(lab: Replication) -> pd.DataFrame:
    """Compare value-based refinement (``value+…``) with local refinement (``local+…``) on the wrong test drafts.

    Local refinement begins at the first step scored at most T. Both are tried with the prefix written freely and
    forced; where each begins is compared with the true first error.
    """
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
    numbers = [lab.tables.row(kind, "fixed_fraction", st.proportion(fixed[kind])) for kind in fixed]  # type: ignore[arg-type]
    pairs = [(f"value+{k}{way}", f"local+{k}{way}") for way in ("", f"_{other}") for k in LOCATORS]
    for a, b in pairs:
        numbers += lab.tables.compared(a, b, fixed, "fixed_fraction")
    if test.draft_set.exact is not None:
        numbers += first_error_numbers(
            lab.tables, true_errors(test.drafts, test.draft_set.exact), begins | values, "_exact"
        )
    return pd.DataFrame(numbers)
