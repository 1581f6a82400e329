"""Step labels: hand-worked tables, and rollouts against a sampler whose successes are known."""

import dataclasses
import random
from itertools import count

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glore_lib.run import Run
from glore_lib.solutions import results, split_steps
from glore_lib.step_labels import (
    POSTPROCESSING,
    balance_samples,
    balance_steps,
    choose_drafts,
    exact_labels,
    first_errors,
    orm_labels,
    rollout_labels,
    rollouts,
    stepwise_supervision,
)
from glore_lib.store import check_schema
from tiny import Scripted, label_rows, rollout_rows, sample_rows, some_student

_purposes = count()


def labels_of(frame: pd.DataFrame) -> dict[str, list[int]]:
    return frame.sort_values("step").groupby("sample_id")["label"].apply(list).to_dict()


# ORM


def test_orm_labels():
    samples = sample_rows(
        ("q1", "a\nb\n#### 1", True), ("q1", "a\n\n c ", False), ("q2", "", True), ("q2", "#### 2", True)
    )
    labels = orm_labels(samples)
    assert labels_of(labels) == {"s0": [1, 1, 1], "s1": [0, 0], "s3": [1]}
    assert labels_of(labels.assign(label=labels["label_raw"])) == labels_of(labels)
    assert labels[["question_id", "sample_id", "step"]].values.tolist() == [
        ["q1", "s0", 1], ["q1", "s0", 2], ["q1", "s0", 3], ["q1", "s1", 1], ["q1", "s1", 2], ["q2", "s3", 1],
    ]  # fmt: skip
    assert set(labels["source"]) == {"final_answer"}
    check_schema(labels, "step_labels")


@pytest.mark.parametrize("texts", [[], ["", "\n"]], ids=["no samples", "no steps"])
def test_orm_labels_of_nothing_have_the_columns_all_the_same(texts):
    samples = sample_rows(("q", "x", True)).head(0) if not texts else sample_rows(*(("q", t, True) for t in texts))
    labels = orm_labels(samples)
    assert len(check_schema(labels, "step_labels")) == 0


MIXED = sample_rows(
    *(("q1", f"a{i}", i < 3) for i in range(4)),  # 3 right, 1 wrong
    *(("q2", f"b{i}", i < 2) for i in range(5)),  # 2 right, 3 wrong
    *(("q3", f"c{i}", True) for i in range(3)),
    *(("q4", f"d{i}", False) for i in range(3)),
)


def test_balanced_samples_are_as_many_right_as_wrong_of_every_question():
    kept = balance_samples(MIXED, 0)
    assert kept.groupby("question_id")["is_correct"].agg(["sum", "size"]).T.to_dict("list") == {
        "q1": [1, 2],
        "q2": [2, 4],
    }
    assert kept["sample_id"].is_unique
    pd.testing.assert_frame_equal(kept, MIXED.loc[kept.index])  # whole rows, in their order


def test_the_surplus_goes_at_random_by_the_seed():
    chosen = [frozenset(balance_samples(MIXED, seed)["sample_id"]) for seed in range(30)]
    assert chosen[0] == frozenset(balance_samples(MIXED, 0)["sample_id"])
    assert {s for c in chosen for s in c} == set(MIXED.loc[MIXED["question_id"].isin(["q1", "q2"]), "sample_id"])


@pytest.mark.parametrize("right", [True, False])
def test_one_sided_samples_have_no_balance(right):
    assert len(balance_samples(MIXED[MIXED["is_correct"] == right], 0)) == 0


# SORM labels from rollouts


HAND = rollout_rows(
    {
        # raw 1 1 0 1; consistent 1 0 0 1
        ("q1", "a"): [["w", "c", "w"], ["r", "w", "r"], ["w", "o", "w"], ["c"]],
        # raw 1 1 0; consistent 0 0 0
        ("q1", "b"): [["r"], ["w", "r"], ["w"]],
        # raw 0 0; consistent 0 0
        ("q2", "c"): [["o", "w"], ["w"]],
    }
)


