"""Students: what is sampled and kept, what they are trained on, and when expert iteration stops."""

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from glore_lib.artifacts.store import Artifact
from glore_lib.method import expert_iteration as loop
from glore_lib.method import students
from glore_lib.method.expert_iteration import expert_iteration, merge_solutions
from glore_lib.method.students import (
    Student,
    accuracy,
    fine_tune,
    reference_pairs,
    sample_solutions,
    sft_control,
    sft_data,
    sft_student,
)
from glore_lib.params import ParamsError, Training
from glore_lib.run import Run
from glore_lib.solutions import normalise
from tiny import Scripted, open_tiny, sample_rows, some_student


def before(*solutions: tuple[str, str]) -> pd.DataFrame:
    return pd.DataFrame([(q, text, "reference") for q, text in solutions], columns=["question_id", "text", "source"])


# Data


def test_right_samples_are_added_and_duplicates_are_not():
    samples = sample_rows(
        ("q1", "A  b\n\n#### 1\n", True),  # there already, by normalised text
        ("q1", "a c\n#### 1", True),
        ("q1", "a d\n#### 2", False),
        ("q1", "a  C\n####  1", True),  # as the second
        ("q2", "a c\n#### 1", True),  # the same text of another question is no duplicate
    )
    merged = merge_solutions(before(("q1", "a b\n#### 1")), samples, "round 1", 9)
    assert merged.values.tolist() == [
        ["q1", "a b\n#### 1", "reference"], ["q1", "a c\n#### 1", "round 1"], ["q2", "a c\n#### 1", "round 1"],
    ]  # fmt: skip


def test_the_cap_counts_new_distinct_solutions_of_a_question_in_this_round():
    samples = sample_rows(*(("q1", text, True) for text in "aabbccdd"), ("q2", "a", True), ("q2", "b", False))
    merged = merge_solutions(before(("q1", "a"), ("q1", "x"), ("q1", "y")), samples, "round 2", 2)
    assert merged.loc[merged["source"] == "round 2", ["question_id", "text"]].values.tolist() == [
        ["q1", "b"], ["q1", "c"], ["q2", "a"],
    ]  # fmt: skip


@pytest.mark.parametrize("held", [[], [("q1", "a")]], ids=["nothing held", "something held"])
def test_merging_nothing_changes_nothing(held):
    merged = merge_solutions(before(*held), sample_rows(("q1", "b", False)), "round 1", 2)
    pd.testing.assert_frame_equal(merged, before(*held), check_dtype=False)


def test_the_sft_data_are_the_first_training_questions(tiny_base, tmp_path):
    run = open_tiny(tiny_base, tmp_path / "a", student__sft_questions=3)
    questions = list(run.questions("train").values())
    assert reference_pairs(run) == [(q, q.reference_solution) for q in questions[:3]]


# Sampling


def test_samples_are_graded(run, monkeypatch):
    answers = {q.question: q.reference_answer for q in run.questions("test").values()}
    written = [lambda right: f"tom is\n#### {right}\n", lambda right: f"#### {int(right) + 1}", lambda right: right]
    sampler = Scripted(run.tokenizer, lambda prompt, seed, j: written[j](answers[prompt.strip()]))
    monkeypatch.setattr(Run, "sampler", lambda self, source: sampler)
    samples = sample_solutions(run, some_student("ei1"), "test", 3, 0.7, "bo3").read()
    assert samples["is_correct"].tolist() == [True, False, False] * 4
    assert samples["final_answer"].tolist()[:3] == [next(iter(answers.values())), samples["final_answer"][1], ""]
    assert samples["sample_id"].is_unique
    assert samples["question_id"].tolist() == [q for q in run.questions("test") for _ in range(3)]
    assert set(samples["policy"]) == {"ei1"}
    assert samples.groupby("question_id")["seed"].nunique().eq(1).all()
    assert samples["seed"].nunique() == 4
    assert sampler.prompts == [f"{question}\n" for question in answers]


def test_a_base_model_is_shown_one_example(run, monkeypatch):
    sampler = Scripted(run.tokenizer, lambda *_: "#### 1\n")
    monkeypatch.setattr(Run, "sampler", lambda self, source: sampler)
    sample_solutions(run, Student(None, "base"), "validation", 1, 0.0, "x", one_shot=True)
    for q, prompt in zip(run.questions("validation").values(), sampler.prompts, strict=True):
        assert prompt == run.task.one_shot_prompt(q.question)
        assert prompt.endswith(f"#### 29\n\n{q.question}\n")


