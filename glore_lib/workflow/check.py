"""Recompute the numbers of a results folder, and list those that differ: ``glore check``.

The tables of a run are recomputed from its stored samples, labels and scores by the functions that made them; what is
stored of the numbers themselves is not read, and nothing is sampled, trained or scored. A comparison is recomputed
from its run folders.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isclose
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any, NamedTuple

import pandas as pd
from pydantic import ValidationError

from glore_lib.artifacts.manifest import read_manifest, run_folders
from glore_lib.artifacts.records import StoreError, verify_record
from glore_lib.artifacts.store import Artifact, Store
from glore_lib.method import replication
from glore_lib.method.replication import Replication
from glore_lib.models.launch import quiet
from glore_lib.params import Params, ParamsError
from glore_lib.reporting.results import save_run, write_comparison
from glore_lib.run import Run
from glore_lib.tasks import checked_task

CHECKED = ("tables/*.csv", "tables/*.parquet", "tables/*.md", "figures/*.csv", "scoreboard.csv")
# Columns that say what a row's number is, not which row it is.
MEASURED = {"value", "ci_low", "ci_high", "n", "count", "score", "clusters", "ours", "verdict", "hits", "counts"}
TOLERANCE = 1e-9  # another machine may add up in another order
ABSENT = "absent"


class Difference(NamedTuple):
    """A stored number that differs from the recomputed one."""

    file: str
    row: str
    stored: str
    recomputed: str


@dataclass
class ReadOnlyStore(Store):
    """Existing artifacts. A missing or damaged one is an error that names it.

    What :mod:`glore_lib.method.replication` derives from other artifacts, numbers above all, is made again, in the
    store ``derived``.
    """

    derived: Store = field(kw_only=True)

    def frame(self, name: str, schema: str, key: dict[str, Any], make: Any) -> Artifact:
        """Return an existing frame, or one derived again; raise ParamsError if it is missing or damaged."""
        if make.__module__ == replication.__name__:
            return self.derived.frame(name, schema, key, make)
        return super().frame(name, schema, key, make)

    def _is_whole(self, folder: Path) -> bool:
        if not folder.exists():
            why = "it is elsewhere, was removed, or the library has changed since: glore run makes it"
            raise ParamsError(f"artifacts {self.root}: has no {folder.name}, which the results need; {why}")
        try:
            verify_record(folder)
        except StoreError as damage:
            raise ParamsError(f"artifacts {self.root}: {damage}; glore run makes it again") from None
        return True


def check(out: Path, artifacts: Path) -> tuple[int, list[Difference]]:
    """Return how many numbers of the folder ``out`` were compared, and those that differ when recomputed.

    Raises :class:`ParamsError` where the results, their manifest or what they are recomputed from is missing,
    or no temporary folder can be used.
    """
    try:
        gettempdir()
    except FileNotFoundError as error:
        raise ParamsError(f"TMPDIR: must be a folder that can be written: {error.strerror}") from None
    with TemporaryDirectory() as scratch:
        again = Path(scratch) / "out"
        if "runs" in (manifest := read_manifest(out)):
            write_comparison(run_folders(out), again)
        else:
            save_run(open_stored(_params(manifest), artifacts, Path(scratch) / "artifacts"), again)
        files = {str(path.relative_to(root)) for root in (out, again) for glob in CHECKED for path in root.glob(glob)}
        compared = [cell for name in sorted(files) for cell in _cells(name, out / name, again / name)]
    return len(compared), [Difference(*map(str, cell)) for cell in compared if not _alike(*cell[2:])]


def open_stored(params: Params, artifacts: Path, derived: Path) -> Replication:
    """Open a run whose artifacts exist; what is made again of stored samples and scores goes to ``derived``.

    Raises :class:`ParamsError` where an artifact is missing, as it is asked for.
    """
    if not artifacts.is_dir():
        raise ParamsError(f"artifacts {artifacts}: no such folder; give the one of the run with --artifacts")
    quiet()
    return Replication(Run(params, ReadOnlyStore(artifacts, derived=Store(derived)), checked_task(params)))


def _params(manifest: dict[str, Any]) -> Params:
    try:
        return Params.model_validate(manifest["params"])
    except ValidationError as error:
        first = error.errors()[0]
        why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise ParamsError(f"manifest, run {manifest['run']}: made by another version: {why}") from None


def _cells(name: str, stored: Path, recomputed: Path) -> Iterator[tuple[str, str, Any, Any]]:
    """Yield every (file, row, stored value, recomputed value) of a table; of a Markdown table, its lines."""
    if not (stored.exists() and recomputed.exists()):
        yield name, "", "a file" if stored.exists() else ABSENT, "a file" if recomputed.exists() else ABSENT
        return
    if name.endswith(".md"):
        lines = [path.read_text(encoding="utf-8").splitlines() for path in (stored, recomputed)]
        before, after = ({f"line {i}": line for i, line in enumerate(of, start=1)} for of in lines)
    else:
        before, after = _by_row(stored), _by_row(recomputed)
    for row in before | after:
        yield name, row, before.get(row, ABSENT), after.get(row, ABSENT)


def _by_row(path: Path) -> dict[str, Any]:
    """Return the numbers of a CSV or parquet file by the text columns that name their row, and their own column."""
    if path.suffix == ".parquet":
        frame = pd.read_parquet(path)
    else:
        frame = pd.read_csv(path, keep_default_na=False, na_values=[""])
    names = [column for column in frame if column not in MEASURED]
    labels = map(" ".join, frame[names].astype("object").fillna("").astype("str").itertuples(index=False))
    return {
        f"{label}: {column}": value
        for label, row in zip(labels, frame.drop(columns=names).to_dict("records"), strict=True)
        for column, value in row.items()
    }


def _alike(stored: Any, recomputed: Any) -> bool:
    if isinstance(stored, str) or isinstance(recomputed, str):
        return stored == recomputed
    both_missing = pd.isna(stored) and pd.isna(recomputed)
    return both_missing or isclose(stored, recomputed, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
