import os
import subprocess
import sys
import warnings
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import mannwhitneyu, permutation_test
from statsmodels.stats.proportion import test_proportions_2indep as two_proportions

from glore_lib import statistics
from glore_lib.statistics import (
    Estimate,
    Outcome,
    best_of_k,
    clustered,
    confusion,
    difference,
    equivalence_power,
    estimate,
    majority_at_k,
    majority_vote,
    mcnemar_p,
    of_row,
    oracle_at_k,
    paired_difference,
    paired_p,
    proportion,
    resampled,
    row,
    unpaired,
)

outcomes = st.lists(st.integers(0, 1), min_size=1, max_size=40)


def is_no_data(estimate: Estimate) -> bool:
    return estimate.n == 0 and bool(np.isnan([estimate.value, estimate.ci_low, estimate.ci_high]).all())


# Newcombe (1998), "Two-sided confidence intervals for the single proportion", table I, method 3 (Wilson).
@pytest.mark.parametrize(
    ("count", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_proportion_is_wilsons_published_interval(count, n, low, high):
    estimate = proportion([1] * count + [0] * (n - count))
    assert (estimate.value, estimate.n) == (count / n, n)
    assert_allclose([estimate.ci_low, estimate.ci_high], [low, high], atol=5e-5)


@settings(deadline=None)
@given(outcomes)
def test_proportion_lies_in_its_interval_within_0_and_1(values):
    estimate = proportion(values)
    assert 0 <= estimate.ci_low <= estimate.value <= estimate.ci_high <= 1
    assert estimate.ci_low < estimate.ci_high
    assert proportion(values[::-1]) == estimate


def test_no_outcomes_give_nan_and_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert is_no_data(proportion([]))
        assert is_no_data(clustered([], []))
        assert is_no_data(paired_difference([], []))
        assert is_no_data(estimate([confusion([], [], [])["precision"]]))


@pytest.mark.parametrize("bad", [[0, 2], [0.5], [np.nan]])
def test_outcomes_other_than_0_and_1_are_refused(bad):
    with pytest.raises(ValueError, match="must be 0 or 1"):
        proportion(bad)


def test_clustered_agrees_with_a_plain_bootstrap_over_questions():
    rng = np.random.default_rng(5)
    clusters = np.repeat(np.arange(30), rng.integers(1, 6, 30))
    values = rng.random(30)[clusters] > rng.random(len(clusters))
    rows_of = [np.flatnonzero(clusters == c) for c in range(30)]
    means = [values[np.concatenate([rows_of[c] for c in rng.integers(0, 30, 30)])].mean() for _ in range(4000)]
    estimate = clustered(values, clusters)
    assert estimate.value == values.mean()
    assert estimate.n == len(values)
    assert_allclose([estimate.ci_low, estimate.ci_high], np.quantile(means, [0.025, 0.975]), atol=0.015)


def test_clustered_interval_covers_95_percent():
    rng, truth, covered = np.random.default_rng(0), 0.7, 0
    for _ in range(300):
        clusters = np.repeat(np.arange(60), 4)
        rates = rng.beta(1.4, 0.6, 60)  # questions differ a lot; their mean is 0.7
        estimate = clustered(rng.random(240) < rates[clusters], clusters)
        covered += estimate.ci_low <= truth <= estimate.ci_high
    assert 0.91 <= covered / 300 <= 0.98


def test_repeating_every_step_does_not_narrow_the_clustered_interval():
    values, clusters = [0, 1, 1, 0, 1, 1, 1, 0, 1, 1], list("abcdefghij")
    once, ten_times = clustered(values, clusters), clustered(values * 10, clusters * 10)
    assert_allclose([ten_times.ci_low, ten_times.ci_high], [once.ci_low, once.ci_high])
    assert ten_times.n == 100


def test_clusters_that_all_agree_get_wilsons_interval_of_as_many_trials():
    wilson = proportion([1] * 20)
    estimate = clustered([1] * 60, np.repeat(np.arange(20), 3))
    assert_allclose([estimate.ci_low, estimate.ci_high], [wilson.ci_low, wilson.ci_high])
    assert estimate.n == 60
    same = paired_difference([1, 0] * 10, [1, 0] * 10)
    assert_allclose([same.value, same.ci_low, same.ci_high], [0, -0.1611, 0.1611], atol=5e-5)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 8)), min_size=1, max_size=25),
    st.randoms(use_true_random=False),
)
def test_clustered_interval_holds_the_mean_and_ignores_the_order_of_rows(rows, random):
    values, clusters = zip(*rows, strict=True)
    estimate = clustered(values, clusters)
    assert estimate.ci_low - 1e-9 <= estimate.value <= estimate.ci_high + 1e-9
    again = clustered(*zip(*random.sample(rows, len(rows)), strict=True))
    assert_allclose(
        [again.value, again.ci_low, again.ci_high], [estimate.value, estimate.ci_low, estimate.ci_high], atol=1e-9
    )


