"""Intervals, paired comparisons, and accuracy as a function of K from one pool of samples.

Answers to different questions are independent: an accuracy over one answer per question has a Wilson interval. Steps of
one question are not: their intervals are bootstrapped over questions. With several seeds of a run, a statistic is the
mean over the seeds, and the bootstrap resamples seeds and questions. Intervals are 95 % intervals if nothing else is
said.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
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
EQUIVALENCE_LEVEL = 0.90  # of the interval of two one-sided tests (TOST) at 5 % each
RESAMPLES = 2000  # with fixed seeds, so that the same data have the same interval in every table
FLIPS = 9999
DRAWS = 200  # random subsets for majority@K if there are more subsets than that


@dataclass(frozen=True)
class Estimate:
    """A value, its interval, the number of steps, answers or questions, and of questions; NaN if ``n`` is 0."""

    value: float
    ci_low: float
    ci_high: float
    n: int
    clusters: int = 0

    def percent(self, unit: str = "", sign: str = "") -> str:
        """Return "value [low, high]" in per cent, with ``unit`` after the value, or "n = 0"."""
        if not self.n:
            return "n = 0"
        value, low, high = (100 * number + 0.0 for number in (self.value, self.ci_low, self.ci_high))  # never "-0.0"
        return f"{value:{sign}.1f}{unit} [{low:.1f}, {high:.1f}]"


NO_DATA = Estimate(nan, nan, nan, 0)


@dataclass(frozen=True)
class Outcome:
    """Hits and counts of each question: a statistic is the mean over its parts of sum(hits) / sum(counts).

    ``questions`` are ids [questions], each once; ``hits`` and ``counts`` are [parts, questions]. An accuracy has one
    part, a balanced accuracy one per label. A question without a count does not matter for a part.
    """

    questions: NDArray[np.str_]
    hits: NDArray[np.float64]
    counts: NDArray[np.float64]

    @classmethod
    def of(cls, values: ArrayLike, questions: ArrayLike, where: ArrayLike | None = None) -> "Outcome":
        """Build the outcome whose statistic is the mean of values [n] of questions [n], of those ``where`` is true."""
        numbers, ids = np.asarray(values, dtype=float), np.asarray(questions, dtype=str)
        counted = np.ones(len(ids)) if where is None else np.asarray(where, dtype=float)
        if not numbers.shape == ids.shape == counted.shape:
            raise ValueError(f"values {numbers.shape}, questions {ids.shape}, where {counted.shape}: of one length")
        if not np.isfinite(numbers).all():
            raise ValueError("values: must be finite")
        if not len(ids):  # one question that does not count, so that the outcome can be stored
            return cls(np.array([""]), np.zeros((1, 1)), np.zeros((1, 1)))
        names, codes = np.unique(ids, return_inverse=True)
        hits, counts = (np.bincount(codes, weights=w, minlength=len(names)) for w in (numbers * counted, counted))
        return cls(names, hits[None].astype(float), counts[None].astype(float))

    @classmethod
    def balanced(cls, labels: ArrayLike, predictions: ArrayLike, questions: ArrayLike) -> "Outcome":
        """Build the balanced accuracy of 0/1 predictions [n]: the mean of the shares of 1s and of 0s predicted so."""
        truth, guess = _binary(labels, "labels"), _binary(predictions, "predictions")
        return cls._joined(cls.of(guess == truth, questions, truth == label) for label in (1, 0))

    @classmethod
    def auc(
        cls, labels: ArrayLike, scores: ArrayLike, questions: ArrayLike, where: ArrayLike | None = None
    ) -> "Outcome":
        """Build the area under the ROC curve of scores [n]: the chance that a 1 is scored above a 0; ties count half.

        Of all scores, or of those ``where`` is true.

        Resampled hits of a U statistic would need all pairs. These are its linear approximation, as in DeLong's and
        Obuchowski's variances: 2 V - AUC for each score, V being the share of the other label that it is ranked
        rightly against.
        """
        truth, values = _binary(labels, "labels"), np.asarray(scores, dtype=float)
        counted = np.ones(len(truth), dtype=bool) if where is None else np.asarray(where, dtype=bool)
        placed, positive, negative = np.zeros(len(truth)), counted & (truth == 1), counted & (truth == 0)
        if positive.any() and negative.any():
            ranks = np.zeros(len(truth))
            ranks[counted] = rankdata(values[counted])
            for label, among, others in ((1, positive, negative), (0, negative, positive)):
                below = (ranks[among] - rankdata(values[among])) / others.sum()
                placed[among] = below if label else 1 - below
            placed = 2 * placed - placed[positive].mean()
        return cls._joined(cls.of(placed, questions, among) for among in (positive, negative))

    @classmethod
    def _joined(cls, parts: Iterable["Outcome"]) -> "Outcome":
        some = list(parts)
        return cls(some[0].questions, *(np.concatenate([getattr(p, k) for p in some]) for k in ("hits", "counts")))

    @property
    def n(self) -> int:
        """The number of answers, steps or questions counted."""
        return round(self.counts.sum())

    @property
    def value(self) -> float:
        """The statistic; NaN if a part counts nothing."""
        return float(_ratio(self.hits.sum(axis=1), self.counts.sum(axis=1)))

    def contributions(self, other: "Outcome | float") -> NDArray[np.float64]:
        """Return what each question adds to the difference to a paired outcome, or to a constant: [questions]."""
        hits = other.hits if isinstance(other, Outcome) else other * self.counts
        return ((self.hits - hits) / self.counts.sum(axis=1, keepdims=True)).mean(axis=0)

    @property
    def is_one_answer_per_question(self) -> bool:
        """Whether every question counts one answer that is right or wrong, or none."""
        return len(self.hits) == 1 and bool(np.isin(self.counts, (0, 1)).all() and np.isin(self.hits, (0, 1)).all())


@dataclass(frozen=True)
class Resampled:
    """A statistic, or a difference of two, over one or several seeds, with its bootstrap replicates."""

    value: float
    replicates: NDArray[np.float64] = field(repr=False)
    n: int
    clusters: int
    bounds: tuple[float, float] = (0.0, 1.0)

    @property
    def standard_error(self) -> float:
        """The standard deviation of the replicates."""
        return float(np.nanstd(self.replicates))

    def estimate(self, level: float = LEVEL) -> Estimate:
        """Return the value with its percentile interval.

        If no replicate differs, each question counts as one trial, and the share of questions that differ is at most
        Wilson's upper bound for 0 of them. A value out of bounds is no share, but a mean of counts such as tokens.
        """
        if np.isnan(self.value):
            return NO_DATA
        is_share = self.bounds[0] <= self.value <= self.bounds[1]
        if np.nanmax(self.replicates) - np.nanmin(self.replicates) < 1e-12 and is_share:
            low, high = _unseen(self.value, self.clusters, self.bounds, level)
        else:
            low, high = np.nanquantile(self.replicates, [0.5 - level / 2, 0.5 + level / 2])
        if is_share:  # the linear approximation of an AUC may leave them
            low, high = np.clip([low, high], *self.bounds)
        return Estimate(self.value, float(low), float(high), self.n, self.clusters)


def resampled(outcomes: Sequence[Outcome]) -> Resampled:
    """Bootstrap a statistic over the seeds of a run, one outcome each, and their questions."""
    return _over_seeds(outcomes, [o.value for o in outcomes], _by_seed(outcomes))


def _by_seed(outcomes: Sequence[Outcome]) -> NDArray[np.float64]:
    """Return the statistic of each seed in each resample of the questions: [seeds, resamples].

    A question that several seeds share is drawn for all of them together.
    """
    names = _names(outcomes)
    weights = _resamples(len(names))
    replicates = []
    for o in outcomes:
        drawn = weights if len(o.questions) == len(names) else weights[:, np.searchsorted(names, o.questions)]
        # The last digits of a matrix product depend on the number of threads.
        hits, counts = (np.einsum("pq,rq->pr", part, drawn) for part in (o.hits, o.counts))
        replicates.append(_ratio(hits, counts))
    return np.array(replicates)


def _over_seeds(
    outcomes: Sequence[Outcome], values: Sequence[float], replicates: NDArray, bounds: tuple[float, float] = (0.0, 1.0)
) -> Resampled:
    """Join the replicates [seeds, resamples] of a statistic with the ``values`` [seeds].

    The second level draws seeds. Their deviations from the mean are shrunk to the variance that the sampling of
    questions does not explain, which would otherwise count twice (Davison and Hinkley, 1997, section 3.8).
    """
    points, mean, size = np.array(values), replicates.mean(axis=0), len(values)
    if size > 1 and np.ptp(points) > 0:
        sampling = np.nanvar(replicates - mean, axis=1).mean() * size / (size - 1)
        between = max(0.0, np.var(points, ddof=1) - sampling)
        effects = (points - points.mean()) * np.sqrt(between / np.var(points))
        mean = mean + np.einsum("rs,s->r", _resamples(size, level="seeds"), effects) / size
    counted = {question for o in outcomes for question in o.questions[o.counts.any(axis=0)]}
    return Resampled(float(points.mean()), mean, sum(o.n for o in outcomes), len(counted), bounds)


def estimate(outcomes: Sequence[Outcome]) -> Estimate:
    """Estimate a statistic over the seeds of a run, one outcome each: the mean over the seeds.

    One answer per question of one seed has a Wilson interval, everything else a bootstrap interval.
    """
    if len(outcomes) == 1 and outcomes[0].is_one_answer_per_question:
        return proportion(outcomes[0].hits[outcomes[0].counts == 1])
    return resampled(outcomes).estimate()


def difference(a: Sequence[Outcome], b: Sequence[Outcome] | float) -> Resampled:
    """Bootstrap a statistic of ``a`` minus that of ``b`` on the same questions and seeds, or minus a constant."""
    first = [o.value for o in a]
    if isinstance(b, float):
        return _over_seeds(a, [value - b for value in first], _by_seed(a) - b, (-b, 1 - b))
    _check_paired(a, b)
    values = [one - other.value for one, other in zip(first, b, strict=True)]
    return _over_seeds(a, values, _by_seed(a) - _by_seed(b), (-1.0, 1.0))


def unpaired(a: Sequence[Outcome], b: Sequence[Outcome]) -> tuple[Resampled, float]:
    """Bootstrap a statistic of ``a`` minus that of ``b`` on other questions, and return its two-sided p value too.

    The p value is that of a normal distribution with the bootstrap's standard error; 1 if no question differs.
    """
    one, other = resampled(a), resampled(b)
    replicates = one.replicates - np.roll(other.replicates, 1)  # equally many questions share the same draws
    size, clusters = one.n + other.n, one.clusters + other.clusters
    change = Resampled(one.value - other.value, replicates, size, clusters, (-1.0, 1.0))
    error = change.standard_error
    return change, float(2 * norm.sf(abs(change.value) / error)) if error > 0 else 1.0


def paired_p(a: Sequence[Outcome], b: Sequence[Outcome] | float) -> float:
    """Return the two-sided p value of no difference between ``a`` and ``b``: methods swapped question by question.

    For one answer per question of one seed this is McNemar's exact test; otherwise a sign-flip test with ``FLIPS``
    random draws, of each question's mean over the seeds.
    """
    if not isinstance(b, float):
        _check_paired(a, b)
        if len(a) == 1 and a[0].is_one_answer_per_question and b[0].is_one_answer_per_question:
            counted = a[0].counts[0] == 1
            return mcnemar_p(a[0].hits[0, counted], b[0].hits[0, counted])
    names = _names(a)
    total = np.zeros(len(names))
    for i, one in enumerate(a):
        other = b if isinstance(b, float) else b[i]
        total[np.searchsorted(names, one.questions)] += one.contributions(other) / len(a)
    extreme = np.abs(_flips(len(names)) @ total) >= abs(total.sum()) - 1e-12
    return float((1 + extreme.sum()) / (1 + FLIPS))


def equivalence_power(standard_error: float, low: float, high: float) -> float:
    """Return the power of two one-sided tests at 5 % that a difference lies in (low, high), if it is truly 0."""
    if standard_error == 0:
        return 1.0
    z = norm.ppf(0.5 + EQUIVALENCE_LEVEL / 2)
    return float(max(0.0, norm.cdf(high / standard_error - z) - norm.cdf(low / standard_error + z)))


def _ratio(hits: NDArray, counts: NDArray) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.mean(hits / counts, axis=0)


def _names(outcomes: Sequence[Outcome]) -> NDArray[np.str_]:
    if len(outcomes) == 1:
        return outcomes[0].questions
    return np.unique(np.concatenate([o.questions for o in outcomes]))


def _check_paired(a: Sequence[Outcome], b: Sequence[Outcome]) -> None:
    if [o.questions.tolist() for o in a] != [o.questions.tolist() for o in b]:
        raise ValueError("a and b: must be outcomes of the same seeds and questions")


def _unseen(value: float, size: int, bounds: tuple[float, float], level: float = LEVEL) -> tuple[float, float]:
    z2 = norm.ppf(0.5 + level / 2) ** 2
    unseen = z2 / (size + z2)
    return value + unseen * (bounds[0] - value), value + unseen * (bounds[1] - value)


def row(task: str, model: str, method: str, metric: str, estimate: Estimate) -> dict[str, Any]:
    """Return an estimate as a row of a ``numbers`` frame."""
    return {
        "task": task, "model": model, "method": method, "metric": metric, "value": estimate.value,
        "ci_low": estimate.ci_low, "ci_high": estimate.ci_high, "n": estimate.n, "clusters": estimate.clusters,
    }  # fmt: skip


def of_row(row: Any) -> Estimate:
    """Build an Estimate, without its clusters, from a row of a table as ``itertuples`` yields it."""
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
    return Estimate(value, min(max(float(low), 0.0), value), max(min(float(high), 1.0), value), n, n)


def clustered(values: ArrayLike, clusters: ArrayLike, bounds: tuple[float, float] = (0.0, 1.0)) -> Estimate:
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
    drawn = resampled([Outcome.of(numbers, ids)])
    return replace(drawn, bounds=bounds).estimate()


@lru_cache(maxsize=8)  # every number of a table resamples the same questions
def _resamples(size: int, level: str = "questions") -> NDArray[np.float64]:
    """Count how often each of ``size`` questions, or seeds, is drawn in each resample: [RESAMPLES, size]."""
    return (
        np.random.default_rng(["questions", "seeds"].index(level))
        .multinomial(size, np.full(size, 1 / size), RESAMPLES)
        .astype(float)
    )


@lru_cache(maxsize=2)
def _flips(size: int) -> NDArray[np.float32]:
    """Draw ``FLIPS`` signs for each of ``size`` questions: [FLIPS, size]."""
    return np.random.default_rng(2).choice(np.array([-1, 1], dtype=np.float32), (FLIPS, size))


def paired_difference(a: ArrayLike, b: ArrayLike, clusters: ArrayLike | None = None) -> Estimate:
    """Estimate the mean of ``a - b`` over paired outcomes in [0, 1], with the paired bootstrap interval.

    Without ``clusters`` each pair is its own cluster. For step-level data pass the questions: McNemar's test would
    treat the steps of a question as independent, so there an interval that excludes 0 is the test.
    """
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if first.shape != second.shape:
        raise ValueError(f"a {first.shape} and b {second.shape}: must be paired")
    ids = np.arange(len(first)) if clusters is None else clusters
    return clustered(first - second, ids, bounds=(-1.0, 1.0))


def mcnemar_p(a: ArrayLike, b: ArrayLike) -> float:
    """Return the two-sided exact McNemar p value of paired 0/1 outcomes, one pair per question."""
    first, second = _binary(a, "a"), _binary(b, "b")
    if first.shape != second.shape:
        raise ValueError(f"a {first.shape} and b {second.shape}: must be paired")
    table = np.bincount(2 * first + second, minlength=4).reshape(2, 2)
    return float(mcnemar(table, exact=True).pvalue)


def confusion(labels: ArrayLike, predictions: ArrayLike, questions: ArrayLike) -> dict[str, Outcome]:
    """Compare 0/1 predictions with 0/1 labels of questions, each [n].

    Returned by name: ``accuracy``; ``false_positive_rate`` of those labelled 0, ``false_negative_rate`` and ``recall``
    of those labelled 1, ``precision`` of those predicted 1, and ``false_negative_share`` of the errors.
    """
    truth, guess = _binary(labels, "labels"), _binary(predictions, "predictions")
    shares = {
        "accuracy": (guess == truth, None), "false_positive_rate": (guess, truth == 0),
        "false_negative_rate": (1 - guess, truth == 1), "precision": (truth, guess == 1), "recall": (guess, truth == 1),
        "false_negative_share": (truth, guess != truth),
    }  # fmt: skip
    return {name: Outcome.of(hits, questions, where) for name, (hits, where) in shares.items()}


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


def majority_at_k(
    answers: Sequence[Sequence[str]], correct: ArrayLike, ks: Sequence[int], seed: int, weights: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Compute the expected accuracy of the majority vote of K samples, over K-subsets of a question's pool.

    ``answers`` and ``correct`` (the grade of each answer) are [questions, N]; the result is [len(ks), questions]. With
    ``weights`` [questions, N], such as scores, the answer with the largest sum of weights wins. All subsets are used if
    there are at most ``DRAWS``, so K = 1 and K = N are exact; otherwise ``DRAWS`` random ones, the same for every
    question. A tie counts as the share of correct answers among the tied ones. Empty answers do not vote. Raises
    ValueError if shapes differ, K is not in 1..N, a weight is negative or not finite, or an answer is graded both right
    and wrong.
    """
    right = _pool(correct)
    if [len(pool) for pool in answers] != [right.shape[1]] * len(right):
        raise ValueError(f"answers: must be of the shape of correct, {right.shape}")
    each = np.ones(right.shape) if weights is None else np.asarray(weights, dtype=float)
    if each.shape != right.shape or not (np.isfinite(each).all() and (each >= 0).all()):
        raise ValueError(f"weights: must be finite, not negative, and of the shape of correct, {right.shape}")
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
            # [subsets, choices]; rounding makes equal sums differ by 1e-16
            votes = np.where(members @ ballots > 0, members @ (ballots * each[question][:, None]), -1.0).round(12)
            winners = (votes == votes.max(axis=1, keepdims=True)) & (votes >= 0)
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
