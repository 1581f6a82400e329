"""What is committed under results/ is what this code makes of the committed parameters, and the README quotes it."""

import json
import re
from pathlib import Path

import nbformat
import pytest

from glore_lib.artifacts.manifest import REPORT
from glore_lib.params import load_params
from glore_lib.reporting.quoted_tables import filled, quoted, tables
from glore_lib.reporting.report import page as report_page
from glore_lib.workflow.pipeline import FIGURES, ROOT, STAGES, code_hash, is_done, notebook_hash

RESULTS = sorted(path.parent for path in (ROOT / "results").glob("*/manifest.json"))
RENDERED = [path for folder in RESULTS for path in sorted(folder.rglob("*.ipynb")) if ".partial." not in path.name]


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("folder", RESULTS, ids=_name)
def test_results_are_of_the_committed_parameters_in_full(folder: Path):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["status"] == "done"
    for run in manifest["runs"]:
        params = load_params(ROOT / "params" / f"{run}.yaml")
        for stage in (stage for stage in STAGES if stage != FIGURES):
            rendered = nbformat.read(folder / run / f"{stage}.ipynb", as_version=4)
            assert rendered.metadata["glore"]["params_hash"] == params.digest()


@pytest.mark.parametrize("path", RENDERED, ids=_name)
def test_rendered_notebooks_are_not_stale(path: Path):
    source = ROOT / "notebooks" / ("appendix" if path.parent.name == "appendix" else "") / path.name
    assert is_done(path, {"notebook_hash": notebook_hash(source), "code_hash": code_hash()})


@pytest.mark.parametrize("path", RENDERED, ids=_name)
def test_rendered_notebooks_read_well(path: Path):
    text = path.read_text()
    assert '"output_type": "error"' not in text
    assert "Warning:" not in text
    assert not re.search(r'[" (]/(home|root|tmp|work|Users)/', text)


@pytest.mark.parametrize("folder", RESULTS, ids=_name)
def test_the_report_is_that_of_the_results_beside_it(folder: Path):
    assert (folder / REPORT).read_text(encoding="utf-8") == report_page(folder)


@pytest.mark.parametrize("path", [ROOT / "README.md", ROOT / "results" / "README.md"], ids=_name)
def test_pages_quote_what_was_computed(path: Path):
    page = path.read_text()
    made = tables(page, ROOT / "results" / "smollm2-svamp")
    assert set(made) == set(re.findall(r"<!-- (\w+) -->", page))
    for name, table in made.items():
        assert quoted(page, name) == table


def test_a_table_comes_between_its_marks_and_nowhere_else():
    page = "a\n<!-- x -->\nold\n<!-- /x -->\nold\n<!-- y -->\nold\n<!-- /y -->\n"
    made = filled(page, "x", "| \\1 |")
    assert made == page.replace("<!-- x -->\nold", "<!-- x -->\n| \\1 |")
    assert quoted(made, "x") == "| \\1 |" and quoted(made, "y") == "old"
    with pytest.raises(ValueError, match="<!-- z -->"):
        filled(page, "z", "new")
