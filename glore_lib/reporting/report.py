"""Write ``report.html`` of a comparison: one page built from its rendered notebook 06, without scripts or other files.

nbconvert renders and sanitises the notebook's texts and outputs. Added are headline numbers, alternative texts, the
numbers behind each figure, worked examples of the runs, links to their notebooks, and the manifests. The same folders
give the same bytes.
"""

import base64
import re
from collections.abc import Iterator
from datetime import timedelta
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat
import pandas as pd
from bs4 import BeautifulSoup
from jinja2 import Environment
from nbconvert import HTMLExporter
from nbconvert.preprocessors.sanitize import SanitizeHTML

from glore_lib import statistics as st
from glore_lib.artifacts.manifest import REPORT, read_manifest, run_folders
from glore_lib.artifacts.records import write
from glore_lib.params import ParamsError
from glore_lib.reporting import scoreboard
from glore_lib.reporting.results import Comparison, load_runs, read_table
from glore_lib.reporting.tables import format_estimate

EXAMPLE = "report-example"  # tag of the cells of notebook 05 whose outputs are shown
DRAWN = re.compile(r'save_(?:figure|diagram)\(.*"(\w+)"')
HEADLINES = {
    ("greedy", "accuracy"): "Accuracy of greedy drafts",
    ("bo3", "accuracy"): "Accuracy of the best of three samples, selected by the ORM",
    ("reranked", "accuracy"): "Accuracy of draft, global and local refinement, reranked by the ORM",
    ("global+local+sorm", "fixed_fraction"): "Wrong drafts fixed by global or local refinement",
    ("global+local+sorm-resample", "fixed_fraction_difference"): "Difference to a fresh sample, in points",
    ("sorm", "step_accuracy"): "Step accuracy of the SORM",
    ("sorm-orm", "step_accuracy_difference"): "Difference to the ORM, in points",
}
ALTERNATIVES = {
    "pipeline": "Diagram of training (student, reward models, refiner) and of answering a question at test time.",
    "figure1": "Diagram of three bands: the student's rounds, one wrong sample with its labels, its training pairs.",
    "figure3": "Diagram of boxes joined by arrows: question, draft, two refinements, reranking by the ORM, answer.",
    "figure4": "Line charts, one per run: accuracy against the number of samples K, a line per reward model.",
    "figure5": "Bar charts, one per run: accuracy after each refinement of all drafts and of wrong drafts only.",
    "figure6": "Bar charts, one per run: accuracy of greedy drafts, best of three and reranked refinements.",
    "label_quality": "Dot charts, one per run: precision and recall of labels by rollouts, a row per rule.",
    "scores_by_step": "Line charts, one per run: mean score of correct steps by step, a line per reward model.",
    "calibration": "Line charts, one per run: mean score minus share of correct steps, a line per reward model.",
    "reliability": "Line charts, a row per run and a panel per step: share of correct steps against the score.",
    "fixed_overlap": "Heat maps, one per run: wrong drafts fixed by the row's method and not by the column's.",
    "cost": "Dot charts, one per run: extra tokens per additional solved problem, a row per method.",
}
# The sanitiser escapes all other tags and drops all other attributes and outputs.
SANITISED = {
    "tags": ["div", "p", "b", "br", "details", "summary", "table", "thead", "tbody", "tr", "th", "td"],
    "attributes": {"th": ["colspan", "rowspan", "style"], "td": ["colspan", "rowspan", "style"]},
    "styles": ["background-color", "color", "text-align"],
    "safe_output_keys": {"metadata", "text/plain", "image/png"},
    "sanitized_output_types": {"text/html"},
}
LINK = re.compile(r"https://[^\s]+|#[^\s]+|[\w./%-]+\.ipynb")


def write_report(out: Path) -> Path:
    """Write the report of a comparison folder; return its path. Raises as :func:`page` does."""
    write(out / REPORT, page(out))
    return out / REPORT