@pytest.mark.parametrize(
    ("monotone", "consistent", "expected"),
    [
        (False, False, {"a": [1, 1, 0, 1], "b": [1, 1, 0], "c": [0, 0]}),
        (True, False, {"a": [1, 1, 1, 1], "b": [1, 1, 0], "c": [0, 0]}),
        (False, True, {"a": [1, 0, 0, 1], "b": [0, 0, 0], "c": [0, 0]}),
        # Consistency first: what it took from b is not spread. a's last step, which it left, is.
        (True, True, {"a": [1, 1, 1, 1], "b": [0, 0, 0], "c": [0, 0]}),
    ],
)
@pytest.mark.parametrize("shuffled", [False, True])
def test_labels_of_rollouts(monotone, consistent, expected, shuffled):
    rows = HAND.sample(frac=1, random_state=1) if shuffled else HAND
    labels = rollout_labels(rows, monotone, consistent)
    assert labels_of(labels) == expected
    raw = labels_of(labels.assign(label=labels["label_raw"]))
    assert raw == {"a": [1, 1, 0, 1], "b": [1, 1, 0], "c": [0, 0]}
    check_schema(labels, "step_labels")


@st.composite
def rollout_tables(draw) -> pd.DataFrame:
    step = st.lists(st.sampled_from("corw"), min_size=1, max_size=4)
    samples = draw(st.lists(st.lists(step, min_size=1, max_size=5), min_size=1, max_size=4))
    return rollout_rows({("q", f"s{i}"): steps for i, steps in enumerate(samples)})


@settings(deadline=None, max_examples=30)
@given(rollout_tables())
def test_what_every_labelling_promises(table):
    made = {name: labels_of(rollout_labels(table, *switches)) for name, switches in POSTPROCESSING.items()}
    for sample, raw in made["raw"].items():
        monotone, consistent = made["monotone"][sample], made["consistent"][sample]
        assert monotone == sorted(monotone, reverse=True)
        assert consistent == sorted(consistent, reverse=True)
        assert [max(raw[i:]) for i in range(len(raw))] == monotone
        assert all(c <= m for c, m in zip(consistent, monotone, strict=True))


def test_balanced_steps_are_as_many_positive_as_negative_at_each_step():
    labels = label_rows({("q", "a"): [1, 1, 0], ("q", "b"): [1, 0, 0], ("r", "c"): [1, 0], ("r", "d"): [0]})
    # step 1: three 1, one 0; step 2: one 1, two 0; step 3: none, two 0
    kept = balance_steps(labels, 0)
    assert kept.groupby(["step", "label"]).size().to_dict() == {(1, 0): 1, (1, 1): 1, (2, 0): 1, (2, 1): 1}
    pd.testing.assert_frame_equal(kept, labels.loc[kept.index])
    ones = {tuple(balance_steps(labels, seed).query("step == 1 and label == 1")["sample_id"]) for seed in range(30)}
    assert ones == {("a",), ("b",), ("c",)}


@pytest.mark.parametrize("label", [0, 1])
def test_one_sided_steps_have_no_balance(label):
    labels = label_rows({("q", "a"): [label] * 3})
    assert len(check_schema(balance_steps(labels, 0), "step_labels")) == 0


def test_first_errors():
    labels = label_rows({("q", "a"): [1, 0, 0], ("q", "b"): [1, 1], ("q", "c"): [0, 1], ("q", "d"): [0]})
    assert first_errors(labels.sample(frac=1, random_state=0)).to_dict() == {"a": 2, "c": 1, "d": 1}


# Drafts


def test_drafts_are_distinct_and_wrong_and_right_in_turn():
    samples = sample_rows(
        ("q1", "right 1", True), ("q1", "right 1", True), ("q1", "right 2", True), ("q1", "wrong 1", False),
        ("q2", "wrong 2", False), ("q1", "wrong 3", False), ("q2", "wrong 2", False), ("q3", "right 3", True),
    )  # fmt: skip

    def texts(per_question: int) -> list[str]:
        return choose_drafts(samples, per_question)["text"].tolist()

    assert texts(1) == ["wrong 1", "wrong 2", "right 3"]
    assert texts(2) == ["right 1", "wrong 1", "wrong 2", "right 3"]
    assert texts(3) == ["right 1", "wrong 1", "wrong 2", "wrong 3", "right 3"]
    assert texts(9) == ["right 1", "right 2", "wrong 1", "wrong 2", "wrong 3", "right 3"]
    assert list(choose_drafts(samples, 2).columns) == list(samples.columns)


# Rollouts


@pytest.fixture
def question(run):
    return next(iter(run.questions("train").values()))


