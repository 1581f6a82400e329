"""Save a run's results as CSV files, and build the tables, figures and scoreboard of a comparison from them.

A run folder holds ``tables/<name>.csv`` for each name of :data:`TABLES`, ``tables/outcomes.parquet`` and ``run.json``;
its further seeds are such folders in it. A comparison is built from run folders alone: it needs no artifacts, no model
and no training.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import SVG
from matplotlib.figure import Figure

from glore_lib.artifacts.keys import code_hash
from glore_lib.artifacts.manifest import RUN_FILE, seed_folders
from glore_lib.artifacts.records import StoreError, check_schema, write
from glore_lib.method import evaluation
from glore_lib.method.evaluation import NUMBERS, Outcomes, from_frame, to_frame
from glore_lib.method.replication import Replication
from glore_lib.params import ParamsError
from glore_lib.reporting import ASSETS, analysis_figures, paper_figures, style
from glore_lib.reporting.analysis_figures import BY_STEP, INTERVAL
from glore_lib.reporting.scoreboard import benchmark, scoreboard, to_read
from glore_lib.reporting.tables import read_table, scored_steps, wide

RUN_FIELDS = ("run", "caption", "model", "stands_for", "stale", "seed", "params", "code_hash")
OUTCOMES = "outcomes.parquet"
DIAGRAMS = ("pipeline", "figure1", "figure3")
# The CSV files of a run, with their columns.
TABLES: dict[str, list[str]] = {
    "numbers": NUMBERS,
    "scores_by_step": [*BY_STEP, *INTERVAL],
    "calibration": [*BY_STEP, *INTERVAL],
    "reliability": [*BY_STEP, "bin", "score", *INTERVAL],
    "fixed_overlap": ["task", "fixed_by", "not_by", "value", "ci_low", "ci_high", "count", "n"],
    "cost": ["task", "setting", "method", *INTERVAL],
}
_LABELS = ("", "_exact")
_JUDGED = ("balanced_accuracy", "accuracy", "auc")
_RATES = ("false_positive_rate", "false_negative_rate")
TABLE_METRICS = {
    "table1": [
        *(f"step_{metric}{labels}" for labels in _LABELS for metric in (*_JUDGED, *_RATES)),
        *(f"step_{metric}_all{labels}" for labels in _LABELS for metric in _JUDGED),
        *(f"first_error_accuracy{labels}" for labels in _LABELS),
        *(f"step_{metric}_difference{labels}" for labels in _LABELS for metric in _JUDGED),
        *(f"first_error_accuracy_difference{labels}" for labels in _LABELS),
    ],
    "table2": [
        *(f"final_{metric}" for metric in (*_JUDGED, *_RATES)),
        *(f"final_{metric}_difference{p}" for metric in _JUDGED for p in ("", "_p")),
    ],
    "table3": ["fixed_fraction", "fixed_jaccard", "fixed_fraction_difference", "fixed_fraction_difference_p"],
    "transitions": ["wrong_to_right", "right_to_wrong", "unchanged"],
    "diagnostics": [
        "lowest_at_last_step", "final_auc", "final_auc_minimum", "final_auc_product",
        *(f"step_{metric}{refitted}{labels}" for labels in _LABELS for metric in ("brier", "calibration_error")
          for refitted in ("", "_refitted")),
    ],
}  # fmt: skip
# The functions that draw a figure from its rows.
DRAW: dict[str, Callable[[pd.DataFrame], Figure]] = {
    "figure4": paper_figures.figure4, "figure5": paper_figures.figure5, "figure6": paper_figures.figure6,
    "label_quality": analysis_figures.label_quality, "scores_by_step": analysis_figures.scores_by_step,
    "calibration": analysis_figures.calibration, "reliability": analysis_figures.reliability,
    "fixed_overlap": analysis_figures.fixed_overlap, "cost": analysis_figures.cost,
    "accuracy_by_tokens": analysis_figures.accuracy_by_tokens, "auc_by_step": analysis_figures.auc_by_step,
}  # fmt: skip
# The functions that select the part of ``numbers`` that a figure draws.
SELECT: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "figure4": paper_figures.figure4_rows, "figure5": paper_figures.figure5_rows,
    "figure6": paper_figures.figure6_rows, "label_quality": analysis_figures.label_quality_rows,
    "accuracy_by_tokens": analysis_figures.accuracy_by_tokens_rows, "auc_by_step": analysis_figures.auc_by_step_rows,
}  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """Results of one or several runs: their ``run.json`` and their tables, concatenated in the given order.

    ``own_numbers`` are the numbers in each run's folder, of its own seed alone. By run, ``seeds`` are the seeds whose
    results are there, in order, and ``outcomes`` the outcomes of each of them.
    """

    folders: list[Path]
    runs: list[dict[str, Any]]
    own_numbers: list[pd.DataFrame]
    tables: dict[str, pd.DataFrame]
    outcomes: dict[str, list[Outcomes]]
    seeds: dict[str, list[int]]

    @cached_property
    def numbers(self) -> pd.DataFrame:
        """The numbers of all runs, each over its seeds; computed on demand, since intervals take seconds."""
        return _concatenate([
            evaluation.numbers(run["run"], run["model"], None, outcomes) if len(outcomes) > 1
            else own.astype({"seed": "Int64"})
            for run, own in zip(self.runs, self.own_numbers, strict=True) for outcomes in [self.outcomes[run["run"]]]
        ])  # fmt: skip

    @property
    def stale_notes(self) -> list[str]:
        """Sentences that name the artifacts computed by older code, and the seeds computed by another version."""
        kept = {run["run"]: ", ".join(run["stale"]) for run in self.runs if run["stale"]}
        notes = [f"{run} uses artifacts computed by older code: {names}." for run, names in kept.items()]
        other = {run["run"]: _spans(run["other_code"]) for run in self.runs if run["other_code"]}
        return notes + [f"{run}: another version of the code computed seeds {names}." for run, names in other.items()]

    @property
    def captions(self) -> list[str]:
        """What each run is about, with its seeds, and the notes about older code."""
        return [f"{run['run']}: {run['caption']}; {self._seeds(run)}." for run in self.runs] + self.stale_notes

    def _seeds(self, run: dict[str, Any]) -> str:
        """Return a text such as "seed 0" or "5 seeds: 0-4"."""
        seeds = self.seeds[run["run"]]
        if len(seeds) == 1:
            return f"seed {seeds[0]}"
        return f"{len(seeds)} seeds: {_spans(seeds)} (diagnostic figures: seed {run['seed']})"


def _spans(seeds: Sequence[int]) -> str:
    """Return sorted seeds as a text such as "0-2, 5"."""
    rows = [[seed for _, seed in row] for _, row in groupby(enumerate(seeds), key=lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{row[0]}-{row[-1]}" if len(row) > 1 else f"{row[0]}" for row in rows)


def save_run(lab: Replication, out: str | Path) -> None:
    """Write the results of a run to ``out``: ``tables/<name>.csv`` for each of :data:`TABLES`, and ``run.json``."""
    steps = scored_steps(lab, "test", analysis_figures.STEP_SCORERS)
    right = lab.tables.right(lab.test.drafts, lab.test.refined)
    fixed = right.loc[~right["greedy"], list(analysis_figures.FIXERS)].assign(task=lab.run.params.run)
    tables = {
        "numbers": lab.numbers,
        "scores_by_step": analysis_figures.scores_by_step_rows(steps),
        "calibration": analysis_figures.calibration_rows(steps),
        "reliability": analysis_figures.reliability_rows(steps),
        "fixed_overlap": analysis_figures.fixed_overlap_rows(fixed),
        "cost": analysis_figures.cost_rows(lab.test.costs()),
    }
    for name, rows in tables.items():
        style.save_rows(rows, Path(out) / "tables", name)
    to_frame(lab.outcomes).to_parquet(Path(out) / "tables" / OUTCOMES, index=False)
    params = lab.run.params
    run = {
        "run": params.run, "caption": lab.run.task.caption, "model": params.base_model.source,
        "stands_for": benchmark(params.task), "stale": sorted(lab.run.store.stale), "seed": params.seed,
        "params": params.computing(), "code_hash": code_hash(params),
    }  # fmt: skip
    write(Path(out) / RUN_FILE, json.dumps(run, indent=1, ensure_ascii=False) + "\n")


def load_runs(folders: Sequence[str | Path]) -> Comparison:
    """Load the results of one or several runs, each with all seeds in its folder. A seed's folder is a run of one seed.

    Raises :class:`ParamsError` if no folder is given, two hold the same run, a seed's other parameters are not the
    run's, or a file is missing or damaged.
    """
    paths = [Path(folder) for folder in folders]
    runs = [_load_run(path) for path in paths]
    names = [run["run"] for run in runs]
    if not runs or len(set(names)) < len(names):
        raise ParamsError(f"runs: must be one or several folders of different runs, not {', '.join(names) or 'none'}")
    seeds = {run["run"]: _by_seed(path, run) for path, run in zip(paths, runs, strict=True)}
    outcomes = {run: _outcomes(run, folders) for run, folders in seeds.items()}
    read = {
        name: [read_table(path / "tables" / f"{name}.csv", columns) for path in paths]
        for name, columns in TABLES.items()
    }
    own_numbers = read.pop("numbers")
    tables = {name: _concatenate(of_runs) for name, of_runs in read.items()}
    return Comparison(paths, runs, own_numbers, tables, outcomes, {run: list(of) for run, of in seeds.items()})


def _concatenate(tables: list[pd.DataFrame]) -> pd.DataFrame:
    filled = [table for table in tables if len(table)]  # an empty table has no column types
    return pd.concat(filled or tables, ignore_index=True)


def _by_seed(folder: Path, run: dict[str, Any]) -> dict[int, Path]:
    """Return the folders of a run's seeds by seed, its own included; note in ``run`` which are of other code."""
    found, stale = {run["seed"]: folder}, {*run["stale"]}
    own = _flat(run["params"])
    for further in seed_folders(folder):
        other = _load_run(further)
        params = _flat(other["params"])
        for name in sorted((own.keys() | params.keys()) - {"seed"}):
            if (here := params.get(name)) != own.get(name):
                remedy = "remove it, or compute it again with glore run --seeds"
                raise ParamsError(f"seed folder {further}: {name} = {here!r}, in its run {own.get(name)!r}: {remedy}")
        if other["seed"] in found:
            raise ParamsError(f"seed folder {further}: holds seed {other['seed']}, as {found[other['seed']]} does")
        found[other["seed"]] = further
        stale |= {*other["stale"]}
        if other["code_hash"] != run["code_hash"]:
            run["other_code"].append(other["seed"])
    run["stale"] = sorted(stale)
    return dict(sorted(found.items()))


