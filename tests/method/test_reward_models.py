"""Reward models: labels at the newline tokens, scores in one pass, and what each kind learns from."""

import pandas as pd
import pytest
import torch

from glore_lib.method import reward_models
from glore_lib.method.reward_models import (
    RewardModelData,
    answer_scores,
    labelled_solution,
    labels_for,
    reward_model_data,
    score_steps,
    train_reward_model,
)
from glore_lib.method.step_labels import balance_steps
from glore_lib.method.students import Student
from glore_lib.models.reward_head import RewardModel, load_reward_model
from glore_lib.params import Training
from glore_lib.run import Run
from glore_lib.solutions import join_steps, split_steps
from tiny import Scripted, frame, open_tiny, rollout_rows, sample_rows, score_rows, some_student


def test_labels_stand_at_the_newline_tokens(run):
    question = next(iter(run.questions("train").values()))
    solution = labelled_solution(run, question, "tom has 3\n\nann is\n#### 5", {1: 1, 3: 0})
    tokens = run.tokenizer.convert_ids_to_tokens(solution.ids)
    assert tokens[solution.prompt_length :] == ["tom", "has", "3", "\n", "ann", "is", "\n", "####", "5", "\n"]
    assert solution.labels == {solution.prompt_length + 3: 1, solution.prompt_length + 9: 0}


@pytest.fixture
def reward_model(run):
    """Make an artifact: a random model with a random head."""

    def make(folder):
        model = RewardModel(run.load(None))
        torch.manual_seed(3)
        torch.nn.init.normal_(model.head.weight)
        model.save(run.tokenizer, run.base, folder)
        return {}

    return run.store.folder("reward-model", {}, make)


@pytest.fixture
def solutions(run) -> pd.DataFrame:
    """Solutions of other lengths, one of them without a step."""
    questions = list(run.questions("train").values())
    texts = [(q.question_id, q.reference_solution, True) for q in questions]
    return sample_rows(*texts, (questions[0].question_id, "", False), (questions[1].question_id, "tom is\n" * 9, False))


def score(run: Run, reward_model, samples: pd.DataFrame, name: str = "orm") -> pd.DataFrame:
    return score_steps(run, reward_model, name, samples, "train", frame(run, "samples", samples)).read()


def test_one_pass_scores_as_one_prefix_at_a_time(run, reward_model, solutions):
    whole = score(run, reward_model, solutions)
    prefixes = [
        (s.question_id, join_steps(split_steps(s.text)[:i]), True)
        for s in solutions.itertuples()
        for i in range(1, len(split_steps(s.text)) + 1)
    ]
    last = answer_scores(score(run, reward_model, sample_rows(*prefixes), "prefixes"))
    expected = [last[f"s{i}"] for i in range(len(prefixes))]
    assert whole["score"].tolist() == pytest.approx(expected, abs=1e-5)
    assert whole["score"].std() > 0.05
    steps = [(s.sample_id, i) for s in solutions.itertuples() for i in range(1, len(split_steps(s.text)) + 1)]
    assert list(zip(whole["sample_id"], whole["step"], strict=True)) == steps
    assert set(whole["model"]) == {"orm"}


@pytest.mark.parametrize("run", ["tiny_base", "llama2_base"], indirect=True)  # the second pads with its end
def test_scores_do_not_depend_on_the_batch(run, reward_model, solutions, monkeypatch):
    together = score(run, reward_model, solutions)
    monkeypatch.setattr(reward_models, "SCORING_TOKENS", 1)
    alone = score(run, reward_model, solutions)
    pd.testing.assert_frame_equal(together, alone, rtol=1e-4, atol=1e-5)


def test_some_of_an_artifacts_samples_have_scores_of_their_own(run, reward_model, solutions):
    """Scores of other rows are never taken for those of these rows."""
    source = frame(run, "samples", solutions)
    every = score_steps(run, reward_model, "orm", solutions, "train", source)
    some = score_steps(run, reward_model, "orm", solutions.head(1), "train", source)
    assert every.id != some.id
    assert set(some.read()["sample_id"]) == {"s0"}


def test_an_answers_score_is_the_one_after_its_last_step():
    scores = score_rows({("q", "a"): [0.1, 0.9, 0.4], ("q", "b"): [0.7]}).sample(frac=1, random_state=1)
    assert answer_scores(scores).to_dict() == {"a": 0.4, "b": 0.7}


# Labels


@pytest.fixture
def data(run) -> RewardModelData:
    samples = sample_rows(("q1", "a\nb\nc", False), ("q1", "d\ne", True), ("q1", "f", True), ("q2", "g\nh", False))
    rollouts = rollout_rows(
        {("q1", "s0"): [["w"], ["r", "w"], ["w"]], ("q1", "s1"): [["c"], ["c"]], ("q2", "s3"): [["w"], ["w"]]}
    )
    return RewardModelData(frame(run, "samples", samples), lambda: frame(run, "rollouts", rollouts))


