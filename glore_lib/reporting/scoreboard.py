"""The paper's claims compared with what each run measured, with a verdict by one fixed rule.

Every claim says on which side a number must lie: an open interval, such as (0, ∞) for "the SORM is better". The rule:

- ``replicated``: the 95 % interval of our number lies wholly inside it;
- ``not replicated``: it lies wholly outside, and touches it nowhere;
- ``inconclusive``: it does neither;
- ``not tested here``: the run has no such number, or stands in for another benchmark than the one the claim is about.

Directions and differences are tested. Levels and effect sizes are shown but not tested: a model of 1.2 M parameters on
generated problems is another scale than 7-13 B on GSM8K.

"About the same" is |difference| < :data:`MARGIN`, half of the smallest gap that the paper's text speaks of as a gap
(5 points: the SORM's lag on final answers, and 13B students over 7B ones).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isnan
from pathlib import Path
from typing import Any

import pandas as pd

from glore_lib.params import Task
from glore_lib.reporting.tables import format_estimate
from glore_lib.statistics import Estimate

MARGIN = 0.025
BALANCED = 0.1  # the paper calls test sets with 45-55 % positive labels well balanced: 10 points between the kinds

ABOVE, BELOW = (0.0, inf), (-inf, 0.0)
SAME = (-MARGIN, MARGIN)

VERDICTS = ("replicated", "not replicated", "inconclusive", "not tested here")
COLUMNS = ["id", "claim", "paper", "task", "model", "ours", "ci_low", "ci_high", "n", "verdict"]


@dataclass(frozen=True)
class Claim:
    """A claim and the row of a ``numbers`` table that measures it.

    ``metric`` ending in ``@`` is that of the largest K there is. ``about`` names the benchmark whose stand-ins alone
    can test the claim; empty where every run can. ``side`` is where the number lies if the paper is right. A claim
    that no run of ours can test has no ``method``, and ``untested`` says why.
    """

    id: str
    claim: str
    paper: str
    method: str = ""
    metric: str = ""
    side: tuple[float, float] = ABOVE
    about: str = ""
    untested: str = ""


RERANKED = "rerank_accuracy_difference@"
ALL, ONLY_WRONG = "accuracy_all_drafts_difference", "accuracy_incorrect_drafts_difference"

# METHOD.md's c1-c17; q1 and on are said in the paper's sections 5.1 and 5.2 in words only.
CLAIMS = (
    Claim("c1", "the reranked refinements beat the greedy student", "GSM8K 13B: 53 % → 65 %",
          "reranked-greedy", "accuracy_difference", about="gsm8k"),
    Claim("c2", "the SORM judges steps better than the ORM", "GSM8K: up to +8 points, 73 % → 81 %",
          "sorm-orm", "step_accuracy_difference", about="gsm8k"),
    Claim("c2, exact", "the same against exact labels", "cannot be known there",
          "sorm-orm", "step_accuracy_difference_exact", about="gsm8k"),
    Claim("c3", "the balanced ORM judges steps about as well as the ORM", "GSM8K: about the same",
          "balanced_orm-orm", "step_accuracy_difference", SAME, about="gsm8k"),
    Claim("c4", "on easier questions the SORM judges steps about as well as the ORM", "SVAMP: about the same",
          "sorm-orm", "step_accuracy_difference", SAME, about="svamp"),
    Claim("c4, exact", "the same against exact labels", "cannot be known there",
          "sorm-orm", "step_accuracy_difference_exact", SAME, about="svamp"),
    Claim("c5", "the ORM judges final answers better than the SORM", "on both benchmarks",
          "sorm-orm", "final_accuracy_difference", BELOW),
    Claim("c5, lag", "the SORM lags by little, if at all", "slightly worse; 13B on GSM8K by 5 points",
          "sorm-orm", "final_accuracy_difference", (-0.05 - MARGIN, inf)),
    Claim("c6", "how good the SVAMP students are", "greedy 58 % (7B), 70 % (13B)",
          untested="a level, of far smaller models here"),
    Claim("c7", "SVAMP students are better than GSM8K ones of their size", "about +15 points",
          untested="how hard the generated tasks are was chosen by us, and real GSM8K was not run"),
    Claim("c8", "the 13B student is better than the 7B one", "GSM8K: +5 points", untested="one size of model"),
    Claim("c9", "how good Figure 4's SFT student is", "GSM8K: greedy 36 %",
          untested="a level, of far smaller models here"),
    Claim("c10, raw", "without post-processing the SORM reranks worse than the ORM", "GSM8K: clearly worse",
          "sorm_raw-orm", RERANKED, BELOW),
    Claim("c10, gain", "post-processing makes the SORM a better reranker", "GSM8K: significantly",
          "sorm-sorm_raw", RERANKED),
    Claim("c10, all", "with it the SORM reranks about as well as the ORM", "GSM8K: nearly",
          "sorm-orm", RERANKED, SAME),
    Claim("c11", "refining all drafts globally, without a reranker, hardly helps", "from a loss to +1 point at most",
          "global-greedy", ALL, (-inf, 0.01)),
    Claim("c12, global", "refining the incorrect drafts alone helps (it cannot lose): global",
          "on average GSM8K +10, SVAMP +8 points", "global-greedy", ONLY_WRONG),
    Claim("c12, local", "the same: local + SORM", "on average GSM8K +10, SVAMP +8 points",
          "local+sorm-greedy", ONLY_WRONG),
    Claim("c13, global", "global and local + SORM together (a union cannot lose) fix more than global alone",
          "GSM8K 13B: 28 % → 41 % of incorrect drafts", "global+local+sorm-global", "fixed_fraction_difference"),
    Claim("c13, local", "together they fix more than local + SORM alone", "GSM8K 13B: 28 % → 41 %",
          "global+local+sorm-local+sorm", "fixed_fraction_difference"),
    Claim("c13, same", "each alone fixes about as many", "GSM8K 13B: 28 % and 28 %",
          "local+sorm-global", "fixed_fraction_difference", SAME),
    Claim("c14", "draft, global and local refinement, reranked by the ORM, beat the greedy draft",
          "on average +8 points", "reranked-greedy", "accuracy_difference"),
    Claim("c15", "they beat the best of three samples", "GSM8K: about +8, up to +9 points",
          "reranked-bo3", "accuracy_difference"),
    Claim("c16", "with a perfect reranker they beat the best of three samples with one",
          "GSM8K 13B: +11 points (text), up to +13 (caption)", "oracle_reranked-oracle_bo3", "accuracy_difference"),
    Claim("c17, ORM", "of the ORM's errors on steps more are false negatives than false positives",
          "over-pessimistic", "orm", "step_error_balance"),
    Claim("c17, SORM", "the SORM's errors are as often false positives as false negatives", "balanced numbers",
          "sorm", "step_error_balance", (-BALANCED, BALANCED)),
    Claim("q1", "local + SORM fixes more incorrect drafts than local + ORM", "a nontrivial difference",
          "local+sorm-local+orm", "fixed_fraction_difference"),
    Claim("q2", "of all drafts refined without a reranker, local + SORM does better than global", "local improves more",
          "local+sorm-global", ALL),
    Claim("q3", "on easier questions the best of three by the ORM is much better than the greedy draft",
          "SVAMP: a large improvement", "bo3-greedy", "accuracy_difference", about="svamp"),
    Claim("q4", "larger models refine better", "13B over 7B", untested="one size of model"),
    Claim("q5", "on easier questions the ORM judges steps better", "SVAMP over GSM8K, above all 13B",
          untested="how hard the generated tasks are was chosen by us, and real GSM8K was not run"),
)  # fmt: skip


def benchmark(task: Task) -> str:
    """Return the benchmark that a run's task is or stands in for: ``gsm8k`` or ``svamp`` (docs/mini.md)."""
    return {"hard": "gsm8k", "easy": "svamp"}[task.difficulty] if task.name == "arithmetic" else task.name


