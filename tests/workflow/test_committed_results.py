"""The committed results are of the committed notebooks and parameters, and README quotes them.

That they are also of the present code is checked by ``make test-long`` alone: renaming a function fails no test until
results are rendered again.
"""

import json
import re
from pathlib import Path

import nbformat
import pytest

from glore_lib.artifacts.keys import code_hash
from glore_lib.artifacts.manifest import REPORT, RUN_FILE, read_manifest, run_folders
from glore_lib.params import Params, digest, load_params
from glore_lib.reporting.quoted_tables import filled, quoted, tables
from glore_lib.reporting.report import page as report_page
from glore_lib.reporting.results import write_comparison
from glore_lib.workflow.notebooks import is_done, notebook_hash
from glore_lib.workflow.pipeline import FIGURES, ROOT, STAGES, comparison_hashes

FOLDERS = sorted(path.parent for path in (ROOT / "results").glob("*/manifest.json"))
SEEDS = sorted(path.parent for path in (ROOT / "results").glob("*/seeds/*/manifest.json"))
RESULTS = FOLDERS + SEEDS
MANIFESTS = {folder: json.loads((folder / "manifest.json").read_text()) for folder in RESULTS}
COMPARISONS = [folder for folder in RESULTS if "runs" in MANIFESTS[folder]]
RUNS = [folder for folder in RESULTS if folder not in COMPARISONS]
# Drawing takes half a minute: the comparison of most runs, and the others, which show some of the same, at length.
WIDEST = max(COMPARISONS, key=lambda folder: len(MANIFESTS[folder]["runs"]))
DRAWN = [pytest.param(folder, marks=[] if folder == WIDEST else pytest.mark.long) for folder in COMPARISONS]
RENDERED = [path for folder in FOLDERS for path in sorted(folder.rglob("*.ipynb")) if ".partial." not in path.name]
TABLES_ONLY = "tables only"  # a run of an older layout: its numbers are kept, its notebooks are in an older commit


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_there_are_runs_and_comparisons_and_no_other_folder():
    assert RUNS and COMPARISONS
    assert {path for path in (ROOT / "results").iterdir() if path.is_dir()} == {*FOLDERS, ROOT / "results" / "packed"}


@pytest.mark.parametrize("folder", RESULTS, ids=_name)
def test_a_folder_holds_what_its_manifest_lists_and_nothing_else(folder: Path):
    stages = {f"{entry['stage']}.ipynb" for entry in MANIFESTS[folder]["stages"]} if folder in FOLDERS else set()
    listed = stages | {*MANIFESTS[folder]["outputs"], "manifest.json"} | ({REPORT} if folder in COMPARISONS else set())
    files = [path for path in folder.rglob("*") if path.is_file()]
    of_seeds = {path for seed in SEEDS if folder in seed.parents for path in seed.rglob("*")}
    assert {path.relative_to(folder).as_posix() for path in files if path not in of_seeds} == listed


@pytest.mark.slow
@pytest.mark.parametrize("folder", DRAWN, ids=_name)
def test_tables_and_figures_are_redrawn_from_the_run_folders_byte_for_byte(folder: Path, tmp_path: Path):
    write_comparison(run_folders(folder), tmp_path)
    made, committed = ({path.relative_to(root): path for path in root.rglob("*.*")} for root in (tmp_path, folder))
    numbers = {name for name in made if name.suffix in (".csv", ".md")}
    assert len(numbers) > 6 and numbers == {name for name in committed if name.suffix in (".csv", ".md")}
    assert [name for name in sorted(numbers) if made[name].read_bytes() != committed[name].read_bytes()] == []
    assert set(made) <= set(committed)


@pytest.mark.parametrize("folder", RUNS, ids=_name)
def test_a_run_is_of_the_committed_parameters_in_full(folder: Path):
    manifest = read_manifest(folder)
    run, seed = (folder.parents[1], {"seed": int(folder.name)}) if folder in SEEDS else (folder, {})
    params = load_params(ROOT / "params" / f"{run.name}.yaml", seed)
    assert (manifest["run"], manifest["stale"]) == (params.run, {})
    assert manifest["params_hash"] == params.digest()
    assert manifest["params"] == params.model_dump(mode="json")
    if manifest["status"] == TABLES_ONLY:
        assert manifest["note"] and not manifest["stages"]
        return
    assert manifest["status"] == "done"
    for entry in manifest["stages"]:
        assert entry["status"] == "done"
        assert folder in SEEDS or is_done(folder / f"{entry['stage']}.ipynb", {"params_hash": params.digest()})
    assert {entry["stage"] for entry in manifest["stages"]} >= set(STAGES) - {FIGURES}