def page(out: Path) -> str:
    """Return the report of a comparison folder as HTML.

    Raises :class:`ParamsError` if the folder has no manifest, or a run folder, table or notebook can't be read.
    """
    manifest = read_manifest(out)
    c = load_runs(run_folders(out))
    manifests = {"Comparison": manifest} | {
        run["run"]: _run_manifest(f) for run, f in zip(c.runs, c.folders, strict=True)
    }
    notebook = out / "06_figures.ipynb"
    sections = {
        "Summary": _summary(c, out, manifests),
        "Results": _html(_with_figures(_notebook(notebook), out / "figures")) if notebook.exists() else "",
        "Worked examples": "".join(_examples(c)),
        "Notebooks": "".join(_links(c, manifest)),
        "Environment": "".join(_environment(manifests)),
    }
    template = Environment(autoescape=True).from_string((files("glore_lib") / "assets" / f"{REPORT}.jinja").read_text())
    filled = {name: _accessible(html, name) for name, html in sections.items() if html}
    return template.render(runs=[run["run"] for run in c.runs], notes=_notes(c, manifests), sections=filled) + "\n"


def _run_manifest(folder: Path) -> dict[str, Any]:
    return read_manifest(folder) if (folder / "manifest.json").exists() else {"stages": []}


def _notes(c: Comparison, manifests: dict[str, dict[str, Any]]) -> list[str]:
    """Return what a reader must know first: runs that are not finished, and artifacts of older code."""
    notes = [
        f"{name} is not finished ({held['status']}). {' '.join(s['error'] for s in held['stages'] if 'error' in s)}"
        for name, held in manifests.items()
        if held.get("status", "done") != "done"
    ]
    return notes + c.stale_notes


def _summary(c: Comparison, out: Path, manifests: dict[str, dict[str, Any]]) -> str:
    numbers = {(row.task, row.method, row.metric): row for row in c.tables["numbers"].itertuples()}
    runs = [run["run"] for run in c.runs]
    shown = pd.DataFrame(
        {
            run: {
                words: format_estimate(st.estimate(row)) if (row := numbers.get((run, *key))) else "–"
                for key, words in HEADLINES.items()
            }
            for run in runs
        }
    )
    about = pd.DataFrame({run["run"]: {"Task": run["caption"], "Model": _public(run["model"])} for run in c.runs})
    took = {name: timedelta(seconds=round(m["seconds"])) for name, m in manifests.items() if "seconds" in m}
    times = (
        f"<p>Time (h:mm:ss): {escape(', '.join(f'{name} {time}' for name, time in took.items()))}.</p>" if took else ""
    )
    html = f"{about.to_html(border=0)}{times}<h2>Headline numbers</h2><p>Per cent [95 % interval] (n), test split.</p>"
    html += shown.to_html(border=0)
    if (path := out / "scoreboard.csv").exists():
        scores = read_table(path, scoreboard.COLUMNS)
        counts = pd.crosstab(scores["verdict"].array, scores["task"].array)[list(scores["task"].unique())]
        order = {verdict: place for place, verdict in enumerate(scoreboard.VERDICTS)}
        counts = counts.sort_index(key=lambda names: names.map(lambda name: order.get(name, len(order))))
        html += f"<h2>Claims by verdict</h2>{counts.to_html(border=0, index_names=False)}"
    return html


