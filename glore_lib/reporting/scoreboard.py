"""The paper's claims compared with what each run measured, with a verdict by one fixed rule.

Every claim says on which side a number must lie: an open interval, such as (0, ∞) for "the SORM is better". It is
``replicated`` if the 95 % interval of our number lies wholly inside it, ``not replicated`` if wholly outside,
``inconclusive`` otherwise, and ``not tested here`` if the run has no such number or stands in for another benchmark.
Directions and differences are tested. Levels and effect sizes are shown but not tested: a model of 1.2 M parameters on
generated problems is another scale than 7-13 B on GSM8K. "About the same" is |difference| < :data:`MARGIN`, half of the
smallest gap that the paper's text speaks of (5 points: the SORM's lag on final answers, 13B students over 7B ones).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isnan
from pathlib import Path
from typing import Any

import pandas as pd

from glore_lib.params import Task
from glore_lib.reporting import read_asset
from glore_lib.reporting.tables import format_estimate
from glore_lib.statistics import Estimate

MARGIN = 0.025
ABOVE, BELOW, SAME = (0.0, inf), (-inf, 0.0), (-MARGIN, MARGIN)
SIDES = {
    "more": ABOVE, "less": BELOW, "about the same": SAME, "no less": (-MARGIN, inf), "no more": (-inf, MARGIN),
    "at most 5 points less": (-0.05 - MARGIN, inf), "at most 1 point more": (-inf, 0.01),
    "balanced": (-0.1, 0.1),  # the paper calls test sets with 45-55 % positive labels well balanced
}  # fmt: skip

VERDICTS = ("replicated", "not replicated", "inconclusive", "not tested here")
COLUMNS = ["id", "claim", "paper", "task", "model", "ours", "ci_low", "ci_high", "n", "verdict"]


@dataclass(frozen=True)
class Claim:
    """A claim and the row of a ``numbers`` table that measures it, as in ``assets/claims.csv``.

    ``metric`` ending in ``@`` is that of the largest K there is. ``about`` names the benchmark whose stand-ins alone
    can test the claim; empty where every run can. ``side`` (of :data:`SIDES`) is where the number lies if the paper is
    right. A claim that no run of ours can test has no ``method``, and ``untested`` says why.
    """

    id: str
    claim: str
    paper: str
    method: str
    metric: str
    side: str
    about: str
    untested: str


# METHOD.md's c1-c17; q1 and on are said in the paper's sections 5.1 and 5.2 in words only.
CLAIMS = tuple(Claim(*row) for row in read_asset("claims.csv").itertuples(index=False))


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
            found = _measured(of_run, claim) if claim.about in ("", stands_for[str(task)]) else None
            if found is not None:
                row |= {"ours": found.value, "ci_low": found.ci_low, "ci_high": found.ci_high, "n": found.n}
                row["verdict"] = verdict(found.ci_low, found.ci_high, SIDES[claim.side])
            rows.append({"verdict": "not tested here"} | row)
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
