"""Refiner pairs by hand, where [BAD] stands, and refinements by a sampler that is told what to write."""

import pandas as pd
import pytest

from glore_lib.artifacts.records import check_schema
from glore_lib.method.refinement import (
    RefinementSpec,
    Shown,
    global_pairs,
    local_pairs,
    locate_first_error,
    refine,
    refiner_pairs,
    solve_without_draft,
    train_refiner,
)
from glore_lib.method.reward_models import RewardModelData
from glore_lib.method.students import Student
from glore_lib.run import Run
from tiny import Scripted, frame, open_tiny, rollout_rows, sample_rows, score_rows

SAMPLES = sample_rows(
    ("q1", "a\nb\n#### 1", False),  # s0: wrong from step 2 on; two rollouts verify step 1
    ("q1", "a\nc\n#### 2", True),  # s1
    ("q1", "d\n#### 3", False),  # s2: wrong from step 1 on
    ("q2", "e\nf\n#### 4", False),  # s3: wrong from step 3 on; nothing verifies step 2 consistently
    ("q2", "g\n#### 5", False),  # s4: wrong from step 1 on, and its question has no right sample
    ("q2", "h", False),  # s5: no rollouts
)
ROLLOUTS = rollout_rows(
    {
        ("q1", "s0"): [["cc\n#### 2\n", "rx\n#### 2\n", "wy", "cz\n#### 2\n", "cc\n#### 2\n"], ["w"], ["w"]],
        ("q1", "s1"): [["c#### 2"], ["c#### 2"], ["c"]],
        ("q1", "s2"): [["w"], ["w"]],
        ("q2", "s3"): [["c#### 4"], ["r#### 4"], ["w"]],
        ("q2", "s4"): [["w"], ["w"]],
    }
)


def tuples(pairs: pd.DataFrame) -> list[tuple]:
    check_schema(pairs, "pairs")
    return list(pairs.itertuples(index=False, name=None))


def test_local_pairs_with_all_verifying_rollouts():
    assert tuples(local_pairs(SAMPLES, ROLLOUTS, monotone=True, consistent=False)) == [
        ("q1", "local", "a\nb\n#### 1", 2, "a\nc\n#### 2\n"),
        ("q1", "local", "a\nb\n#### 1", 2, "a\nx\n#### 2\n"),
        ("q1", "local", "a\nb\n#### 1", 2, "a\nz\n#### 2\n"),
        ("q1", "local", "d\n#### 3", 1, "a\nc\n#### 2"),  # from P_0, the question, any right sample verifies
        # Not q2's: its rollout repeats the marked step.
    ]


def test_local_pairs_with_consistent_rollouts_only():
    assert tuples(local_pairs(SAMPLES, ROLLOUTS, monotone=True, consistent=True)) == [
        ("q1", "local", "a\nb\n#### 1", 2, "a\nc\n#### 2\n"),
        ("q1", "local", "a\nb\n#### 1", 2, "a\nz\n#### 2\n"),
        ("q1", "local", "d\n#### 3", 1, "a\nc\n#### 2"),
        ("q2", "local", "e\nf\n#### 4", 2, "e\n#### 4"),  # its second step is the first error now
    ]


def test_global_pairs_are_wrong_times_right_of_a_question():
    samples = pd.concat(
        [
            SAMPLES,
            sample_rows(("q1", "i", True), ("q1", "i", True), ("q1", "", False)).assign(sample_id=["t0", "t1", "t2"]),
        ]
    )
    assert sorted(tuples(global_pairs(samples))) == sorted(
        ("q1", "global", draft, 1, target)
        for draft in ("a\nb\n#### 1", "d\n#### 3")
        for target in ("a\nc\n#### 2", "i")
    )


def test_no_pairs_without_right_samples():
    wrong = SAMPLES[~SAMPLES["is_correct"]]
    assert tuples(global_pairs(wrong)) == []
    assert tuples(local_pairs(wrong, ROLLOUTS.assign(is_correct=False), True, True)) == []


def test_the_refiners_pairs_are_distinct_and_capped(run):
    data = RewardModelData(frame(run, "samples", SAMPLES), lambda: frame(run, "rollouts", ROLLOUTS))
    every = capped(run, data, 99)
    expected = tuples(local_pairs(SAMPLES, ROLLOUTS, True, True)) + tuples(global_pairs(SAMPLES))
    # A local pair from P_0 and a global pair of the same texts are one kind each, and both stay.
    assert sorted(tuples(every)) == sorted(expected)
    one = capped(run, data, 1)
    assert one.groupby(["question_id", "kind"]).size().to_dict() == {
        ("q1", "global"): 1, ("q1", "local"): 1, ("q2", "local"): 1,
    }  # fmt: skip
    assert set(tuples(one)) < set(expected)


