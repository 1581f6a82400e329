"""Check the appendix's experiments by hand where a case is small enough, else against the other stages' numbers."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from test_replication import SETTINGS, assert_numbers_are_sound, forbid_work, script

from glore_lib.method import step_labels
from glore_lib.method.appendix import (
    ablation_labels,
    ablation_refinement,
    g_label_quality,
    j_value_refinement,
    label_noise,
    measures,
)
from glore_lib.method.replication import Replication
from glore_lib.params import ParamsError
from glore_lib.reporting import analysis_figures, appendix
from glore_lib.reporting.findings import Values
from glore_lib.run import Run
from glore_lib.statistics import Estimate, row
from tiny import Scripted, label_rows, open_tiny, sample_rows, score_rows, solver

SMALL = SETTINGS | {"reward_models__figure4": False, "task__validation_questions": 5}
TS = [0.45, 0.5, 0.55]
TEMPERATURES = [0.7, 1.0]  # the run's, and another
Q = "q0"


@pytest.fixture(scope="module")
def made(tiny_base, tmp_path_factory) -> tuple[Path, dict[str, pd.DataFrame]]:
    """Make everything with a student that is right half the time; return the store and each experiment's numbers."""
    store = tmp_path_factory.mktemp("appendix") / "artifacts"
    with pytest.MonkeyPatch.context() as patch:
        run = open_tiny(tiny_base, store, **SMALL)
        script(run, patch)
        lab = Replication(run)
        found = experiments(lab)
        assert len(lab.numbers) and len(lab.validation.numbers)  # the numbers to compare with
        return store, found


def experiments(lab: Replication) -> dict[str, pd.DataFrame]:
    swept = ablation_refinement.thresholds(lab, TS)
    return {
        "label_quality": g_label_quality.label_quality(lab),
        "value_refinement": j_value_refinement.value_refinement(lab),
        "label_rules": ablation_labels.label_rules(lab), "rollout_counts": ablation_labels.rollout_counts(lab, 3),
        "thresholds": swept,
        "refined_otherwise": ablation_refinement.refined_otherwise(
            lab, ablation_refinement.chosen_thresholds(swept, 0.5)
        ),
        "choices": ablation_refinement.choices(lab),
        "controls": ablation_refinement.controls(lab, "test"),
        "controls_validation": ablation_refinement.controls(lab, "validation"),
        "label_curves": label_noise.curves(lab, 5, TEMPERATURES, 4), "label_policies": label_noise.policies(lab, 6, 4),
    }  # fmt: skip


@pytest.fixture
def lab(made, tiny_base) -> Replication:
    return Replication(open_tiny(tiny_base, made[0], **SMALL))


def values(numbers: pd.DataFrame) -> dict[tuple[str, str], float]:
    return {(r.method, r.metric): r.value for r in numbers.itertuples() if r.n}


def assert_same(numbers: pd.DataFrame, others: pd.DataFrame, *keys: tuple[str, str]) -> None:
    ours, theirs = (frame.set_index(["method", "metric"]).loc[list(keys)] for frame in (numbers, others))
    pd.testing.assert_frame_equal(ours, theirs, check_dtype=False)  # the seed of a frame may be missing


def test_numbers_are_sound_and_are_made_once(made, lab, monkeypatch):
    _, found = made
    forbid_work(monkeypatch)
    for name, numbers in experiments(lab).items():
        assert_numbers_are_sound(numbers)
        pd.testing.assert_frame_equal(numbers, found[name])


# --- labels ---------------------------------------------------------------------------------------------------------


def test_label_quality_of_a_task_with_exact_labels_is_that_of_the_tables(made, lab):
    numbers = made[1]["label_quality"]
    assert appendix.judge_suffix(numbers) == "_exact"
    keys = [(rule, metric) for rule in ("raw", "monotone", "consistent") for metric in measures.QUALITY]
    keys += [(k, f"step_accuracy{s}") for k in g_label_quality.KINDS for s in ("", "_exact")]
    keys += [(k, "first_error_accuracy_exact") for k in g_label_quality.KINDS]
    assert_same(numbers, lab.numbers, *keys)
    value = values(numbers)
    for method in ("raw", "monotone", "consistent", *g_label_quality.KINDS):
        shares = [value[method, f"first_error_{place}_exact"] for place in ("accuracy", "early", "late", "missed")]
        assert sum(shares) == pytest.approx(1)


