"""The paper's claims compared with what each run measured, with a verdict by one fixed rule.

Every claim says on which side a difference must lie. Differences point in the claim's direction: + is as the paper
says. The rule (:func:`judge`):

- a direction is ``replicated`` if the 95 % interval lies above 0 and a paired test rejects no difference at 5 %,
  ``not replicated`` if it lies below 0 and the test rejects, and ``inconclusive`` otherwise;
- a bound, such as "about the same", is tested by two one-sided tests: ``not replicated`` if the 90 % interval lies
  outside the bounds; otherwise ``underpowered`` if a true difference of 0 would be confirmed in less than half of all
  samples; otherwise ``replicated`` if the interval lies within, else ``inconclusive``;
- it is ``not informative`` if a method that it is about is not better than the best constant prediction;
- ``not judged`` are numbers that cannot contradict their claim, and ``not tested here`` what a run does not measure or
  is not about.

Levels and effect sizes are shown but not tested: a model of 1.2 M parameters on generated problems is another scale
than 7-13 B on GSM8K. "About the same" is |difference| < :data:`MARGIN`, half of the smallest gap that the paper's text
speaks of (5 points: the SORM's lag on final answers, 13B students over 7B ones).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, nan
from pathlib import Path
from typing import Any

import pandas as pd
from statsmodels.stats.multitest import multipletests

from glore_lib import statistics as st
from glore_lib.method.evaluation import Outcomes
from glore_lib.params import Task
from glore_lib.reporting import read_asset
from glore_lib.reporting.tables import format_estimate, read_table

MARGIN = 0.025
ALPHA = 0.05
LEAST_POWER = 0.5
SIDES = {
    "more": (0.0, inf), "about the same": (-MARGIN, MARGIN), "no less": (-MARGIN, inf),
    "at most 5 points less": (-0.05 - MARGIN, inf), "at most 1 point less": (-0.01, inf),
    "within 5 points": (-0.05, 0.05),  # the paper calls test sets with 45-55 % positive labels well balanced
}  # fmt: skip

REPLICATED, NOT_REPLICATED, INCONCLUSIVE = "replicated", "not replicated", "inconclusive"
UNDERPOWERED, NOT_INFORMATIVE = "underpowered", "not informative"
NOT_JUDGED, NOT_TESTED = "not judged", "not tested here"
VERDICTS = (REPLICATED, NOT_REPLICATED, INCONCLUSIVE, UNDERPOWERED, NOT_INFORMATIVE, NOT_JUDGED, NOT_TESTED)
COLUMNS = [
    "id", "claim", "paper", "task", "model", "seeds", "ours", "ci_low", "ci_high", "n", "clusters", "p", "p_holm",
    "power", "verdict",
]  # fmt: skip
BENCHMARKS = ("gsm8k", "svamp")
SYMBOLS = {
    REPLICATED: "✓",
    NOT_REPLICATED: "✗",
    INCONCLUSIVE: "~",
    UNDERPOWERED: "?",
    NOT_INFORMATIVE: "–",
    NOT_JUDGED: "·",
}


@dataclass(frozen=True)
class Claim:
    """A claim and the difference that measures it, as in ``assets/claims.csv``.

    The difference is that of the methods ``a`` and ``b`` (or a constant) in ``metric``; one that ends in ``@`` is that
    of the largest K there is. If ``b`` is a benchmark, the difference is that of ``a`` in a run on ``about`` and in one
    on ``b`` by the same model; how hard stand-ins are was chosen by us, so they do not test it. ``side`` (of
    :data:`SIDES`) is where it lies if the paper is right. ``about`` names the benchmark whose runs and stand-ins alone
    can test the claim; empty where every run can. ``needs`` lists differences, as
    "a b metric" separated by semicolons, that must lie above 0 for the claim to be informative. ``note`` says why a
    claim is not judged or, without a metric, cannot be tested by any run of ours.
    """

    id: str
    claim: str
    paper: str
    a: str
    b: str
    metric: str
    side: str
    about: str
    needs: str
    note: str


# METHOD.md's c1-c17; q1 and on are said in the paper's sections 5.1 and 5.2 in words only.
CLAIMS = tuple(Claim(*row) for row in read_asset("claims.csv").itertuples(index=False))


@dataclass(frozen=True)
class Judgement:
    """A difference, its p value and power (NaN where the other kind of test applies), and the verdict."""

    found: st.Estimate
    p: float
    power: float
    verdict: str


def benchmark(task: Task) -> str:
    """Return the benchmark that a run's task is or stands in for: ``gsm8k`` or ``svamp`` (docs/mini.md)."""
    return {"hard": "gsm8k", "easy": "svamp"}[task.difficulty] if task.name == "arithmetic" else task.name


