"""``glore check``: it works out every number from the artifacts, finds the one that was changed, and makes no more."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from test_replication import SETTINGS, artifacts, forbid_work, script
from typer.testing import CliRunner, Result

from glore_lib.artifacts.records import verify_record, write_record
from glore_lib.cli import app
from glore_lib.method.replication import Replication
from glore_lib.params import ParamsError
from glore_lib.reporting import results as reporting
from glore_lib.workflow.check import check
from tiny import open_tiny


@pytest.fixture(scope="module")
def made(tiny_base, tmp_path_factory) -> tuple[Path, Path]:
    """A results folder as notebook 06 leaves it and the artifacts behind it."""
    root = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        run = open_tiny(tiny_base, root / "artifacts", **SETTINGS)
        script(run, patch)
        lab, out = Replication(run), root / "out"
        reporting.save_run(lab, root / "tiny")
        reporting.write_comparison([root / "tiny"], out)
    runs = {"tiny": {"params": run.params.model_dump(mode="json")}}
    (out / "manifest.json").write_text(json.dumps({"runs": runs, "stages": []}))
    return out, root / "artifacts"


@pytest.fixture
def results(made, tmp_path, monkeypatch) -> tuple[Path, Path]:
    """Copies of both, for a test to spoil; whatever samples, trains or scores fails."""
    forbid_work(monkeypatch)
    return tuple(shutil.copytree(folder, tmp_path / folder.name) for folder in made)


def glore_check(out: Path, store: Path) -> Result:
    return CliRunner().invoke(app, ["check", str(out), "--artifacts", str(store)])


def test_all_numbers_agree_and_nothing_is_made_or_read_of_them(results):
    out, store = results
    for folder in (*store.glob("numbers-*"), *store.glob("resampled-*")):
        shutil.rmtree(folder)
    before = artifacts(store)
    compared, differences = check(out, store)
    assert differences == []
    rows = {path: len(pd.read_csv(path)) for path in [*out.glob("*/*.csv"), out / "scoreboard.csv"]}
    assert len(rows) == len(reporting.TABLE_METRICS) + len(reporting.DRAW) + 1
    assert compared > 4 * sum(rows.values())
    assert artifacts(store) == before
    told = glore_check(out, store)
    assert (told.exit_code, told.stderr) == (0, "")
    assert told.stdout == f"{out}: all {compared:,} numbers are what the artifacts give\n"


def test_a_changed_number_a_lost_row_and_a_strange_file_are_told(results):
    out, store = results
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
    told = glore_check(out, store)
    assert told.exit_code == 1
    assert told.stderr == f"error: {out}: {len(differences)} of {check(out, store)[0]:,} numbers differ\n"
    assert "0.123" in told.stdout


def test_other_stored_scores_give_other_numbers(results):
    """So it is from the scores that the numbers are made, not from what was kept of them."""
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
    assert {"tables/table1.csv", "tables/table1.md", "figures/calibration.csv"} <= files
    assert "figures/figure6.csv" not in files  # the ORM's


def test_a_missing_or_damaged_artifact_is_named(results):
    out, store = results
    samples = next(store.glob("samples-bo3-test-*"))
    (samples / "data.parquet").write_bytes(b"no parquet")
    with pytest.raises(ParamsError, match=f"{samples.name}: data.parquet is changed"):
        check(out, store)
    assert samples.exists()  # what is damaged is told, and left to glore run
    shutil.rmtree(samples)
    told = glore_check(out, store)
    assert told.exit_code == 2
    assert samples.name in told.stderr


def test_missing_folders_are_bad_input(results, tmp_path):
    out, store = results
    for arguments, named in (((tmp_path / "none", store), "none"), ((out, tmp_path / "nowhere"), "nowhere")):
        told = glore_check(*arguments)
        assert (told.exit_code, told.stdout) == (2, "")
        assert told.stderr.startswith("error: ")
        assert named in told.stderr
