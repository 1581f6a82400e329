"""Step labels: hand-worked tables, and rollouts against a sampler whose successes are known."""

import dataclasses
import random
from itertools import count

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glore_lib.artifacts.records import check_schema
from glore_lib.artifacts.store import Artifact
from glore_lib.method.rollouts import rollouts
from glore_lib.method.schedule import waves
from glore_lib.method.step_labels import (
    POSTPROCESSING,
    balance_samples,
    balance_steps,
    choose_drafts,
    exact_labels,
    first_errors,
    orm_labels,
    rollout_labels,
    stepwise_supervision,
)
from glore_lib.run import Run
from glore_lib.sampling import Request
from glore_lib.solutions import prefix_text, split_steps
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


def test_drafts_are_the_first_distinct_samples():
    samples = sample_rows(
        ("q1", "right 1", True), ("q1", "right 1", True), ("q1", "right 2", True), ("q1", "wrong 1", False),
        ("q2", "wrong 2", False), ("q1", "wrong 3", False), ("q2", "wrong 2", False), ("q3", "right 3", True),
    )  # fmt: skip

    def texts(per_question: int) -> list[str]:
        return choose_drafts(samples, per_question)["text"].tolist()

    assert texts(1) == ["right 1", "wrong 2", "right 3"]
    assert texts(2) == ["right 1", "right 2", "wrong 2", "right 3"]
    assert texts(3) == ["right 1", "right 2", "wrong 1", "wrong 2", "right 3"]
    assert texts(9) == ["right 1", "right 2", "wrong 1", "wrong 2", "wrong 3", "right 3"]
    assert list(choose_drafts(samples, 2).columns) == list(samples.columns)


def test_questions_without_a_correct_sample_can_be_left_out():
    samples = sample_rows(("a", "wrong", False), ("b", "wrong", False), ("b", "right", True), ("b", "wrong", False))
    assert choose_drafts(samples, 9)["sample_id"].tolist() == ["s0", "s1", "s2"]
    assert choose_drafts(samples, 9, drop_unsolved=True)["sample_id"].tolist() == ["s1", "s2"]


# Rollouts


@pytest.fixture
def question(run):
    return next(iter(run.questions("train").values()))


def roll_out(
    run: Run, monkeypatch, samples: pd.DataFrame, answer, purpose: str = "", wave: int = 8, limit: int | None = None,
    **params,
) -> tuple[Artifact, Scripted]:  # fmt: skip
    """Return the rollouts of samples with other ``reward_models`` parameters, and the sampler that made them."""
    changed = {"reward_models": run.params.reward_models.model_copy(update=params | {"rollouts_per_wave": wave})}
    run = dataclasses.replace(run, params=run.params.model_copy(update=changed))
    sampler = Scripted(run.tokenizer, answer, limit)
    monkeypatch.setattr(Run, "sampler", lambda self, source: sampler)
    return rollouts(run, some_student(), samples, "train", purpose or f"p{next(_purposes)}", []), sampler


def roll(*args, **kwargs) -> tuple[pd.DataFrame, Scripted]:
    artifact, sampler = roll_out(*args, **kwargs)
    return artifact.read(), sampler


def asked(sampler: Scripted) -> list[list[tuple[str, int, int]]]:
    """(lines after the question, first, how many) of each request of each call."""
    return [
        [("/".join(split_steps(sampler.text(r))[1:]), r.first, r.n) for r in requests] for requests in sampler.calls
    ]


def numbers(request: Request) -> range:
    return range(request.first, request.first + request.n)


def says(written: dict[str, dict[int, str]]):
    """Return a policy that continues the given prefixes (steps joined by a slash) with the given text of each rollout.

    It continues any other prefix with a wrong answer.
    """

    def answer(prompt: str, seed: int, j: int) -> str:
        return written.get("/".join(split_steps(prompt)[1:]), {}).get(j, "pat is\n#### 0\n")

    return answer


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
    assert grades.loc[3].tolist() == [[True], [True]]  # the sample's own grade, though its 5 is used nowhere
    assert found["text"].tolist() == [*written["ann 1 + 1 = 2 pens"], *written["ben 2 + 3 = 5 pens"], ""]
    assert found.groupby("step")["rollout"].agg(list).tolist() == [[0, 1, 2, 3], [0, 1, 2, 3], [0]]
    assert sampler.prompts == [
        f"{question.question}\nann 1 + 1 = 2 pens\n", f"{question.question}\nann 1 + 1 = 2 pens\nben 2 + 3 = 5 pens\n"
    ]  # fmt: skip
    assert set(sampler.temperatures) == {run.params.reward_models.rollout_temperature}


