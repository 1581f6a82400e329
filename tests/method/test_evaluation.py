"""Tables 1-3 and Figures 4-6 on a case small enough to be worked out by hand."""

import math

import pandas as pd
import pytest

from glore_lib import statistics as st
from glore_lib.method.evaluation import (
    NUMBERS,
    DraftSet,
    Outcomes,
    Tables,
    draft_set,
    from_frame,
    numbers,
    reranked,
    to_frame,
)
from glore_lib.reporting.tables import wide
from glore_lib.run import Run
from tiny import Scripted, frame, label_rows, rollout_rows, sample_rows, score_rows, solver, some_student

DRAFTS = sample_rows(
    ("q0", "a\nb\n#### 1", False), ("q1", "a\n#### 1", False), ("q2", "a\n#### 2", True), ("q3", "a\nb", False)
)  # fmt: skip
S0, S1, S2, S3 = [(f"q{i}", f"s{i}") for i in range(4)]
ROLLED = label_rows({S0: [1, 0, 0], S1: [0, 0], S2: [1, 1], S3: [1, 1]})
EXACT = label_rows({S0: [1, 1, 0], S1: [0, 0], S2: [1, 1], S3: [0, 0]})
SCORES = {
    "orm": {S0: [0.9, 0.6, 0.2], S1: [0.5, 0.1], S2: [0.4, 0.8], S3: [0.7, 0.6]},  # 1 1 0 | 0 0 | 0 1 | 1 1
    "sorm": {S0: [0.9, 0.4, 0.3], S1: [0.5, 0.2], S2: [0.9, 0.8], S3: [0.3, 0.2]},  # 1 0 0 | 0 0 | 1 1 | 0 0
}
ROLLOUTS = rollout_rows(
    {
        S0: [["w", "c"], ["w", "w"], ["o"]],  # raw 1 0 0, consistent 1 0 0
        S1: [["w", "w"], ["r"]],  # raw 0 1, monotone 1 1, consistent 0 0
        S2: [["c"], ["c"]],  # raw 1 1, consistent 1 1
        S3: [["r"], ["w", "r"]],  # raw 1 1, consistent 0 0
    }
)
REFINED = {  # which drafts' refinements are right
    "global": [True, False, False, False],
    "local+orm": [True, False, True, False],
    "local+sorm": [False, True, True, True],
    "resample": [False, False, False, False],
}
REFINED_SCORES = {  # after the last step, by the ORM: s0 s1 s2 s3; the drafts' are 0.2 0.1 0.8 0.6
    "global": [0.9, 0.3, 0.8, 0.1],
    "local": [0.9, 0.8, 0.8, 0.6],
}
BO3 = [  # (answer, whether it is right, score) of three samples of each question
    [("5", False, 0.9), ("7", True, 0.9), ("7", True, 0.1)],  # tie: the first. Majority 7
    [("1", False, 0.1), ("2", False, 0.2), ("3", True, 0.7)],  # majority: a tie, the first answer
    [("4", True, 0.2), ("4", True, 0.3), ("5", False, 0.9)],
    [("", False, 0.9), ("", False, 0.1), ("", False, 0.1)],  # nobody votes
]


def mixed(rows: pd.DataFrame) -> pd.DataFrame:
    """In another order, which must not matter."""
    return rows.sample(frac=1, random_state=4)


@pytest.fixture
def tables(run) -> Tables:
    return Tables(run)


@pytest.fixture
def scores(run) -> dict:
    return {m: frame(run, "step_scores", mixed(score_rows(s, m))) for m, s in SCORES.items()}


@pytest.fixture
def drafted(run) -> DraftSet:
    return DraftSet(frame(run, "samples", DRAFTS), frame(run, "rollouts", mixed(ROLLOUTS)), ROLLED, mixed(EXACT))


@pytest.fixture
def refined(run) -> dict:
    return {
        kind: frame(run, "refinements", mixed(refinements(kind, right))) for kind, right in REFINED.items()
    }  # fmt: skip


