"""The real command over the real notebooks, stopped in every way: run again, it makes the same tables.

Every test takes one run further, or leaves it as it was, and the last one brings it to its end; each can run alone.
Without ``GLORE_RELIABILITY`` set (see reliability.py) only the first two are tried, since the others take a quarter of
an hour.
"""

import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from glore_lib.artifacts.records import UNFINISHED, verify_record
from glore_lib.params import read_yaml
from glore_lib.workflow.pipeline import ROOT

# Few questions, many parts and, of each training, checkpoints for long enough to be caught.
STEPS = "{epochs: 30, max_steps: 40, learning_rate: 1e-3}"
SMALL = {
    "task.train_questions": 8, "task.validation_questions": 4, "task.test_questions": 6, "sampling.rows": 4,
    "sampling.max_new_tokens": 40, "student.sft_questions": 8, "student.sft": STEPS, "student.training": STEPS,
    "finetuning.batch_size": 4, "finetuning.micro_batch_size": 4, "reward_models.training": STEPS,
    "reward_models.figure4": False, "refiner.training": STEPS,
}  # fmt: skip
pytestmark = [pytest.mark.slow, pytest.mark.long]
seldom = pytest.mark.skipif(
    not os.environ.get("GLORE_RELIABILITY"), reason="takes minutes: only with GLORE_RELIABILITY set"
)
GLORE = [Path(sys.executable).with_name("glore"), "run"]
PATIENCE = 900
PARTS, TRAINING = f".*/{UNFINISHED}/*-*.parquet", f".*/{UNFINISHED}/training"


class Runs:
    """One output folder and its artifacts, and the command that makes them."""

    def __init__(self, folder: Path, settings: dict[str, object]):
        self.folder, self.out, self.artifacts = folder, folder / "out", folder / "artifacts"
        self.run = self.out / "mini-hard"
        folder.mkdir(exist_ok=True)
        self.process: subprocess.Popen | None = None
        self.settings = [f"--set={key}={v if isinstance(v, str) else json.dumps(v)}" for key, v in settings.items()]

    def start(self, *options: str) -> subprocess.Popen:
        self.stop()  # the run of a test that failed
        command = [*GLORE, ROOT / "params" / "mini-hard.yaml", "--out", self.out, "--artifacts", self.artifacts]
        with (self.folder / "stderr.txt").open("w") as stderr:
            self.process = subprocess.Popen(
                [*command, *self.settings, *options], stdout=subprocess.DEVNULL, stderr=stderr,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )  # fmt: skip
        return self.process

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()

    def finish(self, *options: str) -> str:
        """Run to the end; return what it printed."""
        process = self.start(*options)
        assert process.wait(PATIENCE) == 0, self.stderr
        return self.stderr

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr.txt").read_text()

    @property
    def tables(self) -> dict[str, bytes]:
        return {str(path.relative_to(self.out)): path.read_bytes() for path in self.out.glob("*/tables/*")}

    @property
    def records(self) -> dict[str, int]:
        """When each finished artifact was made."""
        return {path.parent.name: path.stat().st_mtime_ns for path in self.artifacts.glob("[!.]*/artifact.json")}

    @property
    def parts(self) -> dict[str, int]:
        """Count the finished shards of each unfinished artifact."""
        found = [path.parent.parent.name[1:] for path in self.artifacts.glob(PARTS)]
        return {name: found.count(name) for name in found}

    def until(self, process: subprocess.Popen, there: Callable[[], bool]) -> list[psutil.Process]:
        """Wait until something is there; return the processes of the run then."""
        deadline = time.monotonic() + PATIENCE
        while not there():
            assert process.poll() is None, self.stderr
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]

    def matches(self, pattern: str) -> bool:
        return any(self.artifacts.glob(pattern))

    def kill(self, process: subprocess.Popen, processes: list[psutil.Process]) -> None:
        process.kill()
        process.wait()
        assert not psutil.wait_procs(processes, timeout=60)[1]

    def caught(self, pattern: str, shown: str = "") -> Path:
        """Kills a run while there is such a file, once it has printed ``shown``."""
        while True:
            process = self.start()
            self.until(process, lambda shown=shown: shown in self.stderr)
            self.kill(process, self.until(process, lambda: self.matches(pattern)))
            if found := sorted(self.artifacts.glob(pattern)):
                return found[0]
            shown = ""  # which the next run has no cause to