def directional(low: float, high: float, p: float) -> str:
    """Apply the rule for a direction: the 95 % interval and the p value must agree."""
    if p >= ALPHA or low <= 0 <= high:
        return INCONCLUSIVE
    return REPLICATED if low > 0 else NOT_REPLICATED


def bounded(low: float, high: float, power: float, side: tuple[float, float]) -> str:
    """Apply the rule for bounds: compare the 90 % interval with the open interval ``side``."""
    if high < side[0] or side[1] < low:
        return NOT_REPLICATED
    if power < LEAST_POWER:
        return UNDERPOWERED
    return REPLICATED if side[0] < low and high < side[1] else INCONCLUSIVE


def judge(outcomes: Sequence[Outcomes], a: str, b: str, metric: str, side: str, needs: str = "") -> Judgement | None:
    """Judge the difference of two methods over one or several seeds of a run; None if a run does not measure it."""
    pair = _pair(outcomes, a, b, metric)
    if pair is None:
        return None
    change = st.difference(*pair)
    found = change.estimate()
    p, power, bounds = nan, nan, SIDES[side]
    if bounds == SIDES["more"]:
        p = st.paired_p(*pair)
        verdict = directional(found.ci_low, found.ci_high, p)
    else:
        power = st.equivalence_power(change.standard_error, *bounds)
        narrow = change.estimate(st.EQUIVALENCE_LEVEL)
        verdict = bounded(narrow.ci_low, narrow.ci_high, power, bounds)
    return Judgement(found, p, power, verdict if _all_lie_above_0(outcomes, needs) else NOT_INFORMATIVE)


def judge_runs(
    outcomes: Sequence[Outcomes], others: Sequence[Outcomes], method: str, metric: str, needs: str = ""
) -> Judgement | None:
    """Judge by how much a method is better in one run than in another; None if one of them does not measure it."""
    one, other = (_pair(of_run, method, "0", metric) for of_run in (outcomes, others))
    if one is None or other is None:
        return None
    change, p = st.unpaired(one[0], other[0])
    found, informative = change.estimate(), all(_all_lie_above_0(of_run, needs) for of_run in (outcomes, others))
    verdict = directional(found.ci_low, found.ci_high, p) if informative else NOT_INFORMATIVE
    return Judgement(found, p, nan, verdict)


def _all_lie_above_0(outcomes: Sequence[Outcomes], needs: str) -> bool:
    pairs = [_pair(outcomes, *condition.split()) for condition in filter(None, needs.split("; "))]
    return all(pair is not None and st.difference(*pair).estimate().ci_low > 0 for pair in pairs)


def _pair(outcomes: Sequence[Outcomes], a: str, b: str, metric: str) -> tuple[list[st.Outcome], Any] | None:
    """Return the outcomes of two methods by seed (a float for a constant); None if one is missing or counts nothing."""
    if metric.endswith("@"):
        ks = [int(name.removeprefix(metric)) for _, name in outcomes[0] if name.startswith(metric)]
        metric = f"{metric}{max(ks, default=0)}"
    constant = b.replace(".", "", 1).isdecimal()
    methods = [a] if constant else [a, b]
    if any((method, metric) not in of_seed for method in methods for of_seed in outcomes):
        return None
    first, *second = [[of_seed[method, metric] for of_seed in outcomes] for method in methods]
    if not all(o.counts.any(axis=1).all() for o in first):
        return None
    return first, float(b) if constant else second[0]


