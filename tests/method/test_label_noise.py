"""Labelling policies on a question of two samples, worked by hand."""

import numpy as np
import pandas as pd
import pytest

from glore_lib.method.appendix.label_noise import Drawn, Policy, label_outcomes, policies_of
from glore_lib.run import Run
from tiny import rollout_rows, sample_rows

# Four rollouts of each prefix. The samples a (wrong) and b (right) share their first step, and end with an answer.
#          step 1       step 2       step 3       step 4
# a        . . x .      . . . .      . x . .      wrong
# b        . . x .      . . . .      right
# tokens   10           5 (b: 7)     6
ROWS = [
    ("a", 1, 0, "0010", 10), ("a", 2, 1, "0000", 5), ("a", 3, 2, "0100", 6), ("a", 4, 3, "0000", 0),
    ("b", 1, 0, "0010", 10), ("b", 2, 4, "0000", 7), ("b", 3, 5, "1111", 0),
]  # fmt: skip
TRUTH = np.array([1, 0, 0, 0, 1, 1, 1])
NAN = float("nan")


@pytest.fixture
def drawn() -> Drawn:
    steps = pd.DataFrame(
        {
            "question_id": "q", "sample_id": [r[0] for r in ROWS], "step": [r[1] for r in ROWS],
            "is_right": [r[0] == "b" for r in ROWS], "prefix": [r[2] for r in ROWS],
            "is_open": [r[4] > 0 for r in ROWS],
        }
    )  # fmt: skip
    verifies = np.array([[v == "1" for v in r[3]] for r in ROWS])
    tokens = np.array([[r[4]] * 4 for r in ROWS])
    return Drawn(steps, verifies, tokens, np.arange(28).reshape(7, 4))


