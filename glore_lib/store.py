"""Artifacts on disk: keyed by everything that can change them, written atomically, found again by a rerun.

An artifact is a folder ``<name>-<key>`` that holds one parquet frame or one model. Its key is a hash of the parameters
it depends on and of the artifacts it was made from, so other parameters give another folder and results never mix.
``artifact.json``, written last, says what the key stood for, what it cost and the checksum of every file.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from glore_lib.params import Params, digest

# Columns and types of the records that stages hand on; checked on write and on read.
SCHEMAS: dict[str, dict[str, str]] = {
    "questions": {
        "question_id": "str", "split": "str", "question": "str", "reference_answer": "str", "reference_solution": "str",
    },
    "samples": {
        "question_id": "str", "sample_id": "str", "policy": "str", "temperature": "float64", "seed": "int64",
        "text": "str", "final_answer": "str", "is_correct": "bool", "finished": "bool",
    },
    "rollouts": {
        "question_id": "str", "sample_id": "str", "step": "int64", "rollout": "int64", "text": "str",
        "is_correct": "bool", "is_consistent": "bool",
    },
    "step_labels": {
        "question_id": "str", "sample_id": "str", "step": "int64", "label_raw": "int64", "label": "int64",
        "source": "str",
    },
    "step_scores": {
        "question_id": "str", "sample_id": "str", "step": "int64", "model": "str", "score": "float64",
    },
    "refinements": {
        "question_id": "str", "sample_id": "str", "kind": "str", "first_error": "int64", "text": "str",
        "final_answer": "str", "is_correct": "bool",
    },
    "numbers": {
        "task": "str", "model": "str", "method": "str", "metric": "str", "value": "float64", "ci_low": "float64",
        "ci_high": "float64", "n": "int64",
    },
}  # fmt: skip


class StoreError(RuntimeError):
    """An artifact that is not what its record says it is."""


def check_schema(frame: pd.DataFrame, schema: str) -> pd.DataFrame:
    """``frame`` with the schema's columns, in their order and types; raises StoreError where it does not have them."""
    columns = SCHEMAS[schema]
    if set(frame.columns) != set(columns):
        raise StoreError(f"{schema}: columns {sorted(frame.columns)} where {sorted(columns)} are due")
    return frame[list(columns)].astype(columns)


@dataclass
class Store:
    """A folder of artifacts. ``used`` lists the ones that this process made or read, for the manifest."""

    root: Path
    used: dict[str, dict[str, Any]] = field(default_factory=dict)

    def frame(self, name: str, schema: str, key: dict[str, Any], make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """The frame that ``make`` returns for ``key``, made only where it is not there yet."""

        def write(folder: Path) -> dict[str, Any]:
            frame = check_schema(make(), schema)
            frame.to_parquet(folder / "data.parquet", index=False)
            return {"rows": len(frame)} | frame.attrs

        folder = self._artifact(name, {"schema": schema} | key, write)
        return check_schema(pd.read_parquet(folder / "data.parquet"), schema)

    def folder(self, name: str, key: dict[str, Any], make: Callable[[Path], dict[str, Any]]) -> Path:
        """The folder that ``make`` fills for ``key`` (a model, say); what ``make`` returns goes into its record."""
        return self._artifact(name, key, make)

    def record(self, folder: Path) -> dict[str, Any]:
        """What is known of an artifact: its key, seconds, and what its maker returned."""
        return json.loads((folder / "artifact.json").read_text())

    def _artifact(self, name: str, key: dict[str, Any], make: Callable[[Path], dict[str, Any]]) -> Path:
        folder = self.root / f"{name}-{digest(key)}"
        if not (folder / "artifact.json").exists():
            self.root.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=self.root))
            try:
                started = time.perf_counter()
                info = make(temporary) or {}
                record = {
                    "name": name, "key": key, "seconds": round(time.perf_counter() - started, 3), "info": info,
                    "files": {str(p.relative_to(temporary)): checksum(p) for p in _files(temporary)},
                }  # fmt: skip
                (temporary / "artifact.json").write_text(json.dumps(record, indent=1, sort_keys=True, default=str))
                if folder.exists():  # no record in it: a copy that was cut short
                    shutil.rmtree(folder)
                os.replace(temporary, folder)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
        elif folder.name not in self.used:
            self._verify(folder)
        self.used[folder.name] = self.record(folder)
        return folder

    def _verify(self, folder: Path) -> None:
        for relative, expected in self.record(folder)["files"].items():
            path = folder / relative
            if not path.exists() or checksum(path) != expected:
                state = "missing" if not path.exists() else "changed since it was written"
                raise StoreError(f"artifact {folder}: {relative} is {state}; delete this folder to have it made again")


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass
class Run:
    """What every stage takes: the parameters, the store, and what is loaded only once."""

    params: Params
    store: Store

    def seed(self, *parts: Any) -> int:
        """A 31-bit seed from the run's seed and what it is for; the same words give the same seed anywhere."""
        return int(digest([self.params.seed, *parts]), 16) % 2**31
