"""Papermill alone, as docs/howto/papermill.md shows it: what notebooks say of their parameters, where paths start."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest

from clone import TINY
from examples import blocks
from glore_lib.params import load_params
from glore_lib.workflow.environment import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").rglob("*.ipynb"))
PAGE = ROOT / "docs" / "howto" / "papermill.md"
HELP, RUN = [shlex.split(line) for block in blocks(PAGE.read_text(), "bash") for line in block.text.splitlines()]


def ask(command: list[str], cwd: Path) -> str:
    made = subprocess.run(
        [sys.executable, "-m", *command], cwd=cwd, capture_output=True, text=True, check=False, timeout=300
    )
    assert made.returncode == 0, made.stderr[-3000:]
    return made.stdout


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_parameter_has_a_type_and_an_explanation(path: Path):
    parameters = papermill.inspect_notebook(path)
    assert set(parameters) >= ({"runs", "out"} if path.stem == "06_figures" else {"params_file", "overrides"})
    for parameter in parameters.values():
        assert parameter["inferred_type_name"] in ("str", "dict", "list", "int")
        assert parameter["help"], parameter["name"]
        assert type(eval(parameter["default"])).__name__ == parameter["inferred_type_name"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_defaults_are_in_the_clone_and_a_run_does_not_write_into_the_folder_of_another(path: Path):
    defaults = {name: eval(given["default"]) for name, given in papermill.inspect_notebook(path).items()}
    assert {defaults.get("params_file"), defaults.get("artifacts")} <= {"params/mini-hard.yaml", "artifacts", None}
    assert defaults.get("out", "") == ("results/mini" if path.stem == "06_figures" else "")
    source = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
    assert source.index("os.chdir(ROOT)") < source.index("load_runs(" if path.stem == "06_figures" else "params_file,")


def test_the_page_lists_the_parameters():
    shown = ask(HELP, ROOT)
    assert re.search(r"params_file: str \(default \"params/mini-hard.yaml\"\)\s+the run", shown)
    assert "overrides: dict (default {})" in shown and "artifacts: str" in shown


@pytest.mark.slow
@pytest.mark.parametrize("folder", [pytest.param(".", marks=pytest.mark.long), "notebooks"])
def test_a_notebook_runs_from_any_folder_with_paths_of_the_clone(folder, tiny_base, tmp_path):
    """The command of the page, with the tiny run, its model and artifacts in place of the mini run's."""
    command = [word.replace("params/mini-easy.yaml", str(TINY.relative_to(ROOT))) for word in RUN]
    command = [str(tmp_path / word) if word == "out.ipynb" else word for word in command]
    command[1] = str(ROOT / command[1])
    overrides = command.pop()
    command += [overrides.replace("{student", f"{{base_model.source: {tiny_base}, student", 1)]
    ask([*command, "-p", "artifacts", str(tmp_path / "artifacts"), "--no-progress-bar"], ROOT / folder)
    made = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    given = load_params(TINY, {"student.rounds": 2, "base_model.source": str(tiny_base)})
    assert [path.name for path in (tmp_path / "artifacts" / "stages").iterdir()] == [f"tiny-{given.digest()}"]
    assert made.cells[-1].outputs