def _flat(params: dict[str, Any]) -> dict[Any, Any]:
    """Return nested parameters by their dotted names."""
    return pd.json_normalize(params).iloc[0].to_dict()


def _outcomes(run: str, folders: dict[int, Path]) -> list[Outcomes]:
    """Return the outcomes of a run's seeds, which must hold the same methods and metrics."""
    outcomes = [_load_outcomes(folder) for folder in folders.values()]
    for of_seed in outcomes[1:]:
        if differing := outcomes[0].keys() ^ of_seed.keys():
            some = " ".join(min(differing))
            raise ParamsError(f"run {run}: not all of its seeds have {some}; compute them by the same code")
    return outcomes


def _load_outcomes(folder: Path) -> Outcomes:
    path = folder / "tables" / OUTCOMES
    try:
        return from_frame(check_schema(pd.read_parquet(path), "outcomes"))
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; glore run PARAMS --from 05 writes it") from None
    except (OSError, ValueError, StoreError):
        raise ParamsError(f"{path}: is damaged; glore run PARAMS --from 05 writes it again") from None


def _load_run(folder: Path) -> dict[str, Any]:
    path = folder / RUN_FILE
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        return {name: run[name] for name in RUN_FIELDS} | {"other_code": []}
    except FileNotFoundError:
        raise ParamsError(f"run folder {folder}: has no {RUN_FILE}; glore run writes one") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise ParamsError(f"{path}: is damaged; glore run PARAMS --from 05 writes it again") from None


