"""The command: exit codes, one-line errors on stderr, and that bad input stops it before anything is written."""

import errno
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from unittest.mock import Mock

import pandas as pd
import psutil
import pytest
import torch
import typer
from test_replication import SETTINGS, artifacts, forbid_work, script
from typer.testing import CliRunner, Result

from clone import TABLES, TINY, WORK, Clone, stand_in_seeds, write_stage
from glore_lib.artifacts.locks import LOCK
from glore_lib.artifacts.manifest import duration, stage_record_path
from glore_lib.cli import _parse, app
from glore_lib.method.replication import Replication
from glore_lib.params import load_params, read_yaml
from glore_lib.reporting import findings
from glore_lib.reporting.results import save_run
from glore_lib.reporting.tables import stepwise, student_comparison
from glore_lib.run import Run
from glore_lib.workflow import environment, pipeline
from glore_lib.workflow.pipeline import comparison_name
from glore_lib.workflow.runs import parse_seeds, read_runs
from tiny import Scripted, open_tiny, solver

ALL_STAGES = tuple(pipeline.STAGES)
LONG = "a" * 300  # longer than the name of a file can be


def glore(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def clone(tmp_path, monkeypatch) -> Clone:
    """Make a clone of stand-in notebooks, with one stage and the figures, which the command takes for its own."""
    monkeypatch.setattr(pipeline, "STAGES", {"01_expert_iteration": 0.9, "06_figures": 0.1})
    monkeypatch.setattr(pipeline, "APPENDIX", {"appendix/j_value": 0.1})
    monkeypatch.setattr(pipeline, "code_hash", lambda _: "c0de")
    monkeypatch.setattr(pipeline, "ROOT", tmp_path / "clone")
    monkeypatch.setattr(environment, "ROOT", tmp_path / "clone")
    monkeypatch.setattr(pipeline, "SAVES_TABLES", "01_expert_iteration")
    monkeypatch.setattr("glore_lib.reporting.report.write_report", stand_in_report)
    monkeypatch.setenv("GLORE_KEEP_STALE", "")  # so that it is restored, whatever a test sets
    monkeypatch.delenv("GLORE_KEEP_STALE")
    return Clone(tmp_path / "clone")


def stand_in_report(out: Path) -> Path:
    (out / "report.html").write_text("a report")
    return out / "report.html"


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
        ("run=../x", ['run = "../x"', "must be text that matches"]),
        ("base_model.source=./not-here", ["base_model.source = './not-here'", "no such folder"]),
    ],
)
def test_bad_settings(clone, setting, parts):
    assert_refused(glore("run", clone.params, "--out", clone.results, "--set", setting), *parts)
    assert not clone.results.exists()


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
    assert_refused(glore("run", clone.params, "--out", clone.results), str(clone.params), *parts)
    assert not clone.results.exists()


def test_missing_params_file(clone):
    assert_refused(glore("run", clone.root / "none.yaml", "--out", clone.results), "none.yaml: no such file")


def test_missing_data_folder(clone, tmp_path, monkeypatch):
    missing = str(tmp_path / "nowhere")
    monkeypatch.setenv("GLORE_DATA_DIR", missing)
    result = glore("run", clone.params, "--out", clone.results, "--set", "task.name=gsm8k")
    assert_refused(result, "GLORE_DATA_DIR", missing)
    assert not clone.results.exists()


def test_paths_are_those_of_the_current_folder_and_of_home(clone, tmp_path, monkeypatch):
    """Notebooks run in another folder."""
    data = tmp_path / "data" / "gsm8k"
    data.mkdir(parents=True)
    for split in ("train", "test"):
        rows = [json.dumps({"question": f"{split} {i}?", "answer": f"{i}\n#### {i}"}) for i in range(99)]
        (data / f"{split}.jsonl").write_text("\n".join(rows))
    check = "from glore_lib.tasks.gsm8k import GSM8K\nGSM8K().check_data({'train': 5})"
    write_stage(clone.notebooks, "01_expert_iteration", WORK.replace("STAGE", "01_expert_iteration"), TABLES, check)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GLORE_DATA_DIR", "data")
    shown = glore(
        "run", "~/clone/params/tiny.yaml", "--out=~/results", "--artifacts", "~/a", "--set", "task.name=gsm8k"
    )
    assert shown.exit_code == 0, shown.stderr
    assert (tmp_path / "results" / "tiny" / "manifest.json").exists() and (tmp_path / "a").is_dir()
    assert not (tmp_path / "~").exists()


