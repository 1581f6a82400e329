"""Find the artifacts of a run that older code made, before any work starts."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glore_lib.artifacts.keys import code_key
from glore_lib.artifacts.manifest import duration, stage_records
from glore_lib.artifacts.records import RECORD
from glore_lib.artifacts.store import changed_code
from glore_lib.params import Params


@dataclass(frozen=True)
class Stale:
    """An artifact that would be computed again: the reason, and the seconds that it took."""

    id: str
    reason: str
    seconds: float


def find_stale(root: Path, runs: Sequence[Params]) -> tuple[list[Stale], int]:
    """Return the stale artifacts of some runs, and how many artifacts the runs have.

    An artifact is stale if the code that computes it has changed, or if one of its inputs is stale. Nothing is loaded
    but the records in the folder ``root``.
    """
    keys: dict[str, dict[str, Any]] = {}
    for params in runs:
        for id in stage_records(root, params):
            with suppress(OSError, ValueError, KeyError):  # removed since, or damaged
                keys[id] = json.loads((root / id / RECORD).read_text(encoding="utf-8"))
    reasons: dict[str, str] = {}
    for id in sorted(keys, key=lambda id: _depth(id, keys)):
        key = keys[id]["key"]
        if changed := changed_code(key, _present(key)):
            reasons[id] = f"{', '.join(f'`{name}`' for name in changed)} changed"
        elif stale := [name for name in _inputs(key) if name in reasons]:
            reasons[id] = f"made from {stale[0]}"
    return [Stale(id, reason, keys[id]["seconds"]) for id, reason in reasons.items()], len(keys)


def _present(key: dict[str, Any]) -> dict[str, Any]:
    """Return the key as the present code would write it."""
    code = key.get("code", {})
    try:
        modules = code_key(code["start"], code["task"], code["backend"])
    except KeyError:  # the function has another name now
        modules = {}
    return key | {"code": code | {"modules": modules}}


def _inputs(key: dict[str, Any]) -> list[str]:
    """Return the artifacts that a key names, also where it names some rows of one."""
    return [name.partition("[")[0] for name in key.get("inputs", [])]


def _depth(id: str, keys: dict[str, dict[str, Any]]) -> int:
    inputs = [name for name in _inputs(keys[id]["key"]) if name in keys]
    return 1 + max((_depth(name, keys) for name in inputs), default=0)


def describe(stale: Sequence[Stale], total: int) -> str:
    """Return one line such as "3 of 14 artifacts, 57.1 h: `method/step_labels.py` changed"."""
    cost = duration(sum(artifact.seconds for artifact in stale))
    reasons = dict.fromkeys(artifact.reason for artifact in stale if not artifact.reason.startswith("made from "))
    return f"{len(stale)} of {total} artifacts, {cost}: {'; '.join(reasons)}"