def test_a_correct_sample_verifies_the_prefixes_it_begins_with(run, question, monkeypatch):
    q, right = question.question_id, question.reference_answer
    first, last = "ann 1 + 1 = 2 pens", f"ben 2 + 3 = {right} pens\n#### {right}"
    samples = sample_rows((q, f"{first}\neve 7 + 1 = 8 pens\n#### 0", False), (q, f"{first}\n{last}", True))
    options = {"samples_verify": True, "rollouts_per_step": 2, "rollouts_at_first": 2}
    found, sampler = roll(run, monkeypatch, samples, says({}), **options)
    assert sampler.prompts == [f"{question.question}\n{first}\neve 7 + 1 = 8 pens\n"]
    shared = found[(found["sample_id"] == "s0") & (found["step"] == 1)]
    assert shared[["rollout", "text", "is_correct", "is_consistent"]].values.tolist() == [[2, last, True, True]]
    assert labels_of(rollout_labels(found, False, True)) == {"s0": [1, 0, 0], "s1": [1, 1, 1]}
    found, _ = roll(run, monkeypatch, samples, says({}), early_stop=False, **options)
    assert found.groupby(["sample_id", "step"])["rollout"].agg(list)["s0", 1] == [0, 1, 2]
    # A sample that does not use what the prefix computed does not verify it.
    unused = sample_rows((q, f"{first}\n#### {right}", True))
    found, sampler = roll(run, monkeypatch, unused, says({}), **options)
    assert sampler.prompts == [f"{question.question}\n{first}\n"]
    assert labels_of(rollout_labels(found, False, True)) == {"s0": [0, 1]}


def test_a_samples_last_label_is_its_final_answers_correctness(run, question, monkeypatch):
    """Also under the consistency rule, which no continuation of a step before satisfies here."""
    q, answer = question.question_id, question.reference_answer
    lines = "ann 1 + 1 = 2 pens\nben 2 + 3 = 50 pens\n#### "
    samples = sample_rows((q, lines + answer, True), (q, f"{lines}{int(answer) + 1}", False))
    found, _ = roll(run, monkeypatch, samples, says({}))
    for switches in [*POSTPROCESSING.values(), (False, True)]:
        monotone = switches[0]
        assert labels_of(rollout_labels(found, *switches)) == {"s0": [int(monotone)] * 2 + [1], "s1": [0, 0, 0]}


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
    pairs = [(sampler.text(request), j) for request in sampler.requests for j in numbers(request)]
    lines = [f"{question.question}\nann is\n", f"{question.question}\nann is\nben is\n"]
    lines += [f"{question.question}\nann is\neve is\n", f"{other.question}\nann is\n"]
    assert sorted(pairs) == sorted((line, j) for line in lines for j in range(3))
    seeds = {(sampler.text(request).startswith(other.question), request.seed) for request in sampler.requests}
    assert len(seeds) == len({seed for _, seed in seeds}) == 2  # questions share no random numbers, their prefixes do
    texts = found[found["step"] == 1].groupby("sample_id")["text"].agg(list)
    assert texts["s0"] == texts["s1"] == texts["s2"] != texts["s3"]