def test_unknown_stage(clone):
    assert_refused(
        glore("run", clone.params, "--out", clone.results, "--from", "09"), "--from 09", "01_expert_iteration"
    )
    assert not clone.results.exists()


def test_without_the_notebooks_of_a_clone(clone):
    (clone.notebooks / "06_figures.ipynb").unlink()
    assert_refused(glore("run", clone.params, "--out", clone.results), "06_figures.ipynb", "clone of the repository")


def test_plan_shows_every_stage_and_what_it_rests_on():
    result = glore("plan", TINY, "--set", "student.rounds=2", "--accuracy", "0.4", "--hardware", "rtx-4090")
    assert (result.exit_code, result.stderr) == (0, "")
    title, _, _, *lines = result.stdout.splitlines()
    assert title.strip() == "tiny"
    stages = [stage for stage in pipeline.STAGES if stage != pipeline.FIGURES]
    assert [line.split()[0] for line in lines[: len(stages) + 1]] == [*stages, "total"]
    assert lines[0].split()[1] == "22"  # 4 questions x 2 samples in each of two rounds, 3 x 2 greedy drafts
    assert lines[len(stages) + 1].startswith("accuracy: 0.4 ")
    assert lines[-1].startswith("time: rtx-4090: ")


def test_a_plan_of_several_seeds_is_as_many_times_that_of_one():
    from glore_lib.cost.plan import plan

    shown = glore("plan", TINY, "--seeds", "0-2")
    assert (shown.exit_code, shown.stderr) == (0, "")
    total = plan(load_params(TINY), 0.6, "cpu").stages[-1]
    lines = shown.stdout.splitlines()
    expected = (
        f"3 seeds, each as the table says: {duration(3 * total.seconds)}, {3 * total.disk / 2**30:,.2f} GiB of disk"
    )
    assert [line for line in lines if line not in glore("plan", TINY).stdout.splitlines()] == [expected]


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, ""),
        ({"base_model.dtype": "bfloat16"}, "base_model.dtype = 'bfloat16'"),
        ({"finetuning.mixed_precision": True}, "finetuning.mixed_precision = true"),
    ],
)
@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_is_said_to_be_slow_where_the_cpu_lacks_it(
    command, settings, named, native, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if command == "plan":
        said = glore("plan", TINY, *(f"--set={field}={value}" for field, value in settings.items())).stderr
        assert ("--hardware cpu-avx2" in said) == bool(said)
        assert not glore("plan", TINY, "--hardware", "cpu-avx2", "--set=base_model.dtype=bfloat16").stderr
    else:
        read_runs([TINY], settings, tmp_path)
        said = capsys.readouterr().err
    assert bool(said) == (not native and bool(named))
    assert not said or f"{named}: this CPU has no instructions for bfloat16" in said


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--seeds", "2-1"], ["--seeds 2-1", "must be written as 1-2"]),
        (["--set", "student.ronds=2"], ["student.ronds = 2", "did you mean student.rounds?"]),
        (["--set", "base_model.source=./not-here"], ["base_model.source = './not-here'", "no such folder"]),
        (["--accuracy", "60"], ["--accuracy 60.0", "between 0 and 1"]),
        (["--hardware", "abacus"], ["--hardware abacus", "rtx-4090"]),
    ],
)
def test_what_cannot_be_planned(arguments, parts):
    assert_refused(glore("plan", TINY, *arguments), *parts)


def test_the_version_is_shown_with_the_commit(monkeypatch):
    for commit, shown in (
        ({"commit": "0123456789abcdef", "dirty": False}, ", commit 0123456789ab"),
        ({"commit": "0123456789abcdef", "dirty": True}, ", commit 0123456789ab with changes"),
        ({}, ""),
    ):
        monkeypatch.setattr(environment, "git", lambda commit=commit: commit)
        result = glore("--version")
        assert (result.exit_code, result.stdout) == (0, f"glore {version('glore_lib')}{shown}\n")