def labels_of(frame: pd.DataFrame) -> dict[str, list[int]]:
    return frame.groupby("sample_id")["label"].apply(list).to_dict()


def with_switches(run: Run, **switches) -> Run:
    rm = run.params.reward_models.model_copy(update=switches)
    return Run(run.params.model_copy(update={"reward_models": rm}), run.store, run.task)


def test_labels_of_every_kind(run, data):
    assert labels_of(labels_for(run, "orm", data)) == {"s0": [0] * 3, "s1": [1, 1], "s2": [1], "s3": [0, 0]}
    balanced = labels_of(labels_for(run, "balanced_orm", data))
    assert balanced in ({"s0": [0] * 3, "s1": [1, 1]}, {"s0": [0] * 3, "s2": [1]})
    assert labels_of(labels_for(run, "sorm_raw", data)) == {"s0": [1, 1, 0], "s1": [1, 1], "s3": [0, 0]}
    assert labels_of(labels_for(run, "sorm_consistent", data)) == {"s0": [0, 0, 0], "s1": [1, 1], "s3": [0, 0]}
    # Without consistency, monotone: s0 1 1 0. Step 1: two 1, one 0; step 2: two 1, one 0; step 3: no 1.
    labels = labels_for(run, "sorm_balanced", data)
    assert labels.groupby(["step", "label"]).size().to_dict() == {(1, 0): 1, (1, 1): 1, (2, 0): 1, (2, 1): 1}
    # With all three: step 1: one 1, two 0; step 2 likewise.
    labels = labels_for(run, "sorm", data)
    assert labels.groupby(["step", "label"]).size().to_dict() == {(1, 0): 1, (1, 1): 1, (2, 0): 1, (2, 1): 1}
    assert labels.loc[labels["label"] == 1, "sample_id"].tolist() == ["s1", "s1"]


def test_the_sorms_switches(run, data):
    nothing = with_switches(run, monotone=False, consistent=False, balance_steps=False)
    for kind in ("sorm", "sorm_raw"):
        assert labels_of(labels_for(nothing, kind, data)) == {"s0": [0, 1, 0], "s1": [1, 1], "s3": [0, 0]}
    # The paper's Figure 4 leaves out the consistency rule and balancing, and keeps the monotone rule.
    monotone = with_switches(run, monotone=True, consistent=False, balance_steps=False)
    assert labels_of(labels_for(monotone, "sorm", data)) == labels_of(labels_for(run, "sorm_raw", data))
    consistent = with_switches(run, monotone=True, consistent=True, balance_steps=False)
    assert labels_of(labels_for(consistent, "sorm", data)) == labels_of(labels_for(run, "sorm_consistent", data))
    without = labels_for(consistent, "sorm", data)
    seed = run.seed("labels", "sorm", data.samples.record["name"])
    pd.testing.assert_frame_equal(labels_for(run, "sorm", data), balance_steps(without, seed))


def test_an_unknown_kind_is_an_error(run, data):
    with pytest.raises(KeyError):
        labels_for(run, "srom", data)


def test_step_data_samples_train_questions_and_rolls_out_some(run, monkeypatch):
    written = ["tom is\n#### 0", "ann is\n#### 1"]
    sampler = Scripted(run.tokenizer, lambda prompt, seed, j: written[j % 2])
    monkeypatch.setattr(Run, "sampler", lambda self, source: sampler)
    data = reward_model_data(run, some_student())
    samples, rollouts = data.samples.read(), data.rollouts.read()
    assert samples.groupby("question_id").size().to_dict() == dict.fromkeys(run.questions("train"), 2)
    assert set(samples["temperature"]) == {run.params.reward_models.temperature}
    assert set(samples["policy"]) == {"p"}
    assert rollouts["sample_id"].nunique() == 4  # sorm_samples_per_question is 1
    assert set(rollouts["sample_id"]) < set(samples["sample_id"])


def test_reward_models_learn_from_questions_that_the_student_has_not_seen(tiny_base, tmp_path, monkeypatch):
    run = open_tiny(tiny_base, tmp_path / "artifacts", task__reward_questions=3, reward_models__start="base")
    monkeypatch.setattr(Run, "sampler", lambda self, source: Scripted(run.tokenizer, lambda *_: "tom is\n#### 0"))
    data = reward_model_data(run, some_student())
    count = run.params.task.train_questions
    drawn = [q.question_id for q in run.task.questions("train", count + 3, run.params.seed)]
    assert list(run.questions("train")) == drawn[:count]
    assert data.samples.read()["question_id"].unique().tolist() == drawn[count:]
    assert set(data.rollouts.read()["question_id"]) == set(drawn[count:])
    training = Training(epochs=1, max_steps=1, learning_rate=1e-3)
    assert train_reward_model(run, "orm", some_student(), data, training).record["info"]["sequences"] == 6


