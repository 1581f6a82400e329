"""Locks on folders: two processes never write to one at once, and one that was killed keeps nobody out."""

import fcntl
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from glore_lib.params import ParamsError

LOCK = ".glore.lock"


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Holds a folder for this run. Raises ParamsError, which names the holder, where another run has it.

    The system lets go of a lock when its process ends, however it ends. Not every file system tells other machines of
    locks: there the file tells, and whether that run still lives is for the user to say.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    while True:
        with path.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ParamsError(f"folder {folder}: another glore run uses it: {_told(file)}") from None
            if not _is(path, file):
                continue  # the run that had it has just ended
            host = _holder(file).get("host", platform.node())
            if host != platform.node():
                raise ParamsError(
                    f"folder {folder}: another glore run uses it: {_told(file)}; if it is dead, delete {path}"
                )
            file.truncate(0)
            file.write(json.dumps({"pid": os.getpid(), "host": host}))
            file.flush()
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def is_used(folder: Path) -> bool:
    """Whether a run holds a folder, as far as this machine can tell."""
    try:
        with (folder / LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return _holder(file).get("host", platform.node()) != platform.node()
    except BlockingIOError:
        return True
    except OSError:
        return False


@contextmanager
def waited_for(path: Path) -> Iterator[None]:
    """Holds a lock file, once any other process has let go of it."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is(path: Path, file: IO) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    return False


def _holder(file: IO) -> dict:
    file.seek(0)
    with suppress(ValueError, TypeError):
        return dict(json.loads(file.read()))
    return {}  # it is about to write, or was killed before it did


def _told(file: IO) -> str:
    holder = _holder(file)
    return f"process {holder.get('pid', '?')} on {holder.get('host', platform.node())}"