def test_the_help_of_every_command_ends_with_examples_that_can_be_called():
    commands = typer.main.get_command(app).commands
    for name, command in commands.items():
        heading, *lines = command.epilog.splitlines()
        assert heading == "Examples:" and lines
        for line in lines:
            program, called, *arguments = line.split()
            assert (program, called) == ("glore", name)
            given = command.make_context(name, arguments).params
            for path in given.get("params", []):
                load_params(environment.ROOT / path, _parse(given["settings"]))
        shown = glore(name, "--help").stdout
        assert all(line in " ".join(shown.split()) for line in lines)


def test_help_answers_without_importing_what_takes_seconds():
    program = "import sys, glore_lib.cli; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "typer" in modules
    assert not {"torch", "transformers", "pandas", "numpy", "matplotlib", "papermill"} & set(modules)


def test_the_shell_completes_commands_and_options(tmp_path):
    command = Path(sys.executable).with_name("glore")
    for words, expected in (("glore pl", "plan"), ("glore plan --acc", "--accuracy")):
        asked = os.environ | {
            "_GLORE_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
        }
        shown = subprocess.run([command], env=asked, capture_output=True, text=True)
        assert shown.stdout.split() == [expected]


@pytest.mark.parametrize(
    "arguments",
    [["run"], ["run", "x.yaml", "--out", "x", "--nonsense"], ["go"], ["plan"], ["compute"], ["compare", "x"]],
)
def test_usage_errors(arguments):
    assert glore(*arguments).exit_code == 2


def test_run_again_other_parameters_and_status(clone):
    write_stage(clone.notebooks, "01_expert_iteration")
    first = glore("run", clone.params, "--out", clone.results, "--set", "student.rounds=3", "--set", "seed=7")
    assert first.exit_code == 0
    *lines, done = first.stdout.splitlines()
    assert lines == [
        "tiny: 1 replicated",
        f"see {clone.comparison / '06_figures.ipynb'} or {clone.comparison / 'report.html'}",
    ]
    assert re.fullmatch(rf"done: {re.escape(str(clone.comparison))} \(\d+ s\)", done)
    # The bar's last state and no more: no notices of kernels, no other bars.
    assert first.stderr.splitlines()[:2] == ["tiny 01_expert_iteration rendered", "06_figures rendered"]
    assert len(first.stderr.splitlines()) == 3
    assert clone.log.read_text() == "tiny 01_expert_iteration 3\n1 06_figures\n"
    assert (clone.root / "artifacts" / "stages").is_dir()

    second = glore("run", clone.params, "--out", clone.results, "--set", "student.rounds=3", "--set", "seed=7")
    assert second.exit_code == 0
    assert second.stderr == "found finished: tiny 01, tiny-figures 06\n"
    assert second.stdout.splitlines()[:-1] == lines

    before = clone.files()
    refused = glore("run", clone.params, "--out", clone.results)
    assert_refused(refused, str(clone.out), clone.manifest["params_hash"], "--fresh", "another --out")
    assert clone.files() == before

    shown = glore("status", clone.out)
    assert shown.exit_code == 0
    assert shown.stdout.splitlines()[1].split()[:3] == ["tiny", "01_expert_iteration", "done"]
    assert shown.stdout.splitlines()[1].split()[4] == "22"  # tokens
    assert shown.stdout.splitlines()[-1].startswith("done, 0:00:")
    (clone.root / "artifacts" / ".orm-0" / "unfinished" / "training" / "checkpoint-40").mkdir(parents=True)
    shown = glore("status", clone.out, "--artifacts", clone.root / "artifacts")
    assert "unfinished: orm-0: trained up to step 40" in shown.stdout.splitlines()
    shown = glore("status", clone.comparison)
    assert shown.stdout.splitlines()[1].split()[:3] == ["all", "06_figures", "done"]
    assert f"compares: {clone.comparison / '../tiny'}" in shown.stdout.splitlines()