def capped(run: Run, data: RewardModelData, cap: int) -> pd.DataFrame:
    refiner = run.params.refiner.model_copy(update={"pairs_per_question": cap})
    return refiner_pairs(Run(run.params.model_copy(update={"refiner": refiner}), run.store, run.task), data)


def test_pairs_that_differ_in_case_or_spaces_are_one(run):
    samples = sample_rows(
        ("q1", "a\n#### 1", False), ("q1", "A\n####  1", False), ("q1", "b", True), ("q1", " B ", True)
    )
    rollouts = rollout_rows({("q1", "s2"): [["c"]]})
    pairs = refiner_pairs(
        run, RewardModelData(frame(run, "samples", samples), lambda: frame(run, "rollouts", rollouts))
    )
    assert tuples(pairs) == [("q1", "global", "a\n#### 1", 1, "b")]


# What the refiner is trained on


@pytest.mark.parametrize(("force_prefix", "learn_prefix"), [(True, True), (False, True), (False, False)])
def test_the_refiner_reads_the_marked_draft_and_learns_what_it_has_to_write(
    tiny_base, tmp_path, monkeypatch, force_prefix, learn_prefix
):
    skipped = force_prefix or not learn_prefix
    options = {"refiner__force_prefix": force_prefix, "refiner__learn_prefix": learn_prefix}
    run = open_tiny(tiny_base, tmp_path / "a", refiner__pairs_per_question=9, **options)
    first, second = list(run.questions("train").values())[:2]
    names = {"q1": first.question_id, "q2": second.question_id}
    words = {"a": "ann is", "b": "ben is", "c": "tom is", "d": "eve is", "x": "kim is", "z": "pat is"}

    def real(text: str) -> str:
        return "\n".join(words.get(line, line) for line in text.split("\n"))

    samples = (
        SAMPLES[SAMPLES["question_id"] == "q1"]
        .replace({"question_id": names})
        .assign(text=lambda f: f["text"].map(real))
    )
    rollouts = ROLLOUTS.replace({"question_id": names}).assign(text=lambda f: f["text"].map(real))
    data = RewardModelData(frame(run, "samples", samples), lambda: frame(run, "rollouts", rollouts))
    seen = []

    def train(model, examples, *_):
        seen.extend(examples)
        return {"steps": 0}

    monkeypatch.setattr("glore_lib.models.training.train", train)

    def read_and_learned(shown: Shown) -> set[tuple[str, str]]:
        seen.clear()
        train_refiner(run, Student(None, "base"), data, shown)
        return {
            (
                run.tokenizer.decode(ids[: len(ids) - learned], skip_special_tokens=True),
                run.tokenizer.decode(ids[-learned:]),
            )
            for ids, learned in ((e["input_ids"], sum(label != -100 for label in e["labels"])) for e in seen)
        }

    shown = read_and_learned("marked")
    question = first.question
    wholes = [("ann is\n[BAD] ben is\n#### 1", f"{end} is\n#### 2\n</s>") for end in ("tom", "pat")]
    local = {
        (
            f"{question}\n{draft}\nsolution :\n" + ("ann is\n" if skipped else ""),
            ("" if skipped else "ann is\n") + end,
        )
        for draft, end in wholes
    }
    from_start = {
        (f"{question}\n[BAD] {draft}\nsolution :\n", "ann is\ntom is\n#### 2\n</s>")
        for draft in ("ann is\nben is\n#### 1", "eve is\n#### 3")
    }
    assert shown == local | from_start
    # The controls learn the same targets, whole.
    targets = {f"ann is\n{end} is\n#### 2\n</s>" for end in ("tom", "pat")}
    drafts = {"ann is\nben is\n#### 1": targets, "eve is\n#### 3": {"ann is\ntom is\n#### 2\n</s>"}}
    assert read_and_learned("unmarked") == {
        (f"{question}\n{draft}\nsolution :\n", target) for draft, of_draft in drafts.items() for target in of_draft
    }
    assert read_and_learned("nothing") == {(f"{question}\n", target) for target in targets}


# Refining

WRITTEN = "eve is\n#### 7\n"


def test_the_first_error_is_the_first_step_at_or_below_the_threshold():
    scores = score_rows(
        {("q", "a"): [0.9, 0.5, 0.1], ("q", "b"): [0.51, 0.9], ("q", "c"): [0.2], ("q", "d"): [0.9, 0.4]}
    )
    found = locate_first_error(scores.sample(frac=1, random_state=0), 0.5)
    assert found.to_dict() == {"a": 2, "b": 0, "c": 1, "d": 2}
    assert locate_first_error(scores, 0.95).to_dict() == {"a": 1, "b": 1, "c": 1, "d": 1}


