"""Artifacts on disk: keyed by everything that can change them, written atomically, found again by a rerun.

An artifact is a folder ``<name>-<key>`` that holds one parquet frame or one model. Its key is a hash of the parameters
it depends on and of the artifacts it was made from, so other parameters give another folder and results never mix.
``artifact.json``, written last, says what the key stood for, what it cost and the checksum of every file.
"""

import ast
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from glore_lib.params import digest

RECORD = "artifact.json"

# Columns and types of the records that stages hand on; checked on write and on read.
SCHEMAS: dict[str, dict[str, str]] = {
    "questions": {
        "question_id": "str", "split": "str", "question": "str", "reference_answer": "str", "reference_solution": "str",
    },
    "samples": {
        "question_id": "str", "sample_id": "str", "policy": "str", "temperature": "float64", "seed": "int64",
        "text": "str", "final_answer": "str", "is_correct": "bool", "finished": "bool",
    },
    "solutions": {"question_id": "str", "text": "str", "source": "str"},
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
    "pairs": {"question_id": "str", "kind": "str", "draft": "str", "first_error": "int64", "target": "str"},
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
    checked = frame[list(columns)].astype(columns)
    for name, dtype in columns.items():
        if dtype != "float64" and (checked[name] != frame[name]).any():
            raise StoreError(f"{schema}: column {name} holds {frame[name].dtype} values that are not all {dtype}")
    return checked


@dataclass(frozen=True)
class Artifact:
    """A finished artifact; ``id`` stands for its content in the keys of what is made from it."""

    folder: Path

    @property
    def id(self) -> str:
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
        if not (artifact.folder / RECORD).exists():
            self._make(name, artifact.folder, key, make)
        elif artifact.id not in self.used:
            self._verify(artifact)
        return self.used.setdefault(artifact.id, artifact)

    def _make(self, name: str, folder: Path, key: dict[str, Any], make: Callable[[Path], dict[str, Any]]) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=self.root))
        try:
            started = time.perf_counter()
            info = make(temporary)
            record = {
                "name": name, "key": key, "seconds": round(time.perf_counter() - started, 3), "info": info,
                "files": {str(p.relative_to(temporary)): checksum(p) for p in _files(temporary)},
            }  # fmt: skip
            (temporary / RECORD).write_text(json.dumps(record, indent=1, sort_keys=True, default=str))
            if folder.exists():  # no record in it: a copy that was cut short
                shutil.rmtree(folder)
            temporary.replace(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def _verify(self, artifact: Artifact) -> None:
        for relative, expected in artifact.record["files"].items():
            path = artifact.folder / relative
            if not path.exists() or checksum(path) != expected:
                state = "missing" if not path.exists() else "changed since it was written"
                raise StoreError(
                    f"artifact {artifact.folder}: {relative} is {state}; delete this folder to have it made again"
                )


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_digest(path: Path) -> str:
    """A hash of what a module does: its comments, docstrings and layout don't count."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:]
    return digest(ast.dump(tree))


@cache
def code_digest(module: str) -> str:
    """A hash of a ``glore_lib`` module and of all modules it imports: part of an artifact's key, so that results of
    other code are never taken for this code's."""
    seen: dict[str, str] = {}
    todo = [module]
    while todo:
        name = todo.pop()
        path = Path(__file__).parent.parent.joinpath(*name.split("."))
        source = next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.exists()), None)
        if source and name not in seen:
            tree = ast.parse(source.read_text())
            seen[name] = source_digest(source)
            todo += [imported for node in ast.walk(tree) for imported in _imports(node)]
    return digest(seen)


def _imports(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("glore_lib"):
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names if alias.name.startswith("glore_lib")]
    return []