def refinements(kind: str, right: list[bool]) -> pd.DataFrame:
    ids = DRAFTS[["question_id", "sample_id"]]
    return ids.assign(kind=kind, first_error=1, text=kind, final_answer="", is_correct=right)


def values(outcomes: Outcomes) -> dict[tuple[str, str], tuple[float, int]]:
    """Return (method, metric) -> (value, n), after checks that hold for all numbers."""
    table = numbers("tiny", "m", 0, [from_frame(to_frame(outcomes))])
    assert list(table) == NUMBERS
    known = table[(table["n"] > 0) & ~table["metric"].str.endswith("_p")]  # a p value has no interval
    assert (known["ci_low"] <= known["value"] + 1e-12).all() and (known["value"] <= known["ci_high"] + 1e-12).all()
    assert (known["clusters"] >= 1).all() and (known["clusters"] <= 4).all()
    assert table.loc[table["metric"].str.endswith("_p") & (table["n"] > 0), "value"].between(0, 1).all()
    assert not table.duplicated(["method", "metric"]).any()
    assert set(table["task"]) == {"tiny"} and set(table["seed"]) == {0}
    return {(row.method, row.metric): (row.value, row.n) for row in table.itertuples()}


def assert_numbers(
    outcomes: Outcomes, expected: dict[tuple[str, str], tuple[float, int]], random_p: str | tuple[str, ...] = ()
) -> None:
    """Check that the numbers are exactly the expected ones, but p values of metrics that begin with ``random_p``."""
    found = values(outcomes)
    found = {k: v for k, v in found.items() if not (k[1].startswith(random_p) and k[1].endswith("_p"))}
    assert {key: n for key, (_, n) in found.items()} == {key: n for key, (_, n) in expected.items()}
    for key, (value, n) in expected.items():
        assert found[key][0] == (pytest.approx(value) if n else pytest.approx(math.nan, nan_ok=True)), key


# (hits, of) of accuracy, false positives, false negatives, false negatives among errors; balanced accuracy; AUC.
# Intermediate steps are the first two of s0 and s3, and the first of s1 and s2. Scores of right and of wrong ones by
# rollouts, ORM: .9 .4 .7 .6 and .6 .5; SORM: .9 .9 .3 .2 and .4 .5. Exactly, ORM: .9 .6 .4 and .5 .7 .6; SORM: .9 .4 .9
# and .5 .3 .2.
STEPS = {
    "": {"orm": [(4, 6), (1, 2), (1, 4), (1, 2), 0.625, 5.5 / 8],
         "sorm": [(4, 6), (0, 2), (2, 4), (2, 2), 0.75, 4 / 8], "constant": [4, 2]},
    "_all": {"orm": [(7, 9), (1, 4), (1, 5), (1, 2), 0.775, 17.5 / 20],
             "sorm": [(7, 9), (0, 4), (2, 5), (2, 2), 0.8, 14 / 20], "constant": [5, 4]},
    "_exact": {"orm": [(3, 6), (2, 3), (1, 3), (1, 3), 0.5, 4.5 / 9],
               "sorm": [(5, 6), (0, 3), (1, 3), (1, 1), 5 / 6, 8 / 9], "constant": [3, 3]},
    "_all_exact": {"orm": [(6, 9), (2, 5), (1, 4), (1, 3), 0.675, 15.5 / 20],
                   "sorm": [(8, 9), (0, 5), (1, 4), (1, 1), 0.875, 19 / 20], "constant": [4, 5]},
}  # fmt: skip
RATES = ("accuracy", "false_positive_rate", "false_negative_rate", "false_negative_share")