def roll(
    run: Run, monkeypatch, samples: pd.DataFrame, answer, purpose: str = "", **params
) -> tuple[pd.DataFrame, Scripted]:
    """The rollouts of samples under other ``reward_models`` parameters, and the sampler that was asked."""
    rm = run.params.reward_models.model_copy(update=params)
    run = dataclasses.replace(run, params=run.params.model_copy(update={"reward_models": rm}))
    sampler = Scripted(run.tokenizer, answer)
    monkeypatch.setattr(Run, "sampler", lambda self, source: sampler)
    artifact = rollouts(run, some_student(), samples, "train", purpose or f"p{next(_purposes)}", [])
    return artifact.read(), sampler


def test_rollouts_by_hand(run, question, monkeypatch):
    q, right = question.question_id, question.reference_answer
    samples = sample_rows((q, f"ann 1 + 1 = 2 pens\nben 2 + 3 = 5 pens\n#### {right}", True))
    written = {
        "ann 1 + 1 = 2 pens": [f"x 2 + 1 = 3\n#### {right}\n", f"#### {right}", "#### 0\n", ""],
        "ben 2 + 3 = 5 pens": ["no answer", f"so 5\n#### {right}", f"#### {right}x", f"#### {right}"],
    }

    def answer(prompt: str, seed: int, j: int) -> str:
        assert prompt.startswith(question.question + "\n") and prompt.endswith("\n")
        return written[split_steps(prompt)[-1]][j]

    found, sampler = roll(run, monkeypatch, samples, answer, early_stop=False, rollouts_per_step=4)
    grades = found.groupby("step")[["is_correct", "is_consistent"]].agg(list)
    assert grades.loc[1].tolist() == [[True, True, False, False], [True, False, False, False]]
    assert grades.loc[2].tolist() == [[False, True, False, True], [False, True, False, False]]
    assert grades.loc[3].tolist() == [[True], [False]]  # the sample's own grade; its 5 is used nowhere
    assert found["text"].tolist() == [*written["ann 1 + 1 = 2 pens"], *written["ben 2 + 3 = 5 pens"], ""]
    assert found.groupby("step")["rollout"].agg(list).tolist() == [[0, 1, 2, 3], [0, 1, 2, 3], [0]]
    assert sampler.prompts == [
        f"{question.question}\nann 1 + 1 = 2 pens\n", f"{question.question}\nann 1 + 1 = 2 pens\nben 2 + 3 = 5 pens\n"
    ]  # fmt: skip
    assert set(sampler.temperatures) == {run.params.reward_models.rollout_temperature}


def test_a_sample_without_final_answer_rolls_out_after_its_last_step(run, question, monkeypatch):
    samples = sample_rows((question.question_id, "ann is\nben is", False))
    found, sampler = roll(
        run, monkeypatch, samples, lambda *_: f"#### {question.reference_answer}", rollouts_per_step=1
    )
    assert [split_steps(prompt)[1:] for prompt in sampler.prompts] == [["ann is"], ["ann is", "ben is"]]
    assert found[["step", "is_correct"]].values.tolist() == [[1, True], [2, True]]


@pytest.mark.parametrize("early_stop", [True, False])
def test_shared_prefixes_are_sampled_once(run, question, monkeypatch, early_stop):
    other = list(run.questions("train").values())[1]
    samples = sample_rows(
        (question.question_id, "ann is\nben is\n#### 0", False),
        (question.question_id, "ann is\neve is\n#### 0", False),
        (question.question_id, "ann is", False),
        (other.question_id, "ann is\n#### 0", False),
    )
    found, sampler = roll(
        run, monkeypatch, samples, lambda prompt, seed, j: f"{seed} {j}", early_stop=early_stop, rollouts_per_step=3
    )
    asked = [
        (prompt, j)
        for prompt, r in zip(sampler.prompts, sampler.requests, strict=True)
        for j in range(r.first, r.first + r.n)
    ]
    lines = [f"{question.question}\nann is\n", f"{question.question}\nann is\nben is\n"]
    lines += [f"{question.question}\nann is\neve is\n", f"{other.question}\nann is\n"]
    assert sorted(asked) == sorted((line, j) for line in lines for j in range(3))
    assert len({request.seed for request in sampler.requests}) == len(lines)  # prefixes share no random numbers
    texts = found[found["step"] == 1].groupby("sample_id")["text"].agg(list)
    assert texts["s0"] == texts["s1"] == texts["s2"] != texts["s3"]


