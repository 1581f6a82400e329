"""The examples of notebooks 01-05: which are chosen, and how they are displayed."""

import pandas as pd
import pytest

from glore_lib.method import expert_iteration, step_labels
from glore_lib.method.refinement import local_pairs
from glore_lib.method.replication import Replication
from glore_lib.reporting import walkthrough
from tiny import Scripted, label_rows, open_tiny, rollout_rows, sample_rows, score_rows, solver

STEPS = {"epochs": 1, "max_steps": 1, "learning_rate": 1e-3}
SETTINGS = {
    "task__train_questions": 8, "task__test_questions": 6, "task__validation_questions": 6,
    "student__samples_per_question": 3, "reward_models__samples_per_question": 4,
    "reward_models__sorm_samples_per_question": 2, "reward_models__figure4": False, "student__sft": STEPS,
    "student__training": STEPS, "reward_models__training": STEPS, "refiner__training": STEPS,
    "refiner__no_error_found": "last_step",
}  # fmt: skip


@pytest.fixture(scope="module")
def lab(tiny_base, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        run = open_tiny(tiny_base, tmp_path_factory.mktemp("walk") / "artifacts", **SETTINGS)
        sampler = Scripted(run.tokenizer, solver(run, 0.5))
        patch.setattr(type(run), "sampler", lambda self, source: sampler)
        yield Replication(run)


# On the records of a run


def test_a_round_shows_new_and_wrong_samples_of_one_question(lab):
    before, samples = walkthrough.one_round(lab)
    assert samples["question_id"].nunique() == 1
    cap = lab.run.params.student.max_kept_per_question
    merged = expert_iteration.merge_solutions(before, samples, "round 1", cap)
    assert len(before) < len(merged) and not samples["is_correct"].all()
    assert len(lab.rounds) == 2
    stored = next(a for a in lab.run.store.used.values() if a.id.startswith("ei1-data")).read()
    of_question = stored[stored["question_id"].isin(samples["question_id"])]
    assert of_question["text"].tolist() == merged["text"].tolist()  # as the run itself merged them


def test_the_sample_with_rollouts_is_wrong_and_has_a_local_pair(lab):
    sample, rollouts = walkthrough.rolled_out(lab)
    assert len(sample) == 1 and not sample["is_correct"].item()
    assert set(rollouts["sample_id"]) == set(sample["sample_id"])
    step = step_labels.first_errors(step_labels.rollout_labels(rollouts, True, True)).item()
    pairs = local_pairs(sample, rollouts, True, True)
    assert step > 1 and len(pairs) > 0
    prefix, completions = walkthrough.one_prefix(sample, rollouts)
    assert sample["text"].item().startswith(prefix) and prefix.endswith("\n")
    step = prefix.count("\n")
    assert completions["drawn"].sum() == (rollouts["step"] == step).sum()


def test_a_draft_is_wrong_and_its_candidates_are_what_the_run_reranks(lab):
    draft = walkthrough.wrong_draft(lab.test)
    assert len(draft) == 1 and not draft["is_correct"].item()
    candidates = walkthrough.candidates(lab.test, draft)
    assert candidates["candidate"].tolist() == ["draft", "global", "local"]
    assert candidates["text"].iloc[0] == draft["text"].item()
    best = candidates.reset_index(drop=True)["score"].idxmax()
    assert lab.test.choices.loc[draft["sample_id"].item(), "reranked"] == candidates["is_correct"].iloc[best]


def test_exact_labels_are_a_column_where_the_task_has_them(lab, monkeypatch):
    samples = lab.data.samples.read().head(2)
    exact = walkthrough.exact(lab, samples, "train")["exact"]
    pd.testing.assert_frame_equal(exact, step_labels.exact_labels(lab.run, samples, "train"))
    monkeypatch.setattr(walkthrough, "exact_labels", lambda *_: None)
    assert walkthrough.exact(lab, samples, "train") == {}


def test_the_refiner_reads_the_mark_and_writes_the_target(lab, capsys):
    question_id = next(iter(lab.run.questions("train")))
    pair = {
        "question_id": question_id,
        "draft": "2 + 2 = 4\n4 + 1 = 6",
        "first_error": 2,
        "target": "2 + 2 = 4\n4 + 1 = 5",
    }
    walkthrough.read_and_written(lab, pd.DataFrame([pair, pair | {"target": "not shown"}]))
    printed = capsys.readouterr().out
    read, written = printed.split("--- and learns to write\n")
    assert "2 + 2 = 4\n[BAD] 4 + 1 = 6" in read and written == "2 + 2 = 4\n4 + 1 = 5\n"
    walkthrough.read_and_written(lab, pd.DataFrame([pair]).head(0))
    assert capsys.readouterr().out == ""


# On rows by hand


def test_mixed_prefers_questions_with_both_kinds_in_unequal_numbers():
    samples = sample_rows(
        ("all wrong", "a", False), ("even", "b", False), ("even", "c", True),
        ("uneven", "d", True), ("uneven", "e", True), ("uneven", "f", False),
    )  # fmt: skip
    assert set(walkthrough.mixed(samples)["question_id"]) == {"uneven"}
    assert set(walkthrough.mixed(samples[:3])["question_id"]) == {"even"}
    assert set(walkthrough.mixed(samples[:1])["question_id"]) == {"all wrong"}


def test_the_prefix_is_the_first_with_a_right_rollout_that_is_not_consistent():
    sample = sample_rows(("q", "one\ntwo\n#### 3", False))
    rolled_out = rollout_rows({("q", "s0"): [["cx", "wy"], ["rz", "rz", "wy"], ["w"]]})
    prefix, completions = walkthrough.one_prefix(sample, rolled_out)
    assert prefix == "one\ntwo\n"
    assert completions.values.tolist() == [["z", True, 2], ["y", False, 1]]
    prefix, completions = walkthrough.one_prefix(sample, rolled_out[rolled_out["step"] == 1])
    assert prefix == "one\n" and len(completions) == 2
    prefix, completions = walkthrough.one_prefix(sample.head(0), rolled_out.head(0))
    assert prefix == "" and completions.empty


def test_steps_stand_beside_labels_and_scores_and_what_is_missing_is_blank():
    samples = sample_rows(("q", "one\ntwo", True), ("q", "three", False))
    labels = label_rows({("q", "s0"): [1, 0], ("q", "s1"): [0]})
    scores = score_rows({("q", "s0"): [0.123, 0.9], ("q", "s1"): [0.5]})
    table = walkthrough.by_step(samples, label=labels.drop(index=1), orm=scores)
    assert table.frame.reset_index().values.tolist() == [
        [1, "correct", "one", "1", "0.12"], [2, "correct", "two", "", "0.90"], [1, "wrong", "three", "0", "0.50"],
    ]  # fmt: skip
    assert walkthrough.of(samples.tail(1), labels)["label"].tolist() == [0]


def test_a_table_keeps_lines_and_escapes_text():
    table = walkthrough.Table(pd.DataFrame({"text": ["a < b\nc"], "score": [0.126]}))
    assert "<td>a &lt; b<br>c</td>" in table._repr_html_() and "<td>0.13</td>" in table._repr_html_()
    assert "a < b / c" in repr(table) and "0.13" in repr(table)
    empty = walkthrough.Table(pd.DataFrame({"text": []}))
    assert repr(empty) == empty._repr_html_() == walkthrough.NONE
    steps = "\n".join("abcdefg")
    eight = walkthrough.Table(pd.DataFrame({"text": [steps] * 8}))._repr_html_()  # 56 lines and a head
    assert (eight.count("<br>"), eight.count("<tr"), "... and 2 more" in eight) == (6 * 6, 6 + 1, True)
    alone = walkthrough.Table(pd.DataFrame({"text": ["\n".join("abcdefg" * 9)]}))._repr_html_()
    assert alone.count("<br>") == 62 and "more" not in alone
    long = walkthrough.Table(pd.DataFrame({"text": ["x" * 500]}))
    assert "x" * 500 in long._repr_html_()
    assert max(map(len, repr(long).splitlines())) <= walkthrough.WIDTH
