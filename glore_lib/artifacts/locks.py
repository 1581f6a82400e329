"""Locks: at most one run writes to a folder, and the lock of a killed run is free again."""

import errno
import fcntl
import os
import platform
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from glore_lib.artifacts.records import warn
from glore_lib.params import ParamsError

LOCK = ".glore.lock"
SIDE_BY_SIDE = "GLORE_SIDE_BY_SIDE"  # environment variable: processes of one command wait for each other silently
NO_FLOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # such as Lustre mounted without it
BLOCK = bytes(4096)


def check_writable(name: str, folder: Path) -> None:
    """Raise :class:`ParamsError` if no file can be written in a folder, or in the one where it will be created."""
    place = folder.absolute()
    while not os.path.lexists(place):
        place = place.parent
    try:
        with TemporaryFile(dir=place) as file:
            file.write(BLOCK)  # a quota may leave room for an empty file
    except OSError as error:
        why = f"{place} is not: {error.strerror}"
        raise ParamsError(f"{name} {folder}: must be a folder that can be written, and {why}") from None


@contextmanager
def only_run(*folders: Path) -> Iterator[None]:
    """Hold folders for this run; raise :class:`ParamsError`, which names the holder, if another run has one of them.

    The system releases the locks when their process ends. Where locks do not reach other hosts, or the file system has
    none, the owner stored in the lock file is respected, and the user decides whether that run is still alive.
    """
    folders = tuple(sorted({folder.resolve() for folder in folders}))
    for folder in folders:
        check_writable("folder", folder)
    with ExitStack() as held:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / LOCK
            lock = _lock(path)
            try:
                held.enter_context(lock.acquire(blocking=False))
                taken = _is_elsewhere(path) and not isinstance(lock, SoftFileLock)
            except Timeout:
                taken = True
            if taken:
                pid, host = _owner(path)
                held.close()
                remedy = f"; if it has ended: {_continuation(folders)}" if _is_elsewhere(path) else ""
                raise ParamsError(f"folder {folder}: another glore run uses it: process {pid} on {host}{remedy}")
            if isinstance(lock, SoftFileLock):
                warn(f"folder {folder}: its file system has no flock; a run killed on another host leaves it locked")
            else:
                held.callback(path.unlink, missing_ok=True)
                path.write_text(f"{os.getpid()}\n{platform.node()}\n", encoding="utf-8")
        yield


def is_used(folder: Path) -> bool:
    """Return whether a run holds a folder, as far as this host can tell."""
    path = folder / LOCK
    if not path.exists():
        return False
    try:
        lock = _lock(path)
        with lock.acquire(blocking=False):
            return _is_elsewhere(path) and not isinstance(lock, SoftFileLock)
    except Timeout:
        return True
    except OSError:
        return False


@contextmanager
def waited_for(path: Path) -> Iterator[None]:
    """Hold a lock file, once every other process has released it; it is removed at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = _lock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        elsewhere = _is_elsewhere(path)
        remedy = "; if process {} on {} has ended, delete {}".format(*_owner(path), path) if elsewhere else ""
        if elsewhere or SIDE_BY_SIDE not in os.environ:
            warn(f"{path.stem[1:]}: waiting for another process, which makes it{remedy}")
        lock.acquire()
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # those who wait see that its inode is gone, and make a new one
        lock.release()


def _lock(path: Path) -> BaseFileLock:
    """Return a lock by flock; where the file system has none, one that consists in the file's existence."""
    with TemporaryFile(dir=path.parent) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in NO_FLOCK:
                return SoftFileLock(path)
            raise
    return FileLock(path, fallback_to_soft=False)


def _owner(path: Path) -> tuple[str, str]:
    """Return the process and the host in a lock file, in filelock's format; by default, an unknown one of this host."""
    with suppress(OSError, ValueError):  # not written yet, or its run was killed before it was
        pid, host = path.read_text(encoding="utf-8").splitlines()[:2]
        return pid, host
    return "?", platform.node()


def _is_elsewhere(path: Path) -> bool:
    return _owner(path)[1] != platform.node()


def _continuation(folders: Sequence[Path]) -> str:
    """Return the command that removes what runs on other hosts left locked, and starts this one again."""
    locks = [str(path) for folder in folders for path in sorted(folder.glob(".*.lock")) if _is_elsewhere(path)]
    return f"rm {shlex.join(locks)} && {shlex.join(sys.argv)}"