def test_the_report_comes_last_and_is_made_again_alone_where_it_is_lost(clone):
    for _ in range(2):
        shown = glore("run", clone.params, "--out", clone.results)
        assert shown.exit_code == 0, shown.stderr
        assert (clone.comparison / "report.html").read_text() == "a report"
        assert ("rendered" in shown.stderr) == clone.log.exists()
        (clone.comparison / "report.html").unlink()
        clone.log.unlink(missing_ok=True)


def test_compare_builds_a_comparison_from_run_folders_alone(clone, tmp_path):
    assert glore("run", clone.params, "--out", clone.results).exit_code == 0
    clone.log.unlink()
    shown = glore("compare", clone.out, "--out", tmp_path / "one")
    assert shown.exit_code == 0
    assert shown.stdout.splitlines()[-1].startswith(f"done: {tmp_path / 'one'} (")
    assert clone.log.read_text() == "1 06_figures\n"
    assert (tmp_path / "one" / "report.html").exists()
    assert_refused(glore("compare", clone.root, "--out", tmp_path / "two"), "manifest.json", "glore run writes one")
    assert_refused(glore("compare", clone.comparison, "--out", tmp_path / "two"), "holds a comparison")
    assert not (tmp_path / "two").exists()


def test_compare_writes_beside_its_runs_by_default_and_finds_the_comparison_of_glore_run(clone):
    assert glore("run", clone.params, "--out", clone.results).exit_code == 0
    shown = glore("compare", clone.out)
    assert shown.exit_code == 0
    assert shown.stdout.splitlines()[-1].startswith(f"done: {clone.comparison} (")
    assert comparison_name(["a", "b"]) == "comparison"  # of several runs, as glore run names it


