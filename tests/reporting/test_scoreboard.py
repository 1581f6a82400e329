"""The verdicts: what the rule says of intervals, p values and outcomes worked out by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from glore_lib.method.evaluation import Outcomes
from glore_lib.params import Task
from glore_lib.reporting import scoreboard as sb
from glore_lib.statistics import Outcome

COUNTS = {"train_questions": 1, "validation_questions": 1, "test_questions": 1}
QUESTIONS = np.array([f"q{i:03}" for i in range(400)])
SAME = sb.SIDES["about the same"]


@pytest.mark.parametrize(
    ("low", "high", "p", "expected"),
    [
        (0.01, 0.05, 0.01, sb.REPLICATED),
        (-0.05, -0.01, 0.01, sb.NOT_REPLICATED),
        (-0.01, 0.05, 0.3, sb.INCONCLUSIVE),
        (0.0, 0.05, 0.01, sb.INCONCLUSIVE),  # 0 is neither side
        (0.001, 0.02, 0.125, sb.INCONCLUSIVE),  # four pairs against none: the interval alone says more than the test
        (-0.01, 0.05, 0.04, sb.INCONCLUSIVE),
    ],
)
def test_a_direction_needs_interval_and_test(low, high, p, expected):
    assert sb.directional(low, high, p) == expected


@pytest.mark.parametrize(
    ("low", "high", "power", "side", "expected"),
    [
        (-0.02, 0.02, 0.9, SAME, sb.REPLICATED),
        (-0.03, 0.02, 0.9, SAME, sb.INCONCLUSIVE),
        (0.03, 0.05, 0.9, SAME, sb.NOT_REPLICATED),
        (-0.2, 0.2, 0.1, SAME, sb.UNDERPOWERED),
        (-0.02, 0.02, 0.49, SAME, sb.UNDERPOWERED),  # lucky
        (-0.3, -0.1, 0.1, SAME, sb.NOT_REPLICATED),  # far away, whatever the power
        (-0.01, 0.2, 0.6, (-math.inf, 0.01), sb.INCONCLUSIVE),
        (-0.07, 0.3, 0.6, sb.SIDES["at most 5 points less"], sb.REPLICATED),
    ],
)
def test_bounds_need_two_one_sided_tests_and_power(low, high, power, side, expected):
    assert sb.bounded(low, high, power, side) == expected
    assert sb.bounded(-high, -low, power, (-side[1], -side[0])) == expected


def answers(right: int, first: int = 0) -> Outcome:
    """Return the outcome of a method that is right on ``right`` of 400 questions, from number ``first`` on."""
    hits = np.zeros(len(QUESTIONS))
    hits[first : first + right] = 1
    return Outcome.of(hits, QUESTIONS)


def test_four_pairs_against_none_are_not_enough():
    few = {("a", "m"): answers(104), ("b", "m"): answers(100)}
    found = sb.judge([few], "a", "b", "m", "more")
    assert found.found.ci_low > 0 and found.p == pytest.approx(0.125) and found.verdict == sb.INCONCLUSIVE
    more = few | {("a", "m"): answers(112)}
    assert sb.judge([more], "a", "b", "m", "more").verdict == sb.REPLICATED
    assert sb.judge([more], "b", "a", "m", "more").verdict == sb.NOT_REPLICATED
    assert math.isnan(found.power)


def test_equality_is_tested_with_its_power():
    alike = {("a", "m"): answers(300), ("b", "m"): answers(301)}
    found = sb.judge([alike], "a", "b", "m", "about the same")
    assert found.verdict == sb.REPLICATED and found.power > 0.95 and math.isnan(found.p)
    unlike = {("a", "m"): answers(200), ("b", "m"): answers(200, first=200)}
    found = sb.judge([unlike], "a", "b", "m", "about the same")
    assert found.verdict == sb.UNDERPOWERED and found.power < 0.5
    apart = {("a", "m"): answers(300), ("b", "m"): answers(200)}
    assert sb.judge([apart], "a", "b", "m", "about the same").verdict == sb.NOT_REPLICATED


def test_a_classifier_that_predicts_one_class_is_not_informative():
    labels = np.arange(400) % 2
    predictions = {"constant": np.zeros(400, int), "good": labels.copy(), "better": labels.copy()}
    predictions["good"][:100] = 1 - labels[:100]
    predictions["better"][:40] = 1 - labels[:40]
    outcomes = {(name, "b"): Outcome.balanced(labels, guess, QUESTIONS) for name, guess in predictions.items()}
    assert sb.judge([outcomes], "better", "constant", "b", "more").verdict == sb.REPLICATED
    needs = "better 0.5 b; constant 0.5 b"
    assert sb.judge([outcomes], "better", "constant", "b", "more", needs).verdict == sb.NOT_INFORMATIVE
    assert sb.judge([outcomes], "better", "good", "b", "more", "better 0.5 b; good 0.5 b").verdict == sb.REPLICATED


def test_several_seeds_count_as_one_difference():
    seeds = [{("a", "m"): answers(120), ("b", "m"): answers(100)}, {("a", "m"): answers(110), ("b", "m"): answers(100)}]
    found = sb.judge(seeds, "a", "b", "m", "more")
    assert found.found.value == pytest.approx(15 / 400) and found.found.clusters == 400 and found.found.n == 800
    assert sb.judge([seeds[0], {("b", "m"): answers(1)}], "a", "b", "m", "more") is None


def outcomes(difference: int = 4) -> Outcomes:
    """Return outcomes for every claim in which ``a`` is right on ``difference`` questions more than ``b``."""
    made: Outcomes = {}
    for claim in sb.CLAIMS:
        for condition in filter(None, [f"{claim.a} {claim.b} {claim.metric}", *claim.needs.split("; ")]):
            if claim.metric and claim.b not in sb.BENCHMARKS:
                a, b, metric = condition.split()
                metric = metric.replace("@", "@8")
                made.setdefault((b, metric), answers(220))
                made[a, metric] = answers(220 + difference)
    return made


def score(*runs: Outcomes, models: str = "mm", task: str = "") -> pd.DataFrame:
    """Return the scoreboard of runs "a" and "b", on GSM8K and SVAMP or on a task that stands in for both."""
    about = [
        {"run": run, "model": model, "stands_for": benchmark, "params": {"task": {"name": task or benchmark}}}
        for run, model, benchmark, _ in zip("ab", models, ("gsm8k", "svamp"), runs, strict=False)
    ]
    return sb.scoreboard({run["run"]: [made] for run, made in zip(about, runs, strict=True)}, about)


def test_a_row_a_claim_and_run_and_a_verdict_in_each():
    scores = score(outcomes(), outcomes())
    assert list(scores) == sb.COLUMNS
    assert scores["id"].tolist() == [c.id for c in sb.CLAIMS for _ in "ab"]
    assert set(scores["verdict"]) <= set(sb.VERDICTS)
    assert {c.id.split(",")[0] for c in sb.CLAIMS} >= {f"c{i}" for i in range(1, 18)}
    untested = scores[scores["verdict"] == sb.NOT_TESTED]
    assert untested[["ours", "ci_low", "ci_high", "n"]].isna().all(axis=None)
    assert scores.drop(untested.index)[["ours", "ci_low", "ci_high", "n"]].notna().all(axis=None)
    judged = scores[~scores["verdict"].isin([sb.NOT_TESTED, sb.NOT_JUDGED])]
    assert (judged["p"].isna() != judged["power"].isna()).all()
    assert (judged["p_holm"].dropna() >= judged["p"].dropna()).all()
    assert (scores["seeds"] == 1).all()


def test_differences_that_cannot_lose_or_are_another_claims_are_shown_and_not_judged():
    scores = score(outcomes()).set_index("id")
    for claim in sb.CLAIMS:
        if claim.note:
            shown = scores.loc[claim.id]
            assert shown["verdict"] == (sb.NOT_JUDGED if claim.metric else sb.NOT_TESTED)
            assert pd.isna(shown["p"]) and pd.isna(shown["power"])
            assert claim.note in sb.to_read(scores.reset_index()).loc[claim.id, "a"]
    assert {"c1", "c12, global", "c12, local", "c13, global", "c13, local"} <= set(
        scores.index[scores["verdict"] == sb.NOT_JUDGED]
    )


def test_holms_correction_by_hand():
    made = outcomes(12)  # twelve pairs against none: p = 2 / 2^12 for every direction of one answer per question
    scores = score(made).set_index("id")
    tested = scores["p"].dropna()
    assert tested["c14"] == pytest.approx(2 / 2**12)
    assert scores.loc["c14", "p_holm"] == pytest.approx(min(1, len(tested) * 2 / 2**12))


def test_a_claim_about_one_benchmark_is_tested_by_its_stand_in_alone():
    verdicts = score(outcomes(), outcomes()).set_index(["id", "task"])["verdict"]
    for claim in sb.CLAIMS:
        if claim.about:
            (elsewhere,) = {"gsm8k", "svamp"} - {claim.about}
            places = {"gsm8k": "a", "svamp": "b"}
            assert verdicts[claim.id, places[claim.about]] != sb.NOT_TESTED
            assert verdicts[claim.id, places[elsewhere]] == sb.NOT_TESTED
    about = {c.id: c.about for c in sb.CLAIMS}
    assert all(about[i] == "gsm8k" for i in ("c10, raw", "c10, gain", "c10, all", "c15", "c16"))
    assert sb.benchmark(Task(name="arithmetic", difficulty="hard", **COUNTS)) == "gsm8k"
    assert sb.benchmark(Task(name="arithmetic", difficulty="easy", **COUNTS)) == "svamp"
    assert sb.benchmark(Task(name="svamp", **COUNTS)) == "svamp"


def test_students_of_two_benchmarks_are_compared_if_one_model_was_run_on_both():
    hard, easy = (
        outcomes() | {("greedy", "accuracy"): answers(100)},
        outcomes() | {("greedy", "accuracy"): answers(240)},
    )
    verdicts = score(hard, easy).set_index(["id", "task"])
    c7 = verdicts.loc["c7", "b"]
    assert c7["ours"] == pytest.approx(0.35) and c7["n"] == 800 and c7["verdict"] == sb.REPLICATED
    assert score(easy, hard).set_index(["id", "task"]).loc[("c7", "b"), "verdict"] == sb.NOT_REPLICATED
    assert verdicts.loc[("c7", "a"), "verdict"] == sb.NOT_TESTED
    for other in (score(hard, easy, models="mn"), score(hard, easy, task="arithmetic"), score(hard)):
        assert set(other[other["id"].isin(["c7", "q5"])]["verdict"]) == {sb.NOT_TESTED}


def test_a_model_no_better_than_a_constant_in_one_of_two_runs_is_not_informative():
    key = ("orm", "step_balanced_accuracy")
    good, chance = outcomes() | {key: answers(300)}, outcomes() | {key: answers(200)}
    assert score(good, good).set_index(["id", "task"]).loc[("q5", "b"), "verdict"] == sb.INCONCLUSIVE
    for runs in ((good, chance), (chance, good)):
        assert score(*runs).set_index(["id", "task"]).loc[("q5", "b"), "verdict"] == sb.NOT_INFORMATIVE


def test_the_reranking_is_taken_at_the_largest_number_of_samples():
    made = outcomes()
    made |= {("orm", "rerank_accuracy@16"): answers(100), ("sorm_raw", "rerank_accuracy@16"): answers(200)}
    made |= {("random", "rerank_accuracy@16"): answers(50)}
    scores = score(made).set_index("id")
    assert scores.loc["c10, raw", "ours"] == -0.25 and scores.loc["c10, raw", "verdict"] == sb.NOT_REPLICATED


def test_what_was_not_counted_is_not_tested():
    made = outcomes()
    made["reranked", "accuracy"] = Outcome.of(np.zeros(400), QUESTIONS, np.zeros(400))
    scores = score(made).set_index("id")
    assert scores.loc["c14", "verdict"] == sb.NOT_TESTED
    assert sb.to_read(scores.reset_index()).loc["c14", "a"] == "not tested here"
    assert sb.to_read(scores.reset_index()).loc["c8", "a"] == "not tested here: one size of model"


def test_a_csv_read_again_gives_the_same_table(tmp_path):
    scores = score(outcomes(), outcomes())
    scores.to_csv(tmp_path / "scoreboard.csv", index=False)
    table = sb.to_read(sb.read(tmp_path / "scoreboard.csv"))
    pd.testing.assert_frame_equal(table, sb.to_read(scores))
    assert (
        table.loc["c14", "a"].startswith("+1.0 [")
        and "(n=400) inconclusive (p = 0.12, Holm 1)" in table.loc["c14", "a"]
    )