def test_first_errors_by_hand(lab):
    truth = pd.Series({"a": 2, "b": 2, "c": 2, "d": 2})
    found = {"orm": pd.Series({"a": 2, "b": 1, "c": 3, "e": 2}), "sorm": pd.Series({"a": 2, "b": 2, "c": 2, "d": 0})}
    numbers = pd.DataFrame(measures.first_error_numbers(lab.tables, truth, found, "_x", [("sorm", "orm")]))
    value = values(numbers)
    places = {name: value["orm", f"first_error_{name}_x"] for name in ("accuracy", "early", "late", "missed")}
    assert places == {"accuracy": 0.25, "early": 0.25, "late": 0.25, "missed": 0.25}
    assert value["sorm", "first_error_accuracy_x"] == 0.75
    assert value["sorm-orm", "first_error_accuracy_difference_x"] == 0.5
    assert value["sorm-orm", "first_error_accuracy_difference_x_p"] == 0.5  # 2 of 2 one way: 2 * (1/2)^2


def test_true_errors_are_those_of_wrong_drafts_that_have_one():
    drafts = sample_rows((Q, "a\nb", False), (Q, "a\nb", False), (Q, "a\nb", True))
    labels = label_rows({(Q, "s0"): [1, 1], (Q, "s1"): [1, 0], (Q, "s2"): [0, 0]})
    assert measures.true_errors(SimpleNamespace(read=lambda: drafts), labels).to_dict() == {"s1": 2}


@pytest.mark.parametrize("run", ["llama2_base"], indirect=True)
def test_label_quality_on_gsm8k_is_judged_by_human_labels(run, tmp_path, monkeypatch):
    """Check two solutions of one question.

    All samples are right, so every rollout label before the last step is positive.
    """
    monkeypatch.setenv("GLORE_DATA_DIR", str(tmp_path / "data"))
    write_gsm8k(tmp_path / "data")
    run = open_tiny(
        Path(run.params.base_model.source), tmp_path / "gsm8k", **SMALL | {"task__name": "gsm8k"}, run="people"
    )
    monkeypatch.setattr(Run, "sampler", lambda self, source: Scripted(run.tokenizer, lambda *_: "so\n#### 5"))
    found = experiments(Replication(run))  # all drafts are right: the other experiments have nothing to count
    numbers = found["label_quality"]
    value = values(numbers)
    n = numbers.set_index(["method", "metric"])["n"]
    assert appendix.judge_suffix(numbers) == "_human"
    # Steps of the first: right, wrong, wrong; of the second: wrong, wrong. Positive by rollouts: 1 1 0 and 1 0.
    assert value["labels", "positive_labels_human"] == 1 / 5
    assert value["raw", "label_precision"] == 1 / 3 and value["raw", "label_recall"] == 1
    assert (value["raw", "first_error_accuracy_human"], value["raw", "first_error_late_human"]) == (0, 1)
    assert n["orm", "first_error_accuracy_human"] == 2 and n["orm", "step_accuracy_all_human"] == 5
    # First errors are at steps 2 and 1. Of equally frequent ones the earlier counts.
    for method in ("always_first", "always_most_frequent"):
        assert value[method, "first_error_accuracy_human"] == value[method, "first_error_early_human"] == 0.5
    assert "human labels" in appendix.found_label_quality(numbers)[0]
    assert not len(found["label_curves"]) and not len(found["label_policies"])
    assert appendix.found_label_noise(found["label_curves"], found["label_policies"]) == [
        "This task has no exact labels to compare with."
    ]
    assert len(analysis_figures.label_noise(found["label_curves"]).axes) == 1  # it says: no data
    for name in ("value_refinement", "refined_otherwise", "controls"):
        assert (found[name]["n"][found[name]["metric"] == "fixed_fraction"] == 0).all()
    assert all("unknown" in line for line in appendix.found_value_refinement(found["value_refinement"]))