# Training


LEARN = {"finetuning__batch_size": 16, "finetuning__micro_batch_size": 16, "task__train_questions": 24}


def separable(run: Run) -> RewardModelData:
    """Solutions that are right exactly where they speak of pens; every question has a right and a wrong one."""
    rows = [
        (q, f"tom has {i % 40} {item}\nann has {(7 * i) % 50} {item}\n#### {i}", item == "pens")
        for i, q in enumerate(run.questions("train"))
        for item in ("pens", "eggs")
    ]
    return RewardModelData(
        frame(run, "samples", sample_rows(*rows)), lambda: frame(run, "rollouts", rollout_rows({("q", "s"): [["w"]]}))
    )


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_reward_model_learns_what_separates_the_labels(tiny_base, tmp_path, method):
    run = open_tiny(tiny_base, tmp_path / "artifacts", finetuning__method=method, reward_models__start="base", **LEARN)
    data = separable(run)
    training = Training(epochs=100, max_steps=120, learning_rate=5e-3)
    model = train_reward_model(run, "orm", some_student(), data, training)
    assert model.record["info"]["positive_labels"] == 0.5
    assert model.record["info"]["sequences"] == 48
    items = {"pens": True, "eggs": False}
    fresh = [
        (q, f"sue has {60 + i} {item}", items[item]) for i, q in enumerate(run.questions("train")) for item in items
    ]
    samples = sample_rows(*fresh)
    scores = answer_scores(score(run, model, samples)).reindex(samples["sample_id"]).to_numpy()
    assert ((scores > 0.5) == samples["is_correct"].to_numpy()).mean() > 0.9


def test_the_head_has_a_learning_rate_of_its_own(tiny_base, tmp_path):
    # Adam's first step is the learning rate for every weight, whatever its gradient.
    training = Training(epochs=1, max_steps=1, learning_rate=1e-4)
    weights = {}
    for rate in (1.0, 10.0):
        changed = LEARN | {"reward_models__start": "base", "reward_models__head_rate": rate}
        run = open_tiny(tiny_base, tmp_path / "artifacts", **changed)
        made = train_reward_model(run, "orm", some_student(), separable(run), training)
        weights[rate] = load_reward_model(str(made.folder), "float32")
    heads = [weights[rate].head.weight.abs() for rate in (1.0, 10.0)]
    torch.testing.assert_close(heads[0], torch.full_like(heads[0], 1e-4), rtol=1e-2, atol=0)
    torch.testing.assert_close(heads[1], torch.full_like(heads[1], 1e-3), rtol=1e-2, atol=0)
    bodies = [weights[rate].model.state_dict() for rate in (1.0, 10.0)]
    torch.testing.assert_close(*bodies)


def test_a_reward_model_starts_from_the_student_and_is_another_for_another_student(tiny_base, tmp_path):
    run = open_tiny(tiny_base, tmp_path / "artifacts", **LEARN)
    data, training = separable(run), Training(epochs=1, max_steps=1, learning_rate=1e-9)

    def student(seed: int) -> Student:
        def make(folder):
            torch.manual_seed(seed)
            model = run.load(None)
            torch.nn.init.normal_(model.lm_head.weight)
            model.save_pretrained(folder)
            run.tokenizer.save_pretrained(folder)
            return {}

        return Student(run.store.folder("student", {"seed": seed}, make), "p")

    made = [train_reward_model(run, "orm", student(seed), data, training) for seed in (1, 2)]
    assert made[0].id != made[1].id
    heads = [load_reward_model(str(m.folder), "float32").model.lm_head.weight for m in made]
    starts = [run.load(student(seed).model).lm_head.weight for seed in (1, 2)]
    for head, start in zip(heads, starts, strict=True):
        torch.testing.assert_close(head, start, atol=1e-5, rtol=1e-5)


def test_without_labels_a_reward_model_stays_undecided(tiny_base, tmp_path):
    run = open_tiny(tiny_base, tmp_path / "artifacts", reward_models__start="base")
    samples = sample_rows(*((q, "tom has 3\n#### 3", False) for q in run.questions("train")))
    data = RewardModelData(
        frame(run, "samples", samples), lambda: frame(run, "rollouts", rollout_rows({("q", "s0"): [["w"]]}))
    )
    for kind in ("balanced_orm", "sorm"):  # no question has a right sample, no step a positive label
        model = train_reward_model(run, kind, some_student(), data, run.params.reward_models.training)
        assert model.record["info"]["steps"] == 0
        assert (score(run, model, samples)["score"] == 0.5).all()
