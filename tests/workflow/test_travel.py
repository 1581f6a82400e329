"""A run that is computed on one machine and read on another, which has neither its models nor its base model."""

import inspect
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType

import nbformat
import papermill
import pytest
import yaml
from test_notebooks import REDUCED
from typer.testing import CliRunner, Result

from glore_lib.artifacts import keys
from glore_lib.artifacts.keys import Library, code_cells
from glore_lib.artifacts.packed import without_weights
from glore_lib.cli import app
from glore_lib.method.schedule import pool_size
from glore_lib.models.sources import MINI_BASE
from glore_lib.params import ROOT, load_params
from glore_lib.workflow import compute, dataset, runs
from glore_lib.workflow.notebooks import Kernel
from glore_lib.workflow.pipeline import FIGURES, STAGES

PARAMS = ROOT / "params" / "mini-hard.yaml"


def glore(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


class Travelled:
    """The settings of a run that was computed in ``there``, and unpacked in ``here``."""

    def __init__(self, root: Path):
        self.base, self.there, self.here, self.archive = (
            root / "base",
            root / "there",
            root / "here",
            root / "run.tar.gz",
        )
        shutil.copytree(MINI_BASE, self.base)
        settings = REDUCED | {"base_model.source": str(self.base)}
        self.settings = settings
        self.given = [f"--set={name}={json.dumps(value)}" for name, value in settings.items()]
        for command in (
            ("compute", PARAMS, *self.given, "--artifacts", self.there),
            ("pack", PARAMS, *self.given, "--artifacts", self.there, "--out", self.archive),
            ("unpack", self.archive, "--artifacts", self.here),
        ):
            shown = glore(*command)
            assert shown.exit_code == 0, shown.stderr
        self.base.rename(root / "away")


@pytest.fixture(scope="module")
def travelled(tmp_path_factory) -> Travelled:
    return Travelled(tmp_path_factory.mktemp("travel"))


def test_stages_are_the_notebooks_of_a_run():
    assert tuple(compute.STAGES) == runs.STAGES


@pytest.mark.slow
@pytest.mark.long
def test_every_notebook_renders_and_every_number_is_recomputed_without_weights(travelled, tmp_path):
    t, out = travelled, tmp_path / "results"
    assert not [*t.here.rglob("*.safetensors")] and t.archive.stat().st_size < 500_000
    models = without_weights(t.here)
    assert len(models) == 13  # three students, eight reward models, the refiner, the base model
    before = {path.name for path in t.here.glob("*-*")}
    shown = glore("run", PARAMS, *t.given, "--artifacts", t.here, "--out", out)
    assert shown.exit_code == 0, shown.stderr
    run = out / "mini-hard"
    assert {path.stem for path in run.glob("0*.ipynb")} == set(runs.STAGES)
    assert {path.name for path in t.here.glob("*-*")} == before and without_weights(t.here) == models
    shown = glore("check", run, "--artifacts", t.here)
    assert shown.exit_code == 0 and re.search(r"all [\d,]+ numbers agree", shown.stdout), shown.output
    assert glore("check", out / "mini-hard-figures", "--artifacts", t.here).exit_code == 0
    shown = glore("status", run, "--artifacts", t.here)
    assert f"without weights, which were not packed: {', '.join(models)}" in shown.stdout

    # Other samples need the student: one line says so, in the terminal and in the notebook.
    more = [*t.given, "--set=evaluation.rerank_samples=6", "--set=run=more"]
    shown = glore("run", PARAMS, *more, "--artifacts", t.here, "--out", out)
    assert shown.exit_code in (1, 2) and "Traceback" not in shown.output
    assert "no such folder" in shown.stderr.splitlines()[-1]  # the base model, which other parameters need
    t.base.symlink_to(t.base.with_name("away"))
    try:
        shown = glore("run", PARAMS, *more, "--artifacts", t.here, "--out", out)
    finally:
        t.base.unlink()
    told = next(name for name in models if name.startswith("student-ei1"))
    assert shown.exit_code == 1
    assert f"the weights of {told} were not packed" in shown.stderr.splitlines()[-1]
    cells = nbformat.read(next((out / "more").glob("*.partial.ipynb")), as_version=4).cells
    (failed,) = (o for c in cells if c.cell_type == "code" for o in c.outputs if o.output_type == "error")
    assert len(failed.traceback) == 1 and failed.traceback[0].startswith("ParamsError: artifacts ")


@pytest.mark.slow
@pytest.mark.long
def test_the_hash_of_rendered_notebooks_reaches_all_functions_that_they_execute(travelled, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.display", lambda *_: None, raising=False)
    codes: set[CodeType] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        codes.add(frame.f_code)

    def executed() -> Iterator[tuple[str, str]]:
        """Yield module and name of every function of the library that was called, of a method its class."""
        for code in codes:
            path, name = Path(code.co_filename), code.co_qualname.partition(".")[0]
            if path.is_relative_to(keys.PACKAGE) and code.co_flags & inspect.CO_OPTIMIZED and name[0] != "<":
                module = path.relative_to(keys.PACKAGE).with_suffix("").as_posix().removesuffix("/__init__")
                yield module.replace("/", "."), name

    given = {"params_file": str(PARAMS), "overrides": travelled.settings, "artifacts": str(travelled.here)}
    out = tmp_path / "mini-hard"
    library = Library(keys.PACKAGE, outside=keys.NOT_SHOWN, alternatives=(), facades={})
    for stage in STAGES:
        if stage == FIGURES:
            given = {"runs": [str(out)], "out": str(tmp_path / "figures")}
        script = code_cells((ROOT / "notebooks" / f"{stage}.ipynb").read_bytes())
        codes.clear()
        sys.setprofile(note)
        try:
            exec(script.replace("import os\n", f"import os\nglobals().update({ {'out': str(out)} | given })\n", 1), {})
        finally:
            sys.setprofile(None)
        reached = library.reached_by(script)
        shown = {(module, name) for module, name in executed() if not module.startswith(keys.NOT_SHOWN)}
        assert len(shown) > 50
        assert not {(module, name) for module, name in shown if name not in reached.get(module, {})}, stage


@pytest.mark.slow
@pytest.mark.long
def test_a_model_is_trained_again_as_it_was(travelled, tmp_path):
    t = travelled
    root = Path(shutil.copytree(t.here, tmp_path / "artifacts"))
    t.base.symlink_to(t.base.with_name("away"))
    try:
        more = [*t.given, "--set=evaluation.rerank_samples=6", "--artifacts", root]
        shown = glore("compute", PARAMS, *more)
        assert shown.exit_code == 2 and "were not packed" in shown.stderr.splitlines()[-1]
        shown = glore("compute", PARAMS, *more, "--retrain")
    finally:
        t.base.unlink()
    assert shown.exit_code == 0, shown.stderr
    again = {path.parent.name for path in root.glob("*/model.safetensors")}
    assert {name.rpartition("-")[0] for name in again} >= {"student-ei1", "reward-model-orm-ei1"}
    assert not any(name.startswith("student-sft-control") for name in again)  # nothing new is asked of it
    for name in again:
        record = json.loads((root / name / "artifact.json").read_text())
        assert record["info"]["trained_again"] == "same weights"
        for file, content in record["files"].items():
            if file.endswith(".safetensors"):
                assert content == json.loads((t.there / name / "artifact.json").read_text())["files"][file]


@pytest.mark.slow
@pytest.mark.long
def test_the_data_set_is_what_load_dataset_reads(travelled, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")
    t, folder = travelled, tmp_path / "data set"
    shown = glore("pack", PARAMS, *t.given, "--artifacts", t.here, "--dataset", "--out", folder)
    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout.splitlines()[-1] == f"done: {folder}"
    header, text = (folder / "README.md").read_text().removeprefix("---\n").split("\n---\n", 1)
    configs = {c["config_name"]: [f["split"] for f in c["data_files"]] for c in yaml.safe_load(header)["configs"]}
    assert configs == {name: [*c.splits] for name, c in dataset.CONFIGURATIONS.items()}
    assert load_params(PARAMS, t.settings).digest() in text and "MIT" in text and "rollouts" in text
    found = {}
    for name, splits in configs.items():
        found[name] = datasets.load_dataset(str(folder), name, cache_dir=str(tmp_path / "cache"))
        assert [*found[name]] == splits
        described = set(dataset.COLUMNS)
        assert all(set(of_split.column_names) <= described and len(of_split) for of_split in found[name].values())
    row = found["stepwise"]["train"][0]
    assert len(row["completions"]) == len(row["labels"]) > 0 and set(row["labels"]) <= {0, 1, -100}
    samples = found["samples"]["train"]
    assert len(samples) == 60 * 4 and {*samples["is_correct"]} == {True, False}
    tested, pool = found["samples"]["test"], pool_size(load_params(PARAMS, t.settings), "test")
    assert len(tested) == 40 * (1 + pool) and {*samples["question_id"]}.isdisjoint(tested["question_id"])
    pair = found["pairs"]["train"][0]
    assert pair["question"] in pair["prompt"] and "[BAD]" in pair["prompt"]
    shown = glore("pack", PARAMS, *t.given, "--artifacts", t.here, "--dataset", "--out", folder)
    assert shown.exit_code == 2 and "must be a new or an empty folder" in shown.stderr
    (t.here / "x").mkdir(exist_ok=True)
    shown = glore("pack", PARAMS, *t.given, "--artifacts", t.here / "x", "--dataset", "--out", tmp_path / "none")
    assert shown.exit_code == 2 and not (tmp_path / "none").exists()


PACKED = ROOT / "results" / "packed"


@pytest.mark.long
@pytest.mark.parametrize("run", sorted(path.name.removesuffix(".tar.gz") for path in PACKED.iterdir()))
def test_a_committed_archive_has_what_every_committed_number_is_computed_from(run, tmp_path):
    params = load_params(ROOT / "params" / f"{run}.yaml")
    if params.task.name != "arithmetic" and not os.environ.get("GLORE_DATA_DIR"):
        pytest.skip(f"GLORE_DATA_DIR is not set: {params.task.name} is not read from the hub in a test")
    assert glore("unpack", PACKED / f"{run}.tar.gz", "--artifacts", tmp_path).exit_code == 0
    shown = glore("check", ROOT / "results" / run, "--artifacts", tmp_path)
    assert shown.exit_code == 0 and re.search(r"all [\d,]+ numbers agree", shown.stdout), shown.output


@pytest.mark.long
@pytest.mark.parametrize("notebook", ["03_sorm", "explorer"])
def test_a_notebook_opens_on_the_committed_archive_and_computes_nothing(notebook, tmp_path):
    artifacts, made = tmp_path / "artifacts", tmp_path / "made.ipynb"
    assert glore("unpack", PACKED / "mini-hard.tar.gz", "--artifacts", artifacts).exit_code == 0
    before = {path.name for path in artifacts.glob("*-*")}
    papermill.execute_notebook(
        ROOT / "notebooks" / f"{notebook}.ipynb", made, {"artifacts": str(artifacts)}, cwd=tmp_path,
        kernel_name="python3", language="python", kernel_manager_class=Kernel, progress_bar=False,
    )  # fmt: skip
    assert {path.name for path in artifacts.glob("*-*")} == before
    assert all(cell.outputs for cell in nbformat.read(made, as_version=4).cells[-1:] if cell.cell_type == "code")
