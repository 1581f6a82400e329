"""Write ``report.html`` of a comparison: one page built from its rendered notebook 06, without scripts or other files.

nbconvert renders and sanitises the notebook's texts and outputs. Added are a summary, alternative texts, the numbers
behind each figure, links to the runs' notebooks, and the manifests. The same folders give the same bytes.
"""

import base64
import re
from collections.abc import Iterator
from datetime import timedelta
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat
import pandas as pd
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter
from nbconvert.preprocessors.sanitize import SanitizeHTML

from glore_lib.artifacts.manifest import MANIFEST, REPORT, read_manifest, run_folders
from glore_lib.artifacts.records import write
from glore_lib.params import ParamsError
from glore_lib.reporting import read_asset, read_template, scoreboard
from glore_lib.reporting.results import Comparison, load_runs

DRAWN = re.compile(r'save_(?:figure|diagram)\(.*"(\w+)"')
ALTERNATIVES = read_asset("figures.csv").set_index("name")["alternative"].to_dict()
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
        run["run"]: read_manifest(folder) if (folder / MANIFEST).exists() else {"stages": []}
        for run, folder in zip(c.runs, c.folders, strict=True)
    }
    notebook = out / "06_figures.ipynb"
    sections = {
        "Summary": _summary(c, out, manifests),
        "Results": _html(_with_figures(_notebook(notebook), out / "figures")) if notebook.exists() else "",
        "Notebooks": "".join(_links(c, manifest)),
        "Environment": "".join(_details(f"Manifest: {name}", _flat(held)) for name, held in manifests.items()),
    }
    filled = {name: _accessible(html, name) for name, html in sections.items() if html}
    names = [run["run"] for run in c.runs]
    notes = [
        f"{name} is not finished ({held['status']}). {' '.join(s['error'] for s in held['stages'] if 'error' in s)}"
        for name, held in manifests.items() if held.get("status", "done") != "done"
    ]  # fmt: skip
    notes += [f"{name}: {warning}" for name, held in manifests.items() for warning in held.get("warnings", [])]
    return read_template(f"{REPORT}.jinja").render(runs=names, notes=notes + c.stale_notes, sections=filled) + "\n"


def _summary(c: Comparison, out: Path, manifests: dict[str, dict[str, Any]]) -> str:
    about = {
        run["run"]: {"Task": run["caption"], "Model": _public(run["model"])}
        | ({"Time (h:mm:ss)": str(timedelta(seconds=round(m["seconds"])))} if "seconds" in m else {})
        for run in c.runs if (m := manifests[run["run"]])
    }  # fmt: skip
    html = pd.DataFrame(about).to_html(border=0)
    counts = scoreboard.count_verdicts(out)
    return html if counts.empty else f"{html}<h2>Claims by verdict</h2>{counts.to_html(border=0)}"


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
                rows = pd.read_csv(data, keep_default_na=False, na_values=[""]).round(3)
                table = rows.to_html(index=False, na_rep="")
                html = f"<details><summary>Numbers in this figure</summary>{table}</details>"
                cell.outputs.append(nbformat.v4.new_output("display_data", {"text/html": html}))
    return notebook


def _html(notebook: nbformat.NotebookNode) -> str:
    """Return the texts and outputs of a notebook as sanitised HTML."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if html := output.get("data", {}).get("text/html"):  # pandas adds a style element
                output.data["text/html"] = re.sub(r"<style scoped>.*?</style>", "", html, flags=re.DOTALL)
    hidden = {"exclude_input": True, "exclude_output_prompt": True, "exclude_anchor_links": True}
    exporter = HTMLExporter(template_name="basic", **hidden)
    exporter.register_preprocessor(SanitizeHTML(**SANITISED), enabled=True)
    return exporter.from_notebook_node(notebook)[0]


def _notebook(path: Path) -> nbformat.NotebookNode:
    try:
        return nbformat.read(path, as_version=4)
    except (ValueError, AttributeError, nbformat.ValidationError):
        raise ParamsError(f"{path}: is not a notebook; glore run renders it again") from None


def _links(c: Comparison, manifest: dict[str, Any]) -> Iterator[str]:
    for run, folder in zip(c.runs, c.folders, strict=True):
        paths = [*sorted(folder.glob("*.ipynb")), *sorted(folder.glob("appendix/*.ipynb"))]
        there = manifest["runs"][run["run"]]["folder"]
        items = "".join(
            f'<li><a href="{quote(f"{there}/{path.relative_to(folder).as_posix()}")}">{_title(path)}</a></li>'
            for path in paths if ".partial." not in path.name
        )  # fmt: skip
        if items:
            yield f"<h2>{escape(run['run'])}</h2><ul>{items}</ul>"


def _title(path: Path) -> str:
    """Return the first heading of a notebook, escaped."""
    texts = "\n".join(cell.source for cell in _notebook(path).cells if cell.cell_type == "markdown")
    heading = re.search(r"^# (.+)", texts, re.MULTILINE)
    return escape(heading[1] if heading else path.stem)


def _details(summary: str, values: dict[str, str]) -> str:
    rows = pd.DataFrame(values.items(), columns=["Field", "Value"]).to_html(index=False, border=0)
    return f"<details><summary>{escape(summary)}</summary>{rows}</details>"


def _flat(value: Any, name: str = "") -> dict[str, str]:
    """Return the values of nested dicts and lists by their dotted names."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        return {name: _public(str(value))}
    return {k: v for key, part in items for k, v in _flat(part, f"{name}.{key}".strip(".")).items()}


def _public(text: str) -> str:
    """Return the last part of an absolute path, or of one from the clone, and any other text as it is."""
    return Path(text).name if text.startswith(("/", "./")) else text


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
