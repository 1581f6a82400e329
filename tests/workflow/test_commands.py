"""Every command on a run without Figure 4, and on one without SFT, as README shows them."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from test_check import save_results
from test_replication import SETTINGS, forbid_work
from typer.testing import CliRunner, Result

from clone import TINY
from glore_lib.cli import app
from glore_lib.reporting.results import TABLES

RUNS = {
    "without Figure 4": {"reward_models__figure4": False, "reward_models__figure4_training": None},
    "without SFT": {"student__start": "one_shot"},
    "without both": {
        "student__start": "one_shot", "reward_models__figure4": False, "reward_models__figure4_training": None
    },
}  # fmt: skip


def glore(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


ALONE = [pytest.param(name, marks=pytest.mark.long) for name in RUNS if name != "without both"]


@pytest.fixture(scope="module", params=[*ALONE, "without both"])
def made(request, tiny_base, tmp_path_factory) -> tuple[Path, Path]:
    """Return the folders of results and of artifacts; results/tiny holds the run, results/all the comparison."""
    return save_results(tmp_path_factory.mktemp("made"), tiny_base, **SETTINGS | RUNS[request.param])


@pytest.fixture
def results(made, tmp_path, monkeypatch) -> tuple[Path, Path]:
    forbid_work(monkeypatch)
    shutil.copytree(made[0], tmp_path / "results")
    return tmp_path / "results", made[1]


def test_check_recomputes_the_run_and_the_comparison(results, reliability):
    root, artifacts = results
    for folder in (root / "tiny", root / "all"):
        shown = glore("check", folder, "--artifacts", artifacts)
        assert (shown.exit_code, shown.stderr) == (0, ""), shown.exception
        assert shown.stdout.startswith(f"{folder}: all ") and shown.stdout.endswith(" numbers agree\n")
    reliability("glore check: a run without Figure 4, without SFT, without both", "all numbers agree")


def test_check_finds_a_row_in_a_table_that_has_none(results):
    root, artifacts = results
    path = root / "all" / "figures" / "figure4.csv"
    empty = len(pd.read_csv(path)) == 0
    path.write_text(f"{path.read_text()}tiny,m,0,orm,rerank_accuracy@64,0.5,0.4,0.6,9,9\n")
    shown = glore("check", root / "all", "--artifacts", artifacts)
    assert shown.exit_code == 1
    assert "5 of " in shown.stderr and "absent" in shown.stdout
    assert empty == ("rerank_accuracy@4" not in set(pd.read_csv(root / "tiny" / "tables" / "numbers.csv")["metric"]))


def test_status_report_and_figures(results):
    root, artifacts = results
    for folder in ("tiny", "all"):
        shown = glore("status", root / folder, "--artifacts", artifacts)
        assert shown.exit_code == 0, shown.exception
        assert shown.stdout.splitlines()[-1] == "done, 0:01:30 of work"
    before = {path: path.read_bytes() for path in (root / "all").rglob("*.csv")}
    shutil.rmtree(root / "all" / "figures")
    shown = glore("figures", root)
    assert (shown.exit_code, shown.stdout) == (0, f"done: {root / 'all' / 'report.html'}\n"), shown.exception
    assert {path: path.read_bytes() for path in (root / "all").rglob("*.csv")} == before
    (root / "all" / "report.html").unlink()
    assert glore("report", root / "all").exit_code == 0
    assert "This page compares the paper with " in (root / "all" / "report.html").read_text()


@pytest.mark.slow
def test_compare_renders_notebook_06(results):
    root, _ = results
    shown = glore("compare", root / "tiny")
    assert shown.exit_code == 0, shown.stderr
    out = root / "tiny-figures"
    assert shown.stdout.splitlines()[-2] == f"see {out / '06_figures.ipynb'} or {out / 'report.html'}"
    assert (out / "report.html").stat().st_size > 10_000
    for path in (root / "all").rglob("*.csv"):
        assert (out / path.relative_to(root / "all")).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("settings", RUNS.values(), ids=RUNS)
def test_plan(settings):
    given = [f"--set={key.replace('__', '.')}={json.dumps(value)}" for key, value in settings.items()]
    shown = glore("plan", TINY, *given)
    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout.splitlines()[8].split()[0] == "total"


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("settings", [RUNS["without both"]], ids=["without both"])
def test_run_and_what_follows_it_over_the_real_notebooks(settings, tmp_path):
    # Without SFT the base model must solve something: shown one example, the mini base is right in 4 % of its samples.
    settings = settings | {"task__train_questions": 64, "student__samples_per_question": 4}
    settings |= {"sampling__max_new_tokens": 80}
    given = [f"--set={key.replace('__', '.')}={json.dumps(value)}" for key, value in settings.items()]
    given += ["--artifacts", str(tmp_path / "artifacts")]
    root = tmp_path / "results"
    shown = glore("run", TINY, "--out", root, *given)
    assert shown.exit_code == 0, shown.stderr
    assert len(list((root / "tiny" / "tables").glob("*.csv"))) == len(TABLES)
    assert (root / "tiny-figures" / "report.html").stat().st_size > 10_000
    again = glore("run", TINY, "--out", root, *given)
    assert again.stderr == "found finished: tiny 01-05, tiny-figures 06\n"
    for folder in (root / "tiny", root / "tiny-figures"):
        for command in ("check", "status"):
            shown = glore(command, folder, "--artifacts", tmp_path / "artifacts")
            assert shown.exit_code == 0, shown.stderr
    assert glore("compare", root / "tiny", "--out", root / "one").exit_code == 0
    assert glore("figures", root).exit_code == 0