def test_table_1(tables, drafted, scores):
    expected = {}
    for suffix, methods in STEPS.items():
        right, wrong = methods["constant"]
        n = right + wrong
        for method in ("orm", "sorm"):
            *counts, balanced, auc = methods[method]
            for name, (k, of) in zip(RATES, counts, strict=True):
                expected[method, f"step_{name}{suffix}"] = (k / of, of)
            expected[method, f"step_balanced_accuracy{suffix}"] = (balanced, n)
            expected[method, f"step_auc{suffix}"] = (auc, n)
        for name, place in (("accuracy", 0), ("balanced_accuracy", 4), ("auc", 5)):
            a, b = (methods[m][place][0] / n if place == 0 else methods[m][place] for m in ("sorm", "orm"))
            expected["sorm-orm", f"step_{name}_difference{suffix}"] = (a - b, n)
        expected["all_positive", f"step_accuracy{suffix}"] = (right / n, n)
        expected["all_negative", f"step_accuracy{suffix}"] = (wrong / n, n)
    expected |= {
        # By rollouts s0's first error is 2 and s1's is 1, and s3 has none; exactly they are 3, 1 and 1.
        ("orm", "first_error_accuracy"): (1 / 2, 2), ("sorm", "first_error_accuracy"): (2 / 2, 2),
        ("orm", "first_error_accuracy_exact"): (2 / 3, 3), ("sorm", "first_error_accuracy_exact"): (2 / 3, 3),
        ("sorm-orm", "first_error_accuracy_difference"): (1 / 2, 2),
        ("sorm-orm", "first_error_accuracy_difference_exact"): (0, 3),
        ("sorm-orm", "first_error_accuracy_difference_p"): (1, 2),
        ("sorm-orm", "first_error_accuracy_difference_exact_p"): (1, 3),
    }  # fmt: skip
    assert_numbers(tables.table1(drafted, scores), expected, random_p="step")


def test_table_1_without_exact_labels(tables, drafted, scores):
    inexact = DraftSet(drafted.drafts, drafted.rollouts, drafted.labels, None)
    every = values(tables.table1(drafted, scores))
    expected = {key: number for key, number in every.items() if "_exact" not in key[1]}
    assert values(tables.table1(inexact, scores)) == expected


def test_table_2(tables, drafted, scores):
    assert_numbers(
        tables.table2(drafted, scores),
        {
            ("orm", "final_accuracy"): (3 / 4, 4), ("sorm", "final_accuracy"): (1, 4),
            ("orm", "final_false_positive_rate"): (1 / 3, 3), ("sorm", "final_false_positive_rate"): (0, 3),
            ("orm", "final_false_negative_rate"): (0, 1), ("sorm", "final_false_negative_rate"): (0, 1),
            ("orm", "final_false_negative_share"): (0, 1), ("sorm", "final_false_negative_share"): (0, 0),
            ("orm", "final_balanced_accuracy"): (5 / 6, 4), ("sorm", "final_balanced_accuracy"): (1, 4),
            ("orm", "final_auc"): (1, 4), ("sorm", "final_auc"): (1, 4),
            ("sorm-orm", "final_accuracy_difference"): (1 / 4, 4),
            ("sorm-orm", "final_accuracy_difference_p"): (1, 4),
            ("sorm-orm", "final_balanced_accuracy_difference"): (1 / 6, 4),
            ("sorm-orm", "final_auc_difference"): (0, 4),
            ("all_positive", "final_accuracy"): (1 / 4, 4), ("all_negative", "final_accuracy"): (3 / 4, 4),
        },
        random_p=("final_balanced", "final_auc"),
    )  # fmt: skip


def test_a_draft_without_a_step_is_predicted_wrong(run, tables):
    drafts = sample_rows(("q0", "#### 1", True), ("q1", "", False))
    scores = {"orm": frame(run, "step_scores", score_rows({S0: [0.9]}))}
    drafted = DraftSet(frame(run, "samples", drafts), frame(run, "rollouts", ROLLOUTS), label_rows({S0: [1]}), None)
    assert values(tables.table2(drafted, scores))["orm", "final_accuracy"] == (1.0, 2)