def test_progress_says_which_run_and_stage_it_is_and_what_was_found_finished(clone, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(clone.params.read_text().replace("run: tiny", "run: other"))
    assert glore("run", clone.params, "--out", clone.results).exit_code == 0
    pipeline = clone.pipeline(clone.params, other)
    places = [(job.place, job.label, job.due) for job in pipeline.jobs]
    assert places == [
        ("run 1 of 2, stage 1 of 2: ", "tiny 01_expert_iteration", False),
        ("run 2 of 2, stage 1 of 2: ", "other 01_expert_iteration", True),
        ("stage 2 of 2: ", "06_figures", True),
    ]
    shown = glore("run", clone.params, other, "--out", clone.results)
    assert shown.exit_code == 0
    assert shown.stderr.splitlines()[0] == "found finished: tiny 01"
    assert shown.stderr.splitlines()[-1].startswith("stage 2 of 2: 06_figures ")


def test_figures_redraws_every_comparison_from_its_run_folders(clone, monkeypatch):
    assert_refused(glore("figures", clone.results), "has no folder of a comparison")
    assert glore("run", clone.params, "--out", clone.results).exit_code == 0
    (clone.comparison / "report.html").unlink()
    drawn = []
    monkeypatch.setattr("glore_lib.reporting.results.write_comparison", lambda *given: drawn.append(given))
    shown = glore("figures", clone.results)
    assert (shown.exit_code, shown.stdout) == (0, f"done: {clone.comparison / 'report.html'}\n")
    assert [([path.resolve() for path in runs], out) for runs, out in drawn] == [([clone.out], clone.comparison)]
    assert (clone.comparison / "report.html").exists()


def test_compute_makes_all_that_the_notebooks_need_and_renders_none(clone, tiny_base, monkeypatch):
    asked, store = [], clone.root / "artifacts"
    run = open_tiny(tiny_base, store, **SETTINGS)
    script(run, monkeypatch)
    monkeypatch.setattr("glore_lib.workflow.compute.open_run", lambda *given: asked.append(given) or run)
    shown = glore("compute", clone.params, "--set", "student.rounds=3")
    assert (shown.exit_code, shown.stdout) == (0, f"done: {store}\n"), shown.stderr
    assert asked == [(str(clone.params), {"student.rounds": 3}, str(store))]
    stages = [stage for stage in ALL_STAGES if stage != pipeline.FIGURES]
    lines = [re.sub(r": [\d.]+ s$", ": s", line) for line in shown.stderr.splitlines()]  # among progress bars
    assert [line for line in lines if line.startswith("tiny ")] == [
        f"tiny {stage}{end}" for stage in stages for end in ("", ": s")
    ]
    made = [line.removeprefix("  tiny: ").removesuffix(": s") for line in lines if re.match(r"  \S.*: s$", line)]
    assert sorted(made) == sorted(name for name in artifacts(store) if "-" in name)
    assert {path.stem for path in (store / "stages").glob("tiny-*/*.json")} == set(stages)
    assert not clone.results.exists() and not clone.log.exists()

    forbid_work(monkeypatch)
    made, again = artifacts(store), Replication(open_tiny(tiny_base, store, **SETTINGS))
    student_comparison(again)
    findings.refiners(again)
    stepwise(again)
    save_run(again, clone.root / "out")
    assert artifacts(store) == made
    assert len(pd.read_csv(clone.root / "out" / "tables" / "numbers.csv")) == len(again.numbers)


@pytest.mark.long
def test_compute_makes_the_artifacts_of_every_seed(clone, tiny_base, monkeypatch):
    store, settings = clone.root / "artifacts", {key.replace("__", "."): value for key, value in SETTINGS.items()}
    monkeypatch.setattr(Run, "sampler", lambda self, source: Scripted(self.tokenizer, solver(self, 0.5)))
    settings["base_model.source"] = str(tiny_base)
    monkeypatch.setattr("glore_lib.cli._parse", lambda given: settings)
    shown = glore("compute", clone.params, "--seeds", "2,0")
    assert (shown.exit_code, shown.stdout) == (0, f"done: {store}\n"), shown.stderr
    stages = [stage for stage in ALL_STAGES if stage != pipeline.FIGURES]
    lines = [line for line in shown.stderr.splitlines() if re.fullmatch(r"tiny seed \d \w+", line)]
    assert lines == [f"tiny seed {seed} {stage}" for seed in (0, 2) for stage in stages]
    records = [stage_record_path(store, load_params(clone.params, settings | {"seed": n}), "05_evaluation")
               for n in (0, 1, 2)]  # fmt: skip
    assert [path.exists() for path in records] == [True, False, True]
    numbers = [{name for name in json.loads(path.read_text())["artifacts"] if name.startswith("outcomes-")}
               for path in records[::2]]  # fmt: skip
    assert len(numbers[0]) == len(numbers[1]) > 1 and not numbers[0] & numbers[1]


@pytest.mark.parametrize(
    ("seeds", "parts"),
    [
        ("4-1", ["the range 4-1 must be written as 1-4"]),
        ("a", ["must be whole numbers such as 3, 0,2,5 or 0-4, and 'a' is not"]),
        ("-1", ["and '-1' is not"]),
        ("1.5", ["and '1.5' is not"]),
        ("0,,2", ["and '' is not"]),
        ("", ["and '' is not"]),
        ("²", ["and '²' is not"]),
        ("0-2,1,2", ["names 1, 2 twice"]),
        ("0-100", ["must be 100 seeds at most"]),
        ("0-60,100-160", ["must be 100 seeds at most"]),
    ],
)
@pytest.mark.parametrize("command", ["run", "compute"])
def test_bad_seeds(clone, command, seeds, parts):
    refused = glore(command, clone.params, f"--seeds={seeds}")
    assert_refused(refused, f"--seeds {seeds}: ", *parts)
    assert not clone.results.exists() and not (clone.root / "artifacts").exists()


def test_seeds_are_named_in_their_order():
    assert parse_seeds("3") == [3]
    assert parse_seeds("5, 0-2,10-10") == [5, 0, 1, 2, 10]
    assert parse_seeds("0-99") == list(range(100))
    assert parse_seeds(None) == []


def test_several_seeds_of_a_run(clone, monkeypatch):
    stand_in_seeds(monkeypatch, clone.log)
    given = ["run", clone.params, "--out", clone.results, "--seeds", "1,0,2"]
    shown = glore(*given)
    assert shown.exit_code == 0, shown.stderr
    made = ["tiny 01_expert_iteration rendered", "tiny seed 1 01_expert_iteration computed",
            "tiny seed 2 01_expert_iteration computed", "06_figures rendered"]  # fmt: skip
    assert [line for line in shown.stderr.splitlines() if line.endswith(("rendered", "computed"))] == made
    assert clone.log.read_text().splitlines()[1:3] == ["tiny 1 01_expert_iteration", "tiny 2 01_expert_iteration"]
    again = glore(*given)
    assert again.stderr == "found finished: tiny 01, tiny seed 1 01, tiny seed 2 01, tiny-figures 06\n"
    shown = glore("status", clone.out)
    folders = [clone.out / "seeds" / "1", clone.out / "seeds" / "2"]
    assert [line for line in shown.stdout.splitlines() if line.startswith("seed: ")] == [f"seed: {f}" for f in folders]
    shown = glore("status", folders[0])
    assert shown.stdout.splitlines()[1].split()[:3] == ["tiny", "01_expert_iteration", "done"]
    assert shown.stdout.splitlines()[-1].startswith("done, 0:0")
    shown = glore("compare", folders[1])
    assert shown.stdout.splitlines()[-1].startswith(f"done: {clone.results / 'tiny-seed-2-figures'} ("), shown.stderr


def test_a_seed_that_fails_is_one_line_in_the_end_and_in_the_status(clone, monkeypatch):
    stand_in_seeds(monkeypatch, clone.log)
    stages = {"01_expert_iteration": Mock(side_effect=ZeroDivisionError("division by zero"))}
    monkeypatch.setattr("glore_lib.workflow.compute.STAGES", stages)
    shown = glore("run", clone.params, "--out", clone.results, "--seeds", "0-1")
    why = f"ZeroDivisionError: division by zero; glore compute {clone.params} --seeds 1 shows where"
    message = f"tiny seed 1 01_expert_iteration failed: {why}"
    assert (shown.exit_code, shown.stdout) == (1, "")
    assert shown.stderr.splitlines()[-1] == f"error: {message}"
    shown = glore("status", clone.out / "seeds" / "1")
    assert message in shown.stdout.splitlines()
    assert shown.stdout.splitlines()[-1] == "failed, 0:00:00 of work"


STALE = ["computed 2 of 9 artifacts, 1.5 h: `method/step_labels.py` changed"]


@pytest.fixture
def stale(monkeypatch) -> None:
    """Of the run's artifacts, two were computed by older code."""
    from glore_lib.artifacts.upgrades import Stale

    found = [Stale("orm-0", "`method/step_labels.py` changed", 3600.0), Stale("scores-1", "made from orm-0", 1800.0)]
    monkeypatch.setattr("glore_lib.artifacts.upgrades.find_stale", lambda root, runs: (found, 9))


@pytest.mark.parametrize("command", ["run", "compute"])
def test_without_a_terminal_artifacts_of_older_code_need_a_flag(clone, stale, command, monkeypatch):
    computed = lambda *_: clone.log.open("a").write("01_expert_iteration\n")  # noqa: E731
    monkeypatch.setattr("glore_lib.workflow.compute.compute", computed)
    out = ["--out", clone.results] if command == "run" else []
    refused = glore(command, clone.params, *out)
    *listed, error = refused.stderr.splitlines()
    assert listed == ["  orm-0: `method/step_labels.py` changed (1.0 h)", "  scores-1: made from orm-0 (30.0 min)"]
    assert refused.exit_code == 2
    assert all(part in error for part in ("error: ", *STALE, "--recompute", "--keep-stale"))
    assert not clone.results.exists() and not clone.log.exists()
    assert_refused(glore(command, clone.params, *out, "--recompute", "--keep-stale"), "give one of them")
    for flag, kept in (("--keep-stale", "1"), ("--recompute", None)):
        write_stage(
            clone.notebooks, "01_expert_iteration", WORK.replace("STAGE", "01_expert_iteration"), TABLES, f"'{flag}'"
        )
        shown = glore(command, clone.params, *out, flag)
        assert shown.exit_code == 0, shown.stderr
        assert os.environ.get("GLORE_KEEP_STALE") == kept
    assert clone.log.read_text().count("01_expert_iteration") == 2


@pytest.mark.parametrize(
    ("answers", "kept", "exit_code"),
    [("recompute", None, 0), ("what\nkeep", "1", 0), ("\n", None, 2), ("abort", None, 2)],
)
def test_on_a_terminal_the_user_is_asked_what_to_do_with_them(clone, stale, monkeypatch, answers, kept, exit_code):
    monkeypatch.setattr("glore_lib.cli._is_interactive", lambda: True)
    shown = CliRunner().invoke(app, ["run", str(clone.params), "--out", str(clone.results)], input=f"{answers}\n")
    assert shown.exit_code == exit_code, shown.stderr
    assert STALE[0] in shown.stderr and "recompute, keep or abort?" in shown.stderr
    assert os.environ.get("GLORE_KEEP_STALE") == kept
    assert clone.log.exists() == (exit_code == 0)
    if exit_code:
        assert shown.stderr.endswith("error: aborted: nothing was computed or changed\n")


def test_a_terminal_is_recognised():
    program = "from glore_lib.cli import _is_interactive; print(_is_interactive())"
    ours, theirs = pty.openpty()
    for stdin, expected in ((theirs, "True\n"), (subprocess.DEVNULL, "False\n")):
        shown = subprocess.run([sys.executable, "-c", program], stdin=stdin, capture_output=True, text=True)
        assert shown.stdout == expected
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan", f"{LONG}.yaml"),
        *(("plan", TINY, f"--set=base_model.source={source}") for source in (LONG, f"./{LONG}", f"{LONG}.gguf")),
        ("plan", TINY, f"--set=run={LONG}"), ("compute", TINY, "--artifacts", LONG),
        ("run", TINY, "--out", LONG), ("run", TINY, "--name", LONG), ("unpack", LONG), ("figures", LONG),
    ],
    ids=lambda given: "-".join(str(text).replace(LONG, "long") for text in given),
)  # fmt: skip
def test_a_name_that_is_too_long_for_a_file_is_one_error(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = glore(*arguments)
    assert shown.exit_code == 2, shown.exception
    (line,) = shown.stderr.splitlines()
    assert line.startswith("error: ") and "aaa" in line


def test_a_failed_import_is_an_error_of_its_own(clone, monkeypatch):
    monkeypatch.setitem(sys.modules, "glore_lib.workflow.pipeline", None)
    result = glore("run", clone.params, "--out", clone.results)
    assert isinstance(result.exception, ImportError)
    assert "glore_lib.workflow.pipeline" in str(result.exception)


def test_the_appendix_is_run_where_it_is_asked_for(clone):
    shown = glore("run", clone.params, "--out", clone.results, "--appendix", "j_value")
    assert shown.exit_code == 0
    assert "tiny appendix/j_value rendered" in shown.stderr.splitlines()
    assert (clone.out / "appendix" / "j_value.ipynb").exists()


def test_a_failing_cell(clone):
    write_stage(clone.notebooks, "01_expert_iteration", "raise KeyError('[step]')")
    result = glore("run", clone.params, "--out", clone.results)
    partial = clone.out / "01_expert_iteration.partial.ipynb"
    message = (
        "tiny 01_expert_iteration failed in cell [3] (raise KeyError('[step]')): KeyError: '[step]'; "
        f"rendered so far: {partial}"
    )
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1] == f"error: {message}"
    assert partial.exists()
    shown = glore("status", clone.out)
    assert message in shown.stdout
    assert shown.stdout.splitlines()[-1] == "failed, 0:00:00 of work"


