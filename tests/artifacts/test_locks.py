"""One run at a time on a folder, whatever became of the one before it."""

import errno
import fcntl
import os
import platform
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

from glore_lib.artifacts.locks import LOCK, SIDE_BY_SIDE, check_writable, is_used, only_run, waited_for
from glore_lib.params import ParamsError

PROGRAM = (
    "import sys\nfrom pathlib import Path\nfrom glore_lib.artifacts.locks import only_run\n"
    "with only_run(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()"
)


NO_FLOCK = "import fcntl\ndef refuse(*_):\n    raise OSError({}, 'not here')\nfcntl.flock = refuse\n"


@contextmanager
def holder(folder: Path, before: str = "") -> Iterator[subprocess.Popen]:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", before + PROGRAM, folder], stdin=pipe, stdout=pipe) as process:
        assert process.stdout.readline() == b"held\n"
        yield process


def owner(folder: Path) -> str:
    return (folder / LOCK).read_text(encoding="utf-8").splitlines()[0]


def test_the_second_is_refused_by_the_firsts_number_and_host(tmp_path):
    with holder(tmp_path / "out") as process:
        assert is_used(tmp_path / "out")
        with pytest.raises(ParamsError) as refusal, only_run(tmp_path / "out"):
            pass
    refused = f"folder {tmp_path / 'out'}: another glore run uses it: process {process.pid} on {platform.node()}"
    assert str(refusal.value) == refused
    with only_run(tmp_path / "out"):
        assert owner(tmp_path / "out") == str(os.getpid())
    assert list((tmp_path / "out").iterdir()) == []


def test_the_lock_of_a_killed_run_is_taken_over(tmp_path):
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / LOCK).exists()
    assert not is_used(tmp_path)
    with only_run(tmp_path):
        assert is_used(tmp_path)


@pytest.mark.parametrize("content", ["", "12", "12\n", "\n"])
def test_a_lock_that_says_nothing_is_nobodys(tmp_path, content):
    (tmp_path / LOCK).write_text(content, encoding="utf-8")
    with only_run(tmp_path):
        assert owner(tmp_path) == str(os.getpid())


@pytest.mark.parametrize("has_flock", [True, False])
def test_a_lock_of_another_host_is_reported_with_the_command_that_continues(
    tmp_path, monkeypatch, reliability, has_flock
):
    if not has_flock:
        without_flock(monkeypatch)
    monkeypatch.setattr(sys, "argv", ["glore", "run", "my params.yaml"])
    used = [tmp_path / name for name in ("a", "b", "free")]
    for folder in used:
        folder.mkdir()
    for path in (used[0] / LOCK, used[1] / LOCK, used[1] / ".orm-0.lock"):
        path.write_text("12\nelsewhere\n", encoding="utf-8")
    assert is_used(used[0])
    for path in (used[0] / LOCK, used[1] / LOCK):
        assert path.exists()
    with pytest.raises(ParamsError) as refusal, only_run(*reversed(used)):
        pass
    message, _, command = str(refusal.value).partition("; if it has ended: ")
    assert message == f"folder {used[0]}: another glore run uses it: process 12 on elsewhere"
    assert command.endswith(" && glore run 'my params.yaml'")
    assert not (used[2] / LOCK).exists()
    subprocess.run(shlex.split(command.partition(" && ")[0]), check=True)
    with only_run(*used):
        pass
    assert [list(folder.iterdir()) for folder in used] == [[], [], []]
    reliability(
        "a run killed on another host of a shared file system",
        "the next is rejected, with the one command that continues; exit code 2",
        "the shard in progress",
    )


def without_flock(monkeypatch: pytest.MonkeyPatch, number: int = errno.ENOSYS) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, "not here")

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_flock_a_file_locks(tmp_path, monkeypatch, capsys, reliability, number):
    without_flock(monkeypatch, number)
    with holder(tmp_path, NO_FLOCK.format(number)) as process:
        assert is_used(tmp_path)
        assert owner(tmp_path) == str(process.pid)
        with pytest.raises(ParamsError) as refusal, only_run(tmp_path):
            pass
        assert f"another glore run uses it: process {process.pid} on " in str(refusal.value)
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / LOCK).exists()
    assert not is_used(tmp_path)
    with only_run(tmp_path), waited_for(tmp_path / ".orm-0.lock"):
        assert owner(tmp_path) == str(os.getpid())
        assert (tmp_path / ".orm-0.lock").exists()
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err.startswith(f"glore: folder {tmp_path}: its file system has no flock; ")
    reliability(
        "a file system without flock (ENOSYS, ENOLCK, EOPNOTSUPP)", "one line; locked by the existence of files"
    )


def test_other_errors_of_flock_are_no_lack_of_it(tmp_path, monkeypatch):
    without_flock(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="not here"), only_run(tmp_path):
        pass


@pytest.mark.parametrize("beside", [False, True])
def test_a_wait_is_reported_unless_the_command_has_several_processes(tmp_path, capsys, monkeypatch, beside):
    if beside:
        monkeypatch.setenv(SIDE_BY_SIDE, "1")
    path = tmp_path / ".orm-0.lock"
    program = PROGRAM.replace("only_run", "waited_for")
    with subprocess.Popen(
        [sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"held\n"
        acquire = FileLock.acquire

        def wait(lock: FileLock, *, blocking: bool = True) -> object:
            if blocking:
                process.stdin.close()  # it ends, and releases the lock
            return acquire(lock, blocking=blocking)

        monkeypatch.setattr(FileLock, "acquire", wait)
        with waited_for(path):
            pass
    reported = "" if beside else "glore: orm-0: waiting for another process, which makes it\n"
    assert capsys.readouterr().err == reported


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.ENOSPC])
def test_a_folder_without_room_is_refused(tmp_path, monkeypatch, reliability, number):
    class Full:
        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def write(self, content: bytes) -> None:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr("glore_lib.artifacts.locks.TemporaryFile", lambda dir: Full())
    with pytest.raises(ParamsError) as refusal:
        check_writable("artifacts", tmp_path / "not" / "yet")
    expected = f"artifacts {tmp_path}/not/yet: must be a folder that can be written, and {tmp_path} is not: "
    assert str(refusal.value) == expected + os.strerror(number)
    assert list(tmp_path.iterdir()) == []
    reliability("a quota or disk without room, at the start", "rejected in one line; exit code 2")
