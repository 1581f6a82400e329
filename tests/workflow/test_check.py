"""``glore check``: it recomputes every number, finds the one that was changed, and makes nothing else."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from test_replication import SETTINGS, artifacts, forbid_work, script
from typer.testing import CliRunner, Result

from clone import TINY
from glore_lib.artifacts.manifest import read_manifest
from glore_lib.artifacts.records import verify_record, write_record
from glore_lib.cli import app
from glore_lib.method.replication import Replication
from glore_lib.params import ParamsError, load_params
from glore_lib.reporting.results import DRAW, TABLE_METRICS, TABLES, load_runs, save_run, write_comparison
from glore_lib.run import Run
from glore_lib.workflow.check import check
from glore_lib.workflow.pipeline import FIGURES, STAGES, SeedResults, render
from tiny import Scripted, open_tiny, solver


def save_results(root: Path, base: Path, **settings: Any) -> tuple[Path, Path]:
    """Make a run folder and a comparison folder beside it, less the notebooks, and the artifacts behind them."""
    with pytest.MonkeyPatch.context() as patch:
        run = open_tiny(base, root / "artifacts", **settings)
        script(run, patch)
        save_run(Replication(run), root / "results" / "tiny")
    write_comparison([root / "results" / "tiny"], root / "results" / "all")
    about = {"run": "tiny", "params_hash": run.params.digest(), "params": run.params.model_dump(mode="json")}
    about["code_hash"] = "c0de"
    compared = {"runs": {"tiny": {"folder": "../tiny", "params_hash": run.params.digest(), "code_hash": "c0de"}}}
    for name, manifest in (("tiny", about), ("all", compared)):
        done = {"status": "done", "seconds": 90.0, "stages": [], "outputs": []}
        (root / "results" / name / "manifest.json").write_text(json.dumps(manifest | done))
    return root / "results", root / "artifacts"


@pytest.fixture(scope="module")
def made(tiny_base, tmp_path_factory) -> tuple[Path, Path]:
    return save_results(tmp_path_factory.mktemp("made"), tiny_base, **SETTINGS)


@pytest.fixture
def results(made, tmp_path, monkeypatch) -> tuple[Path, Path]:
    """Copy the run's folder and its artifacts, for a test to change; whatever samples, trains or scores fails."""
    forbid_work(monkeypatch)
    folder, store = (shutil.copytree(folder, tmp_path / folder.name) for folder in made)
    return folder / "tiny", store


@pytest.fixture(scope="module")
def seeds(made, tiny_base, tmp_path_factory) -> tuple[Path, Path]:
    """Compute seed 1 into the run's folder, as glore run --seeds does, and compare both seeds."""
    root = tmp_path_factory.mktemp("seeds")
    folder, store = (shutil.copytree(folder, root / folder.name) for folder in made)
    overrides = {key.replace("__", "."): value for key, value in SETTINGS.items()}
    overrides |= {"base_model.source": str(tiny_base), "seed": 1}
    of_seed = SeedResults(folder / "tiny" / "seeds" / "1", artifacts=store, params=load_params(TINY, overrides))
    of_seed.plan(TINY, overrides, [stage for stage in STAGES if stage != FIGURES])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "sampler", lambda self, source: Scripted(self.tokenizer, solver(self, 0.5)))
        render([of_seed])
    write_comparison([folder / "tiny"], folder / "all")
    return folder, store


def test_a_further_seed_is_computed_as_the_run_is(seeds):
    results, _ = seeds
    folder = results / "tiny" / "seeds" / "1"
    manifest = read_manifest(folder)
    assert manifest["status"] == "done"
    tables = [*(f"tables/{name}.csv" for name in TABLES), "tables/outcomes.parquet"]
    assert manifest["outputs"] == sorted(["run.json", *tables])
    assert sorted(path.name for path in (folder / "tables").iterdir()) == sorted(
        path.name for path in (results / "tiny" / "tables").iterdir()
    )
    own, further = (pd.read_csv(f / "tables" / "numbers.csv") for f in (results / "tiny", folder))
    assert own[["method", "metric"]].equals(further[["method", "metric"]])
    assert (set(own["seed"]), set(further["seed"])) == ({0}, {1})
    assert own["value"].tolist() != further["value"].tolist()


def test_a_seed_is_checked_as_a_run_is(seeds, tmp_path, monkeypatch):
    forbid_work(monkeypatch)
    results, store = seeds
    compared, differences = check(results / "tiny" / "seeds" / "1", store)
    assert compared > 100 and differences == []
    assert check(results / "all", tmp_path)[1] == []
    folder = shutil.copytree(results / "tiny" / "seeds" / "1", tmp_path / "seed")
    path = folder / "tables" / "outcomes.parquet"
    outcomes = pd.read_parquet(path)
    row = outcomes.index[(outcomes["method"] == "greedy") & (outcomes["metric"] == "accuracy")][0]
    outcomes.loc[row, "hits"] = 1 - (right := outcomes.loc[row, "hits"])
    outcomes.to_parquet(path, index=False)
    (difference,) = check(folder, store)[1]
    assert (difference.file, difference.stored, difference.recomputed) == (
        "tables/outcomes.parquet", str(1 - right), str(right),
    )  # fmt: skip
    assert difference.row == f"greedy accuracy 0 {outcomes.loc[row, 'question_id']}: hits"