def scoreboard(outcomes: Mapping[str, Sequence[Outcomes]], runs: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a row per claim and run: columns :data:`COLUMNS`, ``task`` being the run's name.

    ``outcomes`` holds those of each seed by run, ``runs`` the ``run.json`` of each run. ``ours`` and its interval are
    shares of 1, not points; empty where the claim is not tested. ``p_holm`` corrects the p values of all directions
    that a run tests. ``seeds`` is their number.
    """
    rows = []
    for claim in CLAIMS:
        for run in runs:
            row = {
                "id": claim.id,
                "claim": claim.claim,
                "paper": claim.paper,
                "task": run["run"],
                "model": run["model"],
            }
            seeds, found = outcomes[run["run"]], None
            row |= {"seeds": len(seeds), "verdict": NOT_TESTED}
            if claim.metric and claim.about in ("", run["stands_for"]):
                if claim.b not in BENCHMARKS:
                    found = judge(seeds, claim.a, claim.b, claim.metric, claim.side, claim.needs)
                elif other := _on(claim.b, run, runs):
                    found = judge_runs(seeds, outcomes[other], claim.a, claim.metric, claim.needs)
            if found is not None:
                e = found.found
                row |= {"ours": e.value, "ci_low": e.ci_low, "ci_high": e.ci_high, "n": e.n, "clusters": e.clusters}
                judged = {"p": found.p, "power": found.power, "verdict": found.verdict}
                row |= {"verdict": NOT_JUDGED} if claim.note else judged
            rows.append(row)
    frame = pd.DataFrame(rows, columns=COLUMNS).astype({"n": "Int64", "clusters": "Int64"})
    for _, of_run in frame[frame["p"].notna()].groupby("task"):
        frame.loc[of_run.index, "p_holm"] = multipletests(of_run["p"], method="holm")[1]
    return frame


def _on(name: str, run: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the run on a benchmark by the model of a run on another one; None for a stand-in, or if there is none."""
    real = [r for r in runs if r["params"]["task"]["name"] in BENCHMARKS and r["model"] == run["model"]]
    return next((r["run"] for r in real if run in real and r["stands_for"] == name), None)


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
    note = next((f": {c.note}" for c in CLAIMS if c.id == row.id and c.note), "")
    if row.verdict == NOT_TESTED:
        return f"{NOT_TESTED}{note}"
    why = note
    if row.verdict != NOT_JUDGED:  # one of the two kinds of test applies
        tested = f"p = {row.p:.2g}, Holm {row.p_holm:.2g}" if pd.notna(row.p) else f"power {100 * row.power:.0f} %"
        why = f" ({tested})"
    return f"{format_estimate(st.Estimate(row.ours, row.ci_low, row.ci_high, row.n), '+')} {row.verdict}{why}"


def short(row: Any) -> str:
    """Return "symbol difference [low, high]" of a row of the scoreboard, in points; empty if it was not tested."""
    if row.verdict == NOT_TESTED:
        return ""
    return f"{SYMBOLS[row.verdict]} {st.Estimate(row.ours, row.ci_low, row.ci_high, 1).percent(sign='+')}"


def count_verdicts(comparison: Path) -> pd.DataFrame:
    """Return how many claims have each verdict, a column per run; empty if the folder has no scoreboard."""
    if not (path := comparison / "scoreboard.csv").exists():
        return pd.DataFrame()
    counts = read(path).groupby(["verdict", "task"], sort=False).size().unstack(fill_value=0)
    counts = counts.reindex([verdict for verdict in VERDICTS if verdict in counts.index])
    return counts.rename_axis(index=None, columns=None)


def read(path: Path) -> pd.DataFrame:
    """Read a ``scoreboard.csv``; raise as :func:`glore_lib.reporting.tables.read_table` does."""
    return read_table(path, COLUMNS).astype({"n": "Int64", "clusters": "Int64"})