def test_constant_locators_by_hand():
    found = g_label_quality.constant_locators(pd.Series({"a": 3, "b": 2, "c": 3, "d": 1}))
    assert {name: places.to_dict() for name, places in found.items()} == {
        "always_first": dict.fromkeys("abcd", 1), "always_most_frequent": dict.fromkeys("abcd", 3)
    }  # fmt: skip
    assert all(places.empty for places in g_label_quality.constant_locators(pd.Series(dtype=int)).values())


@pytest.mark.parametrize("run", ["llama2_base"], indirect=True)
def test_processbench_scores_reward_models_with_the_runs_threshold(run, tmp_path, monkeypatch):
    """Check the F1 on one correct and one incorrect solution with given scores."""
    monkeypatch.setenv("GLORE_DATA_DIR", str(tmp_path / "data"))
    write_gsm8k(tmp_path / "data")
    run = open_tiny(
        Path(run.params.base_model.source), tmp_path / "gsm8k", **SMALL | {"task__name": "gsm8k"}, run="people"
    )
    lab = Replication(run)
    monkeypatch.setattr(Replication, "reward_models", dict.fromkeys(g_label_quality.KINDS))
    with pytest.raises(ParamsError, match=r"processbench/gsm8k\.json: No such file"):
        g_label_quality.processbench(lab)
    row = {"problem": "Ann has 2 pens and 3?", "steps": ["Two.", "Six.", "6"], "generator": "x"}
    rows = [
        row | {"id": "a", "label": 1, "final_answer_correct": False},
        row | {"id": "b", "label": -1, "final_answer_correct": True},
    ]
    (tmp_path / "data" / "processbench").mkdir()
    (tmp_path / "data" / "processbench" / "gsm8k.json").write_text(json.dumps(rows))

    def told(run, model, name, samples, split, made_from):
        """Let the ORM find no error, the balanced ORM the error and one too many, the SORM only the error."""
        kind = name.removesuffix("-processbench")
        low = {"orm": [], "balanced_orm": [("a", 2), ("b", 3)], "sorm": [("a", 2)]}[kind]
        rows = [
            {"sample_id": s, "step": i, "score": 0.1 if (s.rpartition("/")[2], i) in low else 0.9}
            for s in samples["sample_id"] for i in (1, 2, 3)
        ]  # fmt: skip
        return SimpleNamespace(read=lambda: pd.DataFrame(rows))

    monkeypatch.setattr(g_label_quality, "score_steps", told)
    value = values(g_label_quality.processbench(lab))
    assert {kind: value[kind, "f1"] for kind in g_label_quality.KINDS} == {"orm": 0, "balanced_orm": 0, "sorm": 1}
    assert (value["orm", "error_accuracy"], value["orm", "correct_accuracy"]) == (0, 1)
    assert (value["balanced_orm", "error_accuracy"], value["balanced_orm", "correct_accuracy"]) == (1, 0)


def test_processbench_is_not_for_generated_problems(lab):
    with pytest.raises(ParamsError, match=r"task\.name = 'arithmetic'"):
        g_label_quality.processbench(lab)


@pytest.mark.parametrize("run", ["llama2_base"], indirect=True)
def test_student_of_other_questions_has_only_its_reward_models_compared_with_human_labels(run, tmp_path, monkeypatch):
    """Check a student of SVAMP: its rollouts from solutions to GSM8K say little about its own labels."""
    monkeypatch.setenv("GLORE_DATA_DIR", str(tmp_path / "data"))
    write_gsm8k(tmp_path / "data")
    rows = [{"ID": f"chal-{i}", "Body": f"Ann has {i} pens.", "Question": "How many?", "Answer": 5} for i in range(900)]
    (tmp_path / "data" / "svamp").mkdir()
    (tmp_path / "data" / "svamp" / "SVAMP.json").write_text(json.dumps(rows))
    settings = SMALL | {"task__name": "svamp", "student__start": "one_shot"}
    run = open_tiny(Path(run.params.base_model.source), tmp_path / "svamp", **settings, run="people")
    monkeypatch.setattr(Run, "sampler", lambda self, source: Scripted(run.tokenizer, lambda *_: "so\n#### 5"))
    numbers = g_label_quality.label_quality(Replication(run))
    value, n = values(numbers), numbers.set_index(["method", "metric"])["n"]
    assert appendix.judge_suffix(numbers) == "_human"
    assert value["labels", "positive_labels_human"] == 1 / 5
    assert n["sorm", "first_error_accuracy_human"] == 2 and n["sorm-orm", "step_accuracy_difference_all_human"] == 5
    assert not numbers["metric"].str.startswith("label_").any()
    assert not list(run.store.root.glob("rollouts-human*"))
    words = " ".join(appendix.found_label_quality(numbers))
    assert "human labels" in words and "post-processing" not in words