def save_table(c: Comparison, name: str, out: str | Path) -> pd.DataFrame:
    """Write a table of :data:`TABLE_METRICS` to ``out``/tables as CSV and as Markdown; return it to display."""
    folder = Path(out) / "tables"
    rows = c.numbers[c.numbers["metric"].isin(TABLE_METRICS[name])]
    style.save_rows(rows, folder, name)
    shown = wide(rows, [m for m in TABLE_METRICS[name] if "_difference" not in m])
    values, paired = (frame.reset_index().to_markdown(index=False) for frame in (shown, differences(c, name)))
    parts = [" ".join(["Per cent [95 % interval] (n).", *c.captions]), values]
    if any("_difference" in metric for metric in TABLE_METRICS[name]):
        parts += ["Paired differences, in points.", paired]
    write(folder / f"{name}.md", "\n\n".join(parts) + "\n")
    return shown


def differences(c: Comparison, name: str) -> pd.DataFrame:
    """Return the paired differences of a table of :data:`TABLE_METRICS`, in points, with their p values."""
    return wide(c.numbers, [m for m in TABLE_METRICS[name] if "_difference" in m])


def save_figure(c: Comparison, name: str, out: str | Path) -> Figure:
    """Draw a figure of :data:`DRAW` and write it to ``out``/figures as PNG, SVG and CSV."""
    rows = SELECT[name](c.numbers) if name in SELECT else c.tables[name]
    figure = DRAW[name](rows)
    if len(rows) and (missing := [run["run"] for run in c.runs if run["run"] not in set(rows.task)]):
        figure.supxlabel(f"{figure.get_supxlabel()}\nNo data: {', '.join(missing)}".strip(), fontsize=9.5)
    # The files of the step figures are sorted by run.
    rows = rows.sort_values("task", kind="stable") if "step" in rows else rows
    style.save(figure, rows, Path(out) / "figures", name)
    return figure


def save_diagram(name: str, out: str | Path) -> SVG:
    """Copy a diagram of :data:`DIAGRAMS` to ``out``/figures as SVG and PNG; return it to display."""
    folder = Path(out) / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in ("svg", "png"):
        shutil.copyfile(ASSETS / "diagrams" / f"{name}.{suffix}", folder / f"{name}.{suffix}")
    return SVG(filename=str(folder / f"{name}.svg"))


def save_scoreboard(c: Comparison, out: str | Path) -> pd.DataFrame:
    """Write ``out``/scoreboard.csv; return the table to display."""
    scores = scoreboard(c.outcomes, c.runs)
    style.save_rows(scores, Path(out), "scoreboard")
    return to_read(scores)


def write_comparison(folders: Sequence[str | Path], out: str | Path) -> Comparison:
    """Write all that notebook 06 writes to ``out``, apart from the notebook itself; return the loaded runs."""
    c = load_runs(folders)
    for name in TABLE_METRICS:
        save_table(c, name, out)
    for name in DRAW:
        save_figure(c, name, out)
    for name in DIAGRAMS:
        save_diagram(name, out)
    save_scoreboard(c, out)
    return c
