"""Write ``report.html`` of a comparison: one page built from its rendered notebook 06, without scripts or other files.

First come a summary, the claims with their verdicts, and Figure 6. Folded below are the other sections of the notebook,
whose texts and outputs nbconvert renders and sanitises, links to the runs' notebooks, and the manifests. Added are
alternative texts and the numbers behind each figure. The same folders give the same bytes.
"""

import base64
import re
from functools import cache
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
from glore_lib.method.evaluation import NUMBERS
from glore_lib.params import ParamsError
from glore_lib.reporting import read_asset, read_template, scoreboard
from glore_lib.reporting.findings import Values
from glore_lib.reporting.results import Comparison, load_runs
from glore_lib.reporting.tables import read_table

MAIN_FIGURE = "figure6"
RULE = "Scoreboard"  # the section of notebook 06 with the rule of the verdicts
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
    verdicts = scoreboard.count_verdicts(out)
    parts = _parts(out)
    rule = parts.pop(RULE, [])
    shown = [title for title, cells in parts.items() if any(_drawn(cell) == MAIN_FIGURE for cell in cells)]
    sections = {
        "Summary": _summary(out, c, manifests, verdicts),
        "Claims": _claims(out, verdicts, rule),
        "Accuracy": "".join(_html(parts.pop(title)) for title in shown),
        "Details": "".join(_folded(_heading(title), _html(cells)) for title, cells in parts.items()),
        "Notebooks": _links(c, manifest),
        "Environment": "".join(_folded(f"Manifest: {escape(name)}", _fields(held)) for name, held in manifests.items()),
    }
    filled = {name: _accessible(html, name) for name, html in sections.items() if html}
    names = [run["run"] for run in c.runs]
    notes = [
        f"{name} is not finished ({held['status']}). {' '.join(s['error'] for s in held['stages'] if 'error' in s)}"
        for name, held in manifests.items() if held.get("status", "done") != "done"
    ]  # fmt: skip
    notes += [f"{name}: {warning}" for name, held in manifests.items() for warning in held.get("warnings", [])]
    return read_template(f"{REPORT}.jinja").render(runs=names, notes=notes + c.stale_notes, sections=filled) + "\n"


def _summary(out: Path, c: Comparison, manifests: dict[str, dict[str, Any]], verdicts: pd.DataFrame) -> str:
    """Return three sentences: the runs, how the claims fared, and what the method adds to the student's accuracy."""
    runs, fared, gains = [], [], []
    drawn = out / "figures" / f"{MAIN_FIGURE}.csv"
    accuracies = read_table(drawn, NUMBERS) if drawn.exists() else pd.DataFrame(columns=NUMBERS)
    for run in c.runs:
        name, seeds = run["run"], c.seeds[run["run"]]
        took = manifests[name].get("seconds")
        parts = [run["caption"], _public(run["model"]), f"{len(seeds)} seed{'s' * (len(seeds) != 1)}"]
        parts += [f"{max(1, round(took / 60))} minutes"] if took is not None else []
        runs.append(f"{name} ({', '.join(parts)})")
        if name in verdicts:
            counts = verdicts[name]
            judged = counts.drop([scoreboard.NOT_JUDGED, scoreboard.NOT_TESTED], errors="ignore").sum()
            done, failed = (int(counts.get(v, 0)) for v in (scoreboard.REPLICATED, scoreboard.NOT_REPLICATED))
            fared.append(f"on {name}, {done} replicated and {failed} did not, of {judged} that are judged")
        values = Values(accuracies[accuracies["task"] == name])
        if "unknown" not in (change := [values.share(method, "accuracy") for method in ("greedy", "reranked")]):
            gains.append(f"from {' to '.join(change)} on {name}")
    sentences = [f"This page compares the paper with {_joined(runs)}."]
    if fared:
        sentences.append(f"Of the paper's claims: {'; '.join(fared)}.")
    if gains:
        sentences.append(f"Choosing between draft and refinements with the ORM changes accuracy {_joined(gains)}.")
    return "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)


def _joined(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]


def _claims(out: Path, counts: pd.DataFrame, rule: list[nbformat.NotebookNode]) -> str:
    """Return the verdicts: their counts, the rule, and each tested claim in a line that fits a phone."""
    if counts.empty:
        return ""
    title = "Rule of the verdicts, and all claims with n and p values"
    folded = _folded(_heading(title), _html(rule)) if rule else ""
    scores = scoreboard.read(out / "scoreboard.csv")
    known = scores["verdict"].isin(scoreboard.VERDICTS)
    cells = [scoreboard.short(row) if ok else row.verdict for row, ok in zip(scores.itertuples(), known, strict=True)]
    table = scores.assign(cell=cells).pivot_table(index="id", columns="task", values="cell", aggfunc="first")
    table = table.loc[scores["id"].unique(), scores["task"].unique()].fillna("")
    table = table[(table != "").any(axis=1)].rename_axis(index=None, columns=None)
    claims = scores.drop_duplicates("id").set_index("id")["claim"]
    table.index = pd.Index([f"{name}: {claims[name]}" for name in table.index])
    symbols = ", ".join(f"{symbol} {verdict}" for verdict, symbol in scoreboard.SYMBOLS.items())
    return (
        f"{counts.to_html(border=0)}{folded}<p>Differences in points with their 95 % intervals; + is as the paper "
        f"says. {symbols}; empty: not tested by this run.</p>{table.to_html(border=0)}"
    )