def line(shown: str, start: str) -> str:
    """Return the one line that begins so."""
    (found,) = [line for line in shown.splitlines() if line.startswith(start)]
    return found


@pytest.fixture(scope="module")
def settings() -> dict[str, object]:
    return read_yaml((ROOT / "tests" / "reduced.yaml").read_text()) | SMALL


@pytest.fixture(scope="module")
def whole(tmp_path_factory, settings) -> Runs:
    """Make a run that nothing happens to."""
    runs = Runs(tmp_path_factory.mktemp("whole"), settings)
    runs.finish()
    return runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory, settings) -> Iterator[Runs]:
    runs = Runs(tmp_path_factory.mktemp("runs"), settings)
    yield runs
    runs.stop()


def test_a_second_run_on_a_folder_is_refused_and_an_interrupted_one_ends_clean(runs, reliability):
    process = runs.start()
    processes = runs.until(process, lambda: runs.matches(PARTS))
    assert len(processes) > 1  # the run and its kernel
    for each in processes:  # otherwise it could be anywhere by the time that the others were refused
        each.suspend()
    for out, artifacts in ((runs.out, runs.folder / "other"), (runs.folder / "other", runs.artifacts)):
        command = [*GLORE, ROOT / "params" / "mini-hard.yaml", "--out", out, "--artifacts", artifacts]
        second = subprocess.run([*command, *runs.settings], capture_output=True, text=True)
        assert second.returncode == 2
        assert second.stderr.startswith("error: folder ")
        assert second.stderr.endswith(f"uses it: process {process.pid} on {platform.node()}\n")
        assert second.stderr.count("\n") == 1
    reliability(
        "two runs on one folder", "the second is rejected and names the first's process and host; exit code 2", tried=2
    )
    for each in processes:
        each.resume()
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    assert not psutil.wait_procs(processes, timeout=60)[1]
    assert line(runs.stderr, "interrupted").endswith("the same command continues from there")
    assert json.loads((runs.run / "manifest.json").read_text())["status"] == "interrupted"
    reliability(
        "Ctrl-C (SIGINT)", "one line that says how to resume; exit code 130; no process left", "the shard in progress"
    )


def test_a_kernel_that_is_killed_is_told_with_its_stage_and_what_to_lower(runs, reliability):
    for left in runs.artifacts.glob(TRAINING):  # by the interrupted run, where it came so far
        shutil.rmtree(left)
    process = runs.start()
    processes = runs.until(process, lambda: runs.matches(TRAINING))
    (kernel,) = [each for each in processes if "ipykernel_launcher" in each.cmdline()]
    making = next(path.parent.parent.name[1:] for path in runs.artifacts.glob(TRAINING))
    kernel.kill()
    assert process.wait(PATIENCE) == 1
    assert not psutil.wait_procs(processes, timeout=60)[1]
    shown = line(runs.stderr, "error: ")
    assert shown.startswith("error: mini-hard 0")
    for part in ("process was killed", f"while it made {making}", "lower finetuning.micro_batch_size (here 4)"):
        assert part in shown
    reliability(
        "a kernel is killed (out of memory)",
        "error that names its stage, the artifact and what to lower; exit code 1",
        "the shard in progress",
    )