@pytest.fixture
def drafts(run):
    """Drafts of the four test questions: three with steps, one empty."""
    ids = list(run.questions("test"))
    texts = ["ann is\nben is\n#### 0", "tom is\n#### 0", "sue is\nkim is\npat is\n#### 0", ""]
    return frame(run, "samples", sample_rows(*((q, text, False) for q, text in zip(ids, texts, strict=True))))


def refined(run, drafts, monkeypatch, kind="local+orm", errors=None, **options):
    """Refinements by a refiner that always writes the same, and its prompts after the question."""
    sampler = Scripted(run.tokenizer, lambda prompt, seed, j: WRITTEN)
    monkeypatch.setattr(Run, "sampler", lambda self, source: sampler)
    errors = None if errors is None else pd.Series(errors, index=[f"s{i}" for i in range(len(errors))])
    spec = RefinementSpec(errors, **options)
    artifact = refine(run, frame(run, "samples", SAMPLES), drafts, "test", {kind: spec})[kind]
    asked = [prompt.split("\n", 1)[1] for prompt in sampler.prompts]
    assert set(sampler.temperatures) <= {0.0}
    return artifact.read(), asked


def with_refiner(run: Run, **params) -> Run:
    refiner = run.params.refiner.model_copy(update=params)
    return Run(run.params.model_copy(update={"refiner": refiner}), run.store, run.task)


def test_a_forced_prefix_is_in_the_prompt_and_in_the_result(run, drafts, monkeypatch):
    found, asked = refined(run, drafts, monkeypatch, errors=[2, 1, 3, 0], force_prefix=True)
    assert asked == [
        "ann is\n[BAD] ben is\n#### 0\nsolution :\nann is\n",
        "[BAD] tom is\n#### 0\nsolution :\n",
        "sue is\nkim is\n[BAD] pat is\n#### 0\nsolution :\nsue is\nkim is\n",
    ]
    assert found["text"].tolist() == [f"ann is\n{WRITTEN}", WRITTEN, f"sue is\nkim is\n{WRITTEN}", ""]
    assert found["first_error"].tolist() == [2, 1, 3, 0]
    assert found["final_answer"].tolist() == ["7", "7", "7", ""]
    assert set(found["kind"]) == {"local+orm"}


def test_without_force_the_refiner_writes_the_prefix_itself(run, drafts, monkeypatch):
    found, asked = refined(run, drafts, monkeypatch, errors=[2, 1, 3, 0], force_prefix=False)
    assert [prompt.endswith("solution :\n") for prompt in asked] == [True] * 3
    assert found["text"].tolist() == [WRITTEN] * 3 + [""]


def test_the_parameter_is_the_default(run, drafts, monkeypatch):
    for force in (True, False):
        found, _ = refined(with_refiner(run, force_prefix=force), drafts, monkeypatch, errors=[2, 1, 3, 0])
        assert found["text"][0] == ("ann is\n" if force else "") + WRITTEN


def test_global_refinements_mark_the_start(run, drafts, monkeypatch):
    found, asked = refined(run, drafts, monkeypatch, "global", force_prefix=True)
    assert asked == [
        "[BAD] ann is\nben is\n#### 0\nsolution :\n",
        "[BAD] tom is\n#### 0\nsolution :\n",
        "[BAD] sue is\nkim is\npat is\n#### 0\nsolution :\n",
    ]
    assert found["text"].tolist() == [WRITTEN] * 3 + [""]  # a draft without a step stays what it is


def test_an_unmarked_draft_is_shown_as_it_is(run, drafts, monkeypatch):
    found, asked = refined(run, drafts, monkeypatch, "unmarked", marked=False)
    assert asked == [
        "ann is\nben is\n#### 0\nsolution :\n", "tom is\n#### 0\nsolution :\n",
        "sue is\nkim is\npat is\n#### 0\nsolution :\n",
    ]  # fmt: skip
    assert found["text"].tolist() == [WRITTEN] * 3 + [""]


def test_where_no_error_was_found_the_draft_is_kept(run, drafts, monkeypatch):
    run = with_refiner(run, no_error_found="keep_draft")
    found, asked = refined(run, drafts, monkeypatch, errors=[0, 1, 0, 0])
    assert len(asked) == 1
    assert found["text"].tolist() == ["ann is\nben is\n#### 0", WRITTEN, "sue is\nkim is\npat is\n#### 0", ""]
    assert found["first_error"].tolist() == [0, 1, 0, 0]


