"""Artifacts on disk: keyed by everything that can change them, written atomically, found again by a later run.

An artifact is a folder ``<name>-<key>`` that holds one parquet frame or one model. The key hashes the parameters and
the code that compute it and the artifacts it is made from, so results of other parameters or other code never mix.
``artifact.json``, written last, records the key, the cost and the checksum of every file.

While it is made, an artifact is the folder ``.<name>-<key>``. Its subfolder ``unfinished`` survives an interruption: it
has the shards of a frame or the checkpoints of a training. Files that fail their checksum are reported and made again.
"""

import ctypes
import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from glore_lib.artifacts.locks import waited_for
from glore_lib.artifacts.manifest import OTHER_WEIGHTS
from glore_lib.artifacts.records import (
    RECORD,
    RETRAIN,
    UNFINISHED,
    WEIGHTS,
    StoreError,
    check_schema,
    check_weights,
    checksum,
    checksums,
    left_out,
    verify_record,
    warn,
    write_record,
)
from glore_lib.params import ParamsError, digest

KEEP_STALE = "GLORE_KEEP_STALE"  # environment variable: use artifacts of older code instead of making them again
Info = dict[str, Any]  # what a record says besides the key: token counts, losses, steps


@dataclass(frozen=True)
class Artifact:
    """A finished artifact; ``id`` stands for its content in the keys of what is made from it."""

    folder: Path

    @property
    def id(self) -> str:
        """The folder's name: the artifact's name and key."""
        return self.folder.name

    @cached_property
    def record(self) -> dict[str, Any]:
        """Its key, the seconds it took, and the info that its maker returned."""
        return json.loads((self.folder / RECORD).read_text(encoding="utf-8"))

    @cached_property
    def _frame(self) -> pd.DataFrame:
        return check_schema(pd.read_parquet(self.folder / "data.parquet"), self.record["key"]["schema"])

    def read(self) -> pd.DataFrame:
        """Return the frame of an artifact made by :meth:`Store.frame`. The file is read once."""
        return self._frame.copy(deep=False)


@dataclass(frozen=True)
class Selection(Artifact):
    """The rows of a frame that have one value in a column; they are not stored again."""

    column: str
    value: str

    @property
    def id(self) -> str:
        """The frame's name and key, and the value."""
        return f"{self.folder.name}[{self.value}]"

    def read(self) -> pd.DataFrame:
        """Return the selected rows."""
        frame = super().read()
        return frame[frame[self.column] == self.value].reset_index(drop=True)


