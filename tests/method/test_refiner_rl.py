"""Further training of the refiner: drafts, marks and pairs, each reward by hand, and all of it on a tiny model."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from test_replication import SETTINGS, assert_numbers_are_sound, forbid_work

from glore_lib.artifacts.records import SCHEMAS
from glore_lib.method.appendix import c_refiner_rl as rl
from glore_lib.method.appendix.measures import with_parameters
from glore_lib.method.replication import Replication
from glore_lib.method.reward_models import load_reward_model, score_steps, scores_of
from glore_lib.models import grpo
from glore_lib.models.grpo import step_advantages
from glore_lib.params import ParamsError
from glore_lib.reporting import analysis_figures, appendix
from glore_lib.run import Run
from glore_lib.sampling import Completion
from tiny import Scripted, open_tiny, solver

SMALL = SETTINGS | {
    "reward_models__figure4": False, "refiner_rl__drafts": 4, "refiner_rl__samples_per_draft": 2,
    "refiner_rl__groups_per_step": 4, "refiner_rl__training": {"epochs": 1, "max_steps": 2, "learning_rate": 1e-3},
}  # fmt: skip
NAMES = ["supervised", "round_1", "rounds", "grpo_answer", "grpo_orm", "grpo_improvement", "grpo_steps"]


@pytest.fixture(scope="module")
def made(tiny_base, tmp_path_factory):
    """Train everything with two seeds; samplers are scripted, but for that of the model in training."""
    store = tmp_path_factory.mktemp("rl") / "artifacts"
    with pytest.MonkeyPatch.context() as patch:
        # Each seed has questions of its own.
        patch.setattr(Run, "sampler", lambda self, source: Scripted(self.tokenizer, solver(self)))
        trainings = rl.made(Replication(open_tiny(tiny_base, store, **SMALL)), [0, 1])
        return store, rl.compare(trainings), rl.curves(trainings), rl.costs(trainings), rl.rounds(trainings)


@pytest.fixture
def lab(made, tiny_base) -> Replication:
    return Replication(open_tiny(tiny_base, made[0], **SMALL))


def drafts(*rows: tuple[str, str, int]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["question_id", "draft", "first_error"])


def attempts(*rows: tuple[str, str, int, str, bool]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["kind", "draft", "first_error", "text", "is_correct"])
    return frame.assign(question_id="q")


# Drafts and pairs


def test_a_draft_is_marked_at_its_start_and_at_a_later_first_error():
    marked = rl.marked(drafts(("q0", "a\nb", 2), ("q1", "c", 1), ("q2", "d\ne", 0)))
    rows = sorted(map(tuple, marked[["question_id", "kind", "first_error"]].to_numpy()))
    assert rows == [("q0", "global", 1), ("q0", "local", 2), ("q1", "global", 1), ("q2", "global", 1)]


def test_half_of_a_round_are_own_drafts(lab):
    students = drafts(*((f"s{i}", "a\nb", 1) for i in range(9)))
    own = drafts(*((f"o{i}", "a\nb", 1) for i in range(9)))
    assert lab.run.params.refiner_rl.drafts == 4
    drawn = rl.draw(lab.run, 2, students, own)["question_id"]
    assert sorted(name[0] for name in drawn) == ["o", "o", "s", "s"]
    few = rl.draw(lab.run, 2, students, own.head(1))["question_id"]
    assert sorted(name[0] for name in few) == ["o", "s", "s", "s"]
    alone = rl.draw(lab.run, 1, students)
    assert len(alone) == 4 and alone.equals(rl.draw(lab.run, 1, students))
    assert not alone.equals(rl.draw(lab.run, 2, students))


def test_pairs_of_correct_refinements_by_hand():
    found = rl.solved_pairs(
        attempts(
            ("global", "a\nb", 1, "x\n#### 1", True),
            ("global", "a\nb", 1, "X\n####  1", True),  # the same but for case and white space
            ("global", "a\nb", 1, "y\n#### 2", False),
            ("local", "a\nb", 2, "a\nc", True),
            ("local", "a\nb", 2, "d\nc", True),  # does not repeat the first step
            ("local", "a\nb", 2, "a\nb\nc", True),  # repeats the marked one
            ("local", "a\nb", 2, "a", True),  # ends before it
            ("global", "a\nc", 1, "x\n#### 1", True),  # another draft
            ("global", "a\nd", 1, "x\n#### 1", True),  # more than the cap
        ),
        cap=2,
    )
    assert [tuple(row) for row in found[["kind", "draft", "first_error", "target"]].to_numpy()] == [
        ("global", "a\nb", 1, "x\n#### 1"), ("local", "a\nb", 2, "a\nc"), ("global", "a\nc", 1, "x\n#### 1"),
    ]  # fmt: skip


def test_there_are_no_pairs_of_refinements_that_are_all_wrong():
    assert list(rl.solved_pairs(attempts(("global", "a", 1, "b", False)), cap=2).columns) == list(SCHEMAS["pairs"])


@pytest.mark.parametrize("force", [False, True])
def test_a_prompt_keeps_the_steps_before_the_mark_where_they_are_forced(lab, force):
    run = with_parameters(lab.run, "refiner", force_prefix=force)
    (question, *_) = run.questions("train").values()
    ids, prefix = rl.prompt_of(run, question, "3 + 4 = 7\n7 + 1 = 9", 2)
    text = run.tokenizer.decode(ids, skip_special_tokens=True)
    assert "[BAD] 7 + 1 = 9" in text and prefix == ("3 + 4 = 7\n" if force else "")
    assert text.endswith("3 + 4 = 7\n") == force


# Rewards


@pytest.mark.parametrize(("after", "before", "reward"), [(0.9, 0.2, 0.7), (0.2, 0.9, 0.0), (0.5, 0.5, 0.0)])
def test_improvement_by_hand(after, before, reward):
    assert rl.improvement(after, before) == pytest.approx(reward)


def test_an_unbounded_improvement_would_be_the_score_itself():
    """The draft's score is the same for a whole group, so that GRPO's advantages do not contain it."""
    after, before = [[0.9], [0.4], [0.6]], 0.3
    tokens = [[0]] * 3
    gains = [[score[0] - before] for score in after]
    assert np.allclose(step_advantages(gains, tokens, 3), step_advantages(after, tokens, 3))
    bounded = [[rl.improvement(score[0], 0.5)] for score in after]
    assert not np.allclose(step_advantages(bounded, tokens, 3), step_advantages(after, tokens, 3))


def test_the_step_of_each_token(tokenizer):
    ids = tokenizer("3 + 4 = 7\n7 + 1 = 8\n", add_special_tokens=False).input_ids
    texts = tokenizer.convert_ids_to_tokens(ids)
    steps = rl.step_of_token(tokenizer, [*ids, tokenizer.eos_token_id])
    assert list(zip(texts, steps, strict=False)) == [
        *((token, 0) for token in ["3", "+", "4", "=", "7", "\n"]),
        *((token, 1) for token in ["7", "+", "1", "=", "8", "\n"]),
    ]
    assert steps[-1] == 1
    assert rl.step_of_token(tokenizer, [tokenizer.eos_token_id]) == [0]


@pytest.mark.parametrize("reward", ["answer", "orm", "improvement", "steps"])
def test_each_reward_by_hand(lab, monkeypatch, reward):
    """Two refinements each of two drafts; the reward model scores by a table."""
    questions = list(lab.run.questions("train").values())[:2]
    right = [q.reference_solution for q in questions]
    wrong = "3 + 4 = 7\n#### 999999"
    places = pd.DataFrame(
        {
            "question_id": [q.question_id for q in questions],
            "kind": "global",
            "draft": "9 + 9 = 9\n#### 9",
            "first_error": 1,
        }
    )
    table = {right[0]: 0.9, right[1]: 0.8, wrong: 0.1, places["draft"][0]: 0.4}

    def scored(run, model, answers):
        return [[table[text]] * (len(text.split("\n")) - 1) + [table[text] / 2] for _, text in answers]

    monkeypatch.setattr(rl, "scores_of", scored)
    writer = rl._Writer(lab, reward, places)
    texts = [right[0], wrong, wrong, right[1]]
    completions = [
        Completion(text, True, tuple(lab.run.tokenizer(text, add_special_tokens=False).input_ids)) for text in texts
    ]
    asked = SimpleNamespace(sample=lambda requests, *_: [completions[:2], completions[2:]])
    monkeypatch.setattr(rl.transformers, "build", lambda *_: asked)
    written = writer(SimpleNamespace(eval=lambda: None), [0, 0, 1, 1], 0)
    assert written.ids == [list(completion.ids) for completion in completions]
    assert written.measures["correct"] == 0.5
    assert written.measures["tokens"] == sum(map(len, written.ids))
    steps = [
        lab.run.task.exact_step_labels(q, t)
        for q, t in zip([questions[0]] * 2 + [questions[1]] * 2, texts, strict=True)
    ]
    assert written.measures["correct_steps"] == pytest.approx(np.mean([y for labels in steps for y in labels]))
    expected = {
        "answer": [1, 0, 0, 1], "orm": [0.45, 0.05, 0.05, 0.4], "improvement": [0.25, 0, 0, 0.2],
    }  # fmt: skip
    if reward == "steps":
        assert written.step_rewards == scored(None, None, [(None, text) for text in texts])
        assert [max(tokens) + 1 for tokens in written.step_of_token] == [len(found) for found in written.step_rewards]
    else:
        assert written.rewards == pytest.approx(expected[reward])
        assert written.step_rewards is None


def test_a_forced_prefix_is_part_of_the_answer_and_its_steps_have_no_reward(lab, monkeypatch):
    forced = Replication(with_parameters(lab.run, "refiner", force_prefix=True))
    (question, *_) = lab.run.questions("train").values()
    steps = question.reference_solution.split("\n")
    draft = "\n".join([steps[0], "9 + 9 = 9", "#### 9"])
    places = pd.DataFrame({"question_id": [question.question_id], "kind": "local", "draft": draft, "first_error": 2})
    scored = []

    def scores(run, model, answers):
        scored.extend(text for _, text in answers)
        return [[0.1 * (i + 1) for i in range(len(text.split("\n")))] for _, text in answers]

    monkeypatch.setattr(rl, "scores_of", scores)
    rest = "\n".join(steps[1:])
    completion = Completion(rest, True, tuple(lab.run.tokenizer(rest, add_special_tokens=False).input_ids))
    asked = SimpleNamespace(sample=lambda requests, *_: [[completion, completion]])
    monkeypatch.setattr(rl.transformers, "build", lambda *_: asked)
    written = rl._Writer(forced, "steps", places)(SimpleNamespace(eval=lambda: None), [0, 0], 0)
    assert scored == [question.reference_solution] * 2 and written.measures["correct"] == 1
    assert written.step_rewards == [pytest.approx([0.1 * (i + 1) for i in range(1, len(steps))])] * 2


def test_scores_in_training_are_those_of_the_stored_scores(lab):
    model = lab.reward_models["orm"]
    samples = lab.data.samples.read().head(5)
    stored = score_steps(lab.run, model, "orm-check", samples, lab.run.reward_split, lab.data.samples).read()
    loaded = load_reward_model(lab.run.path(model), "float32", lab.run.base).eval()
    questions = lab.run.questions(lab.run.reward_split)
    answers = [(questions[s.question_id], s.text) for s in samples.itertuples()]
    scores = scores_of(lab.run, loaded, [*answers, (answers[0][0], "")])
    assert scores.pop() == []
    for s, of_sample in zip(samples.itertuples(), scores, strict=True):
        assert of_sample == pytest.approx(list(stored[stored["sample_id"] == s.sample_id]["score"]), abs=1e-5)


# Everything


def test_all_trainings_are_compared_over_the_seeds(made):
    _, numbers, curves, costs, rounds = made
    assert_numbers_are_sound(numbers)
    assert list(dict.fromkeys(m for m in numbers["method"] if "-" not in m)) == NAMES
    assert numbers["seed"].isna().all()
    value = {(row.method, row.metric): row for row in numbers.itertuples()}
    for name in NAMES:
        fixed = {metric: value[name, metric].value for metric in rl.METRICS}
        assert fixed["fixed_union"] >= max(fixed["fixed_global"], fixed["fixed_local"])
        assert fixed["fixed_two_global"] >= fixed["fixed_global"]
        assert (
            value[name, "fixed_global"].n + value[name, "broken_global"].n == value[name, "accuracy_all_drafts"].n == 12
        )
    pairs = {m for m in numbers["method"] if "-" in m}
    assert pairs == {f"{name}-supervised" for name in NAMES[1:]} | {f"{name}-rounds" for name in NAMES[3:]}
    difference = value["grpo_orm-supervised", "fixed_union_difference"].value
    assert difference == pytest.approx(
        value["grpo_orm", "fixed_union"].value - value["supervised", "fixed_union"].value
    )
    assert set(curves["metric"].str.partition("@")[0]) == {"answer", "orm", "improvement", "steps"}
    of_answer = curves[curves["metric"].str.startswith("answer@")].pivot(
        index="metric", columns="method", values="value"
    )
    assert of_answer["sampled_reward"].equals(of_answer["sampled_correct"].rename("sampled_reward"))
    assert list(costs.index) == NAMES
    assert (costs.loc["supervised"].dropna() == 0).all() and (costs.drop("supervised")["sampled tokens"] > 0).all()
    assert [seed for seed, round in rounds.index if round == 0] == [0, 1]


def test_all_of_it_is_made_once(made, lab, monkeypatch):
    forbid_work(monkeypatch)
    monkeypatch.setattr(grpo, "train", lambda *_: pytest.fail("trained again"))
    trainings = rl.made(lab, [0, 1])
    pd.testing.assert_frame_equal(rl.compare(trainings), made[1])


def test_findings_and_figures(made):
    _, numbers, curves, *_ = made
    found = appendix.found_refiner_rl(numbers, curves)
    assert any(line.startswith("Expert iteration − Supervised, wrong drafts fixed: ") for line in found)
    assert sum(line.startswith("While training, reward") for line in found) == 4
    figure = analysis_figures.sweep(curves, appendix.REWARDS, "Part of the training")
    assert len(figure.axes) == 4
    panels = {"fixed_union": "Wrong drafts fixed", "broken_global": "Correct drafts broken"}
    (first, *_) = analysis_figures.dots(numbers, panels).axes[0].get_yticklabels()
    assert first.get_text() == "Supervised"


def test_rounds_stop_when_fewer_drafts_are_fixed(lab, monkeypatch):
    """The refiner that fixed most is returned, at the cost of all rounds."""
    shares = iter([0.2, 0.4, 0.3, 0.9])
    monkeypatch.setattr(rl, "validation_share", lambda *_: next(shares))
    info = {"tokens_generated": 10}
    made = iter(range(9))

    def artifact(*_):
        frame = pd.DataFrame({"is_correct": [True, False]})
        return SimpleNamespace(record={"seconds": 1.0, "info": info}, read=lambda: frame, number=next(made))

    for name in ("attempt", "train_round"):
        monkeypatch.setattr(rl, name, artifact)
    monkeypatch.setattr(rl, "located", lambda *_: drafts(("q", "a", 1)))
    monkeypatch.setattr(rl, "student_drafts", lambda *_: drafts(("q", "a", 1)))
    trainings = rl.Trainings(Replication(with_parameters(lab.run, "refiner_rl", rounds=3)))
    rows, refiners = trainings.rounds
    assert list(rows["fixed_validation"]) == [0.2, 0.4, 0.3]
    assert [refiner.tokens for refiner in refiners] == [0, 10, 20]
    assert trainings.chosen == replace(refiners[2], model=refiners[1].model)


def test_a_round_without_a_correct_refinement_keeps_the_refiner(lab, monkeypatch):
    none = SimpleNamespace(
        record={"seconds": 1.0, "info": {"tokens_generated": 10}}, read=lambda: pd.DataFrame({"is_correct": [False]})
    )
    monkeypatch.setattr(rl, "attempt", lambda *_: none)
    monkeypatch.setattr(rl, "train_round", lambda *_: pytest.fail("nothing to learn"))
    monkeypatch.setattr(rl, "validation_share", lambda *_: 0.2)
    monkeypatch.setattr(rl, "student_drafts", lambda *_: drafts(("q", "a", 1)))
    _, refiners = rl.Trainings(lab).rounds
    assert [refiner.model for refiner in refiners] == [lab.refiner] * 2 and refiners[-1].passes == 1
    assert refiners[-1].seconds == 1.0 and refiners[-1].tokens == 10


def test_no_drafts_are_one_error(lab, monkeypatch):
    monkeypatch.setattr(rl, "student_drafts", lambda *_: drafts().head(0))
    with pytest.raises(ParamsError, match=r"refiner_rl\.draft_samples = 2: none of .+ is wrong"):
        _ = rl.Trainings(lab).drafts


def test_grpo_needs_trl(lab, monkeypatch):
    monkeypatch.setattr("glore_lib.params.find_spec", lambda name: None)
    with pytest.raises(ParamsError, match=r"refiner_rl\.rewards = answer, .+ needs the package trl; pip install trl=="):
        rl.made(lab, [0])


CHANGES = {
    "samples_per_draft": 3, "temperature": 0.5, "groups_per_step": 1, "learning_rate": 1e-5, "kl_weight": 0.5,
    "drafts": 2, "own_drafts": False, "rounds": 1,
}  # fmt: skip
OF_BOTH = {"samples_per_draft", "temperature", "drafts"}


@pytest.mark.parametrize("changed", CHANGES)
def test_what_a_training_depends_on_is_in_its_key(lab, monkeypatch, changed):
    """A change of a parameter makes other artifacts of those that it concerns, and of no others."""
    orm, refiner = lab.reward_models["orm"], lab.refiner
    made = SimpleNamespace(refiner=refiner, reward_models={"orm": orm})
    monkeypatch.setattr(Run, "folder", lambda self, name, make, params, inputs: self._key(make, params, inputs))
    monkeypatch.setattr(Run, "frame", lambda self, name, schema, make, params, inputs: self._key(make, params, inputs))

    def keys(**values) -> dict[str, dict]:
        made.run = with_parameters(lab.run, "refiner_rl", **values)
        places = rl.draw(made.run, 1, drafts(*((f"q{i}", "a\nb", 2) for i in range(6))))
        return {"grpo": rl.train_grpo(made, "orm", places), "attempts": rl.attempt(made, refiner, 1, places)}

    before, after = keys(), keys(**{changed: CHANGES[changed]})
    differ = {name for name in before if before[name] != after[name]}
    expected = {"grpo", "attempts"} if changed in OF_BOTH else {"grpo"}
    assert differ == (set() if changed in ("own_drafts", "rounds") else expected)


def test_answers_without_an_error_are_no_drafts(lab):
    """And the drafts of a round that has none of its own stay whole numbers."""
    samples = lab.data.samples.read()
    right = samples[samples["is_correct"]].head(3)
    stored = SimpleNamespace(read=lambda: right, id="right", folder=lab.data.samples.folder, record={})
    found = rl.located(lab, stored, "right")
    assert len(found) == 0
    drawn = rl.draw(lab.run, 2, drafts(("q", "a\nb", 2)), found)
    assert sorted(drawn["first_error"]) == [1, 2] and drawn["first_error"].dtype.kind == "i"


def test_a_draft_is_drawn_once_though_the_refiner_copied_it(lab):
    drawn = rl.draw(lab.run, 2, drafts(("q", "a\nb", 1), ("q", "c", 1)), drafts(("q", "A\nb", 1)))
    assert sorted(drawn["draft"]) == ["A\nb", "c"]