@seldom
def test_what_was_cut_short_is_told_and_made_again(runs, whole, reliability):
    checkpoint = runs.caught(TRAINING + "/checkpoint-*/artifact.json").parent
    flipped(checkpoint / "optimizer.pt")
    part = runs.caught(PARTS, f"{checkpoint.name}: optimizer.pt was modified after it was written")
    os.truncate(part, part.stat().st_size // 2)
    assert f"shard {part.name} was modified after it was written; making it again" in runs.finish()
    assert runs.tables == whole.tables
    reliability(
        "a checkpoint with a flipped bit",
        "reported, not used; tables byte-identical",
        "the steps since the previous one",
    )
    reliability("a truncated shard", "reported and computed again; tables byte-identical", "the shard")


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@seldom
def test_damaged_artifacts_are_named_and_they_alone_are_made_again(runs, whole, reliability):
    if not runs.tables:
        runs.finish()
    before = runs.records
    model, frame, record, deleted = (
        next(runs.artifacts.glob(f"{name}-{'?' * 12}"))
        for name in ("refiner", "samples-ei1-train", "rollouts-drafts-test", "scores-orm")
    )
    os.truncate(model / "model.safetensors", 1000)
    flipped(frame / "data.parquet")
    (record / "artifact.json").unlink()
    shutil.rmtree(deleted)
    shown = runs.finish("--from=01")
    for name in (f"{model.name}: model.safetensors", f"{frame.name}: data.parquet"):
        assert f"glore: artifact {name} was modified after it was written; making it again\n" in shown
    assert f"glore: artifact {record.name}: artifact.json is missing; making it again\n" in shown
    made = {name for name, at in runs.records.items() if before[name] != at}
    assert made == {model.name, frame.name, record.name, deleted.name}
    assert runs.tables == whole.tables
    reliability(
        "a truncated, flipped, incomplete or deleted artifact",
        "reported (except the deleted one), it alone is computed again; tables byte-identical",
        "the artifact",
        tried=4,
    )


@seldom
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="a small disk can only be mounted by root")
def test_a_full_disk_is_told_and_earlier_work_is_intact(whole, settings, reliability, tmp_path):
    runs = Runs(tmp_path, settings)
    runs.artifacts.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", runs.artifacts], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk can't be mounted here")
    try:
        process = runs.start()
        assert process.wait(PATIENCE) == 1
        shown = line(runs.stderr, "error: ")
        assert "is full: free some of it and run again" in shown
        records = runs.records
        assert records
        for name in records:
            verify_record(runs.artifacts / name)
        subprocess.run(["mount", "-o", "remount,size=1g", runs.artifacts], check=True)
        runs.finish()
        assert records.items() <= runs.records.items()
        assert runs.tables == whole.tables
    finally:
        subprocess.run(["umount", "-l", runs.artifacts], check=True)
    reliability(
        "the disk is full", "one line that names it; exit code 1; earlier artifacts are intact", "the shard in progress"
    )


@seldom
def test_a_run_that_is_killed_again_and_again_makes_the_same_tables(whole, reliability, settings, tmp_path):
    runs, rng = Runs(tmp_path, settings), random.Random(0)
    seconds = json.loads((whole.run / "manifest.json").read_text())["seconds"]
    moments = sorted(rng.uniform(0, seconds) for _ in range(20))
    records, left, done = {}, {}, 0
    for begun, moment in zip([0.0, *moments], moments, strict=False):
        process = runs.start()
        runs.until(process, lambda: (runs.run / "manifest.json").exists())
        deadline = time.monotonic() + moment - begun + 5  # that it takes to start
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        done += process.poll() is None
        runs.kill(process, runs.until(process, lambda: True) if process.poll() is None else [])
        assert records.items() <= runs.records.items()
        records, left = runs.records, left | runs.parts
    runs.finish()
    assert runs.tables == whole.tables
    assert records.items() <= runs.records.items()
    found = {name: verify_record(runs.artifacts / name)["shards_found"] for name in runs.records}
    assert {name: count for name, count in found.items() if count} == left
    assert not list(runs.artifacts.glob(".*"))
    reliability(
        "SIGKILL at a random moment, then the same command",
        f"tables byte-identical; {len(records)} finished artifacts and {sum(left.values())} finished shards were "
        "reused, none was computed twice", "the shard in progress", done,
    )  # fmt: skip
