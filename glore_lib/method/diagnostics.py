"""When to refine, what more samples give for their tokens, and how reward models score (not in the paper).

Everything is computed from stored samples and scores. Functions return outcomes by method and metric.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

from glore_lib import statistics as st
from glore_lib.artifacts.store import Artifact
from glore_lib.method.evaluation import DraftSet, Outcomes, Pool, is_answer
from glore_lib.solutions import normalise

TRANSITIONS = ("global", "local+orm", "local+balanced_orm", "local+sorm", "resample", "refiner_no_draft")
STEPS = range(1, 9)  # that have an AUC of their own; few drafts have more
BINS = 10  # of the expected calibration error, equally wide
CERTAIN = 1e-6  # logits of scores nearer to 0 or 1 than this are those of this


def judged_steps(draft_set: DraftSet, scores: Mapping[str, Artifact]) -> dict[tuple[str, str], pd.DataFrame]:
    """Return the intermediate steps of drafts with label and score, by reward model and suffix of the labels."""
    drafts, steps = draft_set.drafts.read(), {}
    for suffix, labels in draft_set.truths.items():
        intermediate = labels[~is_answer(drafts, pd.MultiIndex.from_frame(labels[["sample_id", "step"]]))]
        for method, artifact in scores.items():
            of_method = artifact.read()[["sample_id", "step", "score"]]
            steps[method, suffix] = intermediate.merge(of_method, on=["sample_id", "step"])
    return steps


def transitions(drafts: pd.DataFrame, answers: Mapping[str, pd.DataFrame]) -> Outcomes:
    """Compare the answers of each method with the drafts that they replace.

    ``drafts`` are records ``samples``, one per question; the answers have a row for each, with the columns sample_id,
    text and is_correct. Metrics: ``wrong_to_right``, of the wrong drafts; ``right_to_wrong``, of the right ones;
    ``unchanged``, of all: the text is the draft's but for case and white space.
    """
    draft = drafts.set_index("sample_id")
    right, questions = draft["is_correct"], draft["question_id"]
    found: Outcomes = {}
    for method, frame in answers.items():
        answer = frame.set_index("sample_id").loc[draft.index]
        same = answer["text"].map(normalise) == draft["text"].map(normalise)
        found[method, "wrong_to_right"] = st.Outcome.of(answer["is_correct"], questions, ~right)
        found[method, "right_to_wrong"] = st.Outcome.of(~answer["is_correct"], questions, right)
        found[method, "unchanged"] = st.Outcome.of(same, questions)
    return found


def accuracy_by_tokens(pool: pd.DataFrame, step_scores: pd.DataFrame, tokens: pd.Series) -> Outcomes:
    """Compute the accuracy of N samples of the student and their tokens, for N = 1, 2, 4, ... from one pool.

    ``pool`` has the same number of records ``samples`` for every question, ``step_scores`` are the ORM's, and
    ``tokens`` counts the tokens of each sample (index ``sample_id``). The answer is that of the majority, the one with
    the highest score, or the one with the largest sum of scores; each accuracy is the mean over the N-subsets of a
    question's pool. Metrics: ``accuracy@N`` and, of the method ``student_samples``, ``tokens@N``.
    """
    arranged = Pool.of(pool)
    right, answers, ks, scores = arranged.right, arranged.answers, arranged.ks, arranged.scored(step_scores)
    spent = tokens.loc[arranged.ids.ravel()].to_numpy().reshape(right.shape).mean(axis=1)
    return arranged.outcomes(
        {
            ("student_majority", "accuracy"): st.majority_at_k(answers, right, ks, seed=0),
            ("student_best_of", "accuracy"): st.best_of_k(scores, right, ks),
            ("student_weighted", "accuracy"): st.majority_at_k(answers, right, ks, 0, scores),
            ("student_samples", "tokens"): np.outer(ks, spent),
        }
    )


def aggregation(drafts: pd.DataFrame, scores: Mapping[str, pd.DataFrame]) -> Outcomes:
    """Compute what the lowest step score of a draft says about its final answer, for each reward model.

    ``final_auc_minimum`` and ``final_auc_product`` take the lowest or the product of a draft's step scores where Table
    2's ``final_auc`` takes the last. ``lowest_at_last_step`` is the share of drafts of several steps whose last score
    is lower than all others: a model of final answers more than of steps.
    """
    draft = drafts.set_index("sample_id")
    right, questions = draft["is_correct"].astype(int), draft["question_id"]
    found: Outcomes = {}
    for method, frame in scores.items():
        steps = frame.groupby("sample_id")["score"].agg(["size", "min", "prod"]).reindex(draft.index, fill_value=0)
        is_last = frame["step"] == frame.groupby("sample_id")["step"].transform("max")
        before = frame[~is_last].groupby("sample_id")["score"].min().reindex(draft.index)
        last = frame[is_last].set_index("sample_id")["score"].reindex(draft.index)
        found[method, "lowest_at_last_step"] = st.Outcome.of(last < before, questions, steps["size"] > 1)
        for name, column in (("minimum", "min"), ("product", "prod")):
            found[method, f"final_auc_{name}"] = st.Outcome.auc(right, steps[column], questions)
    return found


def auc_by_step(steps: pd.DataFrame, method: str, suffix: str) -> Outcomes:
    """Compute how well the scores of the first, second, ... steps tell right steps from wrong ones.

    ``steps`` has the columns question_id, step, score and label, named by ``suffix`` in the metrics ``auc_by_step@i``.
    """
    return {
        (method, f"auc_by_step{suffix}@{i}"): st.Outcome.auc(
            steps["label"], steps["score"], steps["question_id"], steps["step"] == i
        )
        for i in STEPS
    }


def calibration(steps: pd.DataFrame, fitted: NDArray[np.float64], method: str, suffix: str) -> Outcomes:
    """Compute the Brier score and the expected calibration error of scores, as they are and :func:`refitted`.

    ``steps`` are as in :func:`auc_by_step`, and ``fitted`` is :func:`platt`'s scale and bias. The expected calibration
    error is the mean distance of mean score and share of right steps in bins of the score, weighted by their steps.
    """
    found: Outcomes = {}
    label, questions = steps["label"], steps["question_id"]
    for name, scores in (("", steps["score"].to_numpy()), ("_refitted", refitted(steps["score"], fitted))):
        gaps = scores - label
        bins = np.minimum((scores * BINS).astype(int), BINS - 1)
        # Every step counts with the sign of its bin, so that the sum over steps is the sum of the bins' distances.
        signs = np.sign(gaps.groupby(bins).transform("sum"))
        found[method, f"step_brier{name}{suffix}"] = st.Outcome.of(gaps**2, questions)
        found[method, f"step_calibration_error{name}{suffix}"] = st.Outcome.of(signs * gaps, questions)
    return found


def platt(scores: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """Fit the scale and bias of the logits of scores [n] to 0/1 labels [n], as refitting a reward head's scale does.

    A logistic regression on Platt's (1999) smoothed labels, which has a solution for separable labels too.
    """
    truth, logits = np.asarray(labels, dtype=float), _logits(scores)
    if not len(truth):
        return np.array([1.0, 0.0])
    positive = truth.sum()
    targets = np.where(truth == 1, (positive + 1) / (positive + 2), 1 / (len(truth) - positive + 2))
    features = np.column_stack([logits, np.ones_like(logits)])

    def loss(fitted: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        changed = features @ fitted
        gradient = features.T @ (expit(changed) - targets) / len(truth)
        return float(np.mean(np.logaddexp(0, changed) - targets * changed)), gradient

    return minimize(loss, [1.0, 0.0], jac=True).x


def refitted(scores: ArrayLike, fitted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the scores [n] after a change of the scale and bias of their logits."""
    scale, bias = fitted
    return expit(scale * _logits(scores) + bias)


def _logits(scores: ArrayLike) -> NDArray[np.float64]:
    return logit(np.clip(np.asarray(scores, dtype=float), CERTAIN, 1 - CERTAIN))