def test_where_no_error_was_found_the_last_step_is_marked(run, drafts, monkeypatch):
    run = with_refiner(run, no_error_found="last_step")
    found, asked = refined(run, drafts, monkeypatch, errors=[0, 1, 0, 0], force_prefix=True)
    assert asked[0] == "ann is\nben is\n[BAD] #### 0\nsolution :\nann is\nben is\n"
    assert found["text"].tolist()[0] == f"ann is\nben is\n{WRITTEN}"
    assert found["first_error"].tolist() == [0, 1, 0, 0]  # it was not found, whatever was marked


def test_a_refinement_may_be_right(run, drafts, monkeypatch):
    answers = [q.reference_answer for q in run.questions("test").values()]
    sampler = Scripted(run.tokenizer, lambda prompt, seed, j: f"#### {answers[0]}\n")
    monkeypatch.setattr(Run, "sampler", lambda self, source: sampler)
    found = refine(run, frame(run, "samples", SAMPLES), drafts, "test", {"global": RefinementSpec()})["global"].read()
    assert found["is_correct"].tolist() == [a == answers[0] for a in answers[:3]] + [False]


def test_without_a_draft_the_refiner_sees_what_a_student_sees(run, drafts, monkeypatch):
    sampler = Scripted(run.tokenizer, lambda prompt, seed, j: "#### 3\n")
    monkeypatch.setattr(Run, "sampler", lambda self, source: sampler)
    found = solve_without_draft(run, frame(run, "samples", SAMPLES), drafts, "test").read()
    assert sampler.prompts == [f"{q.question}\n" for q in run.questions("test").values()]
    assert found["sample_id"].tolist() == ["s0", "s1", "s2", "s3"]
    right = [q.reference_answer == "3" for q in run.questions("test").values()]
    assert found["is_correct"].tolist() == right
    solve_without_draft(run, frame(run, "samples", SAMPLES), drafts, "test", 0.6)
    assert sampler.temperatures == [0.0] * 4 + [0.6] * 4


def test_sampled_refinements_have_a_temperature_and_a_seed_of_each_question(run, drafts, monkeypatch):
    sampler = Scripted(run.tokenizer, lambda prompt, seed, j: f"tom has {seed}\n#### 0\n")
    monkeypatch.setattr(Run, "sampler", lambda self, source: sampler)
    source = frame(run, "samples", SAMPLES)
    specs = {"global_sampled": RefinementSpec(sampled=True), "global": RefinementSpec()}
    made = {kind: artifact.read() for kind, artifact in refine(run, source, drafts, "test", specs).items()}
    greedy, sampled = sampler.calls  # of a sampler, a call has one temperature
    assert sampler.temperatures == [0.0] * 3 + [run.params.evaluation.temperature] * 3
    assert [r.prompt for r in greedy] == [r.prompt for r in sampled]
    seeds = [run.seed("refinements", q) for q in drafts.read()["question_id"][:3]]
    assert [r.seed for r in sampled] == seeds and len(set(seeds)) == 3
    assert made["global"]["text"].tolist() == ["tom has 0\n#### 0\n"] * 3 + [""]
    assert made["global_sampled"]["text"].tolist() == [f"tom has {seed}\n#### 0\n" for seed in seeds] + [""]
    again = refine(run, source, drafts, "test", {"global": RefinementSpec(sampled=True)})["global"].read()
    assert again["text"].tolist() == made["global_sampled"]["text"].tolist()  # not the greedy ones of that name


def test_the_refiner_is_asked_once_where_kinds_see_the_error_in_the_same_place(run, drafts, monkeypatch):
    sampler = Scripted(run.tokenizer, lambda prompt, seed, j: f"{prompt.index('[BAD]')}\n#### 0")
    monkeypatch.setattr(Run, "sampler", lambda self, source: sampler)

    def at(*errors: int) -> RefinementSpec:
        return RefinementSpec(pd.Series(errors, index=["s0", "s1", "s2", "s3"]))

    specs = {"global": RefinementSpec(), "local+orm": at(2, 1, 3, 0), "local+sorm": at(2, 1, 1, 0)}
    source = frame(run, "samples", SAMPLES)
    made = refine(run, source, drafts, "test", specs)
    together = {kind: artifact.read() for kind, artifact in made.items()}
    (stored,) = {artifact.folder for artifact in made.values()}  # one frame for all kinds
    assert stored in {artifact.folder for artifact in run.store.used.values()}
    assert len(sampler.requests) == 5  # the first step of three drafts; the second of one, the third of another
    for kind, spec in specs.items():
        alone = refine(run, source, drafts, "test", {kind: spec})[kind].read()
        pd.testing.assert_frame_equal(together[kind].reset_index(drop=True), alone)
