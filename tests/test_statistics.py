import warnings
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal

from glore_lib import statistics
from glore_lib.artifacts.records import SCHEMAS
from glore_lib.statistics import (
    Estimate,
    best_of_k,
    clustered,
    confusion,
    majority_at_k,
    majority_vote,
    mcnemar_p,
    oracle_at_k,
    paired_difference,
    proportion,
    row,
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
        assert is_no_data(clustered([], [], 0))
        assert is_no_data(paired_difference([], []))
        assert is_no_data(confusion([], [], [], 0).precision)


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
    estimate = clustered(values, clusters, seed=1)
    assert estimate.value == values.mean()
    assert estimate.n == len(values)
    assert_allclose([estimate.ci_low, estimate.ci_high], np.quantile(means, [0.025, 0.975]), atol=0.015)


def test_clustered_interval_covers_95_percent():
    rng, truth, covered = np.random.default_rng(0), 0.7, 0
    for repeat in range(300):
        clusters = np.repeat(np.arange(60), 4)
        rates = rng.beta(1.4, 0.6, 60)  # questions differ a lot; their mean is 0.7
        estimate = clustered(rng.random(240) < rates[clusters], clusters, seed=repeat)
        covered += estimate.ci_low <= truth <= estimate.ci_high
    assert 0.91 <= covered / 300 <= 0.98


def test_repeating_every_step_does_not_narrow_the_clustered_interval():
    values, clusters = [0, 1, 1, 0, 1, 1, 1, 0, 1, 1], list("abcdefghij")
    once, ten_times = clustered(values, clusters, 0), clustered(values * 10, clusters * 10, 0)
    assert_allclose([ten_times.ci_low, ten_times.ci_high], [once.ci_low, once.ci_high])
    assert ten_times.n == 100


def test_clusters_that_all_agree_get_wilsons_interval_of_as_many_trials():
    wilson = proportion([1] * 20)
    estimate = clustered([1] * 60, np.repeat(np.arange(20), 3), 0)
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
    estimate = clustered(values, clusters, 3)
    assert estimate.ci_low - 1e-9 <= estimate.value <= estimate.ci_high + 1e-9
    again = clustered(*zip(*random.sample(rows, len(rows)), strict=True), 3)
    assert_allclose(
        [again.value, again.ci_low, again.ci_high], [estimate.value, estimate.ci_low, estimate.ci_high], atol=1e-9
    )


@pytest.mark.parametrize(
    ("values", "clusters"), [([1, 0], [1]), ([[1], [0]], [[1], [2]]), ([1.5], [0]), ([np.nan], [0]), ([-0.5], [0])]
)
def test_clustered_refuses_what_it_cannot_average(values, clusters):
    with pytest.raises(ValueError, match="must"):
        clustered(values, clusters, 0)


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
    result = confusion(labels, predictions, list("aabbccdd"), 0)
    values = {name: (getattr(result, name).value, getattr(result, name).n) for name in vars(result)}
    assert values == {
        "accuracy": (5 / 8, 8), "false_positive_rate": (1 / 4, 4), "false_negative_rate": (2 / 4, 4),
        "precision": (2 / 3, 3), "recall": (2 / 4, 4),
    }  # fmt: skip
    nothing_flagged = confusion([1, 0], [0, 0], ["a", "b"], 0)
    assert is_no_data(nothing_flagged.precision)
    assert nothing_flagged.recall.value == 0


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=20))
@settings(max_examples=30, deadline=None)
def test_confusion_rates_add_up(pairs):
    labels, predictions = zip(*pairs, strict=True)
    result = confusion(labels, predictions, range(len(pairs)), 0)
    errors = [rate.value * rate.n for rate in (result.false_positive_rate, result.false_negative_rate) if rate.n]
    assert sum(errors) == pytest.approx((1 - result.accuracy.value) * len(pairs))
    if result.recall.n:
        assert result.recall.value == pytest.approx(1 - result.false_negative_rate.value)


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
    assert clustered(always_right[47], range(200), 0).value == pytest.approx(1)


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
        (lambda: majority_at_k([["1", "1"]], [[1, 0]], [1], 0), "'1' of question 0 is graded both right and wrong"),
    ],
)
def test_curves_refuse_what_has_no_meaning(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_row_fits_the_numbers_schema():
    cells = row("mini-hard", "mini-base", "orm", "accuracy", Estimate(0.5, 0.4, 0.6, 10))
    assert list(cells) == list(SCHEMAS["numbers"])
    assert list(cells.values()) == ["mini-hard", "mini-base", "orm", "accuracy", 0.5, 0.4, 0.6, 10]