@dataclass
class Store:
    """A folder of artifacts.

    ``used`` lists the artifacts that this process made or read, for the manifest; ``stale`` those of them that older
    code made, with the reason. They are used only where the environment variable :data:`KEEP_STALE` is set. ``made`` is
    called with each artifact that was not there.
    """

    root: Path
    used: dict[str, Artifact] = field(default_factory=dict)
    stale: dict[str, str] = field(default_factory=dict)
    made: Callable[[Artifact], None] = lambda artifact: None
    # Of the artifact in progress: the folder of its shards, and the seconds of those that an earlier run made.
    _shards: Path | None = field(default=None, init=False, repr=False)
    _found: list[float] = field(default_factory=list, init=False, repr=False)
    # What makes the artifacts whose weights were left out.
    _makers: dict[str, tuple[str, Info, Callable[[Path], Info]]] = field(default_factory=dict, init=False, repr=False)

    def frame(
        self, name: str, schema: str, key: dict[str, Any], make: Callable[[], pd.DataFrame | tuple[pd.DataFrame, Info]]
    ) -> Artifact:
        """Return the frame that ``make`` returns for ``key``, made only if it does not exist yet.

        ``make`` may also return info for the record, such as token counts.
        """

        def write(folder: Path) -> Info:
            made = make()
            frame, info = made if isinstance(made, tuple) else (made, {})
            check_schema(frame, schema).to_parquet(folder / "data.parquet", index=False, compression="zstd")
            return {"rows": len(frame)} | info

        return self.folder(name, {"schema": schema} | key, write)

    def folder(self, name: str, key: dict[str, Any], make: Callable[[Path], Info]) -> Artifact:
        """Return the folder that ``make`` fills for ``key``, such as a model; ``make`` returns info for the record."""
        artifact = Artifact(self.root / f"{name}-{digest(key)}")
        if artifact.id not in self.used and not self._is_whole(artifact.folder):
            older = self._older.get(_without_code(name, key)) if os.environ.get(KEEP_STALE) else None
            if older and self._is_whole(older):
                self.stale[older.name] = ", ".join(changed_code(Artifact(older).record["key"], key))
                artifact = Artifact(older)
            else:
                self._make(name, artifact.folder, key, make)
        if left_out(artifact.folder) and artifact.id not in self.stale:
            self._makers[artifact.id] = name, key, make
        return self.used.setdefault(artifact.id, artifact)

    def open(self, artifact: Artifact) -> Path:
        """Return the folder of an artifact with all of its files; those of a frame are always there.

        A model whose weights were left out is trained again where the environment variable :data:`RETRAIN` is set.
        Otherwise, or if older code made it, this raises :class:`ParamsError`.
        """
        if left_out(artifact.folder) and os.environ.get(RETRAIN):
            if artifact.id in self.stale:
                raise ParamsError(
                    f"artifacts {self.root}: the weights of {artifact.id} were not packed, and older code made it; "
                    "give --recompute instead of --keep-stale to train it again"
                )
            name, key, make = self._makers[artifact.id]
            warn(f"{artifact.id}: its weights were not packed; training it again")
            self._make(name, artifact.folder, key, make)
            self.used[artifact.id] = Artifact(artifact.folder)  # with its new record
        check_weights(artifact.folder)
        return artifact.folder

    @cached_property
    def _older(self) -> dict[str, Path]:
        """The newest artifact of each key, the code disregarded."""
        found = {}
        for path in sorted(self.root.glob(f"[!.]*/{RECORD}"), key=lambda path: path.stat().st_mtime):
            with suppress(ValueError, KeyError):  # a damaged record
                record = Artifact(path.parent).record
                found[_without_code(record["name"], record["key"])] = path.parent
        return found

    def shard(self, key: Any, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """Return a shard of the frame in progress, such as some of its samples.

        A shard is made once per ``key``, however often the frame is interrupted. Its file name holds its checksum and
        the seconds it took.
        """
        if not self._shards:
            return make()
        for path in self._shards.glob(f"{digest(key)}-*.parquet"):
            _, expected, seconds = path.stem.split("-")
            if checksum(path) == expected:
                self._found.append(float(seconds))
                return pd.read_parquet(path)
            warn(f"{path.parent.parent.name[1:]}: shard {path.name} was modified after it was written; making it again")
            path.unlink()
        started = time.perf_counter()
        shard = make()
        _return_memory()
        seconds = f"{time.perf_counter() - started:.3f}"
        temporary = self._shards / "shard"
        shard.to_parquet(temporary, index=False)
        temporary.replace(self._shards / f"{digest(key)}-{checksum(temporary)}-{seconds}.parquet")
        return shard

    def _is_whole(self, folder: Path) -> bool:
        """Return whether an artifact exists as it was written; remove a damaged one."""
        if not folder.exists():
            return False
        try:
            verify_record(folder)
        except StoreError as damage:
            warn(f"artifact {damage}; making it again")
            shutil.rmtree(folder)
            return False
        return True

    def _make(self, name: str, folder: Path, key: dict[str, Any], make: Callable[[Path], Info]) -> None:
        making = folder.with_name(f".{folder.name}")
        shards = making / UNFINISHED
        outer = self._shards, self._found
        with waited_for(folder.with_name(f".{folder.name}.lock")):
            shards.mkdir(parents=True, exist_ok=True)
            try:
                if self._is_whole(folder) and not left_out(folder):  # made by the process that held the lock
                    return
                _empty(making)
                self._shards, self._found, started = shards, [], time.perf_counter()
                info = make(making)
                _return_memory()
                seconds = time.perf_counter() - started + sum(self._found) + info.pop("seconds_before", 0.0)
                record = {"name": name, "key": key, "seconds": round(seconds, 3), "shards_found": len(self._found)}
                if before := verify_record(folder)["files"] if folder.exists() else {}:
                    weights = {name for name in before if name.endswith(WEIGHTS)}
                    again = checksums(making)
                    same = all(again.get(name) == before[name] for name in weights)
                    info["trained_again"] = "same weights" if same else OTHER_WEIGHTS
                write_record(making, record | {"info": info})
                if before:
                    shutil.rmtree(folder)
                making.replace(folder)
                self.made(Artifact(folder))
            finally:
                self._shards, self._found = outer
                if making.exists():
                    _empty(making)
                    if not any(shards.iterdir()):
                        shutil.rmtree(making)
                else:
                    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)


def _return_memory() -> None:
    """Return freed memory to the system.

    Glibc keeps it where something later in the heap is in use: after four trainings of a 0.5B model 8 of 11 GiB, while
    it sampled rollouts 5 of 7.
    """
    with suppress(AttributeError):  # other C libraries have no such function
        ctypes.CDLL(None).malloc_trim(0)


def changed_code(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return the modules whose contribution to two keys differs."""
    before, after = (key.get("code", {}).get("modules", {}) for key in (old, new))
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def _without_code(name: str, key: dict[str, Any]) -> str:
    code = {part: value for part, value in key.get("code", {}).items() if part != "modules"}
    return digest([name, key | {"code": code}])


def unfinished(root: Path) -> dict[str, str]:
    """Return what survives of each unfinished artifact: its shards, or the last step of a training."""
    kept = {}
    for folder in sorted(root.glob(f".*/{UNFINISHED}")):
        steps = [int(path.name.rpartition("-")[2]) for path in folder.glob("training/checkpoint-*")]
        shards = len(list(folder.glob("*-*.parquet")))
        if steps or shards:
            kept[folder.parent.name[1:]] = f"trained up to step {max(steps)}" if steps else f"{shards} shards"
    return kept


def _empty(folder: Path) -> None:
    """Remove all but what survives an interruption."""
    for path in folder.iterdir():
        if path.is_dir() and path.name != UNFINISHED:
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()