def _parts(out: Path) -> dict[str, list[nbformat.NotebookNode]]:
    """Return the cells of notebook 06 by the section in which they are; nothing if it is not rendered."""
    path, parts = out / "06_figures.ipynb", {}  # type: ignore[var-annotated]
    if path.exists():
        for cell in _with_figures(_notebook(path), out / "figures").cells:
            if heading := cell.cell_type == "markdown" and re.match(r"## (.+)\n*", cell.source):
                parts[heading[1]] = []
                cell.source = cell.source[heading.end() :]
            if parts:  # before the first section, a notebook has what the page's own header says
                parts[list(parts)[-1]].append(cell)
    return parts


def _heading(title: str) -> str:
    return f"<h2>{escape(title)}</h2>"


def _folded(summary: str, html: str) -> str:
    """Return HTML that is shown on demand, below an HTML summary."""
    return f"<details><summary>{summary}</summary>{html}</details>"


def _drawn(cell: nbformat.NotebookNode) -> str | None:
    """Return the name of the figure that a cell of notebook 06 draws; None if it draws none."""
    found = DRAWN.search(cell.source) if cell.cell_type == "code" else None
    return found and found[1]


def _with_figures(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """Replace the pictures of a notebook by the saved ones, with alternative texts and the numbers drawn."""
    for cell in notebook.cells:
        if name := _drawn(cell):
            picture, data = folder / f"{name}.png", folder / f"{name}.csv"
            if picture.exists():
                image = {"image/png": base64.b64encode(picture.read_bytes()).decode()}
                cell.outputs = [nbformat.v4.new_output("display_data", image)]
                cell.metadata["alt"] = ALTERNATIVES.get(name, f"Figure {name}")
            if data.exists():
                rows = pd.read_csv(data, keep_default_na=False, na_values=[""]).round(3)
                table = rows.to_html(index=False, na_rep="")
                html = _folded("Numbers in this figure", table)
                cell.outputs.append(nbformat.v4.new_output("display_data", {"text/html": html}))
    return notebook


def _html(cells: list[nbformat.NotebookNode]) -> str:
    """Return the texts and outputs of cells as sanitised HTML."""
    notebook = nbformat.v4.new_notebook(cells=cells)
    for cell in cells:
        for output in cell.get("outputs", []):
            if html := output.get("data", {}).get("text/html"):  # pandas adds a style element
                output.data["text/html"] = re.sub(r"<style scoped>.*?</style>", "", html, flags=re.DOTALL)
    return _exporter().from_notebook_node(notebook)[0]


@cache
def _exporter() -> HTMLExporter:
    """Return the exporter of all sections: each exporter loads its templates again."""
    hidden = {"exclude_input": True, "exclude_output_prompt": True, "exclude_anchor_links": True}
    exporter = HTMLExporter(template_name="basic", **hidden)
    exporter.register_preprocessor(SanitizeHTML(**SANITISED), enabled=True)
    return exporter


def _notebook(path: Path) -> nbformat.NotebookNode:
    try:
        return nbformat.read(path, as_version=4)
    except (ValueError, AttributeError, nbformat.ValidationError):
        raise ParamsError(f"{path}: is not a notebook; glore run renders it again") from None


def _links(c: Comparison, manifest: dict[str, Any]) -> str:
    """Return a table of the rendered notebooks: a row each, a link for each run that has it."""
    links: dict[str, dict[str, str]] = {}
    titles: dict[str, str] = {}
    for run, folder in zip(c.runs, c.folders, strict=True):
        there = manifest["runs"][run["run"]]["folder"]
        for path in [*sorted(folder.glob("*.ipynb")), *sorted(folder.glob("appendix/*.ipynb"))]:
            name = path.relative_to(folder).as_posix()
            if ".partial." not in path.name:
                titles.setdefault(name, _title(path))
                href = quote(f"{there}/{name}")
                links.setdefault(name, {})[escape(run["run"])] = f'<a href="{href}">{escape(run["run"])}</a>'
    if not links:
        return ""
    ordered = sorted(links, key=lambda name: ("/" in name, name))
    table = pd.DataFrame([links[name] for name in ordered], index=[titles[name] for name in ordered]).fillna("")
    return table.to_html(border=0, escape=False, header=False)


def _title(path: Path) -> str:
    """Return the first heading of a notebook, escaped."""
    texts = "\n".join(cell.source for cell in _notebook(path).cells if cell.cell_type == "markdown")
    heading = re.search(r"^# (.+)", texts, re.MULTILINE)
    return escape(heading[1] if heading else path.stem)


def _fields(manifest: dict[str, Any]) -> str:
    return pd.DataFrame(_flat(manifest).items(), columns=["Field", "Value"]).to_html(index=False, border=0)


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