def test_the_check_of_a_comparison_notices_a_seed_that_was_added(seeds, tmp_path):
    results = shutil.copytree(seeds[0], tmp_path / "results")
    c = load_runs([results / "tiny"])
    numbers = c.numbers.set_index(["method", "metric"])
    values = [of["greedy", "accuracy"].value for of in c.outcomes["tiny"]]
    assert c.seeds == {"tiny": [0, 1]} and values[0] != values[1]
    assert numbers.loc[("greedy", "accuracy"), "value"] == pytest.approx(sum(values) / 2)
    shutil.rmtree(results / "tiny" / "seeds")
    files = {difference.file for difference in check(results / "all", tmp_path)[1]}
    assert {"tables/table1.md", "tables/table3.csv", "scoreboard.csv", "figures/figure6.csv"} <= files


def glore_check(out: Path, store: Path) -> Result:
    return CliRunner().invoke(app, ["check", str(out), "--artifacts", str(store)])


def test_all_numbers_agree_and_nothing_is_made_or_read_of_them(results):
    out, store = results
    for folder in (*store.glob("numbers-*"), *store.glob("resampled-*")):
        shutil.rmtree(folder)
    before = artifacts(store)
    compared, differences = check(out, store)
    assert differences == []
    rows = {path: len(pd.read_csv(path)) for path in out.glob("tables/*.csv")}
    assert len(rows) == len(TABLES)
    assert compared >= 4 * sum(rows.values())
    assert artifacts(store) == before
    shown = glore_check(out, store)
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert shown.stdout == f"{out}: all {compared:,} numbers agree\n"


def test_a_comparison_is_checked_against_its_run_folders_alone(results):
    out = results[0].parent / "all"
    compared, differences = check(out, out / "no artifacts")
    assert differences == []
    rows = {path: len(pd.read_csv(path)) for path in [*out.glob("*/*.csv"), out / "scoreboard.csv"]}
    assert len(rows) == len(TABLE_METRICS) + len(DRAW) + 1
    assert compared > 4 * sum(rows.values())


def test_a_changed_number_a_lost_row_and_a_strange_file_are_reported(results):
    out, store = results[0].parent / "all", results[1]
    table = pd.read_csv(out / "tables" / "table3.csv")
    row = table[(table["method"] == "global") & (table["metric"] == "fixed_fraction")].index[0]
    right = table.loc[row, "value"]
    table.loc[row, "value"] = 0.123
    table.to_csv(out / "tables" / "table3.csv", index=False)
    scores = pd.read_csv(out / "scoreboard.csv")
    lost = scores.iloc[0]
    scores.iloc[1:].to_csv(out / "scoreboard.csv", index=False)
    (out / "figures" / "figure9.csv").write_text("value\n1\n")
    (out / "figures" / "cost.csv").unlink()
    _, differences = check(out, store)
    found = {(d.file, d.row): (d.stored, d.recomputed) for d in differences}
    changed = ("tables/table3.csv", f"tiny {table.loc[row, 'model']} 0 global fixed_fraction: value")
    assert found.pop(changed) == ("0.123", str(right))
    assert found.pop(("figures/figure9.csv", "")) == ("a file", "absent")
    assert found.pop(("figures/cost.csv", "")) == ("absent", "a file")
    assert {file for file, _ in found} == {"scoreboard.csv"}
    assert all(lost["claim"] in row and stored == "absent" for (_, row), (stored, _) in found.items())
    shown = glore_check(out, store)
    assert shown.exit_code == 1
    assert shown.stderr == f"error: {out}: {len(differences)} of {check(out, store)[0]:,} numbers differ\n"
    assert "0.123" in shown.stdout


def test_a_changed_number_of_a_run_is_found_in_its_folder(results):
    out, store = results
    numbers = pd.read_csv(out / "tables" / "numbers.csv")
    right = numbers.loc[3, "value"]
    numbers.loc[3, "value"] = 0.123
    numbers.to_csv(out / "tables" / "numbers.csv", index=False)
    (difference,) = check(out, store)[1]
    assert (difference.file, difference.stored, difference.recomputed) == ("tables/numbers.csv", "0.123", str(right))


def test_other_stored_scores_give_other_numbers(results):
    """The numbers are computed from the scores, not from stored numbers."""
    out, store = results
    for folder in store.glob("scores-sorm_raw-*"):  # the one that no refinement depends on
        frame = pd.read_parquet(folder / "data.parquet")
        frame.assign(score=1 - frame["score"]).to_parquet(folder / "data.parquet", index=False)
        record = json.loads((folder / "artifact.json").read_text())
        write_record(folder, {k: v for k, v in record.items() if k != "checksum"})
        verify_record(folder)
    _, differences = check(out, store)
    assert {difference.file for difference in differences} == {"tables/numbers.csv", "tables/outcomes.parquet"}
    changed = {d.row.split()[3] for d in differences if d.file == "tables/numbers.csv"}
    assert changed and all("sorm_raw" in method for method in changed)


def test_a_missing_or_damaged_artifact_is_named(results):
    out, store = results
    samples = next(store.glob("samples-pool-test-*"))
    (samples / "data.parquet").write_bytes(b"no parquet")
    with pytest.raises(ParamsError, match=f"{samples.name}: data.parquet was modified"):
        check(out, store)
    assert samples.exists()  # a damaged artifact is reported, and left to glore run
    shutil.rmtree(samples)
    shown = glore_check(out, store)
    assert shown.exit_code == 2
    assert samples.name in shown.stderr


def test_missing_folders_are_bad_input(results, tmp_path):
    out, store = results
    for arguments, named in (((tmp_path / "none", store), "none"), ((out, tmp_path / "nowhere"), "nowhere")):
        shown = glore_check(*arguments)
        assert (shown.exit_code, shown.stdout) == (2, "")
        assert shown.stderr.startswith("error: ")
        assert named in shown.stderr
