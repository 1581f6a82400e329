"""The notebooks: tidy as they are kept, true of any run, and all of them executed in order on reduced parameters."""

import ast
import contextlib
import importlib
import inspect
import pkgutil
import re
import shutil
import struct
import subprocess
from base64 import b64decode
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from jupyter_server.services.contents.filemanager import FileContentsManager
from traitlets.config.loader import PyFileConfigLoader

from clone import TINY
from glore_lib import solutions, statistics
from glore_lib.method import evaluation, expert_iteration, refinement, reward_models, step_labels
from glore_lib.models import training
from glore_lib.params import read_yaml
from glore_lib.reporting import source
from glore_lib.reporting.results import TABLE_METRICS
from glore_lib.run import Run
from glore_lib.workflow.check import check
from glore_lib.workflow.notebooks import finish
from glore_lib.workflow.pipeline import APPENDIX, FIGURES, ROOT, STAGES, Pipeline, parse_appendix, render
from tiny import Scripted, solver

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
OF_APPENDIX = sorted((ROOT / "notebooks" / "appendix").glob("*.ipynb"))
OF_METHOD = [path for path in NOTEBOOKS if path.stem in STAGES and path.stem != FIGURES]
RENDERED = sorted((ROOT / "results").rglob("0*.ipynb"))
LINES, COLUMNS, INCHES = 45, 130, 8.2  # of an output on a screen
CELL = 25  # lines of code
DPI = 100  # of pictures in notebooks: matplotlib's
REDUCED = read_yaml((Path(__file__).parents[1] / "reduced.yaml").read_text())
# The functions that are the paper: each is displayed from its source, and applied to an example.
OF_THE_PAPER = {
    expert_iteration.merge_solutions, step_labels.orm_labels, step_labels.balance_samples, step_labels.rollout_labels,
    step_labels.make_monotone, solutions.is_consistent, step_labels.balance_steps, step_labels.first_errors,
    refinement.local_pairs, refinement.global_pairs, refinement.locate_first_error, refinement.marked_step,
    reward_models.labelled_solution, evaluation.pick, statistics.best_of_k,
}  # fmt: skip


def read(path: Path) -> list[nbformat.NotebookNode]:
    return nbformat.read(path, as_version=4).cells


