"""The notebooks: tidy as they are kept, and all of them executed, in order, on reduced parameters."""

from pathlib import Path

import nbformat
import pandas as pd
import pytest

from glore_lib.params import read_yaml
from glore_lib.pipeline import APPENDIX, ROOT, STAGES, Pipeline

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
OF_APPENDIX = sorted((ROOT / "notebooks" / "appendix").glob("*.ipynb"))
REDUCED = read_yaml((Path(__file__).parent / "reduced.yaml").read_text())


def test_the_notebooks_are_the_stages():
    assert [path.stem for path in NOTEBOOKS] == list(STAGES)
    assert {f"appendix/{path.stem}" for path in OF_APPENDIX} == set(APPENDIX)


@pytest.mark.parametrize("path", OF_APPENDIX, ids=lambda path: path.stem)
def test_notebooks_of_the_appendix_begin_with_a_question_and_end_with_what_was_found(path: Path):
    cells = nbformat.read(path, as_version=4).cells
    assert "**Question" in cells[0].source and "(Paper," in cells[0].source
    assert cells[-4].source == "## What was found"
    assert cells[-3].source.startswith("print(*appendix.found_")
    assert cells[-1].source == f'run.finish("{path.stem}")'


@pytest.mark.parametrize("path", NOTEBOOKS + OF_APPENDIX, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs_and_with_short_cells(path: Path):
    cells = nbformat.read(path, as_version=4).cells
    for cell in (cell for cell in cells if cell.cell_type == "code"):
        assert not cell.outputs and cell.execution_count is None
        assert len(cell.source.splitlines()) <= 12
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in cells) == 1


@pytest.mark.slow
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

    # From an empty folder, the same parameters and seed give the same tables, byte for byte.
    again = Pipeline(files, tmp_path / "again", tmp_path / "artifacts-again", REDUCED)
    again.execute()
    assert {path.name: path.read_bytes() for path in (tmp_path / "again" / "tables").iterdir()} == {
        path.name: content for path, content in tables.items()
    }
