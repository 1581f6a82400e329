"""The whole method on a tiny random model: every number is there, made once, and made the same again."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from glore_lib.method.evaluation import NUMBERS, written_tokens
from glore_lib.method.replication import Replication
from glore_lib.method.schedule import KINDS
from glore_lib.models import training
from glore_lib.reporting import analysis_figures, examples, findings, tables
from glore_lib.reporting.tables import wide
from glore_lib.run import Run
from tiny import Scripted, open_tiny, solver

STEPS = {"epochs": 1, "max_steps": 2, "learning_rate": 1e-3}
SETTINGS = {
    "task__train_questions": 8, "task__test_questions": 6, "task__validation_questions": 6,
    "student__samples_per_question": 3, "reward_models__samples_per_question": 4,
    "reward_models__sorm_samples_per_question": 2, "reward_models__figure4": True,
    "reward_models__figure4_training": STEPS, "student__sft": STEPS, "student__training": STEPS,
    "reward_models__training": STEPS, "refiner__training": STEPS, "refiner__no_error_found": "last_step",
    "evaluation__rerank_samples": 4,
}  # fmt: skip
REFINEMENTS = (
    "global", "global_sampled", "local+orm", "local+balanced_orm", "local+sorm", "local+oracle", "local+sorm_free",
    "local+sorm_forced", "refiner_no_draft", "resample",
)  # fmt: skip


def script(run: Run, monkeypatch: pytest.MonkeyPatch, right: float = 0.5) -> None:
    """Every model of the run samples like a student that is right so often; what is trained is trained for real."""
    sampler = Scripted(run.tokenizer, solver(run, right))
    monkeypatch.setattr(Run, "sampler", lambda self, source: sampler)


def forbid_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "train", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(Run, "sampler", lambda *_: pytest.fail("sampled again"))
    monkeypatch.setattr("glore_lib.method.reward_models.load_reward_model", lambda *_: pytest.fail("scored again"))


def artifacts(store: Path) -> set[str]:
    return {path.name for path in store.iterdir() if (path / "artifact.json").exists()}


@pytest.fixture(scope="module")
def scripted(tiny_base, tmp_path_factory) -> tuple[Path, pd.DataFrame, pd.DataFrame]:
    """Make everything with a student that is right half the time; return the store and the numbers of both splits."""
    store = tmp_path_factory.mktemp("scripted") / "artifacts"
    with pytest.MonkeyPatch.context() as patch:
        run = open_tiny(tiny_base, store, **SETTINGS)
        script(run, patch)
        lab = Replication(run)
        return store, lab.numbers, lab.validation.numbers


@pytest.fixture(scope="module")
def expected_rows() -> set[tuple[str, str]]:
    """Return the methods and metrics of all numbers, written out without the code that makes them."""
    labels, ks = ("", "_exact"), (1, 2, 4)
    judged = (
        "accuracy",
        "balanced_accuracy",
        "auc",
        "false_positive_rate",
        "false_negative_rate",
        "false_negative_share",
    )
    steps = [f"step_{m}{all}{y}" for all in ("", "_all") for y in labels for m in judged]
    final = [f"final_{m}" for m in judged]
    rows = {
        (k, metric) for k in KINDS for metric in (*steps, *final, "first_error_accuracy", "first_error_accuracy_exact")
    }
    rows |= {
        (k, metric)
        for k in ("all_positive", "all_negative")
        for metric in (*steps, *final)
        if re.search(r"(step|final)_accuracy", metric)
    }
    rows |= {
        (k, f"{m}{y}")
        for k in KINDS
        for y in labels
        for m in ("step_brier", "step_brier_refitted", "step_calibration_error", "step_calibration_error_refitted")
    }
    rows |= {(k, f"auc_by_step{y}@{i}") for k in KINDS for y in labels for i in range(1, 9)}
    rows |= {(k, m) for k in KINDS for m in ("lowest_at_last_step", "final_auc_minimum", "final_auc_product")}
    rows |= {("labels", "positive_labels"), ("labels", "positive_labels_exact")}
    rows |= {(m, f"label_{x}") for m in ("raw", "monotone", "consistent") for x in ("precision", "recall", "accuracy")}
    shown = set(REFINEMENTS) - {"local+sorm_free"}  # the tiny run lets the refiner write the prefix itself
    seconds = {m for m in shown if m.startswith("local")} | {"resample", "global_sampled"}
    rows |= {(m, "fixed_fraction") for m in (*shown, *(f"global+{second}" for second in seconds))}
    rows |= {(f"global+{second}", "fixed_jaccard") for second in seconds}
    rows |= {(m, f"accuracy_{x}_drafts") for m in (*shown, "greedy") for x in ("all", "incorrect")}
    moved = ("global", "local+orm", "local+balanced_orm", "local+sorm", "resample", "refiner_no_draft", "reranked")
    rows |= {(m, x) for m in moved for x in ("wrong_to_right", "right_to_wrong", "unchanged")}
    rows |= {
        (m, "accuracy")
        for m in (
            "greedy",
            "bo3",
            "majority",
            "reranked",
            "oracle_bo3",
            "oracle_reranked",
            "random_sample",
            "greedy_sft",
        )
    }
    rows |= {(m, f"rerank_accuracy@{k}") for m in (*KINDS, "oracle", "random") for k in ks}
    rows |= {("majority", f"majority@{k}") for k in ks} | {("student_samples", f"tokens@{k}") for k in ks}
    rows |= {(f"student_{m}", f"accuracy@{k}") for m in ("majority", "best_of", "weighted") for k in ks}
    rows |= {("greedy", "tokens"), ("reranked", "tokens")}

    over_orm = ("balanced_orm-orm", "sorm-orm", "sorm_raw-orm", "sorm-sorm_raw")
    compared = {
        (pair, f"step_{m}_difference{all}{y}")
        for pair in over_orm
        for all in ("", "_all")
        for y in labels
        for m in ("accuracy", "balanced_accuracy", "auc")
    }
    compared |= {(pair, f"first_error_accuracy_difference{y}") for pair in over_orm for y in labels}
    compared |= {(pair, f"final_{m}_difference") for pair in over_orm for m in ("accuracy", "balanced_accuracy", "auc")}
    compared |= {("consistent-monotone", "label_accuracy_difference")}
    compared |= {
        (pair, "fixed_fraction_difference")
        for pair in (
            "local+sorm-local+orm",
            "local+sorm-local+balanced_orm",
            "local+sorm-global",
            "global+local+sorm-global",
            "global+local+sorm-local+sorm",
            "global+local+sorm-resample",
            "global+local+sorm-global+global_sampled",
            "global+local+sorm-global+resample",
        )
    }
    refined = ("global", "local+orm", "local+balanced_orm", "local+sorm")
    compared |= {(f"{m}-greedy", f"accuracy_{x}_drafts_difference") for m in refined for x in ("all", "incorrect")}
    compared |= {("local+sorm-global", "accuracy_all_drafts_difference")}
    compared |= {
        (pair, "accuracy_difference")
        for pair in ("reranked-greedy", "reranked-bo3", "bo3-greedy", "oracle_reranked-oracle_bo3")
    }
    rows |= compared | {(pair, f"{metric}_p") for pair, metric in compared}
    return rows | {(pair, f"rerank_accuracy_difference@{k}") for pair in over_orm for k in ks}


def assert_numbers_are_sound(numbers: pd.DataFrame) -> None:
    assert list(numbers) == NUMBERS
    assert not numbers.duplicated(["method", "metric"]).any()
    known = numbers["n"] > 0
    p_values = numbers["metric"].str.endswith("_p")  # they have no interval
    assert np.isfinite(numbers.loc[known & ~p_values, ["value", "ci_low", "ci_high"]]).all(axis=None)
    assert numbers.loc[known & p_values, "value"].between(0, 1).all()
    assert numbers.loc[~known, ["value", "ci_low", "ci_high"]].isna().all(axis=None)
    assert (numbers["task"] == "tiny").all()


def test_every_number_is_there(scripted, expected_rows):
    _, numbers, validation = scripted
    assert_numbers_are_sound(numbers)
    assert_numbers_are_sound(validation)
    assert {(row.method, row.metric) for row in numbers.itertuples()} == expected_rows
    value = numbers.set_index(["method", "metric"])["value"]
    n = numbers.set_index(["method", "metric"])["n"]
    assert n["greedy", "accuracy"] == 6
    assert 0 < value["greedy", "accuracy"] < 1  # or the tables of wrong drafts show nothing
    assert n["global", "fixed_fraction"] == 6 * (1 - value["greedy", "accuracy"])
    assert value["oracle_reranked", "accuracy"] >= value["reranked", "accuracy"]
    assert value["oracle", "rerank_accuracy@4"] >= value["oracle", "rerank_accuracy@1"]


def test_a_second_replication_makes_nothing_anew(scripted, tiny_base, monkeypatch):
    store, numbers, validation = scripted
    before = artifacts(store)
    forbid_work(monkeypatch)
    lab = Replication(open_tiny(tiny_base, store, **SETTINGS))
    pd.testing.assert_frame_equal(lab.numbers, numbers)
    pd.testing.assert_frame_equal(lab.validation.numbers, validation)
    assert artifacts(store) == before
    assert set(lab.run.store.used) <= before


def test_what_notebooks_show_beside_the_numbers(scripted, tiny_base, monkeypatch):
    store, _, validation = scripted
    forbid_work(monkeypatch)
    lab = Replication(open_tiny(tiny_base, store, **SETTINGS))
    gate = lab.gate()
    assert gate["holds"].tolist() == (gate["value"] >= gate["wanted"]).tolist()
    value = validation.set_index(["method", "metric"])["value"]
    assert gate["value"].tolist() == [
        value["bo3", "accuracy"] - value["random_sample", "accuracy"], value["sorm", "first_error_accuracy_exact"],
    ]  # fmt: skip
    assert np.isfinite(gate["value"]).all()
    none = lab.test.no_error_found()
    assert none.index.tolist() == ["orm", "balanced_orm", "sorm", "oracle"]
    drafts = lab.test.drafts.read()
    assert none.loc["oracle"].tolist() == [drafts["is_correct"].sum(), 0]  # the truth sees errors in wrong drafts only


def test_the_resampled_answers_are_the_first_of_the_three(scripted, tiny_base, monkeypatch):
    store, *_ = scripted
    forbid_work(monkeypatch)
    test = Replication(open_tiny(tiny_base, store, **SETTINGS)).test
    resampled, samples = test.refined["resample"].read(), test.samples
    assert resampled["text"].tolist() == samples["text"].tolist()[::3]
    assert samples["sample_id"].str.rpartition("/")[2].tolist() == list("012") * 6
    assert resampled["sample_id"].tolist() == test.drafts.read()["sample_id"].tolist()


def test_costs_and_gains_are_those_of_the_tables_and_of_the_sampler(scripted, tiny_base, monkeypatch):
    store, numbers, _ = scripted
    forbid_work(monkeypatch)
    test = Replication(open_tiny(tiny_base, store, **SETTINGS)).test
    found = test.costs().groupby(["setting", "method"])
    value = numbers.set_index(["method", "metric"])["value"]
    for (setting, method), group in found:
        if setting == "wrong drafts":
            assert group["gain"].mean() == pytest.approx(value[method, "fixed_fraction"])
        else:
            assert group["gain"].mean() == pytest.approx(value[f"{method}-greedy", "accuracy_difference"])
    assert set(found.groups) == {(setting, m) for setting, methods in analysis_figures.COSTS.items() for m in methods}
    tokens = found["tokens"].sum()
    generated = {a: a.record["info"]["tokens_generated"] for a in (test.pool, test.drafts)}
    by_sample = written_tokens(test.run, test.pool.read())
    assert by_sample.sum() == generated[test.pool]
    of_three = by_sample[test.samples["sample_id"]].sum()
    assert tokens["all questions", "bo3"] == of_three - generated[test.drafts] > 0
    both = tokens["wrong drafts", "global"] + tokens["wrong drafts", "local+sorm"]
    assert tokens["wrong drafts", "global+local+sorm"] == both > 0


@pytest.mark.parametrize(("no_error_found", "tokens"), [("keep_draft", 0), ("last_step", None)])
def test_a_kept_draft_costs_no_tokens(tiny_base, tmp_path, no_error_found, tokens):
    run = open_tiny(tiny_base, tmp_path, refiner__no_error_found=no_error_found)
    text = "2 + 3 = 5\n#### 5\n"
    answers = pd.DataFrame({"sample_id": ["s"], "text": [text], "kind": ["local+orm"], "first_error": [0]})
    whole = len(run.tokenizer(text, add_special_tokens=False).input_ids)
    assert written_tokens(run, answers)["s"] == (whole if tokens is None else tokens)
    assert written_tokens(run, answers.assign(kind="global"))["s"] == whole


@pytest.mark.slow
def test_two_fresh_stores_hold_the_same_numbers_byte_for_byte(scripted, tiny_base, tmp_path, monkeypatch):
    store, numbers, _ = scripted
    run = open_tiny(tiny_base, tmp_path / "artifacts", **SETTINGS)
    script(run, monkeypatch)
    again = Replication(run).numbers
    assert again.to_csv() == numbers.to_csv()
    assert artifacts(tmp_path / "artifacts") <= artifacts(store)
    made = next((tmp_path / "artifacts").glob("outcomes-test-*"))
    assert (made / "data.parquet").read_bytes() == (store / made.name / "data.parquet").read_bytes()


@pytest.mark.long
def test_no_draw_hangs_on_the_key_of_an_artifact(scripted, tiny_base, tmp_path, monkeypatch):
    """Of code that is written otherwise: every key is another one, and the numbers are the same."""
    monkeypatch.setattr("glore_lib.artifacts.keys.code_of", lambda *_, **__: {"modules": "other code"})
    store, numbers, _ = scripted
    run = open_tiny(tiny_base, tmp_path / "artifacts", **SETTINGS)
    script(run, monkeypatch)
    assert Replication(run).numbers.to_csv() == numbers.to_csv()
    again = artifacts(tmp_path / "artifacts") & artifacts(store)
    assert all(name.startswith("base-model-") for name in again)  # it is copied, not computed


def test_another_seed_is_another_run(scripted, tiny_base, monkeypatch):
    store, *_ = scripted
    before = artifacts(store)
    run = open_tiny(tiny_base, store, seed=1, **SETTINGS)
    script(run, monkeypatch)
    Replication(run).data  # noqa: B018 students, samples and rollouts
    used = {name for name in run.store.used if not name.startswith(("support-", "base-model-"))}  # of the base alone
    assert len(used) >= 6
    assert not used & before


def parameters_that_matter() -> dict[str, tuple[Callable[[Replication], object], dict]]:
    """Return, for each artifact, how it is requested and changes that must each recompute it."""
    return {
        "student-sft": (lambda lab: lab.sft_student.model, {"student__sft_questions": 3, "finetuning__batch_size": 8,
                        "student__sft": STEPS | {"learning_rate": 2e-3}}),
        "samples": (lambda lab: lab.data.samples, {"reward_models__temperature": 0.5, "sampling__max_new_tokens": 9}),
        "rollouts": (lambda lab: lab.data.rollouts, {"reward_models__rollouts_per_step": 3,
                     "reward_models__rollout_temperature": 0.5, "reward_models__sorm_samples_per_question": 1}),
    }  # fmt: skip


@pytest.mark.parametrize("name", parameters_that_matter())
def test_other_parameters_make_other_artifacts(name, tiny_base, tmp_path, monkeypatch):
    ask, changes = parameters_that_matter()[name]
    monkeypatch.setattr(training, "train", lambda *_: {"steps": 1})
    ids = []
    for change in ({}, *({key: value} for key, value in changes.items())):
        run = open_tiny(tiny_base, tmp_path / "artifacts", **(SETTINGS | change))
        script(run, monkeypatch)
        ids.append(ask(Replication(run)).id)
    assert len(set(ids)) == len(ids)


# Where there is little to learn from


def show(lab: Replication) -> None:
    """Check that what the notebooks show of such runs does not fail."""
    kinds = ("orm", "balanced_orm", "sorm", "sorm_raw")
    tables.losses(lab.student.model, lab.refiner, *lab.reward_models.values(), *lab.sft_reward_models.values())
    tables.losses(lab.reward_models["balanced_orm"])
    tables.training(*lab.reward_models.values())
    tables.questions(lab, 2)
    tables.sample_counts(lab.data)
    tables.label_counts(lab, *kinds)
    tables.rollout_counts(lab.data)
    tables.training_label_quality(lab)
    tables.stepwise(lab)
    tables.pair_counts(lab)
    tables.reward_model_table(lab, "test", *kinds)
    tables.pessimism(lab, "test", *kinds)
    wide(lab.numbers, ["accuracy"])
    for show in examples.DRAFT_FILTERS:
        examples.worked_example(lab, "test", show, ["exact", "right", *kinds], ["reference", "local+sorm", "global"])
        examples.rollouts_of(lab, "test", show)
    for found in (findings.students, findings.orm, findings.sorm, findings.refiners, findings.evaluation):
        findings.tell(found(lab))
    lab.test.no_error_found()


def test_a_random_model_that_is_never_right_gives_all_numbers(tiny_base, tmp_path, expected_rows):
    """Real decoding: no sample is right, so there are no pairs, no balanced labels, and nothing to add to the data."""
    run = open_tiny(tiny_base, tmp_path / "artifacts", **SETTINGS)
    lab = Replication(run)
    numbers = lab.numbers
    assert_numbers_are_sound(numbers)
    assert {(row.method, row.metric) for row in numbers.itertuples()} == expected_rows
    assert not lab.data.samples.read()["is_correct"].any()
    assert lab.rounds["new"].tolist() == [0, 0]
    assert {k: m.record["info"]["steps"] > 0 for k, m in lab.reward_models.items()} == {
        "orm": True, "balanced_orm": False, "sorm": False, "sorm_raw": True,
    }  # fmt: skip
    assert lab.refiner.record["info"]["steps"] == 0
    value = numbers.set_index(["method", "metric"])["value"]
    assert value["greedy", "accuracy"] == value["oracle_reranked", "accuracy"] == 0
    assert value["balanced_orm", "final_accuracy"] == 1  # undecided counts as wrong, and everything is
    show(lab)


def test_a_student_that_is_always_right_gives_all_numbers(tiny_base, tmp_path, expected_rows, monkeypatch):
    run = open_tiny(tiny_base, tmp_path / "artifacts", **SETTINGS)
    script(run, monkeypatch, right=1.0)
    lab = Replication(run)
    numbers = lab.numbers
    assert_numbers_are_sound(numbers)
    assert {(row.method, row.metric) for row in numbers.itertuples()} == expected_rows
    n = numbers.set_index(["method", "metric"])["n"]
    assert n["global", "fixed_fraction"] == n["orm", "first_error_accuracy"] == 0
    assert n["orm", "step_false_positive_rate_exact"] == 0
    show(lab)


def test_a_model_that_writes_nothing_gives_all_numbers(tiny_base, tmp_path, expected_rows, monkeypatch):
    run = open_tiny(tiny_base, tmp_path / "artifacts", **SETTINGS)
    monkeypatch.setattr(Run, "sampler", lambda self, source: Scripted(self.tokenizer, lambda *_: ""))
    lab = Replication(run)
    numbers = lab.numbers
    assert_numbers_are_sound(numbers)
    assert {(row.method, row.metric) for row in numbers.itertuples()} == expected_rows
    n = numbers.set_index(["method", "metric"])["n"]
    assert n["orm", "step_accuracy"] == 0
    show(lab)
    assert n["greedy", "accuracy"] == 6


def test_from_one_example_without_reference_solutions(tiny_base, tmp_path, monkeypatch):
    settings = SETTINGS | {"student__start": "one_shot", "reward_models__figure4": False}
    run = open_tiny(tiny_base, tmp_path / "artifacts", **settings)
    script(run, monkeypatch)
    lab = Replication(run)
    assert_numbers_are_sound(lab.numbers)
    assert lab.student.policy == "ei1"
    assert not any(metric.startswith("rerank_accuracy") for metric in lab.numbers["metric"])
    assert not any(method == "greedy_sft" for method in lab.numbers["method"])


def test_the_whole_method_by_qlora_on_a_model_of_llama_2s_kind(llama2_base, tmp_path, expected_rows):
    """Each model is trained over the rounded weights of the one before, and nothing has a pad token."""
    run = open_tiny(llama2_base, tmp_path / "artifacts", finetuning__method="qlora", **SETTINGS)
    lab = Replication(run)
    assert_numbers_are_sound(lab.numbers)
    assert {(row.method, row.metric) for row in lab.numbers.itertuples()} == expected_rows
    for model in (lab.student.model, lab.reward_models["orm"]):
        assert model.record["info"]["steps"] > 0
        assert json.loads((model.folder / "start.json").read_text())["double_quantisation"] is True