def test_quality_of_labels_by_rollouts(tables, drafted):
    # Exact: 1 1 0 | 0 0 | 1 1 | 0 0. Raw: 1 0 0 | 0 1 | 1 1 | 1 1; monotone turns s1's first step to 1.
    assert_numbers(
        tables.label_quality(drafted),
        {
            ("labels", "positive_labels"): (5 / 9, 9), ("labels", "positive_labels_exact"): (4 / 9, 9),
            ("raw", "label_precision"): (3 / 6, 6), ("raw", "label_recall"): (3 / 4, 4),
            ("raw", "label_accuracy"): (5 / 9, 9),
            ("monotone", "label_precision"): (3 / 7, 7), ("monotone", "label_recall"): (3 / 4, 4),
            ("monotone", "label_accuracy"): (4 / 9, 9), ("consistent", "label_precision"): (3 / 3, 3),
            ("consistent", "label_recall"): (3 / 4, 4), ("consistent", "label_accuracy"): (8 / 9, 9),
            ("consistent-monotone", "label_accuracy_difference"): (4 / 9, 9),
        },
        random_p="label",
    )  # fmt: skip


def test_table_3(tables, drafted, refined):
    assert_numbers(
        tables.table3(drafted.drafts, refined),
        {
            ("global", "fixed_fraction"): (1 / 3, 3), ("local+orm", "fixed_fraction"): (1 / 3, 3),
            ("local+sorm", "fixed_fraction"): (2 / 3, 3), ("resample", "fixed_fraction"): (0, 3),
            ("global+local+orm", "fixed_fraction"): (1 / 3, 3), ("global+local+sorm", "fixed_fraction"): (1, 3),
            ("global+resample", "fixed_fraction"): (1 / 3, 3),
            # Fixed by global: s0; by local + ORM: s0; by local + SORM: s1, s3; by the fresh sample: none.
            ("global+local+orm", "fixed_jaccard"): (1, 1), ("global+local+sorm", "fixed_jaccard"): (0, 3),
            ("global+resample", "fixed_jaccard"): (0, 1),
            ("local+sorm-local+orm", "fixed_fraction_difference"): (1 / 3, 3),
            ("local+sorm-global", "fixed_fraction_difference"): (1 / 3, 3),
            ("global+local+sorm-global", "fixed_fraction_difference"): (2 / 3, 3),
            ("global+local+sorm-local+sorm", "fixed_fraction_difference"): (1 / 3, 3),
            ("global+local+sorm-resample", "fixed_fraction_difference"): (1, 3),
            ("global+local+sorm-global+resample", "fixed_fraction_difference"): (2 / 3, 3),
            # Pairs that differ, in favour of each: 1:0, 2:1, 2:0, 1:0, 3:0, 2:0.
            ("local+sorm-local+orm", "fixed_fraction_difference_p"): (1, 3),
            ("local+sorm-global", "fixed_fraction_difference_p"): (1, 3),
            ("global+local+sorm-global", "fixed_fraction_difference_p"): (1 / 2, 3),
            ("global+local+sorm-local+sorm", "fixed_fraction_difference_p"): (1, 3),
            ("global+local+sorm-resample", "fixed_fraction_difference_p"): (1 / 4, 3),
            ("global+local+sorm-global+resample", "fixed_fraction_difference_p"): (1 / 2, 3),
        },
    )  # fmt: skip


def test_table_3_of_right_drafts_has_no_data(run, tables, refined):
    drafts = frame(run, "samples", DRAFTS.assign(is_correct=True))
    assert {n for _, n in values(tables.table3(drafts, refined)).values()} == {0}