def _with_figures(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """Replace the pictures of a notebook by the saved ones, with alternative texts and the numbers drawn."""
    for cell in notebook.cells:
        if cell.cell_type == "code" and (found := DRAWN.search(cell.source)):
            name = found[1]
            picture, data = folder / f"{name}.png", folder / f"{name}.csv"
            if picture.exists():
                image = {"image/png": base64.b64encode(picture.read_bytes()).decode()}
                cell.outputs = [nbformat.v4.new_output("display_data", image)]
                cell.metadata["alt"] = ALTERNATIVES.get(name, f"Figure {name}")
            if data.exists():
                table = (
                    pd.read_csv(data, keep_default_na=False, na_values=[""]).round(3).to_html(index=False, na_rep="")
                )
                html = f"<details><summary>Numbers in this figure</summary>{table}</details>"
                cell.outputs.append(nbformat.v4.new_output("display_data", {"text/html": html}))
    return notebook


def _html(notebook: nbformat.NotebookNode) -> str:
    """Return the texts and outputs of a notebook as sanitised HTML."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if html := output.get("data", {}).get("text/html"):  # pandas adds a style element
                output.data["text/html"] = re.sub(r"<style scoped>.*?</style>", "", html, flags=re.DOTALL)
    exporter = HTMLExporter(
        template_name="basic", exclude_input=True, exclude_output_prompt=True, exclude_anchor_links=True
    )
    exporter.register_preprocessor(SanitizeHTML(**SANITISED), enabled=True)
    return exporter.from_notebook_node(notebook)[0]


def _notebook(path: Path) -> nbformat.NotebookNode:
    try:
        return nbformat.read(path, as_version=4)
    except (ValueError, AttributeError, nbformat.ValidationError):
        raise ParamsError(f"{path}: is not a notebook; glore run renders it again") from None


def _examples(c: Comparison) -> Iterator[str]:
    for run, folder in zip(c.runs, c.folders, strict=True):
        path = folder / "05_evaluation.ipynb"
        cells = _notebook(path).cells if path.exists() else []
        tagged = [cell for cell in cells if EXAMPLE in cell.metadata.get("tags", [])]
        for cell in tagged:
            cell.metadata.setdefault("alt", "A picture of the example, which the notebook draws")
        if tagged:
            yield f"<h2>{escape(run['run'])}</h2>{_html(nbformat.v4.new_notebook(cells=tagged))}"


def _links(c: Comparison, manifest: dict[str, Any]) -> Iterator[str]:
    for run, folder in zip(c.runs, c.folders, strict=True):
        paths = [*sorted(folder.glob("*.ipynb")), *sorted(folder.glob("appendix/*.ipynb"))]
        there = manifest["runs"][run["run"]]["folder"]
        links = [
            (f"{there}/{path.relative_to(folder).as_posix()}", path) for path in paths if ".partial." not in path.name
        ]
        items = "".join(f'<li><a href="{quote(link)}">{_title(path)}</a></li>' for link, path in links)
        if items:
            yield f"<h2>{escape(run['run'])}</h2><ul>{items}</ul>"


def _title(path: Path) -> str:
    """Return the first heading of a notebook, escaped."""
    texts = "\n".join(cell.source for cell in _notebook(path).cells if cell.cell_type == "markdown")
    heading = re.search(r"^# (.+)", texts, re.MULTILINE)
    return escape(heading[1] if heading else path.stem)


def _environment(manifests: dict[str, dict[str, Any]]) -> Iterator[str]:
    for name, manifest in manifests.items():
        rows = pd.DataFrame({"Value": _flat(manifest)}).rename_axis("Field").reset_index()
        yield f"<details><summary>Manifest: {escape(name)}</summary>{rows.to_html(index=False, border=0)}</details>"


def _flat(value: Any, name: str = "") -> dict[str, str]:
    """Return the values of nested dicts and lists by their dotted names."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        return {name: _public(str(value))}
    return {k: v for key, part in items for k, v in _flat(part, f"{name}.{key}".strip(".")).items()}


def _public(source: str) -> str:
    """Return the last part of an absolute path, and any other text as it is."""
    return Path(source).name if Path(source).is_absolute() else source


def _accessible(html: str, section: str) -> str:
    """Fit HTML into the page: headings one level down, boxes that scroll by keyboard, table headers with a scope."""
    soup = BeautifulSoup(html, "html.parser")
    label = section
    for tag in soup.find_all():
        tag.attrs = {k: v for k, v in tag.attrs.items() if k in ("alt", "src", "href", "style", "colspan", "rowspan")}
        if tag.name == "h1":  # the notebook's; the page has its own
            tag.decompose()
        elif re.fullmatch("h[2-5]", tag.name):
            tag.name, label = f"h{int(tag.name[1]) + 1}", tag.get_text()
        elif tag.name == "th":
            tag["scope"] = "col" if tag.find_parent("thead") else "row"
        elif tag.name == "a" and not LINK.fullmatch(str(tag.get("href", ""))):
            tag.unwrap()
        elif tag.name == "img" and not str(tag["src"]).startswith("data:image/"):
            tag.decompose()
        elif tag.name in ("table", "img", "pre"):
            tag.wrap(
                soup.new_tag("div", attrs={"class": "scroll", "role": "region", "tabindex": "0", "aria-label": label})
            )
    return str(soup)