def test_seeds_differ_between_purposes_splits_and_runs(tiny_base, tmp_path, run, monkeypatch):
    other = open_tiny(tiny_base, tmp_path / "b", seed=1)
    seeds = [
        run.seed("a", "train", "q"),
        run.seed("b", "train", "q"),
        run.seed("a", "test", "q"),
        other.seed("a", "train", "q"),
    ]
    assert len(set(seeds)) == 4
    assert run.seed("a", "train", "q") == seeds[0]
    assert all(0 <= seed < 2**31 for seed in seeds)


# Fine-tuning


def test_a_student_is_the_base_model_fine_tuned_on_the_solutions(run, monkeypatch):
    seen = {}

    def train(model, examples, finetuning, training, pad, seed, folder, head_rate):
        weights = {k: v.clone() for k, v in model.model.state_dict().items()}
        seen.update(examples=examples, weights=weights, training=training)
        return {"steps": 1}

    monkeypatch.setattr("glore_lib.models.training.train", train)
    student = sft_student(run)
    assert student.policy == "sft"
    assert student.data.read()["text"].tolist() == [text for _, text in reference_pairs(run)]
    base = run.load(None).state_dict()
    assert all(torch.equal(seen["weights"][name], base[name]) for name in base)
    texts = [run.tokenizer.decode(e["input_ids"], skip_special_tokens=True) for e in seen["examples"]]
    assert texts == [f"{q.question}\n{solution}\n" for q, solution in reference_pairs(run)]
    assert seen["training"] == run.params.student.sft


def test_solutions_of_a_question_may_share_a_row(tiny_base, tmp_path, monkeypatch):
    run, seen = open_tiny(tiny_base, tmp_path, student__solutions_per_row=2), []
    monkeypatch.setattr("glore_lib.models.training.train", lambda model, rows, *_: seen.append(rows) or {"steps": 1})
    pairs = [
        (q, text) for text in ("1\n#### 1", "1\n#### 2", "3\n#### 3") for q in [*run.questions("train").values()][:2]
    ]
    fine_tune(run, "x", pairs, run.params.student.training, sft_data(run))
    assert len(seen[0]) == 4  # two of a question, and its third
    learned = [[run.tokenizer.decode(i) for i in row["labels"]] for row in seen[0][:2]]
    assert learned[0] == ["1", "\n", "####", "1", "\n", "</s>", "1", "\n", "####", "2", "\n", "</s>"]
    assert learned[1] == ["3", "\n", "####", "3", "\n", "</s>"]


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_same_parameters_make_the_same_student_whatever_ran_before(tiny_base, tmp_path, method):
    weights = []
    for i in range(2):
        run = open_tiny(tiny_base, tmp_path / str(i), finetuning__method=method, student__sft__max_steps=2)
        torch.manual_seed(i)
        folder = sft_student(run).model.folder
        weights.append(load_file(folder / ("model.safetensors" if method == "full" else "adapter_model.safetensors")))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_control_trains_as_long_as_the_student_on_the_sft_data(run, monkeypatch):
    monkeypatch.setattr(Run, "sampler", lambda self, source: None)
    pairs = reference_pairs(run) * 5  # 20 solutions, 4 a step
    training = Training(epochs=1, max_steps=99, learning_rate=1e-3)
    student = Student(fine_tune(run, "ei1", pairs, training, sft_data(run)), "ei1")
    control = sft_control(run, student)
    info = control.model.record["info"]
    assert info["steps"] == student.model.record["info"]["steps"] == 5
    assert info["sequences"] == 4
    assert control.policy == "sft-control"


# Expert iteration


class Classroom:
    """Stands for sampling and training: each student has a validation accuracy, and what it was trained on is kept."""

    def __init__(self, run: Run, monkeypatch, accuracies: list[float], answer=None):
        self.run, self.trained, self.sampled = run, {}, []
        self.accuracies = dict(zip(["start", "ei1", "ei2", "ei3", "ei4"], accuracies, strict=False))
        self.answer = answer or (lambda prompt, seed, j: self.right(prompt, j))
        for module in (students, loop):
            monkeypatch.setattr(module, "fine_tune", self.fine_tune)
        monkeypatch.setattr(loop, "validation_accuracy", self.validation_accuracy)
        monkeypatch.setattr(Run, "sampler", lambda _, source: self.sampler(source))

    def right(self, prompt: str, j: int) -> str:
        """Return a right solution that differs by student and number and names its author."""
        question = next(q for q in self.run.questions("train").values() if f"\n{q.question}\n" in f"\n{prompt}")
        return f"tom has {len(self.sampled)} + {j}\n#### {question.reference_answer}\n"

    def fine_tune(self, run, name, pairs, training, inputs) -> Artifact:
        self.trained[name] = [(q.question_id, normalise(text)) for q, text in pairs]
        return Artifact(run.store.root / f"student-{name}")

    def validation_accuracy(self, run, student) -> float:
        return self.accuracies.get(student.policy, self.accuracies["start"])

    def sampler(self, source: Artifact | None) -> Scripted:
        self.sampled.append(source.id if source else "base")
        return Scripted(self.run.tokenizer, self.answer)