def test_figure_5(tables, drafted, refined):
    assert_numbers(
        tables.figure5(drafted.drafts, refined),
        {
            ("greedy", "accuracy_all_drafts"): (1 / 4, 4), ("greedy", "accuracy_incorrect_drafts"): (1 / 4, 4),
            ("global", "accuracy_all_drafts"): (1 / 4, 4), ("global", "accuracy_incorrect_drafts"): (2 / 4, 4),
            ("local+orm", "accuracy_all_drafts"): (2 / 4, 4), ("local+orm", "accuracy_incorrect_drafts"): (2 / 4, 4),
            ("local+sorm", "accuracy_all_drafts"): (3 / 4, 4), ("local+sorm", "accuracy_incorrect_drafts"): (3 / 4, 4),
            ("resample", "accuracy_all_drafts"): (0, 4), ("resample", "accuracy_incorrect_drafts"): (1 / 4, 4),
        }
        | figure_5_differences(),
    )  # fmt: skip


def figure_5_differences() -> dict[tuple[str, str], tuple[float, int]]:
    """Compute by hand: the draft of s2 is right. McNemar's p by pairs that differ: 1:1 1; 1:0 1; 2:0 1/2; 0:1 1."""
    by_hand = {
        "global": [(0, 1), (1 / 4, 1)], "local+orm": [(1 / 4, 1), (1 / 4, 1)],
        "local+sorm": [(2 / 4, 1 / 2), (2 / 4, 1 / 2)],
    }  # fmt: skip
    rows = {("local+sorm-global", "accuracy_all_drafts_difference"): (2 / 4, 4),
            ("local+sorm-global", "accuracy_all_drafts_difference_p"): (5 / 8, 4)}  # fmt: skip
    for method, changes in by_hand.items():
        for which, (difference, p) in zip(("all", "incorrect"), changes, strict=True):
            rows[f"{method}-greedy", f"accuracy_{which}_drafts_difference"] = (difference, 4)
            rows[f"{method}-greedy", f"accuracy_{which}_drafts_difference_p"] = (p, 4)
    return rows


@pytest.fixture
def candidates() -> dict:
    found = {"draft": (DRAFTS, mixed(score_rows(SCORES["orm"])))}
    for name, kind in (("global", "global"), ("local", "local+sorm")):
        last = {(f"q{i}", f"s{i}"): [0.99, score] for i, score in enumerate(REFINED_SCORES[name])}
        found[name] = (mixed(refinements(kind, REFINED[kind])), mixed(score_rows(last)))
    return found


def best_of_three_samples() -> tuple[pd.DataFrame, pd.DataFrame]:
    answers = [(f"q{q}", f"#### {a}", right) for q, pool in enumerate(BO3) for a, right, _ in pool]
    ids = [f"q{q}/bo3/{j}" for q in range(4) for j in range(3)]
    samples = sample_rows(*answers).assign(sample_id=ids)
    marks = [score for pool in BO3 for *_, score in pool]
    scores = {(q, s): [0.5, mark] for q, s, mark in zip(samples["question_id"], ids, marks, strict=True)}
    return mixed(samples), mixed(score_rows(scores))


def figure_6(tables: Tables, candidates: dict) -> Outcomes:
    samples, scores = best_of_three_samples()
    drafts = frame(tables.run, "samples", DRAFTS)
    return tables.figure6(mixed(tables.choices(candidates, samples, scores)), drafts, samples)


def test_figure_6(tables, candidates):
    # Picked: s0 global (tie with local), s1 local, s2 draft (tie of three), s3 draft (tie with local): 1 1 1 0.
    assert_numbers(
        figure_6(tables, candidates),
        {
            ("greedy", "accuracy"): (1 / 4, 4), ("bo3", "accuracy"): (1 / 4, 4), ("majority", "accuracy"): (2 / 4, 4),
            ("reranked", "accuracy"): (3 / 4, 4), ("oracle_bo3", "accuracy"): (3 / 4, 4),
            ("oracle_reranked", "accuracy"): (1, 4), ("random_sample", "accuracy"): (5 / 12, 12),
            ("reranked-greedy", "accuracy_difference"): (2 / 4, 4), ("reranked-bo3", "accuracy_difference"): (2 / 4, 4),
            ("bo3-greedy", "accuracy_difference"): (0, 4),
            ("oracle_reranked-oracle_bo3", "accuracy_difference"): (1 / 4, 4),
            ("reranked-greedy", "accuracy_difference_p"): (1 / 2, 4),
            ("reranked-bo3", "accuracy_difference_p"): (1 / 2, 4), ("bo3-greedy", "accuracy_difference_p"): (1, 4),
            ("oracle_reranked-oracle_bo3", "accuracy_difference_p"): (1, 4),
        },
    )  # fmt: skip


