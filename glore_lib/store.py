"""Artifacts on disk: keyed by everything that can change them, written atomically, found again by a rerun.

An artifact is a folder ``<name>-<key>`` that holds one parquet frame or one model. Its key is a hash of the parameters
it depends on and of the artifacts it was made from, so other parameters give another folder and results never mix.
``artifact.json``, written last, says what the key stood for, what it cost and the checksum of every file.

While it is made, an artifact is the folder ``.<name>-<key>``. What is in its ``unfinished`` outlives an interruption:
the parts of a frame, and a training's checkpoints. Whatever is not what its checksum says is told and made again.
"""

import ast
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from glore_lib.locks import waited_for
from glore_lib.params import Params, digest

RECORD, LOCK = "artifact.json", "lock"
UNFINISHED = "unfinished"
NOTE = "glore: "  # begins each line on stderr that tells what was found damaged

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

    def part(self, key: Any, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """A part of the frame that is being made, such as some of its samples: made only once for ``key``, however
        often making the whole is interrupted. Its file's name holds its checksum. Its ``attrs`` tell its seconds."""
        if not self._kept:
            return make()
        for path in self._kept.glob(f"{digest(key)}-*.parquet"):
            if checksum(path) == path.stem.partition("-")[2]:
                part = pd.read_parquet(path)
                self._found.append(part.attrs["seconds"])
                return part
            tell(f"{path.parent.parent.name[1:]}: the part {path.name} is changed since it was written; made again")
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
            unsealed(folder)
        except StoreError as damage:
            tell(f"artifact {damage}; made again")
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
                seal(making, record | {"info": info})
                making.replace(folder)
            finally:
                self._kept, self._found = outer
                if making.exists():
                    _empty(making)
                    if [path.name for path in kept.iterdir()] == [LOCK]:
                        shutil.rmtree(making)
                else:
                    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)


def begun(root: Path) -> dict[str, str]:
    """Of each artifact that is unfinished, what outlived the interruption: parts, or a training up to a step."""
    kept = {}
    for folder in sorted(root.glob(f".*/{UNFINISHED}")):
        steps = [int(path.name.rpartition("-")[2]) for path in folder.glob("training/checkpoint-*")]
        parts = len(list(folder.glob("*-*.parquet")))
        if steps or parts:
            kept[folder.parent.name[1:]] = f"trained up to step {max(steps)}" if steps else f"{parts} parts"
    return kept


def tell(damage: str) -> None:
    """Says on stderr what was found damaged; a pipeline keeps such lines out of what it renders."""
    print(f"{NOTE}{damage}", file=sys.stderr, flush=True)


def seal(folder: Path, record: dict[str, Any]) -> None:
    """Writes a folder's record, with the checksums of its files and of the record itself: it is whole now."""
    record = json.loads(json.dumps(record | {"files": _checksums(folder)}, default=str))
    write(folder / RECORD, json.dumps(record | {"checksum": digest(record)}, indent=1, sort_keys=True))


def unsealed(folder: Path) -> dict[str, Any]:
    """The record of a folder; raises StoreError where that, or a file that it names, is missing or changed."""
    try:
        record = json.loads((folder / RECORD).read_text())
        if record.pop("checksum") != digest(record):
            raise ValueError
    except FileNotFoundError:
        raise StoreError(f"{folder.name}: {RECORD} is missing") from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise StoreError(f"{folder.name}: {RECORD} is changed since it was written") from None
    found = _checksums(folder)
    for name, expected in record["files"].items():
        if found.get(name) != expected:
            state = "changed since it was written" if name in found else "missing"
            raise StoreError(f"{folder.name}: {name} is {state}")
    return record


def write(path: Path, text: str) -> None:
    """Writes a file that is there whole or not at all."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _checksums(folder: Path) -> dict[str, str]:
    names = {path: str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name: checksum(path) for path, name in names.items() if name != RECORD and not name.startswith(f"{UNFINISHED}/")
    }


def _empty(folder: Path) -> None:
    """Takes away all but what outlives an interruption."""
    for path in folder.iterdir():
        if path.is_dir() and path.name != UNFINISHED:
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()


def checksum(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def report_path(root: Path, params: Params, stage: str) -> Path:
    """Where the last cell of a run's notebook leaves the list of its artifacts (:meth:`glore_lib.run.Run.finish`)."""
    return root / "stages" / f"{params.run}-{params.digest()}" / f"{Path(stage).name}.json"


def reported(path: Path) -> dict[str, Any] | None:
    """The artifacts in such a list by their names; None where there is none, or where it is damaged."""
    try:
        return json.loads(path.read_text())["artifacts"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


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
def code_digest(*modules: str) -> str:
    """A hash of ``glore_lib`` modules and of all that they import: part of an artifact's key, so that results of other
    code are never taken for this code's. Of the tasks that :mod:`glore_lib.tasks` can load, those of ``modules`` alone
    count."""
    seen: dict[str, str] = {}
    todo = [*modules]
    while todo:
        name = todo.pop()
        path = Path(__file__).parent.parent.joinpath(*name.split("."))
        source = next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.exists()), None)
        if source and name not in seen:
            tree = ast.parse(source.read_text())
            seen[name] = source_digest(source)
            if name != "glore_lib.tasks":
                todo += [imported for node in ast.walk(tree) for imported in _imports(node)]
    return digest(seen)


def _imports(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("glore_lib"):
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names if alias.name.startswith("glore_lib")]
    return []
