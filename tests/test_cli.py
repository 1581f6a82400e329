"""The command: exit codes, one-line errors on stderr, and that bad input stops it before anything is written."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from clone import TINY, Clone, write_stage
from glore_lib.cli import app
from glore_lib.params import load_params, read_yaml
from glore_lib.workflow import kernels, pipeline


def glore(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def clone(tmp_path, monkeypatch) -> Clone:
    """A clone of stand-in notebooks, with one stage and the figures, that the command takes for its own."""
    monkeypatch.setattr(pipeline, "STAGES", {"01_expert_iteration": 0.9, "06_figures": 0.1})
    monkeypatch.setattr(pipeline, "APPENDIX", {"appendix/j_value": 0.1})
    monkeypatch.setattr(pipeline, "code_hash", lambda: "c0de")
    monkeypatch.setattr(pipeline, "ROOT", tmp_path / "clone")
    monkeypatch.setattr(kernels, "IMPORTS", ("ipykernel.kernelapp", "ipykernel.ipkernel"))  # they need no model
    return Clone(tmp_path / "clone")


def assert_refused(result: Result, *parts: str) -> None:
    """Exit code 2, and one line on stderr that holds every part."""
    assert result.exit_code == 2
    assert result.stdout == ""
    line, end, rest = result.stderr.partition("\n")
    assert (line.startswith("error: "), end, rest) == (True, "\n", ""), result.stderr
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("student.ronds=2", ["student.ronds = 2", "no such parameter", "did you mean student.rounds?"]),
        ("reward_models.rollouts_per_step=0", ["reward_models.rollouts_per_step = 0", "greater than 0"]),
        ("student.samples_per_question=-4", ["student.samples_per_question = -4", "greater than 0"]),
        ("reward_models.threshold=1", ["reward_models.threshold = 1", "between 0 and 1"]),
        ("reward_models.threshold=0", ["reward_models.threshold = 0", "between 0 and 1"]),
        ("student.rounds=two", ['student.rounds = "two"', "a whole number"]),
        ("student.rounds=2.5", ["student.rounds = 2.5", "a whole number"]),
        ("task.name=gsm", ['task.name = "gsm"', "arithmetic, gsm8k, svamp"]),
        ("student.rounds", ["--set student.rounds", "key.sub=value"]),
        ("=2", ["--set =2", "key.sub=value"]),
        ("student..rounds=2", ["--set student..rounds=2", "key.sub=value"]),
        ("student.rounds=[1", ["--set student.rounds=[1", "YAML"]),
        ("run=figures", ["run = 'figures'", "output folder"]),
        ("base_model.source=./not-here", ["base_model.source = './not-here'", "no such folder"]),
    ],
)
def test_bad_settings(clone, setting, parts):
    assert_refused(glore("run", clone.params, "--out", clone.out, "--set", setting), *parts)
    assert not clone.out.parent.exists()


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("task: [1", ["must be YAML"]),
        ("just words", ['is "just words"', "must be a mapping"]),
        ("", ["is empty"]),
        (TINY.read_text() + "seed: 1\n", ["seed is set twice"]),
        (TINY.read_text().replace("seed: 0\n", ""), ["seed is missing", "a whole number"]),
        (TINY.read_text().replace("rounds: 1", "ronds: 1"), ["student.ronds = 1", "student.rounds?"]),
    ],
)
def test_bad_params_files(clone, content, parts):
    clone.params.write_text(content)
    assert_refused(glore("run", clone.params, "--out", clone.out), str(clone.params), *parts)
    assert not clone.out.parent.exists()


def test_missing_params_file(clone):
    assert_refused(glore("run", clone.root / "none.yaml", "--out", clone.out), "none.yaml: no such file")


def test_missing_data_folder(clone, tmp_path, monkeypatch):
    missing = str(tmp_path / "nowhere")
    monkeypatch.setenv("GLORE_DATA_DIR", missing)
    result = glore("run", clone.params, "--out", clone.out, "--set", "task.name=gsm8k")
    assert_refused(result, "GLORE_DATA_DIR", missing)
    assert not clone.out.parent.exists()


def test_unknown_stage(clone):
    assert_refused(glore("run", clone.params, "--out", clone.out, "--from", "09"), "--from 09", "01_expert_iteration")
    assert not clone.out.parent.exists()


def test_without_the_notebooks_of_a_clone(clone):
    (clone.notebooks / "06_figures.ipynb").unlink()
    assert_refused(glore("run", clone.params, "--out", clone.out), "06_figures.ipynb", "clone of the repository")


def test_plan_shows_every_stage_and_what_it_rests_on():
    result = glore("plan", TINY, "--set", "student.rounds=2", "--accuracy", "0.4", "--hardware", "rtx-4090")
    assert (result.exit_code, result.stderr) == (0, "")
    title, _, _, *lines = result.stdout.splitlines()
    assert title.strip() == "tiny"
    stages = [stage for stage in pipeline.STAGES if stage != pipeline.FIGURES]
    assert [line.split()[0] for line in lines[: len(stages) + 1]] == [*stages, "total"]
    assert lines[0].split()[1] == "22"  # 4 questions x 2 samples in each of two rounds, 3 x 2 greedy drafts
    assert lines[len(stages) + 1].startswith("accuracy: 0.4 ")
    assert lines[-1].startswith("hours: rtx-4090: ")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--set", "student.ronds=2"], ["student.ronds = 2", "did you mean student.rounds?"]),
        (["--set", "base_model.source=./not-here"], ["base_model.source = './not-here'", "no such folder"]),
        (["--accuracy", "60"], ["--accuracy 60.0", "between 0 and 1"]),
        (["--hardware", "abacus"], ["--hardware abacus", "rtx-4090"]),
    ],
)
def test_what_cannot_be_planned(arguments, parts):
    assert_refused(glore("plan", TINY, *arguments), *parts)


@pytest.mark.parametrize(
    "arguments", [["run"], ["run", "x.yaml"], ["run", "x.yaml", "--out", "x", "--nonsense"], ["go"], ["plan"]]
)
def test_usage_errors(arguments):
    assert glore(*arguments).exit_code == 2


def test_run_again_other_parameters_and_status(clone):
    write_stage(clone.notebooks, "01_expert_iteration")
    first = glore("run", clone.params, "--out", clone.out, "--set", "student.rounds=3", "--set", "seed=7")
    assert (first.exit_code, first.stdout) == (0, f"done: {clone.out}\n")
    # The bar's last state and no more: no notices of kernels, no other bars.
    assert first.stderr.splitlines()[:2] == ["tiny 01_expert_iteration rendered", "06_figures rendered"]
    assert len(first.stderr.splitlines()) == 3
    assert clone.log.read_text() == "tiny 01_expert_iteration 3\n1 06_figures\n"
    assert (clone.root / "artifacts" / "stages").is_dir()

    second = glore("run", clone.params, "--out", clone.out, "--set", "student.rounds=3", "--set", "seed=7")
    assert second.exit_code == 0
    assert "rendered" not in second.stderr

    before = clone.files()
    refused = glore("run", clone.params, "--out", clone.out)
    assert_refused(refused, str(clone.out), clone.manifest["runs"]["tiny"]["params_hash"], "--fresh", "another folder")
    assert clone.files() == before

    told = glore("status", clone.out)
    assert told.exit_code == 0
    assert [line.split()[:3] for line in told.stdout.splitlines()[1:3]] == [
        ["tiny", "01_expert_iteration", "done"], ["all", "06_figures", "done"],
    ]  # fmt: skip
    assert told.stdout.splitlines()[1].split()[4] == "22"  # tokens
    assert told.stdout.splitlines()[-1].startswith("done, 0:00:")
    (clone.root / "artifacts" / ".orm-0" / "unfinished" / "training" / "checkpoint-40").mkdir(parents=True)
    told = glore("status", clone.out, "--artifacts", clone.root / "artifacts")
    assert "begun: orm-0: trained up to step 40" in told.stdout.splitlines()


def test_the_appendix_is_run_where_it_is_asked_for(clone):
    told = glore("run", clone.params, "--out", clone.out, "--appendix")
    assert (told.exit_code, told.stdout) == (0, f"done: {clone.out}\n")
    assert "tiny appendix/j_value rendered" in told.stderr.splitlines()
    assert (clone.out / "tiny" / "appendix" / "j_value.ipynb").exists()


def test_a_failing_cell(clone):
    write_stage(clone.notebooks, "01_expert_iteration", "raise KeyError('[step]')")
    result = glore("run", clone.params, "--out", clone.out)
    partial = clone.out / "tiny" / "01_expert_iteration.partial.ipynb"
    message = (
        "tiny 01_expert_iteration failed in cell [3] (raise KeyError('[step]')): KeyError: '[step]'; "
        f"rendered so far: {partial}"
    )
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1] == f"error: {message}"
    assert partial.exists()
    told = glore("status", clone.out)
    assert message in told.stdout
    assert told.stdout.splitlines()[-1] == "failed, 0:00:00 of work"


def test_status_of_a_folder_without_a_run(tmp_path):
    assert_refused(glore("status", tmp_path), str(tmp_path), "manifest.json")


def test_the_installed_command_prints_no_traceback(tmp_path):
    command = Path(sys.executable).with_name("glore")
    result = subprocess.run(
        [command, "run", TINY, "--out", tmp_path / "out", "--set", "student.rounds=0"], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert result.stderr == f"error: params file {TINY}: student.rounds = 0: must be a whole number greater than 0\n"
    assert list(tmp_path.iterdir()) == []


def test_reduced_parameters_are_parameters():
    """What CI lays over the mini runs."""
    reduced = read_yaml((Path(__file__).parent / "reduced.yaml").read_text())
    assert reduced
    load_params(TINY, reduced)
