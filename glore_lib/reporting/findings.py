"""Findings of a run: sentences computed from its numbers.

A finding that contradicts the paper, or common expectation, is marked as a surprise.
"""

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from glore_lib import statistics as st
from glore_lib.method.appendix.measures import first_error_numbers
from glore_lib.method.evaluation import Numbers
from glore_lib.method.replication import Replication, SplitEvaluation
from glore_lib.reporting import read_asset
from glore_lib.reporting.examples import Outcomes
from glore_lib.reporting.scoreboard import SIDES, verdict
from glore_lib.reporting.tables import greedy_outcomes, training_label_numbers
from glore_lib.solutions import split_steps
from glore_lib.tasks.arithmetic import OPERATORS, parse_step

PAPER, EXPECTED = "The paper", "Expected"
Line = tuple[str, str, str, str, str]  # text, method and metric of its number, and the side claimed for it by whom
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
        self._rows = {(row.method, row.metric): st.estimate(row) for row in numbers.itertuples()}

    def findings(self, lines: Iterable[Line]) -> list[Finding]:
        """Return a finding for each line whose number exists."""
        found = [(text, self._rows.get((method, metric)), side, by) for text, method, metric, side, by in lines]
        return [compared(t, e, side, by) if side else stated(t, e) for t, e, side, by in found if e]

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


def compared(what: str, difference: st.Estimate, side: str, by: str) -> Finding:
    """Return a finding that compares a difference with a claim by the scoreboard's rule.

    ``side`` is a word of the scoreboard's ``SIDES``, claimed ``by`` the paper or expectation. The finding is surprising
    if the whole interval lies on another side.
    """
    if not difference.n:
        return Finding(f"{what}: nothing to compare (n = 0).")
    found = verdict(difference.ci_low, difference.ci_high, SIDES[side])
    points = f"{difference.percent(' points', '+')} (n = {difference.n:,})"
    return Finding(f"{what}: {points}. {by}: {side}. {found.capitalize()}.", found == "not replicated")


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
    right, p = greedy_outcomes(lab, lab.student), lab.run.params.student
    found = [stated(f"Accuracy of the student of expert iteration ({lab.student.policy})", st.proportion(right))]
    others = [("the SFT student", lab.sft_student, PAPER)] if p.start == "sft" else []
    if p.sft_control:
        others.append(("the SFT control (as many steps on the SFT data)", lab.sft_control, EXPECTED))
    for name, other, by in others:
        if other.policy != lab.student.policy:
            difference = st.paired_difference(right, greedy_outcomes(lab, other), seed=lab.tables.seed)
            found.append(compared(f"Expert iteration − {name}", difference, "more", by))
    last = lab.rounds.iloc[-1]
    text = f"The last round made {last['student']} on {last['solutions']:,} solutions; best: {lab.student.policy}."
    return [*found, Finding(text, lab.student.policy != last["student"]), *_kinds_of_error(Outcomes(lab, "validation"))]


def _kinds_of_error(drafts: Outcomes) -> list[Finding]:
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
    drafts = Outcomes(lab, "validation")
    accepted = {"orm": drafts.orm_says_right == drafts.right, "all_positive": drafts.right}
    numbers = _reward_model_numbers(lab, "orm", "balanced_orm")
    numbers += lab.tables.compared("orm", "all_positive", accepted, "final_accuracy")
    return Values(pd.DataFrame(numbers)).findings(LINES["orm"])


def sorm(lab: Replication) -> list[Finding]:
    """Return the findings of notebook 03, on the training samples (labels) and the validation split."""
    drafts = Outcomes(lab, "validation")
    numbers = _reward_model_numbers(lab, "orm", "balanced_orm", "sorm", "sorm_raw") + _located(drafts)
    truth = drafts.true_labels.set_index(["sample_id", "step"])
    limit = lab.run.params.reward_models.threshold
    scores = [drafts.scores(kind).set_index(["sample_id", "step"])["score"] for kind in ("sorm", "sorm_raw")]
    hits = [(score.reindex(truth.index) > limit) == truth["label"].astype(bool) for score in scores]
    steps = st.paired_difference(hits[0], hits[1], truth["question_id"], lab.tables.seed)
    numbers.append(lab.tables.row("sorm-sorm_raw", "step_accuracy_difference", steps))
    return Values(pd.DataFrame(training_label_numbers(lab) + numbers)).findings(LINES["labels"] + LINES["sorm"])


def _reward_model_numbers(lab: Replication, *kinds: str) -> Numbers:
    """Return the numbers of Tables 1 and 2 on the validation split."""
    evaluated = lab.validation
    scores = {kind: evaluated.scores[kind] for kind in kinds}
    return lab.tables.table1(evaluated.draft_set, scores) + lab.tables.table2(evaluated.draft_set, scores)


def _located(drafts: Outcomes) -> Numbers:
    """Return how often reward models locate the true first error of a wrong draft that has one."""
    truth = drafts.true_errors[~drafts.right & (drafts.true_errors > 0)]
    found = {kind: drafts.found_errors(kind) for kind in ("orm", "sorm")}
    tables = drafts.evaluated.replication.tables
    return first_error_numbers(tables, truth, found, "_true", [("sorm", "orm")])


def refiners(lab: Replication) -> list[Finding]:
    """Return the findings of notebook 04, on the validation split."""
    numbers = pd.concat([lab.validation.numbers.read(), _controls(lab.validation)])
    gates = [
        Finding(f"Gate: {row.gate}: {100 * row.value:.1f} (required: {100 * row.wanted:.0f}).", not row.holds)
        for row in lab.gate().itertuples()
        if row.holds != "n = 0"
    ]
    return Values(numbers).findings(LINES["refiners"]) + gates


def _controls(evaluated: SplitEvaluation) -> pd.DataFrame:
    """Compare the controls of local refinement with it, and the true first error with global refinement."""
    tables = evaluated.replication.tables
    right = tables.right(evaluated.drafts, evaluated.refined)
    controls = [kind for kind in ("local+oracle", "local+sorm_forced", "local+sorm_free") if kind in right]
    pairs = [(kind, "local+sorm") for kind in controls] + [("local+oracle", "global")] * ("local+oracle" in right)
    rows = [row for a, b in pairs for row in tables.compared(a, b, right[~right["greedy"]], "fixed_fraction")]
    return pd.DataFrame(rows)


def evaluation(lab: Replication) -> list[Finding]:
    """Return the findings of notebook 05, on the test split."""
    numbers = pd.concat([lab.numbers, _controls(lab.test), pd.DataFrame(_located(Outcomes(lab, "test")))])
    largest = 2 ** (lab.run.params.evaluation.rerank_samples.bit_length() - 1)
    metric = f"rerank_accuracy_difference@{largest}"
    reranking = [
        (f"Best of {largest} samples, raw SORM − ORM", "sorm_raw-orm", metric, "less", PAPER),
        (f"Best of {largest} samples, SORM − ORM", "sorm-orm", metric, "about the same", PAPER),
    ]
    return Values(numbers).findings(LINES["answers"] + LINES["sorm"] + LINES["refiners"] + reranking)