@pytest.mark.parametrize("folder", COMPARISONS, ids=_name)
def test_a_comparison_is_of_the_runs_beside_it(folder: Path):
    manifest, folders = read_manifest(folder), run_folders(folder)
    assert manifest["status"] == "done"
    assert [path.resolve().parent for path in folders] == [folder.parent] * len(folders)
    for (name, held), made in zip(manifest["runs"].items(), map(read_manifest, folders), strict=True):
        assert (name, held["params_hash"], held["code_hash"]) == (made["run"], made["params_hash"], made["code_hash"])
    hashes = comparison_hashes(folders)
    assert hashes["params_hash"] == digest([held["params_hash"] for held in manifest["runs"].values()])
    assert is_done(folder / f"{FIGURES}.ipynb", hashes)


def _source(path: Path) -> Path:
    return ROOT / "notebooks" / ("appendix" if path.parent.name == "appendix" else "") / path.name


@pytest.mark.parametrize("path", RENDERED, ids=_name)
def test_rendered_notebooks_have_the_committed_source(path: Path):
    rendered = nbformat.read(path, as_version=4)
    assert is_done(path, {"notebook_hash": notebook_hash(_source(path))})
    injected = [cell for cell in rendered.cells if "injected-parameters" in cell.metadata.get("tags", [])]
    cells = [cell for cell in rendered.cells if cell not in injected and cell.id != "findings"]
    source = nbformat.read(_source(path), as_version=4).cells
    assert [(cell.cell_type, cell.source) for cell in cells] == [(cell.cell_type, cell.source) for cell in source]


@pytest.mark.long
@pytest.mark.parametrize("path", RENDERED, ids=_name)
def test_rendered_notebooks_are_of_the_present_code(path: Path):
    folder = next(parent for parent in path.parents if parent in MANIFESTS)
    params = Params.model_validate(MANIFESTS[folder]["params"]) if folder in RUNS else None
    assert is_done(path, {"code_hash": code_hash(params)})


@pytest.mark.long
@pytest.mark.parametrize("folder", RUNS, ids=_name)
def test_runs_are_of_the_present_code(folder: Path):
    manifest = MANIFESTS[folder]
    if manifest["status"] == TABLES_ONLY:
        pytest.skip("its numbers are kept, and older code made them")
    made = code_hash(Params.model_validate(manifest["params"]))
    assert (manifest["code_hash"], json.loads((folder / RUN_FILE).read_text())["code_hash"]) == (made, made)


@pytest.mark.parametrize("path", RENDERED, ids=_name)
def test_rendered_notebooks_read_well(path: Path):
    text = path.read_text()
    assert '"output_type": "error"' not in text
    assert "Warning:" not in text
    assert not re.search(r'[" (]/(home|root|tmp|work|Users)/', text)


@pytest.mark.parametrize("path", [*RENDERED, *(folder / REPORT for folder in COMPARISONS)], ids=_name)
def test_no_cell_of_a_table_is_cut_off(path: Path):
    """Pandas ends what it cuts off with three dots."""
    pages = [path.read_text(encoding="utf-8")]
    if path.suffix == ".ipynb":
        outputs = [output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", [])]
        pages = [output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    ends = [(page, found.end()) for page in pages for found in re.finditer(r"\.\.\.</t[dh]>", page)]
    assert [page[max(0, end - 80) : end] for page, end in ends] == []


@pytest.mark.slow
@pytest.mark.parametrize("folder", DRAWN, ids=_name)
def test_the_report_is_that_of_the_results_beside_it(folder: Path):
    assert (folder / REPORT).read_text(encoding="utf-8") == report_page(folder)


@pytest.mark.parametrize("path", [ROOT / "README.md", ROOT / "results" / "README.md"], ids=_name)
def test_pages_quote_what_was_computed(path: Path):
    page = path.read_text()
    made = tables(page, ROOT / "results" / "all")
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