def test_the_reranked_answer_is_that_of_the_top_scored_candidate(candidates):
    chosen = reranked(candidates)  # s0 global (tie with local), s1 local, s2 draft (tie of three), s3 draft (tie)
    assert chosen.loc[["s0", "s1", "s2", "s3"], "text"].tolist() == ["global", "local+sorm", "a\n#### 2", "a\nb"]
    assert chosen.loc[["s0", "s1", "s2", "s3"], "is_correct"].tolist() == [True, True, True, False]


def test_a_perfect_reranker_can_keep_the_draft(tables, candidates):
    wrong = {name: (answers.assign(is_correct=False), scores) for name, (answers, scores) in candidates.items()}
    found = values(figure_6(tables, wrong | {"draft": candidates["draft"]}))
    assert found["oracle_reranked", "accuracy"] == (1 / 4, 4)  # the draft of s2


def test_a_candidate_without_a_step_is_never_picked_over_one_with(tables, candidates):
    answers, scores = candidates["local"]
    without = scores[scores["sample_id"] != "s1"]  # the local refinement of s1, the right one, now has no score
    found = values(figure_6(tables, candidates | {"local": (answers, without)}))
    assert found["reranked", "accuracy"] == (2 / 4, 4)


def test_figure_4(tables):
    answers = [("q0", "#### 5", True), ("q0", "#### 6", False), ("q1", "#### 7", False), ("q1", "#### 8", True)]
    samples = sample_rows(*answers)
    scores = {
        "orm": {("q0", "s0"): [0.9], ("q0", "s1"): [0.1, 0.1], ("q1", "s2"): [0.1, 0.8], ("q1", "s3"): [0.9, 0.3]},
        "sorm": {("q0", "s0"): [0.9], ("q0", "s1"): [0.9, 0.1], ("q1", "s2"): [0.8, 0.1], ("q1", "s3"): [0.2, 0.3]},
        "sorm_raw": {("q0", "s0"): [0.5], ("q0", "s1"): [0.1, 0.5], ("q1", "s2"): [0.5, 0.5]},  # s3 has no step: last
    }
    greedy = sample_rows(("q0", "#### 5", True), ("q1", "#### 7", False))
    found = tables.figure4(mixed(samples), {m: mixed(score_rows(s)) for m, s in scores.items()}, greedy)
    assert_numbers(
        found,
        {
            ("greedy_sft", "accuracy"): (1 / 2, 2),
            ("orm", "rerank_accuracy@1"): (1 / 2, 2), ("orm", "rerank_accuracy@2"): (1 / 2, 2),
            ("sorm", "rerank_accuracy@1"): (1 / 2, 2), ("sorm", "rerank_accuracy@2"): (1, 2),
            ("sorm_raw", "rerank_accuracy@1"): (1 / 2, 2),
            ("sorm_raw", "rerank_accuracy@2"): (1 / 4, 2),  # a tie; a wrong pick
            ("sorm-orm", "rerank_accuracy_difference@1"): (0, 2),
            ("sorm-orm", "rerank_accuracy_difference@2"): (1 / 2, 2),
            ("sorm_raw-orm", "rerank_accuracy_difference@1"): (0, 2),
            ("sorm_raw-orm", "rerank_accuracy_difference@2"): (-1 / 4, 2),
            ("sorm-sorm_raw", "rerank_accuracy_difference@1"): (0, 2),
            ("sorm-sorm_raw", "rerank_accuracy_difference@2"): (3 / 4, 2),
            ("majority", "majority@1"): (1 / 2, 2), ("majority", "majority@2"): (1 / 2, 2),
            ("oracle", "rerank_accuracy@1"): (1 / 2, 2), ("oracle", "rerank_accuracy@2"): (1, 2),
            ("random", "rerank_accuracy@1"): (1 / 2, 2), ("random", "rerank_accuracy@2"): (1 / 2, 2),
        },
    )  # fmt: skip


