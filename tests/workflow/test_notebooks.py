"""The notebooks: tidy as they are kept, and all of them executed, in order, on reduced parameters."""

import re
import struct
from base64 import b64decode
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from glore_lib.params import read_yaml
from glore_lib.workflow.check import check
from glore_lib.workflow.pipeline import APPENDIX, FIGURES, ROOT, STAGES, Pipeline

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
OF_APPENDIX = sorted((ROOT / "notebooks" / "appendix").glob("*.ipynb"))
RENDERED = sorted((ROOT / "results").glob("*/*/0*.ipynb"))
LINES, COLUMNS, INCHES = 45, 130, 8.2  # of an output on a screen
DPI = 100  # of pictures in notebooks: matplotlib's
REDUCED = read_yaml((Path(__file__).parents[1] / "reduced.yaml").read_text())


def test_the_notebooks_are_the_stages_and_the_explorer():
    assert [path.stem for path in NOTEBOOKS] == [*STAGES, "explorer"]
    assert {f"appendix/{path.stem}" for path in OF_APPENDIX} == set(APPENDIX)


def name(path: Path) -> str:
    return path.stem if path in NOTEBOOKS + OF_APPENDIX else f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_a_notebook_opens_with_its_question_and_where_in_the_paper(path: Path):
    first = nbformat.read(path, as_version=4).cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    if path.stem != FIGURES:
        assert re.search(r"\*\*Question\.\*\* .+\?", first.source)
        assert re.search(r"\(Paper, section", first.source)


@pytest.mark.parametrize("path", NOTEBOOKS + OF_APPENDIX, ids=name)
def test_no_result_stands_in_the_text(path: Path):
    """A notebook is true of any run: numbers are computed, but for the paper's. 95 % is what every interval covers."""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            ours = [line for line in cell.source.splitlines() if "paper" not in line.lower()]
            text = " ".join(ours).replace("95 %", "")
            assert not re.search(r"\d\s?%|= ?0?\.\d|\d+\.\d+ points", text), text


@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path.stem in list(STAGES)[:5]], ids=name)
def test_a_notebook_shows_examples_and_says_what_was_found(path: Path):
    cells = nbformat.read(path, as_version=4).cells
    sources = [cell.source for cell in cells if cell.cell_type == "code"]
    assert any("examples.worked_example(" in source for source in sources)
    found = next(i for i, cell in enumerate(cells) if cell.source == "## What was found")
    assert cells[found + 1].source.startswith("findings.tell(")


def test_the_report_gets_some_examples():
    cells = nbformat.read(ROOT / "notebooks" / "05_evaluation.ipynb", as_version=4).cells
    tagged = [cell for cell in cells if "report-example" in cell.metadata.get("tags", [])]
    assert 1 <= len(tagged) <= 2 and all("worked_example" in cell.source for cell in tagged)


@pytest.mark.parametrize("path", RENDERED, ids=name)
def test_every_output_fits_a_screen(path: Path):
    for cell in nbformat.read(path, as_version=4).cells:
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
            assert len(lines) <= LINES, cell.source
            if output.output_type == "stream":
                assert all(len(line) <= COLUMNS for line in lines), cell.source


@pytest.mark.parametrize("path", OF_APPENDIX, ids=name)
def test_notebooks_of_the_appendix_begin_with_a_question_and_end_with_what_was_found(path: Path):
    cells = nbformat.read(path, as_version=4).cells
    assert "**Question" in cells[0].source and "(Paper," in cells[0].source
    assert cells[-4].source == "## What was found"
    assert cells[-3].source.startswith("print(*appendix.found_")
    assert cells[-1].source == f'display.costs(run, "{path.stem}")'


@pytest.mark.parametrize("path", NOTEBOOKS + OF_APPENDIX, ids=name)
def test_notebooks_are_kept_without_outputs_and_with_short_cells(path: Path):
    cells = nbformat.read(path, as_version=4).cells
    for cell in (cell for cell in cells if cell.cell_type == "code"):
        assert not cell.outputs and cell.execution_count is None
        assert len(cell.source.splitlines()) <= 12
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in cells) == 1


@pytest.mark.slow
@pytest.mark.long
def test_all_notebooks_run_and_a_second_run_finds_all_done(tmp_path: Path):
    files = [ROOT / "params" / f"mini-{difficulty}.yaml" for difficulty in ("hard", "easy")]

    def pipeline() -> Pipeline:
        return Pipeline(files, tmp_path / "out", tmp_path / "artifacts", REDUCED, appendix=True)

    pipeline().execute()
    for run in ("mini-hard", "mini-easy"):
        written = {path.name for path in (tmp_path / "out" / run / "appendix").iterdir()}
        assert {f"{Path(stage).name}{suffix}" for stage in APPENDIX for suffix in (".ipynb", ".csv", ".svg")} <= written
    tables = {path: path.read_bytes() for path in (tmp_path / "out" / "tables").iterdir()}
    assert {path.stem for path in tables} == {"table1", "table2", "table3"}
    table3 = pd.read_csv(tmp_path / "out" / "tables" / "table3.csv")
    assert {"global", "local+orm", "local+sorm", "global+local+sorm", "local+oracle"} <= set(table3["method"])
    for name in ("figure4", "figure5", "figure6"):
        assert (tmp_path / "out" / "figures" / f"{name}.svg").stat().st_size > 1000
    assert not any(job.due for job in pipeline().jobs)
    compared, differences = check(tmp_path / "out", tmp_path / "artifacts")
    assert compared > 1000
    assert differences == []

    # From an empty folder, the same parameters and seed give the same tables, byte for byte.
    again = Pipeline(files, tmp_path / "again", tmp_path / "artifacts-again", REDUCED)
    again.execute()
    assert {path.name: path.read_bytes() for path in (tmp_path / "again" / "tables").iterdir()} == {
        path.name: content for path, content in tables.items()
    }
