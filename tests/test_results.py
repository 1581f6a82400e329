"""What is committed under results/ is what this code makes of the committed parameters, and the README quotes it."""

import json
import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from glore_lib.params import load_params
from glore_lib.pipeline import FIGURES, REPORT, ROOT, STAGES, code_hash, is_done, notebook_hash
from glore_lib.report import page

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
    assert (folder / REPORT).read_text(encoding="utf-8") == page(folder)


def test_readme_quotes_table_3_as_it_was_computed():
    readme = (ROOT / "README.md").read_text()
    quoted = re.search(r"<!-- table3 -->\n(.*)<!-- /table3 -->", readme, re.DOTALL)[1]
    table = pd.read_csv(ROOT / "results" / "mini" / "tables" / "table3.csv").query("metric == 'fixed_fraction'")
    rows = [line for line in quoted.splitlines() if line.startswith("| `")]
    assert len(rows) > 5
    for line in rows:
        method, *cells = [cell.strip(" `") for cell in line.strip("|").split("|")]
        for task, cell in zip(("mini-hard", "mini-easy"), cells, strict=True):
            row = table[(table["task"] == task) & (table["method"] == method)].iloc[0]
            want = f"{100 * row.value:.1f} [{100 * row.ci_low:.1f}, {100 * row.ci_high:.1f}] (n={row.n})"
            assert cell == want