# The (Q, D) set


def test_the_draft_set_is_one_greedy_draft_a_question_labelled_as_the_sorms_data_are(run, monkeypatch):
    sampler = Scripted(run.tokenizer, solver(run))
    monkeypatch.setattr(Run, "sampler", lambda self, source: sampler)
    found = draft_set(run, some_student(), "test")
    drafts, questions = found.drafts.read(), run.questions("test")
    assert drafts["question_id"].tolist() == list(questions)
    assert sampler.temperatures[:4] == [0.0] * 4
    assert set(sampler.temperatures[4:]) == {run.params.reward_models.rollout_temperature}
    assert set(found.labels["sample_id"]) == set(found.exact["sample_id"]) == set(drafts["sample_id"])
    for draft in drafts.itertuples():
        exact = found.exact.loc[found.exact["sample_id"] == draft.sample_id, "label"].tolist()
        assert exact == run.task.exact_step_labels(questions[draft.question_id], draft.text)
        labels = found.labels.loc[found.labels["sample_id"] == draft.sample_id, "label"].tolist()
        assert labels == sorted(labels, reverse=True)  # monotone, as the parameters say
        assert labels[-1] <= draft.is_correct
    assert list(found.truths) == ["", "_exact"]


# Tables to read


def numbers_of(*rows: tuple[str, str, str, st.Estimate]) -> pd.DataFrame:
    return pd.DataFrame([st.row(task, "base", method, metric, estimate) for task, method, metric, estimate in rows])


def test_wide_tables():
    numbers = numbers_of(
        ("hard", "sorm", "accuracy", st.Estimate(0.75, 0.301, 0.9544, 4)),
        ("hard", "orm", "accuracy", st.Estimate(0.5, 0.1, 0.9, 4)),
        ("hard", "orm", "rate", st.NO_DATA),
        ("hard", "orm", "other", st.Estimate(0.1, 0.0, 0.2, 9)),
        ("easy", "orm", "rate", st.Estimate(-0.1, -0.25, 0.05, 30)),
        ("easy", "orm", "rate_p", st.Estimate(0.0123, math.nan, math.nan, 30)),
        ("easy", "sorm", "accuracy", st.Estimate(1.0, 0.5, 1.0, 2)),
    )
    table = wide(numbers, ["rate", "rate_p", "accuracy", "absent"])
    assert table.columns.tolist() == ["rate", "rate_p", "accuracy"]
    assert table.to_dict("index") == {
        ("hard", "sorm"): {"rate": "", "rate_p": "", "accuracy": "75.0 [30.1, 95.4] (n=4)"},
        ("hard", "orm"): {"rate": "n = 0", "rate_p": "", "accuracy": "50.0 [10.0, 90.0] (n=4)"},
        ("easy", "sorm"): {"rate": "", "rate_p": "", "accuracy": "100.0 [50.0, 100.0] (n=2)"},
        ("easy", "orm"): {"rate": "-10.0 [-25.0, 5.0] (n=30)", "rate_p": "0.012", "accuracy": ""},
    }
    # Tasks, and a task's methods, come in the order in which they first appear.
    assert table.index.tolist() == [("hard", "sorm"), ("hard", "orm"), ("easy", "sorm"), ("easy", "orm")]
