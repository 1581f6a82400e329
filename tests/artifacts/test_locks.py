"""One run at a time on a folder, whatever became of the one before it."""

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from glore_lib.artifacts.locks import LOCK, is_used, only_run
from glore_lib.params import ParamsError

PROGRAM = (
    "import sys\nfrom pathlib import Path\nfrom glore_lib.artifacts.locks import only_run\n"
    "with only_run(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()"
)


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen]:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", PROGRAM, folder], stdin=pipe, stdout=pipe) as process:
        assert process.stdout.readline() == b"held\n"
        yield process


def test_the_second_is_refused_by_the_firsts_number_and_host(tmp_path):
    with holder(tmp_path / "out") as process:
        assert is_used(tmp_path / "out")
        with pytest.raises(ParamsError) as refusal, only_run(tmp_path / "out"):
            pass
    refused = f"folder {tmp_path / 'out'}: another glore run uses it: process {process.pid} on {platform.node()}"
    assert str(refusal.value) == refused
    with only_run(tmp_path / "out"):
        assert json.loads((tmp_path / "out" / LOCK).read_text())["pid"] == os.getpid()
    assert list((tmp_path / "out").iterdir()) == []


def test_the_lock_of_a_killed_run_is_taken_over(tmp_path):
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / LOCK).exists()
    assert not is_used(tmp_path)
    with only_run(tmp_path):
        assert is_used(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_lock_that_says_nothing_is_nobodys(tmp_path, content):
    (tmp_path / LOCK).write_text(content)
    with only_run(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_a_lock_of_another_host_is_reported_and_not_taken_over(tmp_path):
    (tmp_path / LOCK).write_text(json.dumps({"pid": 12, "host": "elsewhere"}))
    assert is_used(tmp_path)
    with (
        pytest.raises(ParamsError, match=r"process 12 on elsewhere; if it is dead, delete .*lock$"),
        only_run(tmp_path),
    ):
        pass
    (tmp_path / LOCK).unlink()
    with only_run(tmp_path):
        pass
