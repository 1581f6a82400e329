"""Parts of a run side by side, each in a process of its own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from glore_lib.params import ParamsError, load_params
from glore_lib.threads import cores
from glore_lib.workflow import StageError, processes
from glore_lib.workflow.processes import default_jobs, side_by_side

TINY = Path(__file__).parents[1] / "params" / "tiny.yaml"


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_parts_work_at_the_same_time_in_processes_of_their_own(tmp_path):
    """Each waits for what the other writes."""

    def part(own: str, other: str):
        def work(tell):
            (tmp_path / own).touch()
            wait_for(tmp_path / other)
            tell(own, os.getpid())
            tell("done", own)

        return work

    told = []
    side_by_side([part("a", "b"), part("b", "a")], 2, lambda *message: told.append(message))
    by_part = [[rest for number, *rest in told if number == k] for k in (0, 1)]
    assert [[*messages[0][:1], messages[1]] for messages in by_part] == [["a", ["done", "a"]], ["b", ["done", "b"]]]
    assert len({os.getpid(), by_part[0][0][1], by_part[1][0][1]}) == 3


def test_at_most_so_many_at_a_time_in_order(tmp_path):
    def part(tell):
        tell("begins")
        time.sleep(0.05)
        tell("ends")

    told = []
    side_by_side([part] * 3, 1, lambda *message: told.append(message))
    assert told == [(k, what) for k in range(3) for what in ("begins", "ends")]


def test_a_part_that_fails_does_not_end_the_others(tmp_path):
    def fails(tell):
        raise StageError("tiny 02_orm failed", tmp_path / "02.ipynb", killed=True)

    def goes_on(tell):
        time.sleep(0.3)
        (tmp_path / "made").touch()

    with pytest.raises(StageError) as failure:
        side_by_side([fails, goes_on, goes_on], 2, lambda *_: None)
    assert str(failure.value) == f"tiny 02_orm failed; rendered so far: {tmp_path / '02.ipynb'}"
    assert failure.value.killed and (tmp_path / "made").exists()


def test_a_free_process_helps_a_part_that_still_runs(tmp_path):
    """The second part is done at once; the helper of the first makes what the first waits for."""

    def slow(tell):
        wait_for(tmp_path / "help")
        tell("done")

    def helps(tell):
        (tmp_path / "help").touch()
        tell("nobody hears this")
        raise StageError("nor this")

    def not_called(tell):
        (tmp_path / "wrong").touch()

    told = []
    side_by_side([slow, lambda tell: None], 2, lambda *message: told.append(message), [helps, not_called])
    assert told == [(0, "done")] and not (tmp_path / "wrong").exists()


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN])
def test_a_helper_waits_for_the_parts_and_ends_with_them(tmp_path, handler):
    """Also in the background of a shell, where SIGINT is ignored."""
    before = signal.signal(signal.SIGINT, handler)

    def slow(tell):
        wait_for(tmp_path / "helped")

    def helps(tell):
        (tmp_path / "helped").touch()
        time.sleep(600)

    def second(tell):
        assert not (tmp_path / "helped").exists()

    started = time.monotonic()
    try:
        side_by_side([slow, second, second], 2, lambda *_: None, [helps] * 3)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    ("end", "kind", "message"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), StageError, r"failed with exit code -9"),
        (lambda: os._exit(3), StageError, r"failed with exit code 3"),
        (lambda: {}["k"], StageError, r"failed: KeyError: 'k'"),
        (lambda: load_params(TINY, {"seed": "x"}), ParamsError, 'seed = "x"'),
    ],
)
def test_however_a_part_ends_it_is_told(end, kind, message):
    with pytest.raises(kind, match=message):
        side_by_side([lambda tell: end()], 2, lambda *_: None)


@pytest.mark.parametrize(("own", "threads"), [(None, max(1, cores() // 2)), ("5", 5)])
def test_parts_share_the_cores_unless_the_user_says_otherwise(monkeypatch, own, threads):
    for name in processes.THREADS:
        monkeypatch.delenv(name, raising=False)
    if own:
        monkeypatch.setenv("OMP_NUM_THREADS", own)
    told = []
    side_by_side([lambda tell: tell(os.environ["OMP_NUM_THREADS"])] * 2, 2, lambda *message: told.append(message))
    assert sorted(told) == [(0, str(threads)), (1, str(threads))]
    assert os.environ.get("OMP_NUM_THREADS") == own


PROGRAM = """import os, signal, sys, time
from pathlib import Path
from glore_lib.workflow.processes import side_by_side
signal.signal(signal.SIGINT, signal.default_int_handler)
def part(tell):
    Path(sys.argv[1], str(os.getpid())).touch()
    try:
        time.sleep(600)
    except KeyboardInterrupt:
        Path(sys.argv[1], f"{os.getpid()}.interrupted").touch()
        raise
side_by_side([part, part], 2, print)"""


@pytest.mark.parametrize(("number", "told"), [(signal.SIGINT, 2), (signal.SIGKILL, 0)])
def test_parts_end_with_their_parent(tmp_path, number, told):
    parent = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2:
        assert parent.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    pids = [int(path.name) for path in tmp_path.iterdir()]
    parent.send_signal(number)
    parent.wait(60)
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert len(list(tmp_path.glob("*.interrupted"))) == told


def test_runs_are_done_side_by_side_where_each_gets_a_core_and_no_gpu_is_shared(monkeypatch):
    run = load_params(TINY)
    gpus: list[str] = []
    monkeypatch.setattr(processes, "hardware", lambda: {"gpus": gpus})
    for count, expected in ((1, 1), (4, 3)):
        monkeypatch.setattr(processes, "cores", lambda count=count: count)
        assert default_jobs([run] * 3) == expected
    assert default_jobs([run]) == 1
    for overrides in (
        {"sampling.ray": {"workers": 2, "cpus_per_worker": 1, "gpus_per_worker": 0}},
        {"sampling.backend": "vllm"},
        {"finetuning.processes": 2, "finetuning.micro_batch_size": 2},
    ):
        assert default_jobs([run, load_params(TINY, overrides)]) == 1, overrides
    gpus.append("H100")
    assert default_jobs([run] * 3) == 1