PROGRAM = """import signal, sys
from pathlib import Path
signal.signal(signal.SIGTERM, signal.SIG_DFL), signal.signal(signal.SIGHUP, signal.SIG_DFL)
from glore_lib import cli
from glore_lib.workflow import environment, pipeline
environment.ROOT = pipeline.ROOT = Path(sys.argv[1])
pipeline.STAGES = {"01_expert_iteration": 0.9, "06_figures": 0.1}
pipeline.SAVES_TABLES, pipeline.APPENDIX, pipeline.code_hash = "01_expert_iteration", {}, lambda _: "c0de"
cli.app(sys.argv[2:])"""


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_end_interrupts_a_run(clone, ending, reliability):
    work = "import os, time\nprint(os.getpid(), file=open('reached', 'w'), flush=True)\ntime.sleep(600)"
    write_stage(clone.notebooks, "01_expert_iteration", work)
    command = [sys.executable, "-c", PROGRAM, clone.root, "run", clone.params, "--out", clone.results]
    reached = clone.root / "reached"
    with subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8") as process:
        try:
            wait_until(lambda: reached.exists() and reached.read_text(encoding="utf-8"))
            assert len(list(clone.root.rglob(LOCK))) == 3  # of the run, the comparison and the artifacts
            process.send_signal(ending)
            assert process.wait(60) == 128 + ending
        finally:
            process.kill()
        *_, line = process.stderr.read().splitlines()
    assert line == "interrupted: finished work is kept, and the same command continues from there"
    assert list(clone.root.rglob(LOCK)) == []
    assert clone.manifest["status"] == "interrupted"
    kernel = int(reached.read_text(encoding="utf-8"))
    wait_until(lambda: not psutil.pid_exists(kernel) or psutil.Process(kernel).status() == psutil.STATUS_ZOMBIE)
    senders = "closed terminals" if ending == signal.SIGHUP else "batch systems and `docker stop`"
    reliability(
        f"{ending.name}, as {senders} send",
        f"as Ctrl-C: one line that says how to resume; no lock and no process left; exit code {128 + ending}",
        "the shard in progress",
    )


