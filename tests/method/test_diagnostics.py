"""Transitions, accuracy against tokens, and the diagnostics of reward models on cases worked out by hand."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.optimize import minimize
from scipy.special import expit, xlogy

from clone import TINY
from glore_lib.method import diagnostics
from glore_lib.method.diagnostics import Outcomes, platt, refitted
from glore_lib.method.schedule import pool_size
from glore_lib.params import load_params
from tiny import sample_rows, score_rows

DRAFTS = sample_rows(
    ("q0", "a\nb\n#### 1", False), ("q1", "a\n#### 1", False), ("q2", "a\n#### 2", True), ("q3", "a\nb", True)
)  # fmt: skip
SCORES = {
    ("q0", "s0"): [0.9, 0.2, 0.4], ("q1", "s1"): [0.6, 0.3], ("q2", "s2"): [0.5, 0.5], ("q3", "s3"): [0.8],
}  # fmt: skip


def mixed(rows: pd.DataFrame) -> pd.DataFrame:
    """In another order, which must not matter."""
    return rows.sample(frac=1, random_state=3)


def assert_outcomes(found: Outcomes, expected: dict[tuple[str, str], tuple[float, int]]) -> None:
    """Check that these are the outcomes, by value and n."""
    assert {key: outcome.n for key, outcome in found.items()} == {key: n for key, (_, n) in expected.items()}
    for key, (value, n) in expected.items():
        assert found[key].value == (pytest.approx(value) if n else pytest.approx(np.nan, nan_ok=True)), key


def test_transitions_by_hand():
    answers = {
        "global": (["a\nB \n\n####  1", "a\n#### 3", "a\n#### 3", "a\nb"], [False, True, False, True]),
        "reranked": (["x\n#### 2", "a\n#### 3", "a\n#### 2", "c\nb"], [True, True, True, True]),
    }
    frames = {
        method: mixed(DRAFTS[["sample_id"]].assign(text=texts, is_correct=right))
        for method, (texts, right) in answers.items()
    }
    assert_outcomes(
        diagnostics.transitions(mixed(DRAFTS), frames),
        {
            # s0 is the draft but for case and white space; s1 is fixed, s2 lost, s3 the draft.
            ("global", "wrong_to_right"): (1 / 2, 2), ("global", "right_to_wrong"): (1 / 2, 2),
            ("global", "unchanged"): (2 / 4, 4),
            ("reranked", "wrong_to_right"): (1, 2), ("reranked", "right_to_wrong"): (0, 2),
            ("reranked", "unchanged"): (1 / 4, 4),
        },
    )  # fmt: skip


@pytest.mark.parametrize("right", [True, False])
def test_transitions_where_all_drafts_are_alike(right):
    drafts = DRAFTS.assign(is_correct=right)
    found = diagnostics.transitions(drafts, {"global": drafts})
    expected = {"wrong_to_right": (0, 4 * (not right)), "right_to_wrong": (0, 4 * right), "unchanged": (1, 4)}
    assert_outcomes(found, {("global", metric): number for metric, number in expected.items()})


def test_every_draft_needs_an_answer():
    with pytest.raises(KeyError, match="s3"):
        diagnostics.transitions(DRAFTS, {"global": DRAFTS[:3]})


POOL = {  # (answer, whether it is right, score, tokens) of four samples of each question
    "q0": [("5", True, 0.1, 4), ("6", False, 0.9, 8), ("5", True, 0.3, 6), ("", False, 0.2, 2)],
    "q1": [("7", False, 0.4, 1), ("7", False, 0.3, 1), ("8", True, 0.6, 1), ("9", False, 0.0, 1)],
}


def pool() -> tuple[pd.DataFrame, pd.DataFrame, pd.Series]:
    rows = [(q, j, *sample) for q, samples in POOL.items() for j, sample in enumerate(samples)]
    frame = sample_rows(*((q, f"#### {answer}", right) for q, _, answer, right, *_ in rows))
    ids = [f"{q}/pool/{j}" for q, j, *_ in rows]
    scores = score_rows({(q, id): [0.99, score] for id, (q, _, _, _, score, _) in zip(ids, rows, strict=True)})
    return frame.assign(sample_id=ids), scores, pd.Series([tokens for *_, tokens in rows], ids)


def test_accuracy_by_tokens_by_hand():
    samples, scores, tokens = pool()
    found = diagnostics.accuracy_by_tokens(mixed(samples), mixed(scores), mixed(tokens))
    # Pairs 01 02 03 12 13 23. q0 by majority: tie, 1, 1, tie, 0, 1; by best score: 0 1 0 0 0 1, by weights:
    # 0.1:0.9, 1, 1 (no answer does not vote), 0.9:0.3, 0, 1. q1: 0 tie tie tie tie tie of which one in two is
    # right if 8 is there; by best score: 0 1 0 1 0 1, by weights the same.
    q0 = {"student_majority": [2 / 4, 4 / 6, 1], "student_best_of": [2 / 4, 2 / 6, 0], "student_weighted": [
        2 / 4, 3 / 6, 0]}  # fmt: skip
    q1 = {"student_majority": [1 / 4, 1.5 / 6, 0], "student_best_of": [1 / 4, 3 / 6, 1], "student_weighted": [
        1 / 4, 3 / 6, 0]}  # fmt: skip
    expected = {
        (method, f"accuracy@{k}"): ((q0[method][i] + q1[method][i]) / 2, 2)
        for method in q0 for i, k in enumerate((1, 2, 4))
    }  # fmt: skip
    expected |= {("student_samples", f"tokens@{k}"): (k * (5 + 1) / 2, 2) for k in (1, 2, 4)}
    assert_outcomes(found, expected)
    assert found["student_best_of", "accuracy@2"].questions.tolist() == ["q0", "q1"]
    assert_allclose(found["student_best_of", "accuracy@2"].hits, [[2 / 6, 3 / 6]])


def test_n_are_the_powers_of_two_that_the_pool_holds():
    samples, scores, tokens = pool()
    three = samples.groupby("question_id").head(3)
    found = diagnostics.accuracy_by_tokens(three, scores, tokens)
    assert {metric for _, metric in found} == {"accuracy@1", "accuracy@2", "tokens@1", "tokens@2"}


@pytest.mark.parametrize(("asked", "size"), [(2, 5), (5, 5), (32, 32)])
def test_the_pool_holds_what_is_compared_on_the_test_split_and_bo3_on_the_other(asked, size):
    params = load_params(TINY, {"evaluation.rerank_samples": asked})
    assert (pool_size(params, "test"), pool_size(params, "validation")) == (size, 3)


def test_aggregation_by_hand():
    found = diagnostics.aggregation(mixed(DRAFTS), {"orm": mixed(score_rows(SCORES))})
    # Minima 0.2 0.3 | 0.5 0.8, products 0.072 0.18 | 0.25 0.8. Of several steps: s1 is lowest at the last, s2 a tie.
    assert_outcomes(
        found,
        {
            ("orm", "lowest_at_last_step"): (1 / 3, 3), ("orm", "final_auc_minimum"): (1, 4),
            ("orm", "final_auc_product"): (1, 4),
        },
    )  # fmt: skip
    other = SCORES | {("q0", "s0"): [0.9, 0.6, 0.9]}  # minimum 0.6, product 0.486: above s2's
    found = diagnostics.aggregation(DRAFTS, {"orm": score_rows(other)})
    assert (found["orm", "final_auc_minimum"].value, found["orm", "final_auc_product"].value) == (3 / 4, 3 / 4)
    without = {key: scores for key, scores in SCORES.items() if key[1] != "s3"}  # a draft without a step: 0
    found = diagnostics.aggregation(DRAFTS, {"orm": score_rows(without)})
    assert (found["orm", "final_auc_minimum"].value, found["orm", "lowest_at_last_step"].n) == (1 / 2, 3)


def steps(*rows: tuple[str, int, float, int]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["question_id", "step", "score", "label"])


def test_auc_by_step_by_hand():
    frame = steps(
        ("q0", 1, 0.9, 1), ("q1", 1, 0.2, 0), ("q2", 1, 0.1, 1), ("q3", 1, 0.1, 0),  # pairs 1 1 | 0 tie
        ("q0", 2, 0.3, 0), ("q1", 2, 0.4, 1), ("q0", 3, 0.5, 1),
    )  # fmt: skip
    found = diagnostics.auc_by_step(mixed(frame), "orm", "_exact")
    value = {metric: outcome.value for (_, metric), outcome in found.items()}
    one_label_alone = {f"auc_by_step_exact@{i}": np.nan for i in diagnostics.STEPS if i > 2}
    assert value == pytest.approx(
        one_label_alone | {"auc_by_step_exact@1": 2.5 / 4, "auc_by_step_exact@2": 1}, nan_ok=True
    )


def test_calibration_by_hand():
    frame = steps(
        ("q0", 1, 0.81, 1), ("q0", 2, 0.85, 0), ("q1", 1, 0.2, 0), ("q1", 2, 0.0, 1), ("q2", 1, 1.0, 1),
    )  # fmt: skip
    found = diagnostics.calibration(mixed(frame), np.array([1.0, 0.0]), "orm", "")
    brier = (0.19**2 + 0.85**2 + 0.2**2 + 1 + 0) / 5
    # Bins: 0.8-0.9 (mean 0.83, half right), 0.2-0.3, 0-0.1, 0.9-1.
    error = (2 * (0.83 - 0.5) + 0.2 + 1 + 0) / 5
    for name in ("", "_refitted"):  # by the identity, up to the logits' limits
        assert found["orm", f"step_brier{name}"].value == pytest.approx(brier, abs=1e-5)
        assert found["orm", f"step_calibration_error{name}"].value == pytest.approx(error, abs=1e-5)
    assert {outcome.n for outcome in found.values()} == {5}
    halved = diagnostics.calibration(frame, np.array([0.0, 0.0]), "orm", "_exact")  # every score becomes 1/2
    assert halved["orm", "step_brier_refitted_exact"].value == pytest.approx(1 / 4)
    assert halved["orm", "step_calibration_error_refitted_exact"].value == pytest.approx(0.6 - 0.5)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 0.99), st.integers(0, 1)), min_size=2, max_size=30))
def test_the_refitted_scale_and_bias_are_the_most_likely_ones(rows):
    scores, labels = np.array(rows).T
    fitted = platt(scores, labels)
    ones, n = labels.sum(), len(labels)
    targets = np.where(labels == 1, (ones + 1) / (ones + 2), 1 / (n - ones + 2))

    def loss(p: np.ndarray) -> float:
        return -(xlogy(targets, p) + xlogy(1 - targets, 1 - p)).mean()

    logits = np.log(scores / (1 - scores))
    best = minimize(lambda x: loss(expit(x[0] * logits + x[1]).clip(1e-12, 1 - 1e-12)), [0, 0], method="Nelder-Mead")
    assert loss(refitted(scores, fitted)) <= best.fun + 1e-4


def test_refitting_undoes_a_change_of_scale_and_bias():
    rng = np.random.default_rng(0)
    truth = rng.random(20_000)
    labels = rng.random(20_000) < truth
    squeezed = expit(0.3 * np.log(truth / (1 - truth)) - 0.5)  # scores of a head that was trained too little
    assert_allclose(platt(squeezed, labels), [1 / 0.3, 0.5 / 0.3], rtol=0.05)
    frame = pd.DataFrame({"question_id": np.arange(20_000).astype(str), "score": squeezed, "label": labels.astype(int)})
    found = diagnostics.calibration(frame, platt(squeezed, labels), "orm", "")
    assert found["orm", "step_calibration_error_refitted"].value < 0.02 < 0.1
    assert found["orm", "step_calibration_error"].value > 0.1
    assert found["orm", "step_brier_refitted"].value < found["orm", "step_brier"].value


@pytest.mark.parametrize("labels", [[1, 1, 1], [0, 0, 0], [1, 0, 0]])
def test_scores_that_say_nothing_become_the_share_of_right_steps(labels):
    n, ones = len(labels), sum(labels)
    smoothed = (ones * (ones + 1) / (ones + 2) + (n - ones) / (n - ones + 2)) / n
    for score in (0.0, 0.5, 1.0):
        assert_allclose(refitted([score] * n, platt([score] * n, labels)), smoothed, rtol=1e-4)
    assert np.isfinite(platt([0.1, 0.5, 0.9], labels)).all()
    assert_allclose(refitted([0.2, 0.7], platt([], [])), [0.2, 0.7])  # no step to fit to
