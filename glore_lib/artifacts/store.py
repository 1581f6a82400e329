"""Artifacts on disk: keyed by everything that can change them, written atomically, found again by a rerun.

An artifact is a folder ``<name>-<key>`` that holds one parquet frame or one model. Its key is a hash of the parameters
it depends on and of the artifacts it was made from, so other parameters give another folder and results never mix.
``artifact.json``, written last, says what the key stood for, what it cost and the checksum of every file.

While it is made, an artifact is the folder ``.<name>-<key>``. What is in its ``unfinished`` outlives an interruption:
the parts of a frame, and a training's checkpoints. Whatever is not what its checksum says is told and made again.
"""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from glore_lib.artifacts.locks import waited_for
from glore_lib.artifacts.records import (
    LOCK,
    RECORD,
    UNFINISHED,
    StoreError,
    check_schema,
    checksum,
    verify_record,
    write_record,
)
from glore_lib.params import digest


@dataclass(frozen=True)
class Artifact:
    """A finished artifact; ``id`` stands for its content in the keys of what is made from it."""

    folder: Path

    @property
    def id(self) -> str:
        """The folder's name: what it is called, and its key."""
        return self.folder.name

    @cached_property
    def record(self) -> dict[str, Any]:
        """Its key, the seconds it took, and what its maker returned."""
        return json.loads((self.folder / RECORD).read_text())

    def read(self) -> pd.DataFrame:
        """The frame of an artifact made by :meth:`Store.frame`."""
        return check_schema(pd.read_parquet(self.folder / "data.parquet"), self.record["key"]["schema"])


@dataclass
class Store:
    """A folder of artifacts. ``used`` lists the ones that this process made or read, for the manifest."""

    root: Path
    used: dict[str, Artifact] = field(default_factory=dict)
    # Of the artifact that is being made: where its parts are kept, and the seconds of those found from an earlier run.
    _kept: Path | None = field(default=None, init=False, repr=False)
    _found: list[float] = field(default_factory=list, init=False, repr=False)

    def frame(self, name: str, schema: str, key: dict[str, Any], make: Callable[[], pd.DataFrame]) -> Artifact:
        """The frame that ``make`` returns for ``key``, made only where it is not there yet. What ``make`` puts in the
        frame's ``attrs`` (tokens, say) goes into the record."""

        def write(folder: Path) -> dict[str, Any]:
            frame = make()
            info = {"rows": len(frame)} | frame.attrs
            check_schema(frame, schema).to_parquet(folder / "data.parquet", index=False)
            return info

        return self.folder(name, {"schema": schema} | key, write)

    def folder(self, name: str, key: dict[str, Any], make: Callable[[Path], dict[str, Any]]) -> Artifact:
        """The folder that ``make`` fills for ``key`` (a model, say); what ``make`` returns goes into its record."""
        artifact = Artifact(self.root / f"{name}-{digest(key)}")
        if artifact.id not in self.used and not self._is_whole(artifact.folder):
            self._make(name, artifact.folder, key, make)
        return self.used.setdefault(artifact.id, artifact)

    def shard(self, key: Any, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """A part of the frame that is being made, such as some of its samples: made only once for ``key``, however
        often making the whole is interrupted. Its file's name holds its checksum. Its ``attrs`` tell its seconds."""
        if not self._kept:
            return make()
        for path in self._kept.glob(f"{digest(key)}-*.parquet"):
            if checksum(path) == path.stem.partition("-")[2]:
                part = pd.read_parquet(path)
                self._found.append(part.attrs["seconds"])
                return part
            warn(f"{path.parent.parent.name[1:]}: the part {path.name} is changed since it was written; made again")
            path.unlink()
        started = time.perf_counter()
        part = make()
        part.attrs["seconds"] = time.perf_counter() - started
        temporary = self._kept / "part"
        part.to_parquet(temporary, index=False)
        temporary.replace(self._kept / f"{digest(key)}-{checksum(temporary)}.parquet")
        return part

    def _is_whole(self, folder: Path) -> bool:
        """Whether an artifact is there as it was written; what is left of a damaged one is taken away."""
        if not folder.exists():
            return False
        try:
            verify_record(folder)
        except StoreError as damage:
            warn(f"artifact {damage}; made again")
            shutil.rmtree(folder)
            return False
        return True

    def _make(self, name: str, folder: Path, key: dict[str, Any], make: Callable[[Path], dict[str, Any]]) -> None:
        making = folder.with_name(f".{folder.name}")
        kept = making / UNFINISHED
        kept.mkdir(parents=True, exist_ok=True)
        outer = self._kept, self._found
        with waited_for(kept / LOCK):
            try:
                if self._is_whole(folder):  # by the process that was waited for
                    return
                _empty(making)
                self._kept, self._found, started = kept, [], time.perf_counter()
                info = make(making)
                seconds = time.perf_counter() - started + sum(self._found) + info.pop("seconds_before", 0.0)
                record = {"name": name, "key": key, "seconds": round(seconds, 3), "parts_found": len(self._found)}
                write_record(making, record | {"info": info})
                making.replace(folder)
            finally:
                self._kept, self._found = outer
                if making.exists():
                    _empty(making)
                    if [path.name for path in kept.iterdir()] == [LOCK]:
                        shutil.rmtree(making)
                else:
                    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)


def unfinished(root: Path) -> dict[str, str]:
    """Of each artifact that is unfinished, what outlived the interruption: parts, or a training up to a step."""
    kept = {}
    for folder in sorted(root.glob(f".*/{UNFINISHED}")):
        steps = [int(path.name.rpartition("-")[2]) for path in folder.glob("training/checkpoint-*")]
        parts = len(list(folder.glob("*-*.parquet")))
        if steps or parts:
            kept[folder.parent.name[1:]] = f"trained up to step {max(steps)}" if steps else f"{parts} parts"
    return kept


def _empty(folder: Path) -> None:
    """Takes away all but what outlives an interruption."""
    for path in folder.iterdir():
        if path.is_dir() and path.name != UNFINISHED:
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()
