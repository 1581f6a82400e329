"""Locks: at most one run writes to a folder, and the lock of a killed run is free again."""

import json
import os
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from glore_lib.params import ParamsError

LOCK = ".glore.lock"


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Hold a folder for this run; raise :class:`ParamsError`, which names the holder, if another run has it.

    The system releases the lock when its process ends. On file systems where locks do not reach other hosts, the
    owner stored in the lock file is respected, and the user decides whether that run is still alive.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    with ExitStack() as held:
        try:
            held.enter_context(FileLock(path, blocking=False, fallback_to_soft=False))
            owner = _owner(path)
            taken, remedy = owner["host"] != platform.node(), f"; if it is dead, delete {path}"
        except Timeout:
            owner, taken, remedy = _owner(path), True, ""
        if taken:
            holder = f"process {owner['pid']} on {owner['host']}"
            raise ParamsError(f"folder {folder}: another glore run uses it: {holder}{remedy}")
        held.callback(path.unlink, missing_ok=True)
        path.write_text(json.dumps({"pid": os.getpid(), "host": platform.node()}))
        yield


def is_used(folder: Path) -> bool:
    """Return whether a run holds a folder, as far as this host can tell."""
    path = folder / LOCK
    if not path.exists():
        return False
    try:
        with FileLock(path, blocking=False, fallback_to_soft=False):
            return bool(_owner(path)["host"] != platform.node())
    except Timeout:
        return True
    except OSError:
        return False


@contextmanager
def waited_for(path: Path) -> Iterator[None]:
    """Hold a lock file, once every other process has released it; it is removed at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path, fallback_to_soft=False):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # those who wait see that its inode is gone, and make a new one


def _owner(path: Path) -> dict[str, Any]:
    """Return ``pid`` and ``host`` in a lock file; of an empty one, of an unknown process of this host."""
    owner: dict[str, Any] = {"pid": "?", "host": platform.node()}
    with suppress(OSError, ValueError, TypeError):  # not written yet, or its run was killed before it was
        owner |= json.loads(path.read_text())
    return owner
