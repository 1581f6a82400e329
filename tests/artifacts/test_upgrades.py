"""After a change of the code: which artifacts are stale, what they cost, and what is kept."""

import json

import pandas as pd
import pytest

from glore_lib.artifacts import keys
from glore_lib.artifacts.store import KEEP_STALE
from glore_lib.artifacts.upgrades import Stale, describe, find_stale
from glore_lib.method.step_labels import orm_labels
from glore_lib.method.students import solution_rows
from tiny import open_tiny, sample_rows

SAMPLES = sample_rows(("q", "1 + 1 = 2\n#### 2", True))


def made(run) -> tuple[str, str, str]:
    """Three artifacts of a run: samples, labels of them, and an unrelated one; their ids."""

    def sampled() -> pd.DataFrame:
        return SAMPLES

    def labelled() -> pd.DataFrame:
        return orm_labels(samples.read())

    def empty() -> pd.DataFrame:
        return solution_rows([], "none")

    samples = run.frame("samples", "samples", sampled, {}, [])
    labels = run.frame("labels", "step_labels", labelled, {}, [samples])
    other = run.frame("data", "solutions", empty, {}, [])
    run.finish("01_expert_iteration")
    return samples.id, labels.id, other.id


@pytest.fixture
def edit(monkeypatch):
    """Pretend that modules are edited: their contribution to every key changes."""

    def edit(*modules: str) -> None:
        library = keys.Library(keys.PACKAGE)

        def code_key(start: str, task: str = "", backend: str = "") -> dict[str, str]:
            key = library.code_key(start, task, backend)
            return {name: "edited" if name in modules else part for name, part in key.items()}

        monkeypatch.setattr("glore_lib.artifacts.upgrades.code_key", code_key)
        monkeypatch.setattr(keys, "code_key", code_key)

    return edit


@pytest.fixture(autouse=True)
def starts(monkeypatch):
    """Take the makers of this file for functions of the library."""
    places = {
        "sampled": "method.students:sample_solutions",
        "labelled": "method.step_labels:orm_labels",
        "empty": "method.students:solution_rows",
    }
    monkeypatch.setattr(keys, "start_of", lambda make: places[make.__name__])


def test_nothing_is_stale_without_an_edit(run):
    made(run)
    assert find_stale(run.store.root, [run.params]) == ([], 3)


def test_an_edit_makes_its_artifacts_and_what_is_made_from_them_stale(run, edit):
    samples, labels, _ = made(run)
    edit("sampling/attention.py")
    stale, total = find_stale(run.store.root, [run.params])
    assert total == 3
    assert [(s.id, s.reason) for s in stale] == [
        (samples, "`sampling/attention.py` changed"),
        (labels, f"made from {samples}"),
    ]


def test_another_runs_artifacts_are_not_listed(run, edit, tiny_base):
    made(run)
    edit("sampling/attention.py")
    other = open_tiny(tiny_base, run.store.root, seed=1)
    assert find_stale(run.store.root, [other.params]) == ([], 0)


def test_a_function_that_is_gone_makes_its_artifacts_stale(run, monkeypatch):
    made(run)

    def gone(start: str, task: str = "", backend: str = "") -> dict[str, str]:
        raise KeyError(start)

    monkeypatch.setattr("glore_lib.artifacts.upgrades.code_key", gone)
    assert len(find_stale(run.store.root, [run.params])[0]) == 3


def test_the_list_is_one_line_with_the_cost():
    stale = [
        Stale("student-1", "`method/step_labels.py` changed", 7200.0),
        Stale("scores-1", "made from student-1", 3600.0),
        Stale("scores-2", "`method/step_labels.py` changed", 5.0),
    ]
    assert describe(stale, 14) == "3 of 14 artifacts, 3.0 h: `method/step_labels.py` changed"


def test_less_than_an_hour_is_given_in_minutes():
    assert describe([Stale("scores-1", "`run.py` changed", 90.0)], 2) == "1 of 2 artifacts, 1.5 min: `run.py` changed"


def test_stale_artifacts_are_made_again_and_the_old_ones_stay(run, edit, tiny_base, monkeypatch):
    before = made(run)
    edit("sampling/attention.py")
    again = open_tiny(tiny_base, run.store.root)
    after = made(again)
    assert [old == new for old, new in zip(before, after, strict=True)] == [False, False, True]
    assert all((run.store.root / name).is_dir() for name in before)
    assert again.store.stale == {}


def test_stale_artifacts_are_kept_and_marked_where_asked(run, edit, tiny_base, monkeypatch):
    before = made(run)
    edit("sampling/attention.py")
    monkeypatch.setenv(KEEP_STALE, "1")
    again = open_tiny(tiny_base, run.store.root)
    assert made(again) == before
    assert again.store.stale == {before[0]: "sampling/attention.py"}
    (record,) = (run.store.root / "stages").glob("*/01_expert_iteration.json")
    marked = json.loads(record.read_text())["artifacts"]
    assert {name: entry.get("stale") for name, entry in marked.items()} == {
        before[0]: "sampling/attention.py", before[1]: None, before[2]: None,
    }  # fmt: skip


def test_other_parameters_are_never_taken_for_stale(run, edit, tiny_base, monkeypatch):
    before = made(run)
    edit("sampling/attention.py")
    monkeypatch.setenv(KEEP_STALE, "1")
    other = open_tiny(tiny_base, run.store.root, seed=1)
    assert not set(made(other)) & set(before)


def test_a_damaged_record_is_not_taken_for_an_older_artifact(run, edit, tiny_base, monkeypatch, capsys):
    before = made(run)
    (run.store.root / before[0] / "data.parquet").write_bytes(b"no parquet")
    edit("sampling/attention.py")
    monkeypatch.setenv(KEEP_STALE, "1")
    again = open_tiny(tiny_base, run.store.root)
    after = made(again)
    assert after[0] != before[0] and again.store.stale == {}
    assert "making it again" in capsys.readouterr().err
    pd.testing.assert_frame_equal(again.store.used[after[0]].read()[["text"]], SAMPLES[["text"]])


def test_a_record_that_cannot_be_read_is_skipped(run):
    samples, *_ = made(run)
    (run.store.root / samples / "artifact.json").write_text("{")
    assert find_stale(run.store.root, [run.params]) == ([], 2)