@pytest.mark.parametrize(
    ("k", "at_first", "early_stop", "expected"),
    [
        (5, 2, True, [(0, 2), (2, 3)]),
        (8, 1, True, [(0, 1), (1, 7)]),
        (5, 5, True, [(0, 5)]),
        (5, 8, True, [(0, 5)]),
        (5, 2, False, [(0, 5)]),
    ],
)
def test_a_prefix_is_asked_for_the_first_few_and_then_for_the_rest(
    run, question, monkeypatch, k, at_first, early_stop, expected
):
    params = {"rollouts_per_step": k, "rollouts_at_first": at_first, "early_stop": early_stop}
    assert waves(run.params.reward_models.model_copy(update=params)) == expected
    samples = sample_rows((question.question_id, "ann is", False))
    _, sampler = roll(run, monkeypatch, samples, says({}), **params)
    assert asked(sampler) == [[("ann is", *wave)] for wave in expected]


def test_other_waves_make_another_artifact(run, question, monkeypatch):
    """Which rollouts are kept depends on them, and refiners learn from those."""
    samples = sample_rows((question.question_id, "ann is", False))
    made = {
        roll_out(run, monkeypatch, samples, says({}), "same", rollouts_per_step=4, rollouts_at_first=first)[0].id
        for first in (1, 2, 4, 5)
    }
    assert len(made) == 3  # with four at first, or more, there is one wave


def test_a_prefix_gets_no_more_rollouts_once_one_is_right_and_consistent(run, question, monkeypatch):
    right = f"#### {question.reference_answer}\n"
    samples = sample_rows(
        *((question.question_id, text, False) for text in ("ann is", "ben is", "eve 1 + 1 = 2 pens", "joy is"))
    )
    written = {"ann is": {1: right}, "ben is": {2: right}, "eve 1 + 1 = 2 pens": {0: right, 4: f"2\n{right}"}}
    found, sampler = roll(run, monkeypatch, samples, says(written), rollouts_per_step=5, rollouts_at_first=2)
    first, second = asked(sampler)
    assert first == [("ann is", 0, 2), ("ben is", 0, 2), ("eve 1 + 1 = 2 pens", 0, 2), ("joy is", 0, 2)]
    assert second == [("ben is", 2, 3), ("eve 1 + 1 = 2 pens", 2, 3), ("joy is", 2, 3)]
    assert found.groupby("sample_id").size().to_dict() == {"s0": 2, "s1": 5, "s2": 5, "s3": 5}


def test_a_rollout_serves_the_longer_prefixes_that_it_passes_through(run, question, monkeypatch):
    samples = sample_rows(
        (question.question_id, "ann is\nben is\n#### 0", False),
        (question.question_id, "ann is\neve is\njoy is\n#### 0", False),
    )
    written = {
        "ann is": {0: "ben is\n#### 1\n", 1: "eve is\njoy is\n#### 2\n"},
        "ann is/eve is": {0: "joy is\n#### 3\n", 2: "joy has\njoy is\n#### 4\n"},
    }
    rolled, sampler = roll_out(
        run, monkeypatch, samples, says(written), wave=1, rollouts_per_step=3, rollouts_at_first=3
    )
    assert asked(sampler) == [
        [("ann is", 0, 3)],
        # 0 of the first sample's and 1 of the second's are there, and so is 1 of the longest
        [("ann is/ben is", 1, 2), ("ann is/eve is", 0, 1), ("ann is/eve is", 2, 1)],
        [("ann is/eve is/joy is", 2, 1)],
    ]
    lost = "pat is\n#### 0\n"
    texts = rolled.read().groupby(["sample_id", "step"])["text"].agg(list)
    assert texts["s0"].tolist() == [[*written["ann is"].values(), lost], ["#### 1\n", lost, lost], [""]]
    assert texts["s1"].tolist() == [
        [*written["ann is"].values(), lost],
        ["joy is\n#### 3\n", "joy is\n#### 2\n", "joy has\njoy is\n#### 4\n"],
        ["#### 3\n", "#### 2\n", lost],
        [""],
    ]
    info = {k: rolled.record["info"][k] for k in ("rollouts_made", "tokens_generated", "prefixes", "distinct_prefixes")}
    # tokens: six and nine of two rollouts from "ann is", six of the two after "ann is/eve is", nine; six where lost
    assert info == {
        "rollouts_made": 8,
        "tokens_generated": 6 + 9 + 6 + 9 + 4 * 6,
        "prefixes": 7,
        "distinct_prefixes": 6,
    }


