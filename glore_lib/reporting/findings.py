"""Findings of a run: sentences computed from its numbers.

A finding that contradicts the paper, or common expectation, is marked as a surprise.
"""

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from glore_lib import statistics as st
from glore_lib.method.evaluation import Outcomes
from glore_lib.method.replication import Replication
from glore_lib.method.students import greedy_samples
from glore_lib.reporting import read_asset
from glore_lib.reporting.examples import Outcomes as Drafts
from glore_lib.reporting.scoreboard import CLAIMS, NOT_REPLICATED, REPLICATED, Judgement, benchmark, judge
from glore_lib.reporting.tables import training_label_outcomes
from glore_lib.solutions import split_steps
from glore_lib.tasks.arithmetic import OPERATORS, parse_step

PAPER, EXPECTED = "The paper", "Expected"
SEEN = {REPLICATED: "as expected", NOT_REPLICATED: "not as expected"}  # the verdicts on what we expect
Line = tuple[str, str, str, str, str, str]  # text, and a claim's id or: methods a and b, metric, side
LINES: dict[str, list[Line]] = {
    str(about): list(lines.drop(columns="about").itertuples(index=False, name=None))
    for about, lines in read_asset("findings.csv").groupby("about")
}


@dataclass(frozen=True)
class Finding:
    """A sentence about a run, and whether it contradicts the paper or expectation."""

    text: str
    surprising: bool = False


class Values:
    """``numbers`` by method and metric."""

    def __init__(self, numbers: pd.DataFrame):
        self._rows = {(row.method, row.metric): st.of_row(row) for row in numbers.itertuples()}

    def share(self, method: str, metric: str) -> str:
        """Return a number in per cent with its interval and n, or "unknown"."""
        found = self._rows.get((method, metric), st.NO_DATA)
        return _share(found) if found.n else "unknown"

    def difference(self, a: str, b: str, metric: str, suffix: str = "") -> str:
        """Return a - b in points, and on which side of 0 its interval lies."""
        found = self._rows.get((f"{a}-{b}", f"{metric}_difference{suffix}"), st.NO_DATA)
        side = "more" if found.ci_low > 0 else "less" if found.ci_high < 0 else "no clear difference"
        return f"{found.percent(' points', '+')}, {side}" if found.n else "unknown"


def stated(what: str, estimate: st.Estimate) -> Finding:
    """Return a finding that states a share with its interval."""
    return Finding(f"{what}: {_share(estimate)}.")


def found_in(outcomes: Outcomes, lines: Iterable[Line], stands_for: str = "") -> list[Finding]:
    """Return a finding for each line that the outcomes of one seed measure.

    A claim of the paper is judged as on the scoreboard, on the benchmark that the run ``stands_for`` alone; another
    line with a side is judged by the same rule. A metric that ends in ``*`` is that of the best labels there are.
    """
    found = []
    for text, claim_id, a, b, metric, side in lines:
        claim = next((c for c in CLAIMS if c.id == claim_id), None)
        if claim and claim.about in ("", stands_for):
            judged = judge([outcomes], claim.a, claim.b, claim.metric, claim.side, claim.needs)
            found += [judged_finding(text, judged, claim.side, PAPER)] if judged else []
        elif not claim:
            exact = metric.replace("*", "_exact")
            name = exact if (a, exact) in outcomes else metric.removesuffix("*")
            if not side and (a, name) in outcomes:
                found.append(stated(text, st.estimate([outcomes[a, name]])))
            elif side and (judged := judge([outcomes], a, b, name, side)):
                found.append(judged_finding(text, judged, side, EXPECTED))
    return found


def judged_finding(what: str, judged: Judgement, side: str, by: str) -> Finding:
    """Return a finding that states a difference and its verdict; it is surprising if it contradicts its side."""
    points = f"{judged.found.percent(' points', '+')} (n = {judged.found.n:,})"
    verdict = judged.verdict if by == PAPER else SEEN.get(judged.verdict, judged.verdict)
    return Finding(f"{what}: {points}. {by}: {side}. {verdict.capitalize()}.", judged.verdict == NOT_REPLICATED)


def _share(estimate: st.Estimate) -> str:
    return f"{estimate.percent(' %')} (n = {estimate.n:,})" if estimate.n else "n = 0"