@pytest.mark.parametrize(
    ("values", "clusters"), [([1, 0], [1]), ([[1], [0]], [[1], [2]]), ([1.5], [0]), ([np.nan], [0]), ([-0.5], [0])]
)
def test_clustered_refuses_what_it_cannot_average(values, clusters):
    with pytest.raises(ValueError, match="must"):
        clustered(values, clusters)


def test_paired_difference_is_paired():
    rng = np.random.default_rng(2)
    b = rng.integers(0, 2, 400)
    a = b.copy()
    a[:20] = 1  # at most 20 answers differ, so the paired interval is far narrower than the two single ones
    difference = paired_difference(a, b)
    assert difference.value == pytest.approx((a.sum() - b.sum()) / 400)
    assert 0 < difference.ci_low < difference.value < difference.ci_high < 0.06
    assert proportion(a).ci_low < proportion(b).ci_high
    opposite = paired_difference(b, a)
    assert_allclose([opposite.ci_low, opposite.ci_high], [-difference.ci_high, -difference.ci_low], atol=1e-12)


def test_paired_difference_by_question_is_wider_than_by_step():
    a, b = np.repeat([1, 1, 1, 0, 1, 1, 0, 1], 5), np.repeat([0, 1, 0, 1, 1, 0, 0, 1], 5)
    by_step, by_question = paired_difference(a, b), paired_difference(a, b, np.repeat(np.arange(8), 5))
    assert by_step.value == by_question.value == 0.25
    assert by_question.ci_low < 0 < by_step.ci_low


def test_mcnemar_by_hand():
    # 1 pair where only b is right, 5 where only a is: 2 * (C(6,0) + C(6,1)) / 2^6
    a, b = [0] + [1] * 5 + [1, 0, 0], [1] + [0] * 5 + [1, 0, 0]
    assert mcnemar_p(a, b) == pytest.approx(14 / 64)
    assert mcnemar_p(b, a) == pytest.approx(14 / 64)
    assert mcnemar_p([1, 0, 1], [1, 0, 1]) == 1
    assert mcnemar_p([1] * 8, [0] * 8) == pytest.approx(2 / 2**8)
    with pytest.raises(ValueError, match="paired"):
        mcnemar_p([1, 0], [1])


def test_confusion_by_hand():
    labels = [1, 1, 1, 0, 0, 0, 0, 1]
    predictions = [1, 1, 0, 0, 0, 0, 1, 0]
    result = confusion(labels, predictions, list("aabbccdd"))
    assert {name: (rate.value, rate.n) for name, rate in result.items()} == {
        "accuracy": (5 / 8, 8), "false_positive_rate": (1 / 4, 4), "false_negative_rate": (2 / 4, 4),
        "precision": (2 / 3, 3), "recall": (2 / 4, 4), "false_negative_share": (2 / 3, 3),
    }  # fmt: skip
    nothing_flagged = confusion([1, 0], [0, 0], ["a", "b"])
    assert is_no_data(estimate([nothing_flagged["precision"]]))
    assert nothing_flagged["recall"].value == 0


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=20))
@settings(max_examples=30, deadline=None)
def test_confusion_rates_add_up(pairs):
    labels, predictions = zip(*pairs, strict=True)
    result = confusion(labels, predictions, range(len(pairs)))
    rates = [result["false_positive_rate"], result["false_negative_rate"]]
    errors = sum(rate.value * rate.n for rate in rates if rate.n)
    assert errors == pytest.approx((1 - result["accuracy"].value) * len(pairs))
    balanced = Outcome.balanced(labels, predictions, range(len(pairs)))
    if all(rate.n for rate in rates):
        assert balanced.value == pytest.approx(1 - (rates[0].value + rates[1].value) / 2)
        constant = Outcome.balanced(labels, [1] * len(pairs), range(len(pairs)))
        assert constant.value == 0.5 and is_bounded(estimate([constant]))
    else:
        assert is_no_data(estimate([balanced]))


