"""``glore check``: are the numbers in a results folder those that the stored samples, labels and scores give?

Everything that notebook 06 writes as numbers is made again, by the same functions, from the artifacts behind it. What
is kept of the numbers themselves is not read, and nothing is sampled, trained or scored.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isclose
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from pydantic import ValidationError

from glore_lib.artifacts.manifest import read_manifest
from glore_lib.artifacts.records import StoreError, verify_record
from glore_lib.artifacts.store import Artifact, Store
from glore_lib.method import replication
from glore_lib.method.replication import Replication
from glore_lib.models.launch import quiet
from glore_lib.params import Params, ParamsError
from glore_lib.reporting.results import save_run, write_comparison
from glore_lib.run import Run
from glore_lib.tasks import checked_task

CHECKED = ("tables/*.csv", "tables/*.md", "figures/*.csv", "scoreboard.csv")
# Columns that say what a row's number is, not which row it is.
MEASURED = {"value", "ci_low", "ci_high", "n", "count", "score", "ours", "verdict"}
TOLERANCE = 1e-9  # another machine may add up in another order
ABSENT = "absent"


@dataclass(frozen=True)
class Difference:
    """A number of a results folder that is not what the artifacts give."""

    file: str
    row: str
    stored: str
    recomputed: str


@dataclass
class Kept(Store):
    """The artifacts that there are. One that is missing or damaged is an error that names it; only what
    :mod:`glore_lib.method.replication` works out of others, numbers above all, is made, anew and in the folder ``apart``."""

    apart: Store = field(kw_only=True)

    def frame(self, name: str, schema: str, key: dict[str, Any], make: Any) -> Artifact:
        """The frame that is there; raises ParamsError where it is not and is none of numbers."""
        if make.__module__ == replication.__name__:
            return self.apart.frame(name, schema, key, make)
        return super().frame(name, schema, key, make)

    def _is_whole(self, folder: Path) -> bool:
        if not folder.exists():
            raise ParamsError(
                f"artifacts {self.root}: has no {folder.name}, on which the results rest; it is kept elsewhere, was "
                "removed, or the library has changed since: glore run makes it"
            )
        try:
            verify_record(folder)
        except StoreError as damage:
            raise ParamsError(f"artifacts {self.root}: {damage}; glore run makes it again") from None
        return True


def check(out: Path, artifacts: Path) -> tuple[int, list[Difference]]:
    """How many numbers of the results folder ``out`` were compared, and those that differ from what the artifacts give.

    Raises :class:`ParamsError` where the results, their manifest or an artifact behind them are missing.
    """
    manifest = read_manifest(out)
    if not artifacts.is_dir():
        raise ParamsError(f"artifacts {artifacts}: no such folder; give the one of the run with --artifacts")
    quiet()
    with TemporaryDirectory() as scratch:
        apart, again = Path(scratch) / "artifacts", Path(scratch) / "out"
        labs = [_opened(name, held["params"], artifacts, apart) for name, held in manifest["runs"].items()]
        _recompute(labs, again)
        files = {str(path.relative_to(root)) for root in (out, again) for glob in CHECKED for path in root.glob(glob)}
        compared = [cell for name in sorted(files) for cell in _cells(name, out / name, again / name)]
    return len(compared), [Difference(*map(str, cell)) for cell in compared if not _alike(*cell[2:])]


def _opened(name: str, held: dict[str, Any], artifacts: Path, apart: Path) -> Replication:
    try:
        params = Params.model_validate(held)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ParamsError(f"manifest, run {name}: {where}: {first['msg']}; made by another version") from None
    return Replication(Run(params, Kept(artifacts, apart=Store(apart)), checked_task(params)))


def _recompute(labs: list[Replication], out: Path) -> None:
    """Write what notebooks 05 and 06 write."""
    folders = [out.parent / "runs" / lab.run.params.run for lab in labs]
    for lab, folder in zip(labs, folders, strict=True):
        save_run(lab, folder)
    write_comparison(folders, out)


def _cells(name: str, stored: Path, recomputed: Path) -> Iterator[tuple[str, str, Any, Any]]:
    """Every (file, row, stored value, recomputed value) of a table; of a Markdown table, its lines."""
    if not (stored.exists() and recomputed.exists()):
        yield name, "", *(("a file" if path.exists() else ABSENT) for path in (stored, recomputed))
        return
    if name.endswith(".md"):
        lines = [path.read_text().splitlines() for path in (stored, recomputed)]
        before, after = ({f"line {i}": line for i, line in enumerate(of, start=1)} for of in lines)
    else:
        before, after = _by_row(stored), _by_row(recomputed)
    for row in before | after:
        yield name, row, before.get(row, ABSENT), after.get(row, ABSENT)


def _by_row(path: Path) -> dict[str, Any]:
    """The numbers of a CSV by the words that name their row, and their column."""
    frame = pd.read_csv(path, keep_default_na=False, na_values=[""])
    names = [column for column in frame if column not in MEASURED]
    labels = frame[names].fillna("").astype("str").agg(" ".join, axis=1)
    return {
        f"{label}: {column}": value
        for column in frame.columns.drop(names)
        for label, value in zip(labels, frame[column], strict=True)
    }


def _alike(stored: Any, recomputed: Any) -> bool:
    if isinstance(stored, str) or isinstance(recomputed, str):
        return stored == recomputed
    both_missing = pd.isna(stored) and pd.isna(recomputed)
    return both_missing or isclose(stored, recomputed, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
