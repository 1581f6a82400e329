"""Computing where no package that draws, renders or executes notebooks is installed."""

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from glore_lib.artifacts.packed import pack
from glore_lib.params import ROOT, load_params
from glore_lib.workflow import compute
from glore_lib.workflow.pipeline import Results

NEEDED = ("torch", "transformers", "peft", "pandas", "pyarrow", "pydantic", "scipy", "statsmodels")
TINY = Path(__file__).parents[1] / "params" / "tiny.yaml"


def closure(*names: str) -> set[str]:
    """Return the installed packages among some names and all that they require."""
    found: set[str] = set()
    todo = [*names]
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop().lower())
        if name not in found:
            found.add(name)
            required = map(Requirement, metadata.requires(name) or [])
            todo += [r.name for r in required if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


@pytest.fixture(scope="session")
def few_packages(tmp_path_factory) -> Path:
    """Make a folder of packages that has the needed ones and what they require, and no other."""
    site = tmp_path_factory.mktemp("site")
    for name in closure(*NEEDED):
        for top in {file.parts[0] for file in metadata.files(name) or []} - {"..", "__pycache__"}:
            where = Path(str(metadata.distribution(name).locate_file(top)))
            if where.exists() and not (site / top).exists():
                (site / top).symlink_to(where)
    return site


def python(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the standard library, the packages in ``site`` and the library, which is not installed."""
    environment = os.environ | {"PYTHONPATH": f"{site}:{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-S", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=False)


def test_few_packages_are_few(few_packages):
    for name in ("matplotlib", "seaborn", "nbformat", "papermill", "IPython", "datasets", "jinja2"):
        ran = python(few_packages, "-c", f"import {name}")
        assert (ran.returncode == 0) == (name == "jinja2"), ran.stderr  # torch requires it


@pytest.mark.slow
def test_compute_needs_few_packages_and_continues(few_packages, tiny_base, tmp_path):
    command = ("-m", "glore_lib.cli", "compute", str(TINY), "--set", f"base_model.source={tiny_base}",
               "--artifacts", str(tmp_path), "--set", "student.start=sft")  # fmt: skip
    ran = python(few_packages, *command)
    assert ran.returncode == 0 and ran.stdout.endswith(f"\ndone: {tmp_path}\n"), ran.stderr
    made = re.findall(r"^  tiny: (\S+): [\d.]+ s$", ran.stderr, re.MULTILINE)
    assert sorted(made) == sorted(path.name for path in tmp_path.glob("*-*"))
    again = python(few_packages, *command)
    assert again.returncode == 0 and not re.search(r"^  ", again.stderr, re.MULTILINE), again.stderr


def test_what_an_interrupted_stage_has_made_is_packed(tiny_base, tmp_path, monkeypatch):
    def interrupted(lab) -> None:
        _ = lab.sft_student
        raise KeyboardInterrupt

    settings = {"base_model.source": str(tiny_base)}
    params = load_params(TINY, settings)
    monkeypatch.setattr(compute, "STAGES", {"01_expert_iteration": lambda lab: None, "02_orm": interrupted})
    with pytest.raises(KeyboardInterrupt):
        compute.compute([TINY], settings, [], tmp_path / "there", lambda line: None)
    made = {path.name for path in (tmp_path / "there").glob("*-*")}
    assert {"base-model", "sft-data", "student-sft"} <= {name.rpartition("-")[0] for name in made}
    packed = pack(tmp_path / "there", [params], tmp_path / "run.tar.gz")
    assert {artifact.id for artifact in packed} == made
    monkeypatch.setattr(compute, "STAGES", {"01_expert_iteration": lambda lab: lab.sft_student})
    compute.compute([TINY], settings, [], tmp_path / "there", lambda line: None)
    assert [path.name for path in (tmp_path / "there" / "stages").glob("*/*")] == ["01_expert_iteration.json"]


@pytest.mark.slow
def test_what_a_free_process_makes_ahead_is_what_the_last_notebooks_need(tiny_base, tmp_path):
    settings = {"base_model.source": str(tiny_base)}
    params = load_params(TINY, settings)
    results = Results(tmp_path / "tiny", artifacts=tmp_path / "artifacts", params=params)
    results.plan(TINY, settings, [])
    results.compute_ahead(lambda *_: None)
    made = []
    lab = compute.open_lab(TINY, settings, tmp_path / "artifacts")
    lab.run.store.made = made.append
    for stage in ("04_refiners", "05_evaluation"):
        compute.STAGES[stage](lab)
    assert not made and list((tmp_path / "artifacts").glob("outcomes-test-*"))
    assert not (tmp_path / "artifacts" / "stages").exists()  # that the notebooks are not done


def test_errors_ahead_are_left_to_the_notebooks(tmp_path, monkeypatch, capsys):
    results = Results(tmp_path / "tiny", artifacts=tmp_path / "artifacts", params=load_params(TINY))
    results.plan(TINY, {"task.name": "none"}, [])
    results.compute_ahead(lambda *_: None)
    assert capsys.readouterr() == ("", "")