@pytest.fixture
def open_run(tiny_base, tmp_path):
    def open_run(**student) -> Run:
        settings = {"rounds": 4, "samples_per_question": 3, "max_kept_per_question": 2, "convergence": 0.02} | student
        return open_tiny(tiny_base, tmp_path / "a", **{f"student__{key}": value for key, value in settings.items()})

    return open_run


@pytest.mark.parametrize(
    ("accuracies", "policies"),
    [
        pytest.param([0.1, 0.2, 0.3, 0.4, 0.5], ["sft", "ei1", "ei2", "ei3", "ei4"], id="all rounds"),
        pytest.param([0.1, 0.2, 0.21, 0.9], ["sft", "ei1", "ei2"], id="converged, still a little better"),
        pytest.param([0.1, 0.2, 0.15, 0.9], ["sft", "ei1", "ei2"], id="got worse"),
        pytest.param([0.3, 0.2, 0.9], ["sft", "ei1"], id="never better than the start"),
        pytest.param([0.1, 0.2, 0.2, 0.9], ["sft", "ei1", "ei2"], id="equal"),
        pytest.param([0.1, 0.15, 0.2, 0.21, 0.9], ["sft", "ei1", "ei2", "ei3"], id="less than the tolerance"),
    ],
)
def test_rounds_end_where_accuracy_converges_and_the_last_student_is_returned(
    open_run, monkeypatch, accuracies, policies
):
    run = open_run()
    Classroom(run, monkeypatch, accuracies)
    student, table = expert_iteration(run)
    assert table["student"].tolist() == policies
    assert table["maj@1"].tolist() == accuracies[: len(policies)]
    assert table["round"].tolist() == list(range(len(policies)))
    assert student.policy == policies[-1]


def test_every_round_samples_from_the_last_student_and_trains_the_base_on_all_data(open_run, monkeypatch):
    run = open_run(rounds=2)
    room = Classroom(run, monkeypatch, [0.1, 0.2, 0.3])
    _, table = expert_iteration(run)
    assert room.sampled == ["student-sft", "student-ei1"]
    ids = list(run.questions("train"))
    answers = {q: question.reference_answer for q, question in run.questions("train").items()}
    sft = [(q.question_id, normalise(text)) for q, text in reference_pairs(run)]
    round1 = [(q, f"tom has 1 + {j}\n#### {answers[q]}") for q in ids for j in range(2)]  # the cap is 2 of 3
    round2 = [(q, f"tom has 2 + {j}\n#### {answers[q]}") for q in ids for j in range(2)]
    assert room.trained == {"sft": sft, "ei1": sft + round1, "ei2": sft + round1 + round2}
    assert table["new"].tolist() == [0, 8, 8]
    assert table["solutions"].tolist() == [4, 12, 20]
    assert table["questions solved"].tolist()[1:] == [1.0, 1.0]


def test_rounds_without_a_right_sample_go_on_with_the_data_there_are(open_run, monkeypatch):
    run = open_run(rounds=1)
    room = Classroom(run, monkeypatch, [0.1, 0.1], answer=lambda *_: "tom is")
    _, table = expert_iteration(run)
    assert room.trained["ei1"] == room.trained["sft"]
    assert table.loc[1, ["new", "sampled right", "questions solved"]].tolist() == [0, 0.0, 0.0]


@pytest.mark.parametrize("accuracies", [[0.0, 0.2], [0.3, 0.2], [0.0, 0.0]])
def test_from_one_example_the_student_is_never_the_base_itself(open_run, monkeypatch, accuracies):
    run = open_run(start="one_shot", rounds=1)
    room = Classroom(run, monkeypatch, accuracies)
    student, table = expert_iteration(run)
    assert room.sampled == ["base"]
    assert set(room.trained) == {"ei1"}
    assert table["student"].tolist() == ["base", "ei1"]
    assert student.policy == "ei1"


def test_a_student_without_solutions_to_learn_from_is_an_error(run, reliability):
    nothing = run.store.frame("ei1-data", "solutions", {}, lambda: students.solution_rows([], "none"))
    with pytest.raises(
        ParamsError, match=r"^student\.temperature = 0\.7: none of the samples is right, so the student"
    ):
        fine_tune(run, "ei1", [], run.params.student.training, nothing)
    assert not list(run.store.root.glob("student-*"))
    reliability("expert iteration from one example: no sample is right", "error in one line, no model saved")


def test_accuracy_is_the_share_of_right_samples(run):
    rows = sample_rows(("q1", "a", True), ("q2", "b", False), ("q3", "c", False), ("q4", "d", False))
    assert accuracy(run.store.frame("samples", "samples", {}, lambda: rows)) == 0.25