def write_gsm8k(folder: Path) -> None:
    rows = [{"question": f"Ann has {i} pens?", "answer": f"She has {i} = <<{i}={i}>>{i}.\n#### 5"} for i in range(200)]
    judged = {"question": "Ann has 2 pens and 3?", "reference_answer": 5, "reference_solution": "#### 5"}
    wrong = [
        judged | {"uuid": "a", "steps": ["Step 1: Two.", "Step 2: Six.", "Step 3: #### 6"], "first_error_step": 2},
        judged | {"uuid": "b", "steps": ["Step 1: Seven.", "Step 2: #### 7"], "first_error_step": 1},
    ]
    for name, records in {
        "gsm8k/train": rows[:150], "gsm8k/test": rows[150:], "mr_gsm8k/human_first_error": wrong
    }.items():  # fmt: skip
        path = folder / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_rules_add_and_take_away_positives_and_balancing_makes_halves(made):
    value = values(made[1]["label_rules"])
    positive = {rule: value[rule, "positive_labels"] for rule in ablation_labels.RULES}
    assert positive["consistent_alone"] <= positive["raw"] <= positive["monotone"]
    assert positive["consistent_alone"] <= positive["consistent"] <= positive["monotone"]
    balanced = [v for (method, metric), v in value.items() if "+balanced" in method and "positive" in metric]
    assert balanced and set(balanced) == {0.5}
    assert any(v != 0.5 for (method, metric), v in value.items() if method == "consistent" and "of_step" in metric)


def test_every_rollout_is_drawn_and_more_of_them_make_no_label_negative(made, lab, monkeypatch):
    sampler = Scripted(lab.run.tokenizer, solver(lab.run))
    monkeypatch.setattr(Run, "sampler", lambda self, source: sampler)
    ablation_labels.rollout_counts(lab, 2)  # of the three that were made before
    drafts = lab.validation.drafts.read().head(2)
    prefixes = sum(len(text.strip().split("\n")) - 1 for text in drafts["text"])  # the last step has the answer
    assert (
        sum(request.n for request in sampler.requests) == prefixes * 2 * lab.run.params.reward_models.rollouts_per_step
    )
    value = values(made[1]["rollout_counts"])
    for rule in ("raw", "consistent"):
        curve = [value[rule, f"positive_labels@{k}"] for k in (1, 2, 4)]
        assert curve == sorted(curve)
        assert curve[0] < curve[2]


def test_labels_of_few_exhaustive_rollouts_are_those_of_the_run(made, lab):
    value, usual = values(made[1]["label_curves"]), values(lab.validation.numbers)
    for metric in ("label_precision", "label_recall"):
        assert value["temperature_0.7", f"{metric}@2"] == usual["consistent", metric]
    assert value["temperature_0.7", "distinct_share@1"] == 1 > value["temperature_0.7", "distinct_share@4"]
    recall = [value["temperature_1", f"label_recall@{k}"] for k in (1, 2, 4)]
    assert recall == sorted(recall)
    assert ("temperature_1-temperature_0.7", "label_recall_difference@4") in value


