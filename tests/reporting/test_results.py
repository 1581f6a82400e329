"""Run folders and the comparisons built from them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_figures import drafts, numbers, outcomes, step_scores

from glore_lib.params import ParamsError
from glore_lib.reporting import analysis_figures, results
from glore_lib.reporting.scoreboard import COLUMNS
from glore_lib.statistics import Estimate, row
from glore_lib.tasks.svamp import SVAMP


def save(folder: Path, run: str, rows: pd.DataFrame | None = None, caption: str = "A task", **about: object) -> Path:
    """Write a run folder without a run."""
    (folder / "tables").mkdir(parents=True)
    frames = {
        "numbers": numbers() if rows is None else rows,
        "scores_by_step": analysis_figures.scores_by_step_rows(step_scores()),
        "calibration": analysis_figures.calibration_rows(step_scores()),
        "reliability": analysis_figures.reliability_rows(step_scores()),
        "fixed_overlap": analysis_figures.fixed_overlap_rows(drafts()),
        "cost": analysis_figures.cost_rows(outcomes()),
    }
    for name, frame in frames.items():
        frame = frame[frame["task"] == frame["task"].iloc[0]].assign(task=run)
        frame.to_csv(folder / "tables" / f"{name}.csv", index=False)
    held = {"run": run, "caption": caption, "model": "m", "stands_for": "gsm8k", "stale": []} | about
    (folder / "run.json").write_text(json.dumps(held))
    return folder


def test_every_tables_caption_names_data_sets_splits_and_stale_artifacts(tmp_path, monkeypatch):
    monkeypatch.setenv("GLORE_DATA_DIR", str(tmp_path))
    folders = []
    for name, split, stale in (("a", "hub_700_300", []), ("b", "mawps_asdiv_1000", ["orm-12", "sorm-34"])):
        rows = [
            row(name, "m", "orm", metric, Estimate(0.5, 0.4, 0.6, 10))
            for metric in ("step_accuracy", "final_accuracy", "fixed_fraction")
        ]
        folders.append(save(tmp_path / name, name, pd.DataFrame(rows), SVAMP(split).caption, stale=stale))
    c = results.load_runs(folders)
    for table in results.TABLE_METRICS:
        results.save_table(c, table, tmp_path)
        caption = (tmp_path / "tables" / f"{table}.md").read_text().partition("\n\n")[0]
        assert caption == (
            "Per cent [95 % interval] (n). a: SVAMP, 700/300 by ID order. "
            "b: SVAMP, trained on MAWPS and ASDiv-A, tested on all 1,000. "
            "b uses artifacts computed by older code: orm-12, sorm-34."
        )


def test_a_comparison_holds_the_runs_rows_exactly_and_draws_all_from_them(tmp_path):
    values = np.random.default_rng(3).random(4) / 3
    rows = [
        row("NA", "m", "greedy", f"metric{i}", Estimate(value, value / 7, 0.9, 10)) for i, value in enumerate(values)
    ]
    folders = [save(tmp_path / "z", "z"), save(tmp_path / "NA", "NA", pd.DataFrame(rows))]
    c = results.write_comparison(folders, tmp_path / "out")
    assert [run["run"] for run in c.runs] == ["z", "NA"]
    held = c.tables["numbers"]
    assert list(held["task"].unique()) == ["z", "NA"]  # a name that pandas would read as a missing value
    assert held.loc[held["task"] == "NA", "value"].tolist() == values.tolist()
    written = {
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()
    }
    assert written == {
        "scoreboard.csv", *(f"tables/{name}.{suffix}" for name in results.TABLE_METRICS for suffix in ("csv", "md")),
        *(f"figures/{name}.{suffix}" for name in results.DRAW for suffix in ("csv", "png", "svg")),
        *(f"figures/{name}.{suffix}" for name in results.DIAGRAMS for suffix in ("png", "svg")),
    }  # fmt: skip
    again = results.read_table(tmp_path / "out" / "scoreboard.csv", COLUMNS)
    assert set(again["task"]) == {"z", "NA"}
    steps = pd.read_csv(tmp_path / "out" / "figures" / "calibration.csv", keep_default_na=False)
    assert list(steps["task"].unique()) == ["NA", "z"]
    files = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")}
    results.write_comparison(folders, tmp_path / "out")
    assert all(path.read_bytes() == content for path, content in files.items())


@pytest.mark.parametrize("content", ["", "{}", "[1]", "\xff"])
def test_a_damaged_run_is_named(tmp_path, content):
    folder = save(tmp_path / "a", "a")
    (folder / "run.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ParamsError, match=r"a/run.json: is damaged; glore run PARAMS --from 05 writes it again"):
        results.load_runs([folder])


def test_what_is_no_run_folder_or_given_twice_is_refused(tmp_path):
    folder = save(tmp_path / "a", "a")
    with pytest.raises(ParamsError, match=r"run folder .*/b: has no run.json; glore run writes one"):
        results.load_runs([folder, tmp_path / "b"])
    with pytest.raises(ParamsError, match="must be one or several folders of different runs, not a, a"):
        results.load_runs([folder, folder])
    with pytest.raises(ParamsError, match="not none"):
        results.load_runs([])
    (folder / "tables" / "cost.csv").unlink()
    with pytest.raises(ParamsError, match=r"cost.csv: no such file"):
        results.load_runs([folder])


def test_a_run_without_rows_of_a_figure_has_no_panel_in_it(tmp_path):
    folders = [save(tmp_path / "a", "a"), save(tmp_path / "b", "b")]
    header = ",".join(results.TABLES["cost"])
    (folders[0] / "tables" / "cost.csv").write_text(f"{header}\n")
    figure = results.save_figure(results.load_runs(folders), "cost", tmp_path)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["b"]