def is_bounded(found: Estimate) -> bool:
    return -1e-12 <= found.ci_low <= found.value <= found.ci_high <= 1 + 1e-12


# Outcomes by question


def test_an_outcome_by_hand():
    outcome = Outcome.of([1, 0, 1, 1], ["b", "a", "b", "c"], where=[1, 1, 1, 0])
    assert outcome.questions.tolist() == ["a", "b", "c"]
    assert (outcome.hits.tolist(), outcome.counts.tolist()) == ([[0, 2, 0]], [[1, 2, 0]])
    assert (outcome.value, outcome.n) == (2 / 3, 3)
    found = estimate([outcome])
    assert (found.value, found.n, found.clusters) == (2 / 3, 3, 2)
    with pytest.raises(ValueError, match="of one length"):
        Outcome.of([1], ["a", "b"])
    with pytest.raises(ValueError, match="finite"):
        Outcome.of([np.nan], ["a"])


def labelled_scores(seed: int, questions: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels, scores with ties, and questions of steps: questions differ in difficulty."""
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.arange(questions), rng.integers(1, 6, questions))
    easy = rng.random(questions)[ids]
    labels = (rng.random(len(ids)) < easy).astype(int)
    return labels, np.round(0.5 * easy + 0.3 * labels + 0.4 * rng.random(len(ids)), 1), ids


def area(labels: np.ndarray, scores: np.ndarray) -> float:
    positive, negative = scores[labels == 1], scores[labels == 0]
    return float(mannwhitneyu(positive, negative).statistic / (len(positive) * len(negative)))


@pytest.mark.parametrize("seed", range(3))
def test_the_area_under_the_curve_is_mann_whitneys_and_its_interval_that_of_resampled_questions(seed):
    labels, scores, ids = labelled_scores(seed)
    outcome = Outcome.auc(labels, scores, ids)
    assert outcome.value == pytest.approx(area(labels, scores))
    rng, rows_of = np.random.default_rng(9), [np.flatnonzero(ids == q) for q in range(40)]
    drawn = [np.concatenate([rows_of[q] for q in rng.integers(0, 40, 40)]) for _ in range(1500)]
    direct = np.quantile([area(labels[rows], scores[rows]) for rows in drawn], [0.025, 0.975])
    found = estimate([outcome])
    assert_allclose([found.ci_low, found.ci_high], direct, atol=0.02)


def test_an_area_without_one_of_the_labels_is_unknown():
    assert is_no_data(estimate([Outcome.auc([1, 1], [0.2, 0.4], ["a", "b"])]))
    assert Outcome.auc([1, 0, 0], [0.5, 0.5, 0.1], list("abc")).value == 0.75  # a tie counts half


@pytest.mark.parametrize("kind", [Outcome.balanced, Outcome.auc])
def test_a_difference_pairs_the_questions(kind):
    labels, scores, ids = labelled_scores(1)
    a, b = scores > 0.5, scores > 0.6
    first, second = (kind(labels, guess.astype(int), ids) for guess in (a, b))
    found = difference([first], [second]).estimate()
    assert found.value == pytest.approx(first.value - second.value)
    apart = [estimate([o]) for o in (first, second)]
    assert found.ci_high - found.ci_low < max(e.ci_high - e.ci_low for e in apart)
    same = difference([first], [first]).estimate()
    assert same.value == 0 and same.ci_low < 0 < same.ci_high  # not of zero width
    against_constant = difference([first], 0.5).estimate()
    assert against_constant.ci_low == pytest.approx(apart[0].ci_low - 0.5)
    with pytest.raises(ValueError, match="same seeds and questions"):
        difference([first], [kind(labels[ids > 0], b[ids > 0].astype(int), ids[ids > 0])])


# Several seeds


def answers(rng: np.random.Generator, names: list[str], rate: float) -> Outcome:
    return Outcome.of(rng.random(len(names)) < rate, names)


def test_seeds_average_and_shared_questions_are_drawn_together():
    rng, names = np.random.default_rng(0), [f"q{i}" for i in range(200)]
    one = answers(rng, names, 0.6)
    width = {}
    for name, outcomes in {
        "one": [one, one],  # two seeds that agree on everything tell no more than one
        "others": [one, Outcome(np.char.add("x", one.questions), one.hits, one.counts)],
        "seeds differ": [one, answers(rng, names, 0.9)],
    }.items():
        found = resampled(outcomes).estimate()
        assert found.value == pytest.approx(np.mean([o.value for o in outcomes]))
        assert found.n == 400 and found.clusters == (400 if name == "others" else 200)
        width[name] = found.ci_high - found.ci_low
    single = resampled([one]).estimate()
    assert width["one"] == pytest.approx(single.ci_high - single.ci_low)
    assert width["others"] == pytest.approx(width["one"] / np.sqrt(2), rel=0.1)
    assert width["seeds differ"] > 1.5 * width["one"]  # 60 and 90 %


def test_the_interval_over_seeds_covers_the_mean_over_trainings():
    rng, covered = np.random.default_rng(1), 0
    for _ in range(150):
        seeds = [answers(rng, [f"{s}-{i}" for i in range(150)], rng.normal(0.6, 0.05)) for s in range(5)]
        found = estimate(seeds)
        covered += found.ci_low <= 0.6 <= found.ci_high
    assert 0.85 <= covered / 150 <= 0.99  # five seeds are few: the percentile bootstrap is a little short


# Tests of a difference


def test_one_answer_per_question_is_mcnemars_test():
    names = [f"q{i}" for i in range(9)]
    a, b = Outcome.of([0] + [1] * 5 + [1, 0, 0], names), Outcome.of([1] + [0] * 5 + [1, 0, 0], names)
    assert paired_p([a], [b]) == pytest.approx(14 / 64)
    skipped = Outcome.of([1, 0], ["q0", "q1"], where=[1, 0]), Outcome.of([0, 1], ["q0", "q1"], where=[1, 0])
    assert paired_p([skipped[0]], [skipped[1]]) == 1  # one pair only


def test_steps_are_tested_by_swapping_the_methods_question_by_question():
    labels, scores, ids = labelled_scores(2, questions=12)
    a, b = (Outcome.balanced(labels, (scores > t).astype(int), ids) for t in (0.45, 0.65))
    changes = a.contributions(b)
    assert changes.sum() == pytest.approx(a.value - b.value)
    exact = permutation_test((changes,), np.sum, permutation_type="samples", n_resamples=np.inf).pvalue
    assert paired_p([a], [b]) == pytest.approx(exact, abs=0.015)
    assert paired_p([b], [a]) == paired_p([a], [b])
    share = confusion(labels, (scores > 0.45).astype(int), ids)["false_negative_share"]
    assert share.contributions(0.5).sum() == pytest.approx(share.value - 0.5)


def test_a_test_over_seeds_uses_each_questions_mean():
    names = [f"q{i}" for i in range(10)]
    a, b = Outcome.of([1] * 10, names), Outcome.of([0] * 10, names)
    assert paired_p([a, b], [b, a]) == 1  # the seeds contradict each other
    assert paired_p([a, a], [b, b]) == pytest.approx(2 / 2**10, abs=0.002)


@pytest.mark.parametrize(("right", "others"), [(60, 45), (60, 60), (30, 80)])
def test_runs_on_other_questions_are_compared_as_two_independent_proportions(right, others):
    a, b = (
        Outcome.of([i < n for i in range(120)], [f"{run}{i}" for i in range(120)])
        for run, n in (("a", right), ("b", others))
    )
    change, p = unpaired([a], [b])
    known = two_proportions(right, 120, others, 120, method="wald")
    assert change.value == pytest.approx((right - others) / 120) and change.n == change.clusters == 240
    assert change.standard_error == pytest.approx(np.sqrt(known.variance), rel=0.05)
    assert p == pytest.approx(known.pvalue, abs=0.02)
    assert unpaired([b], [a])[1] == pytest.approx(p, abs=0.02)


def test_runs_without_any_difference_have_no_small_p_value():
    one, none = Outcome.of([1], ["a"]), Outcome.of([0], ["b"])
    change, p = unpaired([one], [none])
    assert p == 1 and change.value == 1 and change.estimate().ci_low < 0.9


def test_p_values_are_rarely_small_without_a_difference():
    rng, small = np.random.default_rng(3), 0
    for _ in range(200):
        ids = np.repeat(np.arange(30), 4)
        labels = rng.integers(0, 2, 120)
        a, b = (Outcome.balanced(labels, rng.integers(0, 2, 120), ids) for _ in "ab")
        small += paired_p([a], [b]) < 0.05
    assert small / 200 <= 0.09


def test_power_of_equivalence_by_hand():
    # With a margin of 2.5 standard errors: 2 * Phi(2.5 - 1.645) - 1.
    assert equivalence_power(0.01, -0.025, 0.025) == pytest.approx(2 * 0.80375 - 1, abs=1e-4)
    assert equivalence_power(0.01, -0.025, np.inf) == pytest.approx(0.80375, abs=1e-4)
    assert equivalence_power(0.02, -0.025, 0.025) == 0  # 90 % of the interval is wider than the margins
    assert equivalence_power(0.0, -0.025, 0.025) == 1
    rng = np.random.default_rng(4)
    drawn = rng.normal(0, 0.012, 20_000)
    confirmed = (drawn - 1.645 * 0.012 > -0.025) & (drawn + 1.645 * 0.012 < 0.025)
    assert equivalence_power(0.012, -0.025, 0.025) == pytest.approx(confirmed.mean(), abs=0.01)


def brute_force_best_of_k(scores, correct, k):
    """Return the mean over all K-subsets, averaged over ties for the top score."""
    picked = []
    for subset in combinations(range(len(scores)), k):
        top = max(scores[i] for i in subset)
        picked.append(np.mean([correct[i] for i in subset if scores[i] == top]))
    return np.mean(picked)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 7))
def test_best_of_k_equals_enumeration_of_all_subsets(data, size):
    scores = data.draw(arrays(float, (3, size), elements=st.sampled_from([0.1, 0.2, 0.5, 0.9])))
    correct = data.draw(arrays(int, (3, size), elements=st.integers(0, 1)))
    ks = range(1, size + 1)
    expected = [[brute_force_best_of_k(scores[q], correct[q], k) for q in range(3)] for k in ks]
    assert_allclose(best_of_k(scores, correct, ks), expected, atol=1e-12)
    assert_allclose(best_of_k(scores, correct, [1])[0], correct.mean(axis=1), atol=1e-12)


def test_best_of_k_by_hand():
    # By score: right, wrong, right, wrong. Of the 6 pairs the first is the best in 3, the second in 2, the third in 1.
    assert_allclose(best_of_k([[0.4, 0.9, 0.7, 0.1]], [[1, 1, 0, 0]], [1, 2, 4]), [[0.5], [4 / 6], [1]])


def test_best_of_k_of_a_large_pool_ends_at_the_top_score():
    rng = np.random.default_rng(0)
    scores, correct = rng.random((5, 512)), rng.integers(0, 2, (5, 512))
    curve = best_of_k(scores, correct, [1, 256, 512])
    assert np.isfinite(curve).all()
    assert_array_equal(curve[-1], correct[np.arange(5), scores.argmax(axis=1)])
    always_right = best_of_k(rng.random((200, 96)), np.ones((200, 96)), range(1, 97))
    assert always_right.max() <= 1
    assert clustered(always_right[47], range(200)).value == pytest.approx(1)


@settings(deadline=None)
@given(arrays(int, (4, 6), elements=st.integers(0, 1)), st.permutations(range(4)), st.permutations(range(6)))
def test_curves_do_not_depend_on_the_order_of_questions_or_samples(correct, questions, samples):
    scores = np.random.default_rng(1).integers(0, 3, (4, 6))
    answers = np.where(correct, "7", scores.astype(str))
    ks, other = [1, 2, 6], np.ix_(questions, samples)
    assert_allclose(
        best_of_k(scores, correct, ks)[:, questions], best_of_k(scores[other], correct[other], ks), atol=1e-12
    )
    assert_allclose(
        majority_at_k(answers, correct, ks, 0)[:, questions],
        majority_at_k(answers[other], correct[other], ks, 0),
        atol=1e-12,
    )


def test_oracle_at_k_by_hand_and_by_enumeration():
    correct = np.array([[1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
    assert_allclose(oracle_at_k(correct, [2]), [[0.7, 0, 1]])  # 1 - C(3,2)/C(5,2)
    for k in range(1, 6):
        subsets = [correct[:, list(s)].max(axis=1) for s in combinations(range(5), k)]
        assert_allclose(oracle_at_k(correct, [k])[0], np.mean(subsets, axis=0), atol=1e-12)


@settings(deadline=None)
@given(arrays(int, (3, 8), elements=st.integers(0, 1)))
def test_oracle_grows_with_k_and_no_ranking_beats_it(correct):
    ks = range(1, 9)
    oracle = oracle_at_k(correct, ks)
    assert (np.diff(oracle, axis=0) >= -1e-12).all()
    scores = np.random.default_rng(2).random((3, 8))
    assert (best_of_k(scores, correct, ks) <= oracle + 1e-12).all()
    assert_allclose(best_of_k(correct, correct, ks), oracle, atol=1e-12)


def test_majority_vote():
    assert majority_vote(["3", "4", "4", "3", "5"]) == "3"  # a tie: the first
    assert majority_vote(["", "", "", "9"]) == "9"  # empty answers never vote
    assert majority_vote(["", ""]) == majority_vote([]) == ""


def test_majority_at_k_by_hand():
    answers, correct = [["7", "3", "7", ""]], [[1, 0, 1, 0]]
    pairs = [0.5, 1, 1, 0.5, 0, 1]  # 7-3 tie, 7-7, 7 alone, 3-7 tie, 3 alone, 7 alone
    triples = [1, 0.5, 1, 0.5]  # 7-3-7, 7-3 tie, 7-7, 3-7 tie
    expected = [[2 / 4], [np.mean(pairs)], [np.mean(triples)], [1]]
    assert_allclose(majority_at_k(answers, correct, [1, 2, 3, 4], 0), expected)
    assert_array_equal(majority_at_k([["", ""]], [[0, 0]], [1, 2], 0), [[0], [0]])


def test_a_weighted_vote_by_hand():
    answers, correct, weights = [["7", "3", "7", ""]], [[1, 0, 1, 0]], [[0.1, 0.5, 0.2, 0.9]]
    pairs = [0, 1, 1, 0, 0, 1]  # 7-3 by 0.1:0.5, 7-7, 7 alone, 3-7 by 0.5:0.2, 3 alone, 7 alone
    triples = [0, 0, 1, 0]  # 0.3:0.5, 0.1:0.5, 7-7, 0.2:0.5
    assert_allclose(
        majority_at_k(answers, correct, [1, 2, 3, 4], 0, weights), [[2 / 4], [np.mean(pairs)], [np.mean(triples)], [0]]
    )
    # Sums that are equal but for rounding, 0.1 + 0.2 and 0.3, and answers that weigh nothing: both are ties.
    tied = majority_at_k([["7", "7", "3"]] * 2, [[1, 1, 0]] * 2, [3], 0, [[0.1, 0.2, 0.3], [0, 0, 0]])
    assert_array_equal(tied, [[0.5, 0.5]])


@settings(deadline=None)
@given(arrays(int, (3, 6), elements=st.integers(0, 1)), st.floats(0.1, 10))
def test_a_vote_with_equal_weights_is_a_majority_vote(correct, weight):
    answers = np.where(correct, "7", np.random.default_rng(1).choice(["1", "2", ""], (3, 6)))
    equal = majority_at_k(answers, correct, [1, 3, 6], 0, np.full((3, 6), weight))
    assert_allclose(equal, majority_at_k(answers, correct, [1, 3, 6], 0))


def test_majority_at_k_by_random_subsets_is_near_enumeration(monkeypatch):
    rng = np.random.default_rng(3)
    answers = rng.choice(["1", "2", "3", ""], (30, 9), p=[0.5, 0.2, 0.2, 0.1])
    correct = answers == "1"
    exact = majority_at_k(answers, correct, [4], 0)  # C(9,4) = 126 subsets
    monkeypatch.setattr(statistics, "DRAWS", 100)
    drawn = majority_at_k(answers, correct, [4], 0)
    assert not np.array_equal(exact, drawn)
    assert_allclose(drawn.mean(), exact.mean(), atol=0.02)
    assert_array_equal(drawn, majority_at_k(answers, correct, [4], 0))
    assert not np.array_equal(drawn, majority_at_k(answers, correct, [4], 1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: best_of_k([[1.0, 2.0]], [[1, 0]], [3]), r"each must lie in 1\.\.2"),
        (lambda: best_of_k([[1.0, 2.0]], [[1, 0]], [0]), r"each must lie in 1\.\.2"),
        (lambda: best_of_k([[1.0, np.nan]], [[1, 0]], [1]), "NaN"),
        (lambda: best_of_k([[1.0]], [[1, 0]], [1]), "one shape"),
        (lambda: oracle_at_k([1, 0], [1]), "questions, N"),
        (lambda: majority_at_k([["1"]], [[1, 0]], [1], 0), "of the shape of correct"),
        (lambda: majority_at_k([["1"]], [[1]], [1], 0, [[-0.1]]), "weights: must be finite, not negative"),
        (lambda: majority_at_k([["1"]], [[1]], [1], 0, [[np.nan]]), "weights: must be finite, not negative"),
        (lambda: majority_at_k([["1"]], [[1]], [1], 0, [0.5]), "of the shape of correct"),
        (lambda: majority_at_k([["1", "1"]], [[1, 0]], [1], 0), "'1' of question 0 is graded both right and wrong"),
    ],
)
def test_curves_refuse_what_has_no_meaning(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_row_keeps_the_estimate():
    found = Estimate(0.5, 0.4, 0.6, 10, 5)
    cells = row("mini-hard", "mini-base", "orm", "accuracy", found)
    assert list(cells.values()) == ["mini-hard", "mini-base", "orm", "accuracy", 0.5, 0.4, 0.6, 10, 5]
    assert of_row(SimpleNamespace(**cells)) == Estimate(0.5, 0.4, 0.6, 10)


def test_the_area_under_the_curve_of_some_scores_is_that_of_these_alone():
    rng = np.random.default_rng(5)
    labels, scores, questions = rng.integers(0, 2, 60), rng.integers(0, 9, 60), rng.integers(0, 20, 60).astype(str)
    some = rng.random(60) < 0.5
    of_some, alone = (
        Outcome.auc(labels, scores, questions, some),
        Outcome.auc(labels[some], scores[some], questions[some]),
    )
    assert of_some.value == pytest.approx(alone.value) and of_some.n == alone.n == some.sum()
    assert set(of_some.questions) == set(questions)
    assert np.isnan(Outcome.auc(labels, scores, questions, labels == 1).value)


def test_intervals_keep_to_the_values_that_are_possible():
    # Two questions of which one has both labels: the linear approximation of some resamples exceeds 1.
    area = Outcome.auc([1, 0, 1, 0, 1, 0], [0.9, 0.1, 0.8, 0.85, 0.7, 0.2], ["a", "a", "b", "b", "c", "c"])
    assert np.nanmax(resampled([area]).replicates) > 1
    assert 0 <= estimate([area]).ci_low < area.value < estimate([area]).ci_high <= 1
    tokens = estimate([Outcome.of([30, 30], ["a", "b"])])  # no share, so nothing is known of other questions
    assert (tokens.value, tokens.ci_low, tokens.ci_high, tokens.n) == (30, 30, 30, 2)


def test_an_outcome_of_nothing_has_one_question_that_does_not_count():
    for nothing in (Outcome.of([], []), Outcome.balanced([], [], []), Outcome.auc([], [], [])):
        assert nothing.questions.tolist() == [""] and nothing.n == 0
        assert is_no_data(estimate([nothing]))


SEEDS = """
import numpy as np
from glore_lib import statistics

random, questions = np.random.default_rng(0), np.repeat(np.arange(600), 5)
outcomes = [
    statistics.Outcome.auc(random.integers(0, 2, 3000), random.random(3000), questions) for seed in range(5)
]
print(*np.sort(statistics.resampled(outcomes).replicates))
"""


def test_no_digit_depends_on_the_number_of_threads():
    shown = {
        subprocess.run(
            [sys.executable, "-c", SEEDS], check=True, capture_output=True,
            env=os.environ | {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads},
        ).stdout
        for threads in ("1", "2")
    }  # fmt: skip
    assert len(shown) == 1 and shown.pop().count(b" ") == statistics.RESAMPLES - 1
