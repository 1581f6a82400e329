"""Artifacts: whole or absent, found again by their key, and never another's."""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from glore_lib.artifacts.manifest import training_warnings
from glore_lib.artifacts.records import SCHEMAS, StoreError, check_schema
from glore_lib.artifacts.store import Artifact, Selection, Store, unfinished

LABELS = pd.DataFrame(
    {"question_id": ["q1", "q1"], "sample_id": ["s", "s"], "step": [0, 1], "label_raw": [1, -100], "label": [1, 0],
     "source": ["rollouts"] * 2}
)  # fmt: skip


class Maker:
    """Makes the labels and counts how often it did."""

    def __init__(self, frame: pd.DataFrame = LABELS):
        self.frame, self.calls = frame, 0

    def __call__(self) -> pd.DataFrame:
        self.calls += 1
        return self.frame.copy()


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "artifacts")


def labels(store: Store, make=None, **key) -> Artifact:
    return store.frame("labels", "step_labels", {"seed": 0} | key, make or Maker())


def test_a_frame_is_made_once_and_read_as_it_was_written(store):
    make = Maker()
    first = labels(store, make)
    second = labels(Store(store.root), make)
    assert make.calls == 1
    assert first.id == second.id
    pd.testing.assert_frame_equal(second.read(), LABELS.astype(SCHEMAS["step_labels"]))
    assert second.read().label_raw.tolist() == [1, -100]  # the value that losses ignore stays itself


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries return memory by themselves")
def test_memory_that_an_artifact_or_a_shard_no_longer_needs_is_returned(store):
    kept, grown = [], []

    def rss() -> int:
        return psutil.Process().memory_info().rss

    def use() -> pd.DataFrame:
        blocks = [bytes(100_000) for _ in range(3000)]
        kept.append(blocks.pop())  # the last, so that the heap can't shrink from its end
        return LABELS

    def make() -> pd.DataFrame:
        store.shard("shard", use)
        grown.append(rss() - before)
        return use()

    before = rss()
    labels(store, make)
    grown.append(rss() - before)
    assert len(kept) == 2 and max(grown) < 100e6  # of 300 each


def test_a_frame_is_read_from_disk_once_and_changes_to_it_stay_with_the_reader(store, monkeypatch):
    artifact = labels(store)
    first = artifact.read()
    monkeypatch.setattr(pd, "read_parquet", lambda *_: pytest.fail("read again"))
    first.loc[0, "label"] = 7
    first["more"] = 1
    pd.testing.assert_frame_equal(artifact.read(), LABELS.astype(SCHEMAS["step_labels"]))


def test_a_selection_is_the_rows_of_one_value_under_an_id_of_its_own(store):
    artifact = labels(store)
    first, second = (Selection(artifact.folder, "source", value) for value in ("rollouts", "exact"))
    pd.testing.assert_frame_equal(first.read(), artifact.read())
    assert second.read().empty and list(second.read().columns) == list(SCHEMAS["step_labels"])
    assert first.id == f"{artifact.id}[rollouts]" != second.id
    assert first.record == artifact.record


def test_columns_come_in_the_schemas_order_whatever_order_they_are_made_in(store):
    shuffled = LABELS[sorted(LABELS.columns, reverse=True)]
    assert list(labels(store, Maker(shuffled)).read().columns) == list(SCHEMAS["step_labels"])


def test_the_record_says_what_the_artifact_is_and_what_it_cost(store):
    def make() -> tuple[pd.DataFrame, dict]:
        time.sleep(0.02)
        return LABELS, {"tokens_generated": 12}

    record = labels(store, make, temperature=0.7).record
    assert record["name"] == "labels"
    assert record["key"] == {"schema": "step_labels", "seed": 0, "temperature": 0.7}
    assert record["info"] == {"rows": 2, "tokens_generated": 12}
    assert 0.02 <= record["seconds"] < 5
    assert list(record["files"]) == ["data.parquet"]


@pytest.mark.parametrize("changed", [{"seed": 1}, {"temperature": 0.7}, {"inputs": ["samples-abc"]}])
def test_another_key_is_another_folder(store, changed):
    make = Maker()
    ids = {labels(store, make).id, labels(store, make, **changed).id}
    assert make.calls == len(ids) == len(list(store.root.iterdir())) == 2


def test_a_key_does_not_depend_on_the_order_of_its_parts(store):
    make = Maker()
    first = store.frame("labels", "step_labels", {"a": 1, "b": {"c": 2, "d": 3}}, make)
    second = store.frame("labels", "step_labels", {"b": {"d": 3, "c": 2}, "a": 1}, make)
    assert (first.id, make.calls) == (second.id, 1)


