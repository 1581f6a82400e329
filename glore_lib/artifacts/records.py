"""Schemas of the stored frames, and folders whose files are verified by checksum."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from glore_lib.params import ParamsError, digest

RECORD = "artifact.json"
WEIGHTS = ".safetensors"
LEFT_OUT = "left_out.json"  # in the folder of an artifact that came without some of its files: their names
RETRAIN = "GLORE_RETRAIN"  # environment variable: train models again whose weights were left out, where they are needed
UNFINISHED = "unfinished"
NOTE = "glore: "  # prefix of warnings about damaged files on stderr

# Columns and types of the frames that stages exchange; checked on write and on read.
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
    "soft_labels": {"question_id": "str", "sample_id": "str", "step": "int64", "label": "float64"},
    "step_scores": {
        "question_id": "str", "sample_id": "str", "step": "int64", "model": "str", "score": "float64",
    },
    "pairs": {"question_id": "str", "kind": "str", "draft": "str", "first_error": "int64", "target": "str"},
    "refinements": {
        "question_id": "str", "sample_id": "str", "kind": "str", "first_error": "int64", "text": "str",
        "final_answer": "str", "is_correct": "bool",
    },
    "attempts": {
        "question_id": "str", "kind": "str", "draft": "str", "first_error": "int64", "text": "str",
        "is_correct": "bool",
    },
    "outcomes": {
        "method": "str", "metric": "str", "part": "int64", "question_id": "str", "hits": "float64", "counts": "float64",
    },
}  # fmt: skip


class StoreError(RuntimeError):
    """An artifact that is not what its record says it is."""


def check_schema(frame: pd.DataFrame, schema: str) -> pd.DataFrame:
    """Return ``frame`` with the columns of a schema, in their order and types; raise StoreError if it lacks them."""
    columns = SCHEMAS[schema]
    if set(frame.columns) != set(columns):
        raise StoreError(f"{schema}: columns {sorted(frame.columns)}, expected {sorted(columns)}")
    checked = frame[list(columns)].astype(columns)
    for name, dtype in columns.items():
        if dtype != "float64" and (checked[name] != frame[name]).any():
            raise StoreError(f"{schema}: column {name} holds {frame[name].dtype} values that are not all {dtype}")
    return checked


def warn(damage: str) -> None:
    """Print a warning about a damaged file on stderr; the pipeline keeps such lines out of rendered notebooks."""
    print(f"{NOTE}{damage}", file=sys.stderr, flush=True)


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write the record of a folder, with the checksums of its files and of the record itself."""
    record = json.loads(json.dumps(record | {"files": checksums(folder)}, default=str))
    write(folder / RECORD, json.dumps(record | {"checksum": digest(record)}, indent=1, sort_keys=True))


def left_out(folder: Path) -> list[str]:
    """Return the files of an artifact that ``glore pack`` left out, and that are not there: a model's weights."""
    try:
        names = json.loads((folder / LEFT_OUT).read_text(encoding="utf-8"))
        return [name for name in names if not (folder / name).exists()]
    except (OSError, ValueError, TypeError):
        return []


def check_weights(folder: Path) -> None:
    """Raise :class:`ParamsError` if the weights of an artifact were left out."""
    if left_out(folder):
        remedy = f"copy {folder.name} from where it was computed, or give --retrain to train it again"
        raise ParamsError(f"artifacts {folder.parent}: the weights of {folder.name} were not packed; {remedy}")


def verify_record(folder: Path) -> dict[str, Any]:
    """Return the record of a folder; raise StoreError if it, or a file that it names, is missing or was modified.

    Files that were left out may be missing.
    """
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if record.pop("checksum") != digest(record):
            raise ValueError
    except FileNotFoundError:
        raise StoreError(f"{folder.name}: {RECORD} is missing") from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise StoreError(f"{folder.name}: {RECORD} was modified after it was written") from None
    found, absent = checksums(folder), left_out(folder)
    for name, expected in record["files"].items():
        if found.get(name) != expected and name not in absent:
            state = "was modified after it was written" if name in found else "is missing"
            raise StoreError(f"{folder.name}: {name} {state}")
    return record


def write(path: Path, text: str) -> None:
    """Write a file atomically."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of an artifact but its record, by its path in the folder."""
    names = {path: str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name: checksum(path) for path, name in names.items() if name != RECORD and not name.startswith(f"{UNFINISHED}/")
    }


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
