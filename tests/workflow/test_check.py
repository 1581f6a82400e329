"""``glore check``: it recomputes every number, finds the one that was changed, and makes nothing else."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from test_replication import SETTINGS, artifacts, forbid_work, script
from typer.testing import CliRunner, Result

from glore_lib.artifacts.records import verify_record, write_record
from glore_lib.cli import app
from glore_lib.method.replication import Replication
from glore_lib.params import ParamsError
from glore_lib.reporting.results import DRAW, TABLE_METRICS, TABLES, save_run, write_comparison
from glore_lib.workflow.check import check
from tiny import open_tiny


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
    changed = ("tables/table3.csv", f"tiny {table.loc[row, 'model']} global fixed_fraction: value")
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
    folder = next(path for path in store.glob("scores-balanced_orm-*") if "figure4" not in path.name)
    frame = pd.read_parquet(folder / "data.parquet")
    frame.assign(score=1 - frame["score"]).to_parquet(folder / "data.parquet", index=False)
    write_record(
        folder, {k: v for k, v in json.loads((folder / "artifact.json").read_text()).items() if k != "checksum"}
    )
    verify_record(folder)
    _, differences = check(out, store)
    files = {difference.file for difference in differences}
    assert {"tables/numbers.csv", "tables/calibration.csv"} <= files
    changed = {d.row.split()[2] for d in differences if d.file == "tables/numbers.csv"}
    assert any("balanced_orm" in method for method in changed)
    assert not changed & {"reranked", "bo3"}  # the ORM's


def test_a_missing_or_damaged_artifact_is_named(results):
    out, store = results
    samples = next(store.glob("samples-bo3-test-*"))
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