def test_the_schema_and_the_name_are_part_of_what_an_artifact_is(store):
    samples = pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in SCHEMAS["samples"].items()})
    one = store.frame("x", "samples", {}, lambda: samples)
    other = store.frame("x", "step_labels", {}, Maker())
    third = store.frame("y", "step_labels", {}, Maker())
    assert len({one.id, other.id, third.id}) == 3


def test_a_folder_is_filled_once(store):
    def make(folder: Path) -> dict:
        (folder / "weights").mkdir()
        (folder / "weights" / "model.bin").write_bytes(b"1234")
        return {"training_tokens": 5}

    first = store.folder("model", {"lr": 1}, make)
    second = Store(store.root).folder("model", {"lr": 1}, lambda folder: pytest.fail("made again"))
    assert first.folder == second.folder
    assert (second.folder / "weights" / "model.bin").read_bytes() == b"1234"
    assert second.record["info"] == {"training_tokens": 5}
    assert list(second.record["files"]) == ["weights/model.bin"]


def test_used_lists_what_this_process_made_or_read(store):
    made = labels(store)
    labels(store, seed=1)
    reader = Store(store.root)
    read = labels(reader)
    assert set(reader.used) == {read.id} == {made.id}
    assert len(store.used) == 2


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_maker_that_fails_leaves_nothing_and_is_tried_again(store, error):
    def fail(folder: Path) -> dict:
        (folder / "half").write_text("written")
        raise error

    with pytest.raises(error):
        store.folder("model", {}, fail)
    assert list(store.root.iterdir()) == []
    assert store.used == {}
    store.folder("model", {}, lambda folder: {})
    assert len(store.used) == 1