def tagged(cell: nbformat.NotebookNode, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def name(path: Path) -> str:
    return path.stem if path in NOTEBOOKS + OF_APPENDIX else f"{path.parent.name}/{path.stem}"


def test_the_notebooks_are_the_stages_and_the_explorer():
    assert [path.stem for path in NOTEBOOKS] == [*STAGES, "explorer"]
    assert {f"appendix/{path.stem}" for path in OF_APPENDIX} == set(APPENDIX)


@pytest.mark.parametrize("path", NOTEBOOKS + OF_APPENDIX, ids=name)
def test_what_a_notebook_takes_from_the_library_exists(path: Path):
    cells = nbformat.read(path, as_version=4).cells
    tree = ast.parse("\n".join(cell.source for cell in cells if cell.cell_type == "code"))
    imported = {}
    for node in (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and "glore_lib" in node.module):
        for alias in node.names:
            place = f"{node.module}:{alias.name}"
            with contextlib.suppress(ImportError):
                importlib.import_module(place.replace(":", "."))
            imported[alias.asname or alias.name] = pkgutil.resolve_name(place)  # raises if there is no such name
    used = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
    assert imported
    for node in (node for node in used if node.value.id in imported):
        assert hasattr(imported[node.value.id], node.attr), ast.unparse(node)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_a_notebook_opens_with_its_question_and_where_in_the_paper(path: Path):
    first = read(path)[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    if path.stem != FIGURES:
        assert re.search(r"\*\*Question\.\*\* .+\?", first.source, re.DOTALL)
        assert re.search(r"\(Paper,\ssection", first.source)


@pytest.mark.parametrize("path", NOTEBOOKS + OF_APPENDIX, ids=name)
def test_no_result_stands_in_the_text(path: Path):
    """A notebook is true of any run: numbers are computed, but for the paper's. 95 % is what every interval covers."""
    for cell in read(path):
        if cell.cell_type == "markdown":
            ours = [line for line in cell.source.splitlines() if "paper" not in line.lower()]
            text = " ".join(ours).replace("95 %", "")
            assert not re.search(r"\d\s?%|= ?0?\.\d|\d+\.\d+ points", text), text


@pytest.mark.parametrize("path", OF_METHOD, ids=name)
def test_a_notebook_shows_examples_and_its_findings(path: Path):
    cells = read(path)
    sources = [cell.source for cell in cells if cell.cell_type == "code"]
    assert any("examples.worked_example(" in source for source in sources)
    found = next(i for i, cell in enumerate(cells) if cell.source == "## Findings")
    assert cells[found + 1].source.startswith("findings.")
    assert cells[-1].source == f'tables.costs(lab.run, "{path.stem}")'


def called(cells: list[nbformat.NotebookNode]) -> Iterator[tuple[str, list[str]]]:
    """Yield every call of a function by its plain name in the code cells, with those arguments that are names."""
    for cell in cells:
        if cell.cell_type == "code":
            for node in ast.walk(ast.parse(cell.source)):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    yield node.func.id, [argument.id for argument in node.args if isinstance(argument, ast.Name)]


def test_the_functions_of_the_paper_are_shown_and_applied():
    shown_in: dict[str, str] = {}
    for path in OF_METHOD:
        calls = list(called(read(path)))
        shown = [function for made, arguments in calls if made == "show" for function in arguments]
        assert shown, path.stem
        applied = {made for made, _ in calls}
        assert applied & set(shown), path.stem
        shown_in |= dict.fromkeys(shown, path.stem)
        for function in OF_THE_PAPER:
            if function.__name__ in shown:
                assert function.__name__ in applied, f"{path.stem} shows {function.__name__} and never calls it"
    assert {function.__name__ for function in OF_THE_PAPER} <= set(shown_in)


@pytest.mark.parametrize("function", sorted(OF_THE_PAPER, key=lambda f: f.__name__), ids=lambda f: f.__name__)
def test_a_function_of_the_paper_fits_a_screen(function):
    assert len(repr(source.show(function)).splitlines()) <= LINES
    assert inspect.getdoc(function)


@pytest.mark.parametrize("path", RENDERED, ids=name)
def test_every_output_fits_a_screen(path: Path):
    for cell in read(path):
        for output in cell.get("outputs", []):
            assert output.output_type in ("stream", "display_data", "execute_result")
            assert output.get("name") != "stderr", output.text  # no warnings, no progress bars
            data = output.get("data", {})
            assert "image/png" in data or "<Figure" not in data.get("text/plain", ""), cell.source
            if "image/png" in data:
                png = b64decode(data["image/png"])
                width, height = struct.unpack(">II", png[16:24])
                assert height <= INCHES * DPI and width <= 12 * DPI, cell.source
                continue
            lines = output.get("text", data.get("text/plain", "")).splitlines()
            page = data.get("text/html", "")  # shown instead of the plain text, which breaks wide tables apart
            shown = len(re.findall(r"<(?:tr|br|li|p)\b", page)) if page else len(lines)
            assert shown <= LINES, cell.source
            if output.output_type == "stream":
                assert all(len(line) <= COLUMNS for line in lines), cell.source


@pytest.mark.parametrize("path", OF_APPENDIX, ids=name)
def test_notebooks_of_the_appendix_begin_with_a_question_and_end_with_findings(path: Path):
    cells = read(path)
    assert "**Question" in cells[0].source and "(Paper," in cells[0].source
    assert cells[-4].source == "## Findings"
    assert cells[-3].source.startswith("print(*appendix.found_")
    assert cells[-1].source == f'tables.costs(run, "{path.stem}")'


@pytest.mark.parametrize("path", NOTEBOOKS + OF_APPENDIX, ids=name)
def test_notebooks_are_kept_without_outputs_and_with_short_cells(path: Path):
    notebook = nbformat.read(path, as_version=4)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        assert not cell.outputs and cell.execution_count is None
        assert len(cell.source.splitlines()) <= CELL
        assert all(len(line) <= 120 for line in cell.source.splitlines())
    assert sum(tagged(cell, "parameters") for cell in notebook.cells) == 1


@pytest.mark.parametrize("kept", [False, True], ids=["tracked", "own copy"])
def test_jupyterlab_saves_edits_and_only_of_own_copies_outputs(kept: bool, tmp_path: Path):
    (tmp_path / "notebooks").mkdir()
    path = "notebooks/mine.ipynb" if kept else "notebooks/explorer.ipynb"
    shutil.copy(ROOT / "notebooks" / "explorer.ipynb", tmp_path / path)
    for command in (["init", "-q"], *([] if kept else [["add", path]])):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    before = (tmp_path / path).read_bytes()
    config = PyFileConfigLoader("jupyter_server_config.py", str(ROOT / "notebooks")).load_config()
    manager = FileContentsManager(root_dir=str(tmp_path), config=config)

    def save(source: str | None = None) -> bytes:
        """Save what JupyterLab would after Run All, with the last cell changed to ``source``."""
        model = manager.get(path)
        model["content"].metadata |= {"widgets": {}, "language_info": {"name": "python", "version": "3.11.2"}}
        for number, cell in enumerate(c for c in model["content"].cells if c.cell_type == "code"):
            cell.execution_count, cell.outputs = number + 1, [nbformat.v4.new_output("stream", text="1")]
            cell.metadata |= {"execution": {"iopub.status.busy": "now"}}
        if source is not None:
            model["content"].cells[-1].source = source
        manager.save(model, path)
        return (tmp_path / path).read_bytes()

    assert (save() == before) != kept
    edited = nbformat.reads(save("mine = 1").decode(), as_version=4).cells
    assert edited[-1].source == "mine = 1" and bool(edited[-1].outputs) == kept
    assert [cell.metadata.get("tags") for cell in edited][:2] == [None, ["parameters"]]


@pytest.mark.parametrize("path", OF_METHOD + OF_APPENDIX, ids=name)
def test_cells_that_train_or_sample_are_announced(path: Path):
    """The text above says so, and what it costs; :func:`test_cells_on_any_run` finds cells without the tag."""
    cells = read(path)
    for above, cell in pairwise(cells):
        if tagged(cell, "trains"):
            assert above.cell_type == "markdown"
            assert re.search(r"\*\*[Tt]he next cell (trains|samples)", above.source), cell.source
            assert "on 2 cores" in above.source or path in OF_APPENDIX, cell.source
        else:
            assert "the next cell trains" not in above.source.lower()


# Executed


class Executed:
    """The code cells of notebooks, executed here, with those that trained or sampled."""

    def __init__(self, artifacts: Path, overrides: dict[str, Any]):
        self.given = {"params_file": str(TINY), "overrides": overrides, "artifacts": str(artifacts)}
        self.worked: list[nbformat.NotebookNode] = []
        self.busy = False

    def work(self) -> None:
        self.busy = True

    def run(self, path: Path, **given: str) -> None:
        names: dict[str, Any] = {}
        for cell in (cell for cell in read(path) if cell.cell_type == "code"):
            self.busy = False
            body = ast.parse(cell.source)
            last = body.body.pop() if isinstance(body.body[-1], ast.Expr) else None
            exec(compile(body, path.stem, "exec"), names)
            if last:
                self._display(eval(compile(ast.Expression(last.value), path.stem, "eval"), names))
            if tagged(cell, "parameters"):
                names |= self.given | given
            if self.busy:
                self.worked.append(cell)

    def _display(self, value: object) -> None:
        for how in ("_repr_markdown_", "_repr_html_"):
            if hasattr(value, how):
                getattr(value, how)()
        # As text, pandas writes the columns of a wide table below each other.
        assert (len(value) if isinstance(value, pd.DataFrame) else len(repr(value).splitlines())) <= LINES


STUDENTS = {"right half the time": 0.5, "always right": 1.0, "never right": 0.0, "silent": None}


@pytest.mark.parametrize("student", STUDENTS)
def test_cells_on_any_run(student, tiny_base, tmp_path, monkeypatch, capsys):
    """Notebooks 01-05 hold for runs without any wrong answer, without any correct one, or without a single step."""
    steps = {"epochs": 1, "max_steps": 1, "learning_rate": 1e-3}
    settings = {
        "base_model.source": str(tiny_base), "task.train_questions": 6, "task.validation_questions": 4,
        "task.test_questions": 5, "student.samples_per_question": 3, "student.sft_control": True,
        "reward_models.samples_per_question": 4, "reward_models.sorm_samples_per_question": 2,
        "reward_models.figure4": True, "reward_models.figure4_training": steps, "evaluation.rerank_samples": 4,
    }  # fmt: skip
    done = Executed(tmp_path / "artifacts", settings)
    right = STUDENTS[student]

    def sampler(run: Run, model: object) -> Scripted:
        answer = (lambda *_: "") if right is None else solver(run, right)
        scripted = Scripted(run.tokenizer, answer)
        sample = scripted.sample
        monkeypatch.setattr(scripted, "sample", lambda *given: (done.work(), sample(*given))[1])
        return scripted

    train = training.train
    monkeypatch.setattr(training, "train", lambda *given, **more: (done.work(), train(*given, **more))[1])
    monkeypatch.setattr(Run, "sampler", sampler)
    for path in OF_METHOD:
        out = {"out": str(tmp_path / "out")} if path.stem == "05_evaluation" else {}
        done.run(path, **out)
        printed = capsys.readouterr().out.splitlines()
        assert all(len(line) <= COLUMNS for line in printed), max(printed, key=len)
    assert all(tagged(cell, "trains") for cell in done.worked), [
        c.source for c in done.worked if not tagged(c, "trains")
    ]
    assert len(done.worked) >= 10
    assert (tmp_path / "out" / "run.json").exists()


@pytest.mark.slow
@pytest.mark.long
def test_all_notebooks_run_and_a_second_run_finds_all_done(tmp_path: Path):
    def pipeline(name: str, *difficulties: str, appendix: str | None = None) -> Pipeline:
        files = [ROOT / "params" / f"mini-{difficulty}.yaml" for difficulty in difficulties]
        added = parse_appendix(appendix)
        return Pipeline(files, tmp_path / "out", tmp_path / "artifacts", REDUCED, appendix=added, name=name)

    alone = partial(pipeline, "alone", "easy", appendix="all")
    both = partial(pipeline, "mini", "hard", "easy")
    render(alone().results)
    easy = {path: path.read_bytes() for path in (tmp_path / "out" / "mini-easy").rglob("*.*")}
    written = {path.name for path in (tmp_path / "out" / "mini-easy" / "appendix").iterdir()}
    assert {f"{Path(stage).name}{suffix}" for stage in APPENDIX for suffix in (".ipynb", ".csv", ".svg")} <= written
    render(both().results)
    assert {path: path.read_bytes() for path in easy} == easy
    out = tmp_path / "out" / "mini"
    assert {path.stem for path in (out / "tables").iterdir()} == set(TABLE_METRICS)
    table3 = pd.read_csv(out / "tables" / "table3.csv")
    assert {"global", "local+orm", "local+sorm", "global+local+sorm", "local+oracle"} <= set(table3["method"])
    for figure in ("figure4", "figure5", "figure6"):
        assert (out / "figures" / f"{figure}.svg").stat().st_size > 1000
    of_run = [
        "manifest.json",
        "run.json",
        "tables/numbers.csv",
        *(f"{stage}.ipynb" for stage in STAGES if stage != FIGURES),
    ]
    made = [tmp_path / "out" / run / name for run in ("mini-hard", "mini-easy") for name in of_run]
    made += [out / name for name in ("manifest.json", "scoreboard.csv", f"{FIGURES}.ipynb")]
    made += [out / "tables" / f"table{number}.{suffix}" for number in (1, 2, 3) for suffix in ("csv", "md")]
    made += [out / "figures" / f"figure{number}.{suffix}" for number in (4, 5, 6) for suffix in ("png", "svg", "csv")]
    assert [path for path in made if not path.is_file() or not path.stat().st_size] == []
    assert not any(job.due for each in (alone(), both()) for job in each.jobs)
    for folder in (tmp_path / "out" / "mini-hard", tmp_path / "out" / "mini-easy", out):
        compared, differences = check(folder, tmp_path / "artifacts")
        assert compared > 500
        assert differences == []
    for path in (tmp_path / "out").rglob("0*.ipynb"):
        test_every_output_fits_a_screen(path)


def test_a_rendered_notebook_does_not_name_the_folder_of_the_data(tmp_path, monkeypatch):
    folder = tmp_path / "data"
    monkeypatch.setenv("GLORE_DATA_DIR", f"{folder}/")
    text = f"GLORE_DATA_DIR = '{folder}': no file; {folder}/gsm8k, {folder}.old, other{folder}"
    printed = nbformat.v4.new_code_cell("1", outputs=[nbformat.v4.new_output("stream", text=text)])
    finish(nbformat.v4.new_notebook(cells=[printed], metadata={"papermill": {}}), tmp_path / "made.ipynb", {})
    (cell,) = nbformat.read(tmp_path / "made.ipynb", as_version=4).cells
    expected = "GLORE_DATA_DIR = '$GLORE_DATA_DIR': no file; $GLORE_DATA_DIR/gsm8k, "
    assert cell.outputs[0].text == f"{expected}{folder}.old, other{folder}"


@pytest.mark.parametrize("count", [0, 3, 7])
def test_a_rendered_notebook_begins_with_its_foremost_findings(tmp_path, count):
    """As sentences in text, each whole though it is printed in several lines."""
    new, output = nbformat.v4, nbformat.v4.new_output
    printed = "".join(f"- Finding {i}: 50 %\n  [40, 60].\n" for i in range(count)) + "\nSurprises:\n- Finding 1.\n"
    told = new.new_code_cell(
        "tell()", outputs=[output("stream", text=printed), output("stream", name="stderr", text="w")]
    )
    cells = [new.new_markdown_cell("# Title"), new.new_markdown_cell("## Findings"), told]
    notebook = new.new_notebook(cells=cells, metadata={"papermill": {}})
    finish(notebook, tmp_path / "made.ipynb", {})
    title, *inserted, heading, code = nbformat.read(tmp_path / "made.ipynb", as_version=4).cells
    assert (title.source, heading.source, code.source) == ("# Title", "## Findings", "tell()")
    lines = [line for cell in inserted for line in cell.source.splitlines()]
    assert [line for line in lines if line.startswith("- ")] == [
        f"- Finding {i}: 50 % [40, 60]." for i in range(min(count, 5))
    ]
    assert (
        lines[:1]
        == {
            0: [],
            3: ["**Findings** (also [at the end](#Findings))"],
            7: ["**Findings** (more [at the end](#Findings))"],
        }[count]
    )