def test_policies_of_one_set_of_rollouts(made, lab, monkeypatch):
    numbers = made[1]["label_policies"]
    value = values(numbers)
    policies = {*label_noise.policies_of(2, 4), "exact"}
    assert policies == {method for method, metric in value if metric == "token_share"}
    sorms = {m: {metric: v for (n, metric), v in value.items() if n == m and "step_" in metric} for m in policies}
    assert len(sorms["any"]) == 4
    assert sorms["wrong_only"] == sorms["any_run"]  # of equal labels
    share = {policy: value[policy, "token_share"] for policy in policies}
    assert share["exact"] == 0 and share["soft"] == 1
    assert share["wrong_only"] < share["any_run"] < share["any"] < 1
    assert share["stop_at_error"] == share["until_error"] < share["any"] == share["rollouts_only"]
    assert value["until_error", "label_share"] < value["stop_at_error", "label_share"] == 1
    assert value["exact", "label_precision"] == value["exact", "label_recall"] == 1
    assert value["exact", "label_first_error_accuracy"] == 1
    assert value["rollouts_only", "label_recall"] <= value["any", "label_recall"] >= value["half", "label_recall"]
    n = numbers.set_index(["method", "metric"])["n"]
    drafts, three = lab.validation.drafts.read(), lab.validation.samples
    assert len(three) == 3 * len(drafts)
    assert n["any", "first_error_accuracy_exact"] == n["exact", "first_error_accuracy_exact"]
    exact = step_labels.exact_labels(lab.run, pd.concat([drafts, three]), "validation")
    assert n["any", "step_balanced_accuracy_exact"] == (~exact.groupby("sample_id")["step"].cumcount(False).eq(0)).sum()


def test_all_tokens_of_the_rollouts_are_counted(made, lab):
    """A policy that needs all of them spends what the sampler generated."""
    records = [json.loads(path.read_text()) for path in made[0].glob("rollouts-rm-*/artifact.json")]
    (exhaustive,) = [r for r in records if not r["key"]["params"]["early_stop"]]
    (row,) = made[1]["label_policies"].query("method == 'soft' and metric == 'token_share'").itertuples()
    assert row.n == exhaustive["info"]["tokens_generated"]


@pytest.mark.parametrize(("bad", "message"), [
    ({"questions": 0}, "questions = 0: must be a whole number greater than 0"),
    ({"k": 1}, r"k = 1: must be at least reward_models.rollouts_per_step \(2\)"),
])  # fmt: skip
def test_policies_of_nothing(lab, bad, message):
    with pytest.raises(ParamsError, match=message):
        label_noise.policies(lab, **{"questions": 2, "k": 4} | bad)


# --- refinement -----------------------------------------------------------------------------------------------------


def test_value_based_refinement_begins_after_the_best_prefix():
    scores = {
        (Q, "first"): [0.9, 0.2, 0.8], (Q, "second"): [0.3, 0.7, 1.0], (Q, "equal"): [0.5, 0.5, 0.1], (Q, "one"): [0.9],
    }  # fmt: skip
    shuffled = score_rows(scores).sample(frac=1, random_state=1)
    assert j_value_refinement.best_prefixes(shuffled).to_dict() == {"first": 2, "second": 3, "equal": 2, "one": 1}


def test_value_based_refinements_are_asked_for_where_they_begin(made, lab):
    numbers = made[1]["value_refinement"]
    keys = [(f"local+{k}", "fixed_fraction") for k in ("orm", "sorm", "oracle", "sorm_forced")]
    assert_same(numbers, lab.numbers, *keys)
    assert {f"value+{k}{way}" for k in ("orm", "sorm") for way in ("", "_forced")} <= set(numbers["method"])
    value = values(numbers)
    assert value["local+oracle", "first_error_accuracy_exact"] == 1
    assert value["value+orm", "first_error_missed_exact"] == 0


def test_a_threshold_looks_up_what_refining_at_it_gives(made, lab):
    swept, numbers = made[1]["thresholds"], lab.validation.numbers
    for name, metric in (("fixed_fraction", "fixed_fraction"), ("first_error_accuracy", "first_error_accuracy_exact")):
        for locator in ("orm", "sorm"):
            method = f"local+{locator}" if name == "fixed_fraction" else locator
            (there,) = numbers[(numbers["method"] == method) & (numbers["metric"] == metric)].itertuples()
            (here,) = swept[(swept["method"] == f"local+{locator}") & (swept["metric"] == f"{name}@0.5")].itertuples()
            assert (here.value, here.n) == (there.value, there.n)
    none = [values(swept)["local+orm", f"no_error_found@{t}"] for t in TS]
    assert none == sorted(none, reverse=True)


