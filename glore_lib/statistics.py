"""Intervals, paired comparisons, and accuracy as a function of K from one pool of samples.

Answers to different questions are independent: an accuracy over one answer per question has a Wilson interval. Steps of
one question are not: their intervals are bootstrapped over questions. All intervals are 95 % intervals.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from math import comb, nan
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import comb as binomial
from scipy.stats import norm, rankdata
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

LEVEL = 0.95
RESAMPLES = 2000
DRAWS = 200  # random subsets for majority@K if there are more subsets than that


@dataclass(frozen=True)
class Estimate:
    """A value, its 95 % interval, and the number of steps, answers or questions; NaN if ``n`` is 0."""

    value: float
    ci_low: float
    ci_high: float
    n: int

    def percent(self, unit: str = "", sign: str = "") -> str:
        """Return "value [low, high]" in per cent, with ``unit`` after the value, or "n = 0"."""
        if not self.n:
            return "n = 0"
        value, low, high = (100 * number + 0.0 for number in (self.value, self.ci_low, self.ci_high))  # never "-0.0"
        return f"{value:{sign}.1f}{unit} [{low:.1f}, {high:.1f}]"


NO_DATA = Estimate(nan, nan, nan, 0)


@dataclass(frozen=True)
class Confusion:
    """Agreement of 0/1 predictions with 0/1 labels; each rate has the ``n`` of its own denominator."""

    accuracy: Estimate
    false_positive_rate: Estimate  # of the steps labelled 0, the share predicted 1
    false_negative_rate: Estimate  # of the steps labelled 1, the share predicted 0
    precision: Estimate  # of the steps predicted 1, the share labelled 1
    recall: Estimate  # of the steps labelled 1, the share predicted 1


def row(task: str, model: str, method: str, metric: str, estimate: Estimate) -> dict[str, Any]:
    """Return an estimate as a row of a ``numbers`` frame."""
    return {
        "task": task, "model": model, "method": method, "metric": metric, "value": estimate.value,
        "ci_low": estimate.ci_low, "ci_high": estimate.ci_high, "n": estimate.n,
    }  # fmt: skip


def estimate(row: Any) -> Estimate:
    """Build an Estimate from a row of a ``numbers`` frame, as ``itertuples`` yields it."""
    return Estimate(row.value, row.ci_low, row.ci_high, row.n)


def proportion(successes: ArrayLike) -> Estimate:
    """Estimate the share of ones in independent 0/1 outcomes [n], with its Wilson interval.

    Raises ValueError if an outcome is neither 0 nor 1.
    """
    outcomes = _binary(successes, "successes")
    n, count = len(outcomes), int(outcomes.sum())
    if n == 0:
        return NO_DATA
    value = count / n
    low, high = proportion_confint(count, n, alpha=1 - LEVEL, method="wilson")
    # Rounding can push a bound 1e-17 beyond 0, 1 or the value.
    return Estimate(value, min(max(float(low), 0.0), value), max(min(float(high), 1.0), value), n)


def clustered(values: ArrayLike, clusters: ArrayLike, seed: int, bounds: tuple[float, float] = (0.0, 1.0)) -> Estimate:
    """Estimate the mean of values [n] that are independent only between clusters [n], such as the steps of a question.

    The interval is the percentile bootstrap over clusters, taken in sorted order, so the order of rows does not matter.
    ``bounds`` are the smallest and largest possible values. They matter if all clusters have the same mean, where
    resampling would give an interval of zero width: each cluster then counts as one trial, and the share of clusters
    that differ is at most Wilson's upper bound for 0 of C. For 0/1 values this is the Wilson interval of C trials.
    Raises ValueError if lengths differ or a value is not finite or out of bounds.
    """
    numbers, ids = np.asarray(values, dtype=float), np.asarray(clusters)
    if numbers.shape != ids.shape or numbers.ndim != 1:
        raise ValueError(f"values {numbers.shape} and clusters {ids.shape}: must be flat and of one length")
    low, high = bounds
    if not (np.isfinite(numbers).all() and (numbers >= low).all() and (numbers <= high).all()):
        raise ValueError(f"values: must lie in [{low:g}, {high:g}]")
    if len(numbers) == 0:
        return NO_DATA
    _, codes = np.unique(ids, return_inverse=True)
    counts = np.bincount(codes).astype(float)
    sums = np.bincount(codes, weights=numbers)
    size, value = len(counts), float(sums.sum() / counts.sum())
    if np.ptp(sums / counts) < 1e-12:
        z2 = norm.ppf(0.5 + LEVEL / 2) ** 2
        unseen = z2 / (size + z2)
        ends = [value + unseen * (low - value), value + unseen * (high - value)]
    else:
        weights = _resamples(size, seed)
        ends = np.quantile((weights @ sums) / (weights @ counts), [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return Estimate(value, float(ends[0]), float(ends[1]), len(numbers))


@lru_cache(maxsize=8)  # every number of a table resamples the same questions
def _resamples(size: int, seed: int) -> NDArray[np.float64]:
    """Count how often each of ``size`` clusters is drawn in each resample: [RESAMPLES, size]."""
    return np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), RESAMPLES).astype(float)


def paired_difference(a: ArrayLike, b: ArrayLike, clusters: ArrayLike | None = None, seed: int = 0) -> Estimate:
    """Estimate the mean of ``a - b`` over paired outcomes in [0, 1], with the paired bootstrap interval.

    Without ``clusters`` each pair is its own cluster. For step-level data pass the questions: McNemar's test would
    treat the steps of a question as independent, so there an interval that excludes 0 is the test.
    """
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if first.shape != second.shape:
        raise ValueError(f"a {first.shape} and b {second.shape}: must be paired")
    ids = np.arange(len(first)) if clusters is None else clusters
    return clustered(first - second, ids, seed, bounds=(-1.0, 1.0))


def mcnemar_p(a: ArrayLike, b: ArrayLike) -> float:
    """Return the two-sided exact McNemar p value of paired 0/1 outcomes, one pair per question."""
    first, second = _binary(a, "a"), _binary(b, "b")
    if first.shape != second.shape:
        raise ValueError(f"a {first.shape} and b {second.shape}: must be paired")
    table = np.bincount(2 * first + second, minlength=4).reshape(2, 2)
    return float(mcnemar(table, exact=True).pvalue)


def confusion(labels: ArrayLike, predictions: ArrayLike, clusters: ArrayLike, seed: int) -> Confusion:
    """Compare 0/1 predictions with 0/1 labels, each [n]: accuracy and error rates, with intervals by cluster.

    A rate is resampled over the clusters that its denominator reaches.
    """
    truth, guess, ids = _binary(labels, "labels"), _binary(predictions, "predictions"), np.asarray(clusters)
    if not truth.shape == guess.shape == ids.shape:
        raise ValueError(
            f"labels {truth.shape}, predictions {guess.shape}, clusters {ids.shape}: must be of one length"
        )

    def rate(hits: NDArray, of: NDArray) -> Estimate:
        return clustered(hits[of], ids[of], seed)

    negative, positive, flagged = truth == 0, truth == 1, guess == 1
    return Confusion(
        accuracy=clustered(truth == guess, ids, seed),
        false_positive_rate=rate(guess, negative),
        false_negative_rate=rate(1 - guess, positive),
        precision=rate(truth, flagged),
        recall=rate(guess, positive),
    )


def best_of_k(scores: ArrayLike, correct: ArrayLike, ks: Sequence[int]) -> NDArray[np.float64]:
    """Compute the expected accuracy of the top-scored of K samples, over all K-subsets of a pool (paper, Figure 4).

    ``scores`` and ``correct`` are [questions, N]; the result is [len(ks), questions] and exact. The sample of rank r
    (0 is the best) is the best of a random K-subset with probability C(N-1-r, K-1) / C(N, K). Ties are averaged over.
    Raises ValueError if shapes differ, a score is NaN, or K is not in 1..N.
    """
    values, right = np.asarray(scores, dtype=float), _pool(correct)
    if values.shape != right.shape:
        raise ValueError(f"scores {values.shape} and correct {right.shape}: must be of one shape")
    if np.isnan(values).any():
        raise ValueError("scores: NaN cannot be ranked")
    size = right.shape[1]
    ranks = np.arange(size)
    # Samples tied over the ranks a..b share the probabilities of these ranks equally.
    first = rankdata(-values, method="min", axis=1).astype(int) - 1
    last = rankdata(-values, method="max", axis=1).astype(int)
    curves = []
    for k in _checked(ks, size):
        cumulative = np.concatenate([[0.0], np.cumsum(binomial(size - 1 - ranks, k - 1) / binomial(size, k))])
        accuracy = (right * (cumulative[last] - cumulative[first]) / (last - first)).sum(axis=1)
        curves.append(np.minimum(accuracy, 1.0))  # rounding may exceed 1 by 1e-16
    return np.array(curves).reshape(len(ks), len(right))


def oracle_at_k(correct: ArrayLike, ks: Sequence[int]) -> NDArray[np.float64]:
    """Compute the probability that one of K samples is correct: the unbiased pass@k, 1 - C(N-c, K) / C(N, K).

    ``correct`` is [questions, N]; the result is [len(ks), questions]. Raises ValueError where K is not in 1..N.
    """
    right = _pool(correct)
    size, wrong = right.shape[1], right.shape[1] - right.sum(axis=1)
    curves = [1 - binomial(wrong, k) / binomial(size, k) for k in _checked(ks, size)]
    return np.array(curves).reshape(len(ks), len(right))


def majority_vote(answers: Sequence[str]) -> str:
    """Return the most frequent answer, the first of ties; empty answers do not vote ("" if none does)."""
    votes = Counter(answer for answer in answers if answer)
    return votes.most_common(1)[0][0] if votes else ""


def majority_at_k(answers: Sequence[Sequence[str]], correct: ArrayLike, ks: Sequence[int], seed: int) -> NDArray:
    """Compute the expected accuracy of the majority vote of K samples, over K-subsets of a question's pool.

    ``answers`` and ``correct`` (the grade of each answer) are [questions, N]; the result is [len(ks), questions]. All
    subsets are used if there are at most ``DRAWS``, so K = 1 and K = N are exact; otherwise ``DRAWS`` random ones, the
    same for every question. A tie counts as the share of correct answers among the tied ones. Empty answers do not
    vote. Raises ValueError if shapes differ, K is not in 1..N, or an answer is graded both right and wrong.
    """
    right = _pool(correct)
    if [len(pool) for pool in answers] != [right.shape[1]] * len(right):
        raise ValueError(f"answers: must be of the shape of correct, {right.shape}")
    size, rng = right.shape[1], np.random.default_rng(seed)
    subsets = [_subsets(size, k, rng) for k in _checked(ks, size)]
    curves = np.zeros((len(ks), len(right)))
    for question, pool in enumerate(answers):
        choices, codes = np.unique(np.asarray(pool, dtype=str), return_inverse=True)
        is_right = np.bincount(codes, weights=right[question]) / np.bincount(codes)
        if not np.isin(is_right, (0.0, 1.0)).all():
            both = str(choices[~np.isin(is_right, (0.0, 1.0))][0])
            raise ValueError(f"correct: answer {both!r} of question {question} is graded both right and wrong")
        ballots = np.eye(len(choices))[codes] * (choices != "")  # [N, choices]
        for i, members in enumerate(subsets):
            votes = members @ ballots  # [subsets, choices]
            most = votes.max(axis=1, keepdims=True)
            winners = (votes == most) & (most > 0)
            curves[i, question] = np.mean(winners @ is_right / np.maximum(winners.sum(axis=1), 1))
    return curves


def _subsets(size: int, k: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return indicators [subsets, N] of K-subsets: all of them, or ``DRAWS`` random ones."""
    if comb(size, k) <= DRAWS:
        chosen = np.array(list(combinations(range(size), k)))
    else:
        chosen = rng.permuted(np.tile(np.arange(size), (DRAWS, 1)), axis=1)[:, :k]
    members = np.zeros((len(chosen), size))
    np.put_along_axis(members, chosen, 1.0, axis=1)
    return members


def _binary(values: ArrayLike, name: str) -> NDArray[np.int64]:
    array = np.asarray(values)
    if not np.isin(array, (0, 1)).all():
        raise ValueError(f"{name}: must be 0 or 1")
    return array.astype(np.int64)


def _pool(correct: ArrayLike) -> NDArray[np.int64]:
    right = _binary(correct, "correct")
    if right.ndim != 2:
        raise ValueError(f"correct {right.shape}: must be [questions, N]")
    return right


def _checked(ks: Sequence[int], size: int) -> Sequence[int]:
    if not all(1 <= k <= size for k in ks):
        raise ValueError(f"ks = {list(ks)}: each must lie in 1..{size}, the samples a question has")
    return ks