def test_a_rollout_that_was_cut_off_serves_no_longer_prefix(run, question, monkeypatch):
    """Of six tokens, a line takes three: the longer prefix's own rollout gets further."""
    right = f"#### {question.reference_answer}\n"
    samples = sample_rows((question.question_id, "ann is\nben is", False))
    written = {"ann is": {0: f"ben is\njoy is\n{right}"}, "ann is/ben is": {0: f"joy is\n{right}"}}
    found, sampler = roll(run, monkeypatch, samples, says(written), wave=1, limit=6, rollouts_per_step=1)
    assert asked(sampler) == [[("ann is", 0, 1)], [("ann is/ben is", 0, 1)]]
    assert found[["text", "is_correct"]].values.tolist() == [["ben is\njoy is\n", False], [f"joy is\n{right}", True]]


def test_a_rollout_that_ends_where_a_longer_prefix_does_serves_it_not(run, question, monkeypatch):
    """A line with the mark ends it, also one without an answer; after such a prefix, the policy is asked to go on."""
    right = f"#### {question.reference_answer}\n"
    samples = sample_rows((question.question_id, "ann is\n#### pens", False))
    written = {"ann is": {0: "#### pens\n"}, "ann is/#### pens": {0: right}}
    for early_stop in (True, False):
        found, _ = roll(run, monkeypatch, samples, says(written), wave=1, rollouts_per_step=1, early_stop=early_stop)
        assert found[["text", "is_correct"]].values.tolist() == [["#### pens\n", False], [right, True]]


def test_without_early_stop_every_prefix_has_rollouts_of_its_own_all_at_once(run, question, monkeypatch):
    samples = sample_rows((question.question_id, "ann is\nben is", False))
    written = {"ann is": {0: "ben is\n#### 1\n", 1: f"#### {question.reference_answer}\n"}}
    _, sampler = roll(run, monkeypatch, samples, says(written), wave=1, rollouts_per_step=2, early_stop=False)
    assert asked(sampler) == [[("ann is", 0, 2), ("ann is/ben is", 0, 2)]]


@pytest.mark.parametrize(
    ("wave", "sizes"),
    [
        (
            1,
            [6, 6, 6, 6],
        ),  # whole turns: the first wave of the one-step prefixes, their second, then the two-step ones'
        (6, [6, 6, 6, 6]),
        (7, [12, 12]),
        (100, [12, 12]),
    ],
)
def test_shorter_prefixes_come_first_and_a_wave_is_filled(run, question, monkeypatch, wave, sizes):
    names = ("ann", "ben", "eve")
    samples = sample_rows(*((question.question_id, f"{name} is\njoy is", False) for name in names))
    _, sampler = roll(run, monkeypatch, samples, says({}), wave=wave, rollouts_per_step=4, rollouts_at_first=2)
    short, long = [[f"{name} is{more}" for name in names] for more in ("", "/joy is")]
    turns = [[(prefix, first, 2) for prefix in prefixes] for prefixes in (short, long) for first in (0, 2)]
    if wave > 6:
        turns = [turns[0] + turns[2], turns[1] + turns[3]]
    assert asked(sampler) == turns
    assert [sum(n for *_, n in call) for call in asked(sampler)] == sizes


LINES = [
    "ann 1 + 1 = 2 pens",
    "ben 2 + 3 = 5 pens",
    "joy is",
    "eve has 2 5 pens",
]  # the last one uses what others found
ENDS = ["#### RIGHT", "#### 0", "#### pens"]


@st.composite
def solutions(draw) -> str:
    lines = draw(st.lists(st.sampled_from(LINES), min_size=1, max_size=4))
    return "\n".join(lines + draw(st.lists(st.sampled_from(ENDS), max_size=1)))