def test_the_chosen_threshold_fixes_most_and_is_near_the_usual():
    shares = {0.3: 0.4, 0.4: 0.2, 0.6: 0.4, 0.7: 0.4}
    rows = [row("t", "m", "local+orm", f"fixed_fraction@{t}", Estimate(v, v, v, 9)) for t, v in shares.items()]
    rows.append(row("t", "m", "local+sorm", "fixed_fraction@0.3", Estimate(np.nan, np.nan, np.nan, 0)))
    rows.append(row("t", "m", "local+orm", "no_error_found@0.4", Estimate(0.9, 0.9, 0.9, 9)))
    assert ablation_refinement.chosen_thresholds(pd.DataFrame(rows), 0.55) == {"orm": 0.6, "sorm": 0.55}


def test_refinements_at_the_usual_threshold_and_twice(made, lab, monkeypatch):
    numbers = made[1]["refined_otherwise"]
    assert_same(
        numbers, lab.numbers, ("global", "fixed_fraction"), ("local+sorm", "accuracy_all_drafts"),
        ("local+orm", "fixed_fraction"),
    )  # fmt: skip
    script(lab.run, monkeypatch)
    usual = ablation_refinement.refined_otherwise(lab, {"orm": 0.5, "sorm": 0.5})
    value = values(usual)
    assert value["local+orm_tuned-local+orm", "fixed_fraction_difference"] == 0
    assert set(ablation_refinement.TWICE) <= set(numbers["method"])


@pytest.mark.parametrize("split", ["test", "validation"])
def test_controls_beside_the_run_s_own_refinements(made, lab, split):
    numbers = made[1]["controls" if split == "test" else "controls_validation"]
    keys = [
        (kind, "fixed_fraction") for kind in ("global", "local+sorm", "local+oracle", "refiner_no_draft", "resample")
    ]
    keys += [("global", "accuracy_all_drafts"), ("global+local+sorm", "fixed_fraction")]
    assert_same(numbers, getattr(lab, split).numbers, *keys)
    value = values(numbers)
    for kind in ("retrained", "retrained_sampled", "unmarked"):
        assert value["global", "fixed_fraction"] <= value[f"global+{kind}", "fixed_fraction"] <= 1
        assert 0 <= value[kind, "accuracy_all_drafts"] <= 1
    for a, b in ablation_refinement.CONTROL_PAIRS:
        metric = "accuracy_all_drafts" if b == "greedy" else "fixed_fraction"
        difference = value[f"{a}-{b}", f"{metric}_difference"]
        assert difference == pytest.approx(value[a, metric] - value[b, metric])


@pytest.mark.parametrize(
    ("answers", "right", "weights", "expected"),
    [
        (["5", "6", "6"], [True, False, False], [0.9, 0.5, 0.3], True),
        (["5", "6", "6"], [True, False, False], [0.9, 0.5, 0.5], False),
        (["6", "5"], [False, True], [0.5, 0.5], False),  # of equals the first
        (["", "", "5"], [False, False, True], [0.9, 0.9, 0.1], True),
        (["", ""], [False, False], [0.9, 0.9], False),
    ],
)
def test_a_weighted_vote(answers, right, weights, expected):
    assert ablation_refinement.is_right_vote(answers, right, weights) is expected