def test_a_library_that_raises_another_interrupt_does_not_hide_the_signal(clone, monkeypatch):
    def compute(*_: object) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise KeyboardInterrupt from None

    monkeypatch.setattr("glore_lib.workflow.compute.compute", compute)
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    try:
        assert glore("compute", clone.params).exit_code == 143
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGHUP), before, strict=True):
            signal.signal(number, handler)


def wait_until(reached: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_file_that_cannot_be_written_is_named_in_one_line(clone, monkeypatch, number):
    def refuse(out: Path) -> Path:
        raise OSError(number, os.strerror(number), str(out / "report.html"))

    monkeypatch.setattr("glore_lib.reporting.report.write_report", refuse)
    assert_refused(glore("report", clone.out), os.strerror(number), "tiny/report.html")


def test_a_quota_that_fills_up_keeps_finished_work(clone, reliability):
    full = "raise OSError(122, 'Disk quota exceeded', 'orm-0/model.safetensors')"
    write_stage(clone.notebooks, "01_expert_iteration", full)
    shown = glore("run", clone.params, "--out", clone.results)
    assert shown.exit_code == 1
    assert "Disk quota exceeded: 'orm-0/model.safetensors'; rendered so far: " in shown.stderr.splitlines()[-1]
    assert clone.manifest["status"] == "failed"
    write_stage(clone.notebooks, "01_expert_iteration")
    assert glore("run", clone.params, "--out", clone.results).exit_code == 0
    reliability(
        "a quota that fills up in the middle", "one line; exit code 1; earlier work is kept", "the shard in progress"
    )


@pytest.mark.parametrize("command", ["run", "compute"])
def test_artifacts_in_a_file_are_refused_before_any_work(clone, command):
    (clone.root / "file").write_text("", encoding="utf-8")
    out = ["--out", clone.results] if command == "run" else []
    refused = glore(command, clone.params, *out, "--artifacts", clone.root / "file" / "new")
    assert_refused(refused, str(clone.root / "file" / "new"), "must be a folder that can be written", "Not a directory")
    assert not clone.results.exists()


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
    """They are what CI sets over the mini runs."""
    reduced = read_yaml((Path(__file__).parent / "reduced.yaml").read_text())
    assert reduced
    load_params(TINY, reduced)