LINES = st.sampled_from(["ann 1 + 1 = 2 pens", "ben 2 + 3 = 5 pens", "eve 3 + 4 = 7 pens", "joy is"])


@st.composite
def solutions(draw) -> str:
    end = draw(st.sampled_from(["\n#### RIGHT", "\n#### 0", ""]))
    return "\n".join(draw(st.lists(LINES, min_size=1, max_size=4))) + end


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(solutions(), min_size=1, max_size=4, unique=True),
    table=st.integers(0, 10**9),
    rate=st.sampled_from([0.05, 0.2, 0.5]),
    k=st.integers(1, 9),
)
def test_early_stop_changes_no_label(run, question, monkeypatch, texts, table, rate, k):
    """The table of successes is a function of the prefix, the seed and the rollout's number, and random otherwise."""
    right = question.reference_answer

    def answer(prompt: str, seed: int, j: int) -> str:
        rng = random.Random(f"{table}/{prompt}/{seed}/{j}")
        ends = f"#### {right}" if rng.random() < rate else "#### 0"
        return f"{' '.join(results(prompt)) if rng.random() < 0.5 else 'joy'}\n{ends}\n"

    texts = [text.replace("RIGHT", right) for text in texts]
    samples = sample_rows(*((question.question_id, text, text.endswith(f"#### {right}")) for text in texts))
    purpose = f"p{next(_purposes)}"
    few, sampler = roll(run, monkeypatch, samples, answer, purpose, early_stop=True, rollouts_per_step=k)
    every, exhaustive = roll(run, monkeypatch, samples, answer, purpose, early_stop=False, rollouts_per_step=k)
    assert every.groupby(["sample_id", "step"]).size().isin([1, k]).all()
    for switches in [*POSTPROCESSING.values(), (False, True)]:
        pd.testing.assert_frame_equal(rollout_labels(few, *switches), rollout_labels(every, *switches))
    kept = few.merge(every, on=["sample_id", "step", "rollout"], suffixes=("", "_all"))
    assert len(kept) == len(few)
    assert (kept["text"] == kept["text_all"]).all()
    assert sum(r.n for r in sampler.requests) <= sum(r.n for r in exhaustive.requests)
    verified = few[few["is_correct"] & few["is_consistent"]].groupby(["sample_id", "step"])["rollout"].min() + 1
    spent = few.groupby(["sample_id", "step"]).size().reindex(verified.index)
    assert (spent <= 2 * verified).all()  # waves double: at most as many again


def test_rollouts_of_nothing(run, monkeypatch):
    samples = sample_rows((next(iter(run.questions("train"))), "", False))
    found, sampler = roll(run, monkeypatch, samples, lambda *_: pytest.fail("asked"))
    assert len(found) == 0
    assert sampler.requests == []


# Exact labels and the stepwise format


def test_exact_labels_are_the_checkers(run, question):
    steps = split_steps(question.reference_solution)
    spoiled = "\n".join([*steps[:-1], "#### 0"])
    samples = sample_rows(
        (question.question_id, question.reference_solution, True), (question.question_id, spoiled, False)
    )
    labels = exact_labels(run, samples, "train")
    assert labels_of(labels) == {"s0": [1] * len(steps), "s1": [1] * (len(steps) - 1) + [0]}
    assert set(labels["source"]) == {"exact"}
    check_schema(labels, "step_labels")


def test_exact_labels_of_samples_without_steps(run, question):
    labels = exact_labels(run, sample_rows((question.question_id, "", False)), "train")
    assert len(check_schema(labels, "step_labels")) == 0


def test_there_are_no_exact_labels_where_the_task_knows_none(run, question, monkeypatch):
    monkeypatch.setattr(type(run.task), "exact_step_labels", lambda *_: None)
    assert exact_labels(run, sample_rows((question.question_id, "a", False)), "train") is None


def test_stepwise_supervision_is_trls_format(run, question):
    q = question.question_id
    samples = sample_rows((q, "a\nb\n#### 1", False), (q, "c\n#### 2", True), (q, "unlabelled", True))
    labels = label_rows({(q, "s1"): [1, 1], (q, "s0"): [1, 0, 0]})
    frame = stepwise_supervision(run, samples, labels.sample(frac=1, random_state=2), "train")
    assert frame.to_dict("list") == {
        "prompt": [question.question + "\n"] * 2,
        "completions": [["a", "b", "#### 1"], ["c", "#### 2"]],
        "labels": [[True, False, False], [True, True]],
    }