def test_a_process_killed_while_it_writes_leaves_no_artifact(store):
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom glore_lib.artifacts.store import Store\n"
        "def make(folder):\n"
        "    (folder / 'half').write_text('written')\n    print('writing', flush=True)\n    time.sleep(60)\n"
        "Store(Path(sys.argv[1])).folder('model', {}, make)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, store.root], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"writing\n"
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    finally:
        process.kill()
        process.stdout.close()
    made = store.folder("model", {}, lambda folder: {"by": "the second"})
    assert made.record["info"] == {"by": "the second"}
    assert not (made.folder / "half").exists()


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"flipped": content, "truncated": content[: len(content) // 2], "empty": b""}.get(how, b""))
    if how == "missing":
        path.unlink()


@pytest.mark.parametrize("how", ["flipped", "truncated", "empty", "missing"])
@pytest.mark.parametrize("name", ["data.parquet", "artifact.json"])
def test_what_is_damaged_is_named_and_made_again(store, name, how, capsys):
    whole = labels(store)
    damage(whole.folder / name, how)
    make = Maker()
    again = labels(Store(store.root), make)
    state = "is missing" if how == "missing" else "was modified after it was written"
    assert capsys.readouterr().err == f"glore: artifact {whole.id}: {name} {state}; making it again\n"
    pd.testing.assert_frame_equal(again.read(), LABELS.astype(SCHEMAS["step_labels"]))
    assert labels(Store(store.root), make).id == again.id
    assert make.calls == 1
    assert capsys.readouterr().err == ""


def test_every_digit_of_a_record_is_checked(store, capsys):
    record = labels(store).folder / "artifact.json"
    record.write_text(record.read_text().replace('"rows": 2', '"rows": 3'))
    assert labels(Store(store.root)).record["info"]["rows"] == 2
    assert "artifact.json was modified" in capsys.readouterr().err


class Parts:
    """Makes a frame of three parts; ``fails`` is the part that it is interrupted at."""

    def __init__(self, store: Store):
        self.store, self.made, self.fails = store, [], None

    def __call__(self) -> pd.DataFrame:
        return pd.concat([self.store.shard({"part": i}, lambda i=i: self.part(i)) for i in range(3)])

    def part(self, i: int) -> pd.DataFrame:
        if i == self.fails:
            raise KeyboardInterrupt
        self.made.append(i)
        time.sleep(0.01)
        return LABELS.assign(step=[2 * i, 2 * i + 1])


def test_finished_parts_outlive_an_interruption(store):
    make = Parts(store)
    make.fails = 2
    with pytest.raises(KeyboardInterrupt):
        labels(store, make)
    assert not any((path / "artifact.json").exists() for path in store.root.iterdir())
    told = unfinished(store.root)
    make.fails = None
    made = labels(store, make)
    assert told == {made.folder.name: "2 shards"}
    assert unfinished(store.root) == {}
    assert make.made == [0, 1, 2]
    assert made.read()["step"].tolist() == list(range(6))
    assert made.record["seconds"] >= 0.03
    assert list(store.root.iterdir()) == [made.folder]
    assert sorted(path.name for path in made.folder.iterdir()) == ["artifact.json", "data.parquet"]


@pytest.mark.parametrize("how", ["flipped", "truncated", "missing"])
def test_a_damaged_part_is_named_and_made_again(store, how, capsys):
    make = Parts(store)
    make.fails = 2
    with pytest.raises(KeyboardInterrupt):
        labels(store, make)
    part = sorted(store.root.rglob("*.parquet"))[0]
    damage(part, how)
    make.fails = None
    assert labels(store, make).read()["step"].tolist() == list(range(6))
    assert sorted(set(make.made)) == [0, 1, 2]
    assert len(make.made) == 4
    assert (part.name in capsys.readouterr().err) == (how != "missing")


def test_parts_belong_to_one_artifact_and_outside_of_one_nothing_is_kept(store):
    make = Parts(store)
    labels(store, make)
    labels(store, make, seed=1)
    assert make.made == [0, 1, 2] * 2
    assert len(make()) == 6
    assert len(list(store.root.iterdir())) == 2


def test_another_process_that_makes_the_same_is_waited_for(store):
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom glore_lib.artifacts.store import Store\n"
        "def make(folder):\n    print('making', flush=True)\n    time.sleep(1)\n    return {'by': 'the first'}\n"
        "Store(Path(sys.argv[1])).folder('model', {}, make)"
    )
    with subprocess.Popen([sys.executable, "-c", program, store.root], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"making\n"
        made = store.folder("model", {}, lambda folder: pytest.fail("made twice"))
    assert made.record["info"] == {"by": "the first"}
    assert list(store.root.iterdir()) == [made.folder]


def test_the_folder_of_artifacts_can_be_moved(store, tmp_path):
    labels(store)
    os.rename(store.root, tmp_path / "moved")  # noqa: PTH104
    moved = Store(tmp_path / "moved")
    assert len(labels(moved, lambda: pytest.fail("made again")).read()) == 2
    text = json.dumps(next(iter(moved.used.values())).record)
    assert str(tmp_path) not in text


@pytest.mark.parametrize(
    "frame",
    [
        LABELS.drop(columns="label"),
        LABELS.assign(extra=1),
        LABELS.rename(columns={"label": "labels"}),
    ],
)
def test_frames_of_other_columns_are_refused(store, frame):
    with pytest.raises(StoreError, match=r"step_labels: columns .*, expected "):
        labels(store, Maker(frame))
    assert list(store.root.iterdir()) == []


@pytest.mark.parametrize(("column", "value"), [("step", "first"), ("label", None)])
def test_values_of_another_type_are_refused(store, column, value):
    with pytest.raises((StoreError, ValueError, TypeError)):
        labels(store, Maker(LABELS.assign(**{column: value})))
    assert list(store.root.iterdir()) == []


def test_a_stored_frame_of_other_columns_is_refused_on_reading(store):
    artifact = labels(store)
    LABELS.drop(columns="label").to_parquet(artifact.folder / "data.parquet")
    with pytest.raises(StoreError, match="step_labels: columns"):
        artifact.read()


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_schema_survives_a_round_trip_also_without_rows(schema, store):
    columns = SCHEMAS[schema]
    examples = {"str": ["", "é\n#### 3"], "int64": [-100, 2**40], "float64": [0.1, float("nan")], "bool": [True, False]}
    full = pd.DataFrame({name: examples[kind] for name, kind in columns.items()})
    for rows in (2, 0):
        frame = check_schema(full.head(rows), schema)
        artifact = store.frame(f"rows{rows}", schema, {}, lambda frame=frame: frame)
        pd.testing.assert_frame_equal(artifact.read(), frame)
        assert {name: str(kind) for name, kind in artifact.read().dtypes.items()} == columns


def test_warnings_are_about_trainings_that_lost_more_than_a_tenth_of_their_data():
    def record(sequences: int, too_long: int) -> dict:
        return {"info": {"sequences": sequences, "too_long": too_long}}

    records = {
        "samples-ei1-train-00aa": {"info": {"rows": 5}}, "student-sft-11": record(90, 10), "a-22": record(89, 11),
        "b-33": record(0, 0), "c-44": record(500, 1500),
    }  # fmt: skip
    assert training_warnings(records) == [
        "a was trained without 11 of 100 sequences (11%): they are longer than finetuning.max_length.",
        "b stays untrained: there was nothing to learn from.",
        "c was trained without 1,500 of 2,000 sequences (75%): they are longer than finetuning.max_length.",
    ]