def tell(found: Iterable[Finding]) -> None:
    """Print the findings and then, once more, the surprising ones."""
    every = list(found)
    surprising = [finding for finding in every if finding.surprising]
    end = "Surprises:" if surprising else "No surprises: no finding contradicts the paper or expectation."
    for text in (*every, end, *surprising):
        if isinstance(text, Finding):
            print(textwrap.fill(text.text, 110, initial_indent="- ", subsequent_indent="  "))
        else:
            print(f"\n{text}")


def students(lab: Replication) -> list[Finding]:
    """Return the findings of notebook 01, on the validation split."""
    p, student = lab.run.params.student, lab.student
    others = [("the SFT student", lab.sft_student)] if p.start == "sft" else []
    if p.sft_control:
        others.append(("the SFT control (as many steps on the SFT data)", lab.sft_control))
    outcomes = {}
    for policy in (student, *(other for _, other in others)):
        greedy = greedy_samples(lab.run, policy)
        outcomes[policy.policy, "accuracy"] = st.Outcome.of(greedy["is_correct"], greedy["question_id"])
    lines = [
        (f"Accuracy of the student of expert iteration ({student.policy})", "", student.policy, "", "accuracy", "")
    ]
    for name, other in others:
        if other.policy != student.policy:
            lines.append((f"Expert iteration − {name}", "", student.policy, other.policy, "accuracy", "more"))
    last = lab.rounds.iloc[-1]
    text = f"The last round made {last['student']} on {last['solutions']:,} solutions; used later: {student.policy}."
    found = [*found_in(outcomes, lines), Finding(text, student.policy != last["student"])]
    return [*found, *_kinds_of_error(Drafts(lab, "validation"))]


def _kinds_of_error(drafts: Drafts) -> list[Finding]:
    """Describe the first errors of the drafts, if exact labels are known."""
    if drafts.exact is None:
        return []
    errors = drafts.true_errors[drafts.true_errors > 0]
    steps = {i: split_steps(text) for i, text in drafts.drafts["text"].items()}
    equations = [parse_step(steps[i][step - 1]) for i, step in errors.items()]
    sums = [OPERATORS[e.op](e.a, e.b) == e.c for e in equations if e]
    return [
        stated("The first step is wrong in this share of drafts with an error", st.proportion(errors == 1)),
        stated("Arithmetic is correct in this share of first-error steps", st.proportion(sums)),
    ]


def orm(lab: Replication) -> list[Finding]:
    """Return the findings of notebook 02, on the validation split."""
    return found_in(_judged_by(lab, "orm", "balanced_orm"), LINES["orm"], stands_for(lab))


def sorm(lab: Replication) -> list[Finding]:
    """Return the findings of notebook 03, on the training samples (labels) and the validation split."""
    outcomes = training_label_outcomes(lab) | _judged_by(lab, "orm", "balanced_orm", "sorm", "sorm_raw")
    return found_in(outcomes, LINES["steps"] + LINES["sorm"] + LINES["labels"], stands_for(lab))


def _judged_by(lab: Replication, *kinds: str) -> Outcomes:
    """Return Tables 1 and 2 on the validation split."""
    scores, drafts = {kind: lab.validation.scores[kind] for kind in kinds}, lab.validation.draft_set
    return lab.tables.table1(drafts, scores) | lab.tables.table2(drafts, scores)


def refiners(lab: Replication) -> list[Finding]:
    """Return the findings of notebook 04, on the validation split."""
    gates = [
        Finding(f"Gate: {row.gate}: {100 * row.value:.1f} (required: {100 * row.wanted:.0f}).", not row.holds)
        for row in lab.gate().itertuples()
        if row.holds != "n = 0"
    ]
    return found_in(lab.validation.outcomes, LINES["refiners"], stands_for(lab)) + gates


def evaluation(lab: Replication) -> list[Finding]:
    """Return the findings of notebook 05, on the test split."""
    lines = LINES["answers"] + LINES["claims"] + LINES["sorm"] + LINES["refiners"]
    return found_in(lab.outcomes, lines, stands_for(lab))


def stands_for(lab: Replication) -> str:
    """Return the benchmark that a run's task is or stands in for."""
    return benchmark(lab.run.params.task)