def verdict(low: float, high: float, side: tuple[float, float]) -> str:
    """Apply the rule: compare the interval [low, high] with the open interval of the claim."""
    if isnan(low) or isnan(high):
        return "not tested here"
    if side[0] < low and high < side[1]:
        return "replicated"
    return "not replicated" if high < side[0] or side[1] < low else "inconclusive"


def scoreboard(numbers: pd.DataFrame, stands_for: Mapping[str, str]) -> pd.DataFrame:
    """Return a row per claim and run: columns :data:`COLUMNS`, ``task`` being the run's name as in ``numbers``.

    ``ours`` and its interval are as in ``numbers``: shares of 1, not points; empty where the claim is not tested.
    ``stands_for`` gives the benchmark of each run (:func:`benchmark`).
    """
    rows = []
    for claim in CLAIMS:
        for (task, model), of_run in numbers.groupby(["task", "model"], sort=False):
            row = {"id": claim.id, "claim": claim.claim, "paper": claim.paper, "task": task, "model": model}
            can_test = claim.about in ("", stands_for[str(task)])
            found = _measured(of_run, claim) if can_test else None
            if found is None:
                rows.append(row | {"verdict": "not tested here"})
            else:
                result = verdict(found.ci_low, found.ci_high, claim.side)
                values = {"ours": found.value, "ci_low": found.ci_low, "ci_high": found.ci_high, "n": found.n}
                rows.append(row | values | {"verdict": result})
    return pd.DataFrame(rows, columns=COLUMNS).astype({"n": "Int64"})


def _measured(numbers: pd.DataFrame, claim: Claim) -> pd.Series | None:
    """Return the row of one run that measures a claim; None if missing or nothing was counted."""
    rows = numbers[(numbers["method"] == claim.method) & (numbers["n"] > 0)]
    if claim.metric.endswith("@"):
        rows = rows[rows["metric"].str.startswith(claim.metric)]
        return None if rows.empty else rows.iloc[rows["metric"].str.rpartition("@")[2].astype(int).argmax()]
    rows = rows[rows["metric"] == claim.metric]
    return None if rows.empty else rows.iloc[0]


def to_read(scores: pd.DataFrame) -> pd.DataFrame:
    """Return a table to read: a row per claim, a column per run with "difference [low, high] (n) verdict"."""
    runs = scores[["task", "model"]].drop_duplicates()
    several = runs["task"].duplicated().any()
    table = scores.drop_duplicates("id").set_index("id")[["claim", "paper"]]
    for task, model in runs.itertuples(index=False):
        rows = scores[(scores["task"] == task) & (scores["model"] == model)]
        table[f"{task}, {model}" if several else task] = [_verdict_cell(row) for row in rows.itertuples()]
    return table


def _verdict_cell(row: Any) -> str:
    if row.verdict == "not tested here":
        return next((f"not tested here: {c.untested}" for c in CLAIMS if c.id == row.id and c.untested), row.verdict)
    return f"{format_estimate(Estimate(row.ours, row.ci_low, row.ci_high, row.n), '+')} {row.verdict}"


def read(path: Path) -> pd.DataFrame:
    """Read a ``scoreboard.csv``."""
    return pd.read_csv(path).astype({"n": "Int64"})