# Each policy stops at a prefix as soon as its label is settled.
EXPECTED = {
    # 3 rollouts of the first step, 4 and 2 of a's next ones, 4 of b's second.
    "any": ([1, 1, 1, 0, 1, 1, 1], 3 * 10 + 4 * 5 + 2 * 6 + 4 * 7),
    # Of two rollouts, the second verifies a's third step, and that its earlier ones.
    "any_run": ([1, 1, 1, 0, 1, 1, 1], 2 * 10 + 2 * 5 + 2 * 6 + 2 * 7),
    "wrong_only": ([1, 1, 1, 0, 1, 1, 1], 2 * 10 + 2 * 5 + 2 * 6),
    # Two successes of four are impossible after the third failure, at the first step after the fourth rollout.
    "two": ([0, 0, 0, 0, 1, 1, 1], 4 * 10 + 3 * 5 + 4 * 6 + 3 * 7),
    "half": ([0, 0, 0, 0, 1, 1, 1], 4 * 10 + 3 * 5 + 4 * 6 + 3 * 7),
    "soft": ([0.25, 0, 0.25, 0, 0.25, 0, 1], 4 * (10 + 5 + 6 + 7)),
    "stop_at_error": ([1, 0, 0, 0, 1, 1, 1], 3 * 10 + 4 * 5),
    "until_error": ([1, 0, NAN, NAN, 1, 1, 1], 3 * 10 + 4 * 5),  # nothing of b, nothing after a's second step
    "solved_questions": ([1, 1, 1, 0, 1, 1, 1], 3 * 10 + 4 * 5 + 2 * 6 + 4 * 7),
    "mixed_questions": ([1, 1, 1, 0, 1, 1, 1], 3 * 10 + 4 * 5 + 2 * 6 + 4 * 7),
    "rollouts_only": ([1, 1, 1, 0, 1, 0, 1], 3 * 10 + 4 * 5 + 2 * 6 + 4 * 7),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_labels_and_tokens_of_a_policy(drawn, name):
    labels, tokens = policies_of(2, 4)[name].label(drawn, True, pd.Series({"q": 0.5}))
    np.testing.assert_array_equal(labels, EXPECTED[name][0])
    assert tokens.to_dict() == {"q": EXPECTED[name][1]}


def test_without_post_processing_1_no_step_is_positive_for_a_later_one(drawn):
    labels, tokens = Policy(4).label(drawn, False, pd.Series({"q": 0.5}))
    assert labels.tolist() == [1, 0, 1, 0, 1, 0, 1]
    assert tokens["q"] == EXPECTED["any"][1]
    trusting, fewer = Policy(4, trust_right=True).label(drawn, False, pd.Series({"q": 0.5}))
    assert trusting.tolist() == [1, 0, 1, 0, 1, 1, 1]
    assert fewer["q"] == EXPECTED["any"][1] - 4 * 7


@pytest.mark.parametrize(("name", "left_out"), [("solved_questions", [0.0]), ("mixed_questions", [0.0, 1.0])])
def test_a_question_that_is_left_out_has_no_labels_and_costs_nothing(drawn, name, left_out):
    for rate in (0.0, 0.125, 1.0):
        labels, tokens = policies_of(2, 4)[name].label(drawn, True, pd.Series({"q": rate}))
        assert np.isnan(labels).all() == np.isnan(labels).any() == (rate in left_out)
        assert tokens.to_dict() == {"q": 0 if rate in left_out else EXPECTED["any"][1]}


def value(outcomes: dict, name: str) -> tuple[float, int]:
    return outcomes[name].value, outcomes[name].n


def test_precision_recall_and_first_errors_of_labels(drawn):
    labels, _ = policies_of(2, 4)["any"].label(drawn, True, pd.Series({"q": 0.5}))
    found = label_outcomes(drawn, labels, TRUTH)
    assert value(found, "label_precision") == (4 / 6, 6)  # a's second and third steps are wrong
    assert value(found, "label_recall") == (1.0, 4)
    assert value(found, "label_share") == (1.0, 7)
    assert value(found, "label_precision_right") == (1.0, 3) == value(found, "label_recall_right")
    assert value(found, "label_precision_wrong") == (1 / 3, 3)
    assert value(found, "label_recall_wrong") == (1.0, 1)
    assert value(found, "label_first_error_late") == (1.0, 1)  # of a, the only wrong sample: 4 instead of 2

    labels, _ = policies_of(2, 4)["until_error"].label(drawn, True, pd.Series({"q": 0.5}))
    found = label_outcomes(drawn, labels, TRUTH)
    assert value(found, "label_precision") == (1.0, 4)
    assert value(found, "label_recall") == (1.0, 4)
    assert value(found, "label_share") == (5 / 7, 7)
    assert value(found, "label_first_error_accuracy") == (1.0, 1)

    labels, _ = policies_of(2, 4)["soft"].label(drawn, True, pd.Series({"q": 0.5}))
    found = label_outcomes(drawn, labels, TRUTH)  # only b's answer is at least one half
    assert value(found, "label_precision") == (1.0, 1)
    assert value(found, "label_recall") == (1 / 4, 4)
    assert value(found, "label_first_error_early") == (1.0, 1)


def test_a_sample_without_labels_or_without_a_true_error_has_no_first_error(drawn):
    for labels, truth in ((np.full(7, NAN), TRUTH), (np.zeros(7), np.ones(7, dtype=int))):
        found = label_outcomes(drawn, labels, truth)
        assert found["label_first_error_accuracy"].n == 0


def test_rollouts_in_arrays(run):
    """A prefix with the answer has its own verdict, and equal prefixes are one."""
    question = next(iter(run.questions("train")))
    samples = sample_rows((question, "ann is\nben is\n#### 1", False), (question, "ann is\ntom is\n#### 2", True))
    made = rollout_rows(
        {
            (question, "s0"): [["cben is\n#### 2\n", "rkim\n#### 2\n"], ["w#### 1\n", "w#### 1\n"], ["o"]],
            (question, "s1"): [["cben is\n#### 2\n", "rkim\n#### 2\n"], ["w#### 1\n", "c#### 2\n"], ["c"]],
        }
    )
    drawn = Drawn.of(run, samples, made.sample(frac=1, random_state=0))
    assert drawn.steps[["sample_id", "step", "is_right", "is_open"]].values.tolist() == [
        ["s0", 1, False, True], ["s0", 2, False, True], ["s0", 3, False, False],
        ["s1", 1, True, True], ["s1", 2, True, True], ["s1", 3, True, False],
    ]  # fmt: skip
    assert drawn.steps["prefix"].tolist() == [0, 1, 2, 0, 3, 4]
    consistent = [[1, 0], [0, 0], [0, 0], [1, 0], [0, 1], [1, 1]]
    assert drawn.verifies.astype(int).tolist() == consistent
    assert drawn.distinct(2).tolist() == [2, 1, 1, 2, 2, 1]
    assert drawn.distinct(1).tolist() == [1] * 6
    answer = len(run.tokenizer("#### 1\n", add_special_tokens=False).input_ids)
    longer = len(run.tokenizer("ben is\n", add_special_tokens=False).input_ids) + answer
    assert drawn.tokens[[0, 1, 2]].tolist() == [[longer, longer - 1], [answer, answer], [0, 0]]
    # The first step is read once: its two rollouts, then one of each sample's second step.
    assert drawn.spent(np.array([2, 1, 1, 2, 1, 1])).tolist() == [2 * longer - 1 + 2 * answer]

    rm = run.params.reward_models.model_copy(update={"consistent": False})
    loose = Run(run.params.model_copy(update={"reward_models": rm}), run.store, run.task)
    assert Drawn.of(loose, samples, made).verifies[0].tolist() == [True, True]
