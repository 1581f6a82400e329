"""Run folders and the comparisons built from them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_figures import drafts, numbers, outcomes, step_scores

from glore_lib.method.evaluation import to_frame
from glore_lib.params import ParamsError
from glore_lib.reporting import analysis_figures, results
from glore_lib.reporting.scoreboard import COLUMNS
from glore_lib.reporting.tables import read_table
from glore_lib.statistics import Estimate, Outcome, row
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
        frame = frame[frame["task"] == frame["task"].iloc[0]].assign(task=run).reindex(columns=results.TABLES[name])
        frame.to_csv(folder / "tables" / f"{name}.csv", index=False)
    of_questions = {("greedy", "accuracy"): Outcome.of([1, 1, 0], ["q0", "q1", "q2"])}
    to_frame(of_questions).to_parquet(folder / "tables" / "outcomes.parquet", index=False)
    params = {"run": run, "seed": 0, "student": {"rounds": 1, "start": "sft"}}
    held = {"run": run, "caption": caption, "model": "m", "stands_for": "gsm8k", "stale": [], "seed": 0,
            "params": params, "code_hash": "c0de"} | about  # fmt: skip
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
            "Per cent [95 % interval] (n). a: SVAMP, 700/300 by ID order; seed 0. "
            "b: SVAMP, trained on MAWPS and ASDiv-A, tested on all 1,000; seed 0. "
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
    held = c.numbers
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
    again = read_table(tmp_path / "out" / "scoreboard.csv", COLUMNS)
    assert set(again["task"]) == {"z", "NA"}
    steps = pd.read_csv(tmp_path / "out" / "figures" / "calibration.csv", keep_default_na=False)
    assert list(steps["task"].unique()) == ["NA", "z"]
    files = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")}
    results.write_comparison(folders, tmp_path / "out")
    assert all(path.read_bytes() == content for path, content in files.items())


def save_seed(run: Path, seed: int, **about: object) -> Path:
    """Write the results of a further seed of a run, whose first ``seed`` questions are right."""
    params = {"run": run.name, "seed": seed, "student": {"rounds": 1, "start": "sft"}}
    folder = save(run / "seeds" / str(seed), run.name, **({"seed": seed, "params": params} | about))
    right = Outcome.of([i < seed for i in range(3)], ["q0", "q1", "q2"])
    to_frame({("greedy", "accuracy"): right}).to_parquet(folder / "tables" / "outcomes.parquet", index=False)
    return folder


def test_a_run_is_loaded_with_the_seeds_in_its_folder(tmp_path):
    folders = [save(tmp_path / name, name, seed=2 if name == "b" else 0) for name in ("a", "b")]
    for seed in (10, 3, 1):
        save_seed(folders[1], seed)
    (tmp_path / "b" / "seeds" / "4").mkdir()  # in progress: it has no results yet
    c = results.load_runs(folders)
    assert c.seeds == {"a": [0], "b": [1, 2, 3, 10]}
    right = {run: [of["greedy", "accuracy"].hits.sum() for of in seeds] for run, seeds in c.outcomes.items()}
    assert right == {"a": [2], "b": [1, 2, 3, 3]}
    numbers = c.numbers
    pd.testing.assert_frame_equal(numbers[numbers["task"] == "a"], results.load_runs(folders[:1]).numbers)
    (over,) = numbers[numbers["task"] == "b"].itertuples()
    assert (over.method, over.metric, over.value) == ("greedy", "accuracy", pytest.approx((1 + 2 + 3 + 3) / 12))
    assert pd.isna(over.seed)
    assert c.captions == ["a: A task; seed 0.", "b: A task; 4 seeds: 1-3, 10 (diagnostic figures: seed 2)."]
    alone = results.load_runs([tmp_path / "b" / "seeds" / "3"])
    assert (alone.seeds, alone.captions) == ({"b": [3]}, ["b: A task; seed 3."])
    assert len(alone.outcomes["b"]) == 1


def test_captions_name_seeds_of_older_code(tmp_path):
    run = save(tmp_path / "a", "a", stale=["orm-12"])
    save_seed(run, 1, stale=["orm-34"])
    for seed in (2, 3):
        save_seed(run, seed, code_hash="0ther")
    assert results.load_runs([run]).captions[1:] == [
        "a uses artifacts computed by older code: orm-12, orm-34.",
        "a: another version of the code computed seeds 2-3.",
    ]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"student": {"rounds": 2, "start": "sft"}}, r"student.rounds = 2, in its run 1"),
        ({"student": {"rounds": 1, "start": "one_shot"}}, r"student.start = 'one_shot', in its run 'sft'"),
        ({"student": {"rounds": 1}}, r"student.start = None, in its run 'sft'"),
        ({"new": [1, 2]}, r"new = \[1, 2\], in its run None"),
    ],
)
def test_a_seed_of_other_parameters_is_refused(tmp_path, changed, why):
    run = save(tmp_path / "a", "a")
    params = {"run": "a", "seed": 1, "student": {"rounds": 1, "start": "sft"}}
    save_seed(run, 1, params=params | changed)
    with pytest.raises(ParamsError, match=rf"seed folder .*/a/seeds/1: {why}: remove it, or compute it again"):
        results.load_runs([run])


def test_a_seed_without_a_number_of_the_others_is_refused(tmp_path):
    run = save(tmp_path / "a", "a")
    path = save_seed(run, 1) / "tables" / "outcomes.parquet"
    frame = pd.read_parquet(path)
    pd.concat([frame, frame.assign(metric="fixed_fraction")]).to_parquet(path)
    with pytest.raises(ParamsError, match="run a: not all of its seeds have greedy fixed_fraction; compute them by"):
        results.load_runs([run])


def test_a_seed_that_is_there_twice_is_refused(tmp_path):
    run = save(tmp_path / "a", "a", seed=1)
    save_seed(run, 1)
    with pytest.raises(ParamsError, match=r"seed folder .*/a/seeds/1: holds seed 1, as .*/a does"):
        results.load_runs([run])


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"no parquet"),
    lambda path: pd.read_parquet(path).drop(columns="counts").to_parquet(path)])  # fmt: skip
def test_outcomes_that_are_lost_or_damaged_are_named(tmp_path, damage):
    damage(save(tmp_path / "a", "a") / "tables" / "outcomes.parquet")
    with pytest.raises(ParamsError, match=r"a/tables/outcomes.parquet: .*; glore run PARAMS --from 05 writes it"):
        results.load_runs([tmp_path / "a"])


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