def test_choices_among_known_answers(lab, monkeypatch):
    columns = [*ablation_refinement.REFINED, *ablation_refinement.SAMPLED]
    answers = pd.DataFrame([list("12345677"), list("11255555"), list("75511111")], ["q0", "q1", "q2"], columns)
    right = answers == pd.Series(["7", "2", "1"], answers.index).to_numpy()[:, None]
    scores = pd.DataFrame(
        [[0.6, 0.1, 0.2, 0.3, 0.1, 0.1, 0.9, 0.9], [0.4, 0.2, 0.9, 0.1, 0.1, 0.1, 0.1, 0.1],
         [0.5, 0.1, 0.4, 0.3, 0.3, 0.1, 0.2, 0.2]], answers.index, columns,
    )  # fmt: skip
    monkeypatch.setattr(ablation_refinement, "_answers", lambda lab: (right, scores, answers))
    value = {
        method: v for (method, metric), v in values(ablation_refinement.choices(lab)).items() if metric == "accuracy"
    }
    assert value == {
        "greedy": 0, "reranked": pytest.approx(1 / 3), "gated_global": 0, "gated_local+sorm": pytest.approx(1 / 3),
        # Sums: q0 six different answers; q1 1: 0.6, 2: 0.9, 5: 0.3; q2 7: 0.5, 5: 0.5, 1: 0.7.
        "refined_orm": pytest.approx(1 / 3), "refined_vote": pytest.approx(1 / 3),
        "refined_weighted": pytest.approx(2 / 3),
        # q0 7: 1.8; q1 1: 0.4, 5: 0.5; q2 7: 0.5, 1: 1.1.
        "sampled_orm": pytest.approx(1 / 3), "sampled_vote": pytest.approx(2 / 3),
        "sampled_weighted": pytest.approx(2 / 3),
    }  # fmt: skip


def test_choices_are_of_the_same_answers_as_figure_6(made, lab):
    assert_same(made[1]["choices"], lab.numbers, ("greedy", "accuracy"), ("reranked", "accuracy"))


@pytest.mark.parametrize("bad", [0.0, 1.0, -1])
def test_a_threshold_out_of_range(lab, bad):
    with pytest.raises(ParamsError, match=rf"thresholds = {bad}: must be between 0 and 1"):
        ablation_refinement.thresholds(lab, [0.5, bad])


def test_no_drafts(lab):
    with pytest.raises(ParamsError, match="drafts = 0: must be a whole number greater than 0"):
        ablation_labels.rollout_counts(lab, 0)


# --- words ------------------------------------------------------------------------------------------------------------


def test_numbers_in_words():
    def difference(low: float, high: float, n: int = 40) -> Values:
        estimate = Estimate(0.05, low, high, n)
        return Values(pd.DataFrame([row("t", "m", "a-b", "fixed_difference", estimate)]))

    assert difference(0.01, 0.1).difference("a", "b", "fixed") == "+5.0 points [1.0, 10.0], more"
    assert difference(-0.1, 0.1).difference("a", "b", "fixed") == "+5.0 points [-10.0, 10.0], no clear difference"
    assert difference(-0.2, -0.1).difference("a", "b", "fixed").endswith("less")
    assert difference(0.0, 0.0, 0).difference("a", "b", "fixed") == "unknown"
    assert difference(0.01, 0.1).share("a-b", "fixed_difference") == "5.0 % [1.0, 10.0] (n = 40)"


def test_what_was_found_has_a_number_in_every_sentence_and_quotes_no_missing_method(made):
    found = made[1]
    ts = ablation_refinement.chosen_thresholds(found["thresholds"], 0.5)
    lines = [
        *appendix.found_label_quality(found["label_quality"])[1:],
        *appendix.found_value_refinement(found["value_refinement"]),
        *appendix.found_labels(found["label_rules"], found["rollout_counts"]),
        *appendix.found_refinement(found["thresholds"], found["refined_otherwise"], found["choices"], ts),
        *appendix.found_controls(found["controls"], "test"),
        *appendix.found_label_noise(found["label_curves"], found["label_policies"]),
    ]
    assert len(lines) > 20
    for line in lines:
        assert "[" in line and "unknown" not in line, line


def test_a_figure_is_kept_with_all_numbers_of_its_experiment(made, tmp_path):
    rules, counts = made[1]["label_rules"], made[1]["rollout_counts"]
    figure = analysis_figures.sweep(counts, {"label_recall": "Recall"}, "K", log=True)
    assert appendix.save(figure, "labels", str(tmp_path / "run" / "appendix"), rules, counts) is figure
    written = {path.suffix: path for path in (tmp_path / "run" / "appendix").iterdir()}
    assert set(written) == {".png", ".svg", ".csv"}
    table = pd.read_csv(written[".csv"])
    assert list(table) == list(rules) and len(table) == len(rules) + len(counts)
