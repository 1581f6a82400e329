"""Findings of a run: sentences computed from its numbers.

A finding that contradicts the paper, or common expectation, is marked as a surprise.
"""

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf

import pandas as pd

from glore_lib import statistics as st
from glore_lib.method.replication import Replication
from glore_lib.method.step_labels import POSTPROCESSING, exact_labels, rollout_labels
from glore_lib.method.students import Student, sample_solutions
from glore_lib.reporting.examples import Outcomes
from glore_lib.reporting.scoreboard import ABOVE, BELOW, MARGIN, SAME, verdict
from glore_lib.solutions import split_steps
from glore_lib.tasks.arithmetic import OPERATORS, parse_step

PAPER, EXPECTED = "The paper", "Expected"
SIDES = {
    "more": ABOVE, "less": BELOW, "about the same": SAME, "no less": (-MARGIN, inf), "no more": (-inf, MARGIN),
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """A sentence about a run, and whether it contradicts the paper or expectation."""

    text: str
    surprising: bool = False


def stated(what: str, estimate: st.Estimate) -> Finding:
    """Return a finding that states a share with its interval."""
    return Finding(f"{what}: {_share(estimate)}.")


def compared(what: str, difference: st.Estimate, side: str, by: str) -> Finding:
    """Return a finding that compares a difference with a claim by the scoreboard's rule.

    ``side`` is a word of :data:`SIDES`, claimed ``by`` the paper or expectation. The finding is surprising if the whole
    interval lies on another side.
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
    for finding in every:
        print(_bullet(finding))
    if not surprising:
        print("\nNo surprises: no finding contradicts the paper or expectation.")
        return
    print("\nSurprises:")
    for finding in surprising:
        print(_bullet(finding))


def _bullet(finding: Finding) -> str:
    return textwrap.fill(finding.text, 110, initial_indent="- ", subsequent_indent="  ")


def students(lab: Replication) -> list[Finding]:
    """Return the findings of notebook 01, on the validation split."""
    right = _greedy(lab, lab.student)
    found = [stated(f"Accuracy of the student of expert iteration ({lab.student.policy})", st.proportion(right))]
    others = {}
    if lab.run.params.student.start == "sft":
        others["the SFT student"] = lab.sft_student, PAPER
    if lab.run.params.student.sft_control:
        others["the SFT control (as many steps on the SFT data)"] = lab.sft_control, EXPECTED
    for name, (other, by) in others.items():
        if other.policy != lab.student.policy:
            difference = st.paired_difference(right, _greedy(lab, other), seed=lab.tables.seed)
            found.append(compared(f"Expert iteration − {name}", difference, "more", by))
    last = lab.rounds.iloc[-1]
    text = f"The last round made {last['student']} on {last['solutions']:,} solutions; best: {lab.student.policy}."
    return [*found, Finding(text, lab.student.policy != last["student"]), *_kinds_of_error(Outcomes(lab, "validation"))]


def _greedy(lab: Replication, student: Student) -> pd.Series:
    return sample_solutions(lab.run, student, "validation", 1, 0.0, f"greedy-{student.policy}").read()["is_correct"]


def _kinds_of_error(drafts: Outcomes) -> list[Finding]:
    """Describe the first errors of the drafts, if exact labels are known."""
    if drafts.exact is None:
        return []
    texts = {i: split_steps(text) for i, text in drafts.drafts["text"].items()}
    errors = drafts.true_errors[drafts.true_errors > 0]
    equations = [parse_step(texts[i][step - 1]) for i, step in errors.items()]
    sums = [OPERATORS[e.op](e.a, e.b) == e.c for e in equations if e]
    return [
        stated("The first step is wrong in this share of drafts with an error", st.proportion(errors == 1)),
        stated("Arithmetic is correct in this share of first-error steps", st.proportion(sums)),
    ]


def orm(lab: Replication) -> list[Finding]:
    """Return the findings of notebook 02, on the validation split."""
    drafts = Outcomes(lab, "validation")
    numbers = _reward_model_numbers(lab, "orm", "balanced_orm")
    says_right = (drafts.orm_says_right == drafts.right).astype(int)
    over_always = st.paired_difference(says_right, drafts.right, seed=lab.tables.seed)
    wrong, right = (numbers["orm", f"step_false_{kind}_rate"] for kind in ("positive", "negative"))
    errors = f"the ORM rejects {_share(right)} of the correct steps and accepts {_share(wrong)} of the wrong ones"
    if right.n and wrong.n:
        errors += ". The paper: more false negatives than false positives"
    return [
        stated("Final-answer accuracy of the ORM", numbers["orm", "final_accuracy"]),
        compared("The same − accepting every answer", over_always, "more", EXPECTED),
        Finding(f"Steps: {errors}.", right.ci_high < wrong.ci_low),
        compared(
            "Step accuracy, balanced ORM − ORM",
            numbers["balanced_orm-orm", "step_accuracy_difference"], "about the same", PAPER,
        ),
    ]  # fmt: skip


def sorm(lab: Replication) -> list[Finding]:
    """Return the findings of notebook 03, on the training samples (labels) and the validation split."""
    numbers = _reward_model_numbers(lab, "orm", "balanced_orm", "sorm", "sorm_raw")
    drafts = Outcomes(lab, "validation")
    return [
        *_label_quality(lab),
        *_sorm_over_orm(numbers, drafts, lab.tables.seed),
        compared(
            "Step accuracy, post-processed − raw labels",
            _paired_steps(drafts, "sorm", "sorm_raw", lab.tables.seed), "more", EXPECTED,
        ),
    ]  # fmt: skip


def _label_quality(lab: Replication) -> list[Finding]:
    rollouts = lab.data.rollouts.read()
    samples = lab.data.samples.read()
    exact = exact_labels(lab.run, samples[samples["sample_id"].isin(rollouts["sample_id"])], "train")
    if exact is None:
        return []
    truth = exact.set_index(["sample_id", "step"])
    made = {
        rule: rollout_labels(rollouts, *switches).set_index(["sample_id", "step"])["label"].reindex(truth.index)
        for rule, switches in POSTPROCESSING.items()
    }
    hits = {rule: labels == truth["label"] for rule, labels in made.items()}
    gain = st.paired_difference(hits["consistent"], hits["monotone"], truth["question_id"], lab.tables.seed)
    quality = st.confusion(truth["label"], made["consistent"], truth["question_id"], lab.tables.seed)
    return [
        stated("Precision of positive training labels", quality.precision),
        stated("Recall of positive training labels", quality.recall),
        compared("Label accuracy, with − without the consistency rule", gain, "more", EXPECTED),
    ]


def _sorm_over_orm(numbers: "Values", drafts: Outcomes, seed: int) -> list[Finding]:
    wrong = ~drafts.right & (drafts.true_errors > 0)  # as in Table 1: a wrong draft may show no error
    found = {kind: (drafts.found_errors(kind) == drafts.true_errors)[wrong] for kind in ("orm", "sorm")}
    located = st.paired_difference(found["sorm"], found["orm"], seed=seed)
    exact = numbers["sorm-orm", "step_accuracy_difference_exact"]
    return [
        compared("Step accuracy, SORM − ORM (labels by rollouts)",
                 numbers["sorm-orm", "step_accuracy_difference"], "no less", PAPER),
        *([compared("The same with exact labels", exact, "no less", PAPER)] if exact.n else []),
        stated("First errors located by the SORM", st.proportion(found["sorm"])),
        compared("First errors located, SORM − ORM", located, "more", PAPER),
        compared("Final-answer accuracy, SORM − ORM", numbers["sorm-orm", "final_accuracy_difference"],
                 "no more", PAPER),
    ]  # fmt: skip


def _paired_steps(drafts: Outcomes, a: str, b: str, seed: int) -> st.Estimate:
    """Return the difference in step accuracy of two reward models."""
    truth = (drafts.evaluated.draft_set.labels if drafts.exact is None else drafts.exact).set_index(
        ["sample_id", "step"]
    )
    limit = drafts.run.params.reward_models.threshold
    scores = [drafts.scores(kind).set_index(["sample_id", "step"])["score"].reindex(truth.index) for kind in (a, b)]
    hits = [(score > limit) == truth["label"].astype(bool) for score in scores]
    return st.paired_difference(hits[0], hits[1], truth["question_id"], seed)


def refiners(lab: Replication) -> list[Finding]:
    """Return the findings of notebook 04, on the validation split."""
    numbers, drafts = Values(lab.validation.numbers.read()), Outcomes(lab, "validation")
    gates = [
        Finding(f"Gate: {row.gate}: {100 * row.value:.1f} (required: {100 * row.wanted:.0f}).", not row.holds)
        for row in lab.gate().itertuples()
        if row.holds != "n = 0"
    ]
    return _fixed(numbers, drafts, lab.tables.seed) + gates


def _fixed(numbers: "Values", drafts: Outcomes, seed: int) -> list[Finding]:
    """Return the share of wrong drafts that each refinement fixes, and differences."""
    kinds = {"global refinement": "global", "local + SORM refinement": "local+sorm",
             "either of the two": "global+local+sorm", "a fresh sample": "resample"}  # fmt: skip
    found = [stated(f"Wrong drafts fixed by {name}", numbers[kind, "fixed_fraction"]) for name, kind in kinds.items()]

    def difference(a: str, b: str) -> st.Estimate:
        return numbers[f"{a}-{b}", "fixed_fraction_difference"]

    either = "global+local+sorm"
    found += [
        compared("Wrong drafts fixed, either − fresh sample", difference(either, "resample"), "more", EXPECTED),
        compared("Either − global alone", difference(either, "global"), "more", PAPER),
        compared("Either − local + SORM alone", difference(either, "local+sorm"), "more", PAPER),
        compared("Local + SORM − local + ORM", difference("local+sorm", "local+orm"), "more", PAPER),
    ]
    evaluated, wrong = drafts.evaluated, ~drafts.right
    controls = {"with the true first error": "local+oracle", "with a forced prefix": "local+sorm_forced",
                "with a free prefix": "local+sorm_free"}  # fmt: skip
    for name, kind in controls.items():
        if kind in evaluated.refined:
            gain = st.paired_difference(drafts.refined(kind)[wrong], drafts.refined("local+sorm")[wrong], seed=seed)
            found.append(compared(f"Local {name} − local + SORM", gain, "no less", EXPECTED))
    if "local+oracle" in evaluated.refined:
        gain = st.paired_difference(drafts.refined("local+oracle")[wrong], drafts.refined("global")[wrong], seed=seed)
        found.append(compared("Local with the true first error − global", gain, "more", EXPECTED))
    return found


def evaluation(lab: Replication) -> list[Finding]:
    """Return the findings of notebook 05, on the test split."""
    numbers, drafts, seed = Values(lab.numbers), Outcomes(lab, "test"), lab.tables.seed
    found = [stated("Accuracy of the greedy drafts", numbers["greedy", "accuracy"])]
    for what, a, b in (
        ("Draft, global and local, reranked by the ORM − draft", "reranked", "greedy"),
        ("The same − best of three samples by the ORM", "reranked", "bo3"),
        ("The same difference with a perfect reranker", "oracle_reranked", "oracle_bo3"),
    ):
        found.append(compared(what, numbers[f"{a}-{b}", "accuracy_difference"], "more", PAPER))
    all_refined = st.paired_difference(drafts.refined("global"), drafts.right, seed=seed)
    found.append(compared("All drafts refined globally − drafts", all_refined, "about the same", PAPER))
    found += _sorm_over_orm(numbers, drafts, seed) + _fixed(numbers, drafts, seed)
    k = lab.run.params.evaluation.rerank_samples
    largest = 2 ** (k.bit_length() - 1)
    for kind, side in (("sorm_raw", "less"), ("sorm", "about the same")):
        gain = numbers[f"{kind}-orm", f"rerank_accuracy_difference@{largest}"]
        if gain.n:
            name = "raw SORM" if kind == "sorm_raw" else "SORM"
            found.append(compared(f"Best of {largest} samples, {name} − ORM", gain, side, PAPER))
    return found


class Values:
    """``numbers`` by method and metric; no data if a number is missing."""

    def __init__(self, numbers: pd.DataFrame):
        self._rows: Mapping[tuple[str, str], st.Estimate] = {
            (row.method, row.metric): st.estimate(row) for row in numbers.itertuples()
        }

    def __getitem__(self, key: tuple[str, str]) -> st.Estimate:
        return self._rows.get(key, st.NO_DATA)

    def share(self, method: str, metric: str) -> str:
        """Return a number in per cent with its interval and n, or "unknown"."""
        return _share(self[method, metric]) if self[method, metric].n else "unknown"

    def difference(self, a: str, b: str, metric: str, suffix: str = "") -> str:
        """Return a - b in points, and on which side of 0 its interval lies."""
        found = self[f"{a}-{b}", f"{metric}_difference{suffix}"]
        side = "more" if found.ci_low > 0 else "less" if found.ci_high < 0 else "no clear difference"
        return f"{found.percent(' points', '+')}, {side}" if found.n else "unknown"


def _reward_model_numbers(lab: Replication, *kinds: str) -> Values:
    """Return the numbers of Tables 1 and 2 on the validation split."""
    evaluated = lab.validation
    scores = {kind: evaluated.scores[kind] for kind in kinds}
    rows = lab.tables.table1(evaluated.draft_set, scores) + lab.tables.table2(evaluated.draft_set, scores)
    return Values(pd.DataFrame(rows))