def test_early_stop_changes_no_label(run, question, monkeypatch):
    """Against a policy whose next line is a function of the lines so far and the rollout's number, random otherwise."""
    right = question.reference_answer
    passed_on = []

    @settings(deadline=None, max_examples=60, derandomize=True)  # the shares below hang on the draws
    @given(
        texts=st.lists(solutions(), min_size=1, max_size=4, unique=True),
        table=st.integers(0, 10**9),
        rate=st.sampled_from([0.05, 0.2, 0.5]),
        k=st.integers(1, 9),
        at_first=st.integers(1, 9),
        wave=st.sampled_from([1, 4, 20]),
        limit=st.sampled_from([12, 20, 100]),
    )
    def check(texts, table, rate, k, at_first, wave, limit):
        purpose = f"p{next(_purposes)}"

        def answer(prompt: str, seed: int, j: int) -> str:
            assert seed == run.seed(purpose, question.question_id)
            before = split_steps(prompt)[1:]
            lines = list(before)
            while len(lines) < 7 and not (len(lines) > len(before) and lines[-1].startswith("####")):
                rng = random.Random(f"{table}/{lines}/{j}")
                ends = [ENDS[0] if rng.random() < rate else rng.choice(ENDS[1:])]
                lines.append(rng.choice(ends if rng.random() < 0.3 else LINES).replace("RIGHT", right))
            return prefix_text(lines[len(before) :], len(lines))

        def rolled(**params) -> tuple[pd.DataFrame, Scripted]:
            params |= {"rollouts_per_step": k, "rollouts_at_first": at_first}
            found, sampler = roll(run, monkeypatch, samples, answer, purpose, wave, limit, **params)
            steps = found["sample_id"].map(samples.set_index("sample_id")["text"]).map(split_steps)
            return found.assign(prefix=["/".join(s[:i]) for s, i in zip(steps, found["step"], strict=True)]), sampler

        texts = [text.replace("RIGHT", right) for text in texts]
        samples = sample_rows(*((question.question_id, text, text.endswith(f"#### {right}")) for text in texts))
        few, sampler = rolled(early_stop=True)
        every, exhaustive = rolled(early_stop=False)
        assert every.groupby(["sample_id", "step"]).size().isin([1, k]).all()
        for switches in [*POSTPROCESSING.values(), (False, True)]:
            pd.testing.assert_frame_equal(rollout_labels(few, *switches), rollout_labels(every, *switches))
        kept = few.merge(every, on=["sample_id", "step", "rollout"], suffixes=("", "_all"))
        assert len(kept) == len(few)
        assert kept["text"].tolist() == kept["text_all"].tolist()

        verify = every[every["is_correct"] & every["is_consistent"]].groupby("prefix")["rollout"].agg(set)
        requests = [(prefix, range(first, first + n)) for call in asked(sampler) for prefix, first, n in call]
        for prefix, of in requests:  # after the first wave, only what no rollout of that verified
            assert max(of) < at_first or not any(j < at_first for j in verify.get(prefix, ()))
        pairs = [(prefix, j) for prefix, of in requests for j in of]
        assert len(set(pairs)) == len(pairs) <= sum(r.n for r in exhaustive.requests)
        rolled_out = few[~few["prefix"].str.contains(r"#### \d+$")].drop_duplicates(["prefix", "rollout"])
        passed_on.append(len(rolled_out) - len(pairs))

    check()
    assert min(passed_on) == 0
    assert sum(number > 0 for number in passed_on) > len(passed_on) / 4


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
        "labels": [[1, 0, 0], [1, 1]],
    }


@pytest.mark.parametrize("seed", range(3))
def test_a_step_that_balancing_left_without_a_label_is_marked_in_the_stepwise_format(run, question, seed):
    q = question.question_id
    samples = sample_rows((q, "a\nb\n#### 1", False), (q, "c\nd\n#### 2", True))
    labels = label_rows({(q, "s0"): [1, 0, 0], (q, "s1"): [1, 1, 1]})
    kept = balance_steps(labels, seed)  # of step 1, which has no negative label, no label is kept
    frame = stepwise_supervision(run, samples, kept, "train")
    assert frame["completions"].tolist() == [["a", "b", "#### 1"], ["c", "d", "#### 2"]]
    assert frame["labels"].tolist() == [[-100, 0, 0], [-100, 1, 1]]
    second = stepwise_supervision(run, samples, kept.query("step == 2"), "train")
    assert second["labels"].tolist() == [[-100, 0, -100], [-100, 1, -100]]
