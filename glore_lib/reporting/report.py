"""``report.html``: what a folder of results holds, as one page that needs nothing beside it and runs no script.

What models wrote stays text: the template escapes everything, apart from what nbconvert made and sanitised of the
examples' outputs. The same folder gives the same bytes.
"""

import base64
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from nbconvert import HTMLExporter
from nbconvert.preprocessors.sanitize import SanitizeHTML

from glore_lib.artifacts.manifest import REPORT, read_manifest
from glore_lib.artifacts.records import write
from glore_lib.params import ParamsError
from glore_lib.reporting.style import METHOD_LABELS

EXAMPLE = "report-example"  # the tag of cells whose outputs the report shows
LONG = ["task", "model", "method", "metric", "value", "ci_low", "ci_high", "n"]

METHODS = METHOD_LABELS | {
    "local+oracle": "Local + true place of the error", "local+sorm_forced": "Local + SORM, right steps forced",
    "refiner_no_draft": "Refiner, without the draft", "resample": "A fresh sample", "all_positive": "All steps right",
}  # fmt: skip
ACCURACY, POSITIVES, NEGATIVES = "Accuracy", "False positives", "False negatives"
DIFFERENCE, P = "Difference", "McNemar's p"
METRICS = {
    "step_accuracy": ACCURACY, "step_false_positive_rate": POSITIVES, "step_false_negative_rate": NEGATIVES,
    "step_accuracy_exact": ACCURACY, "step_false_positive_rate_exact": POSITIVES,
    "step_false_negative_rate_exact": NEGATIVES,
    "step_accuracy_difference": DIFFERENCE, "step_accuracy_difference_exact": f"{DIFFERENCE}, exact labels",
    "final_accuracy": ACCURACY, "final_false_positive_rate": POSITIVES, "final_false_negative_rate": NEGATIVES,
    "final_accuracy_difference": DIFFERENCE, "final_accuracy_difference_p": P,
    "fixed_fraction": "Fixed", "fixed_fraction_difference": DIFFERENCE, "fixed_fraction_difference_p": P,
}  # fmt: skip
HEADLINES = {
    ("greedy", "accuracy"): "Greedy drafts that are right",
    ("bo3", "accuracy"): "Best of three samples, picked by the ORM",
    ("reranked", "accuracy"): "Draft, global and local refinement, picked by the ORM",
    ("global+local+sorm", "fixed_fraction"): "Wrong drafts that the global or the local refinement fixes",
    ("global+local+sorm-resample", "fixed_fraction_difference"): "More than a fresh sample fixes, in points",
    ("sorm", "step_accuracy"): "Steps that the SORM judges right",
    ("sorm-orm", "step_accuracy_difference"): "More than the ORM judges right, in points",
}
TABLES = {
    "table1": (
        "Table 1: judging steps",
        "Of all steps of the greedy test drafts, those judged right; false positives are of the wrong steps, false "
        "negatives of the right ones. Against labels made by rollouts, as in the paper, and, where they are known, "
        "against the exact ones.",
    ),
    "table2": (
        "Table 2: judging answers",
        "Of all final answers of the greedy test drafts, those judged right; false positives are of the wrong answers, "
        "false negatives of the right ones.",
    ),
    "table3": ("Table 3: wrong drafts fixed", "Of the greedy test drafts that are wrong, those that each way fixes."),
}
# Title, caption and, for those who can't see it, what is drawn; the numbers drawn stand below each figure.
FIGURES = {
    "figure1": (
        "Figure 1: how the models are trained",
        "A student by expert iteration; step labels by rollouts; ORM and SORM; the refiner's local and global pairs.",
        "Diagram of three bands: the student's rounds, one wrong sample with its labels, and the pairs made of it.",
    ),
    "figure3": (
        "Figure 3: how a question is answered",
        "The student's draft is refined globally, and locally from where the SORM sees the first error; the ORM picks.",
        "Diagram of a row of boxes joined by arrows, from the question to the answer.",
    ),
    "figure4": (
        "Figure 4: reranking samples of the SFT student",
        "Accuracy of the sample that each reward model ranks first, against the number K of samples; whiskers are "
        "95 % intervals.",
        "Line chart, accuracy against K: a line for each reward model, for the majority vote and for greedy decoding.",
    ),
    "figure5": (
        "Figure 5: refining without a reranker",
        "Accuracy after refining all drafts, and after refining only the wrong ones; whiskers are 95 % intervals.",
        "Bar charts, one a run: two groups of bars, each of global, local + ORM and local + SORM refinement, and a "
        "line at the greedy draft's accuracy.",
    ),
    "figure6": (
        "Figure 6: reranking the draft and its refinements",
        "The greedy draft, the best of three samples, and the best of the draft and its two refinements, picked by the "
        "ORM and (hatched) by a perfect reranker; whiskers are 95 % intervals.",
        "Bar charts of accuracy, one a run, with five bars each.",
    ),
    "label_quality": (
        "Labels made by rollouts, against the exact ones",
        "Precision and recall of the labels of the test drafts' steps, raw and after post-processing.",
        "Dot charts, one a run: precision and recall with their intervals, a row for each rule of post-processing.",
    ),
    "scores_by_step": (
        "What reward models say of right steps",
        "Mean score of the right steps (of SVAMP's and GSM8K's: right by rollouts), by number; the paper finds ORMs "
        "pessimistic of early ones.",
        "Line charts, one a run: mean score against step number, a line for each reward model.",
    ),
    "calibration": (
        "How far scores lie from the truth",
        "Mean score minus the share of steps that are right, by step number: below 0 is pessimistic, above optimistic.",
        "Line charts, one a run: a line for each reward model, and a line at 0.",
    ),
    "reliability": (
        "How often steps of a score are right",
        "Share of right steps against the score, by step number; on the diagonal a model is calibrated.",
        "Line charts, a row of panels a run and a panel a step number: a line for each reward model, and the diagonal.",
    ),
    "fixed_overlap": (
        "What is fixed by which refinement",
        "Of the wrong drafts, those that one way fixes and another does not; a fresh sample is there to compare with.",
        "Four by four tables as heat maps, one a run: fixed by the row's way and not by the column's.",
    ),
    "cost": (
        "What a solved problem costs",
        "Tokens generated per problem solved over and above the greedy drafts; less is better.",
        "Dot charts, one a run: tokens with their intervals, a row for each way of refining or sampling.",
    ),
}
# Of what notebooks show: frames (their HTML escapes its texts), printed text and pictures; no style, link or script.
SANITISED = {
    "tags": ["div", "p", "table", "thead", "tbody", "tr", "th", "td"],
    "attributes": {"th": ["colspan", "rowspan", "scope"], "td": ["colspan", "rowspan"]},
    "safe_output_keys": {"metadata", "text/plain", "image/png"},
    "sanitized_output_types": {"text/html"},
}


@dataclass(frozen=True)
class Cell:
    """A cell of a table: a text or a number and, of the latter, its interval, n and verdict as far as it has them."""

    text: str = ""
    interval: str = ""
    n: str = ""
    verdict: str = ""


@dataclass
class Table:
    """What the template draws as a table: the first text of each row is the row's header."""

    caption: str
    columns: Sequence[str]
    rows: list[tuple[str, list[Cell]]] = field(default_factory=list)


def write_report(out: Path) -> Path:
    """Writes the report of an output folder; where it was written to. Raises as :func:`page` does."""
    write(out / REPORT, page(out))
    return out / REPORT


def page(out: Path) -> str:
    """The report of an output folder, as HTML. What the folder lacks is left out; raises :class:`ParamsError` where it
    has no manifest, or a table or notebook in it can't be read."""
    manifest = read_manifest(out)
    environment = Environment(
        loader=PackageLoader("glore_lib", "assets"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    runs = list(manifest["runs"])
    tables = {name: _long(out / "tables" / f"{name}.csv") for name in TABLES}
    return environment.get_template(f"{REPORT}.jinja").render(
        manifest=manifest,
        runs=_runs(manifest),
        seconds=_duration(manifest["seconds"]),
        headlines=_headlines([*tables.values(), _long(out / "figures" / "figure6.csv")], runs),
        scoreboard=_scoreboard(out / "scoreboard.csv"),
        tables=[(*TABLES[name], list(_tables(numbers))) for name, numbers in tables.items() if len(numbers)],
        figures=list(_figures(out / "figures")),
        examples=[(run, examples) for run in runs if (examples := _examples(out, run))],
        notebooks=list(_notebooks(out, manifest)),
        stages=_stages(manifest),
        versions=Table("Versions", ["Package", "Version"], _texts(manifest["versions"])),
        parameters=[
            Table(f"Parameters of {run}", ["Parameter", "Value"], _texts(_flat(held["params"])))
            for run, held in manifest["runs"].items()
        ],
    )


def _read(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A table that has these columns; an empty one where there is no such file."""
    if not path.exists():
        return pd.DataFrame(columns=columns)
    try:
        frame = pd.read_csv(path)
    except ValueError:  # empty, not UTF-8, or rows of different lengths
        frame = pd.DataFrame()
    if missing := [name for name in columns if name not in frame]:
        raise ParamsError(f"{path}: must be a CSV with the columns {', '.join(columns)}; lacks {', '.join(missing)}")
    return frame


def _long(path: Path) -> pd.DataFrame:
    return _read(path, LONG)


def _notebook(path: Path) -> nbformat.NotebookNode:
    try:
        return nbformat.read(path, as_version=4)
    except (ValueError, AttributeError, nbformat.ValidationError):
        raise ParamsError(f"{path}: is no notebook; glore run renders it again") from None


def _texts(values: dict[str, Any]) -> list[tuple[str, list[Cell]]]:
    return [(name, [Cell(str(value))]) for name, value in values.items()]


def _flat(section: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Parameters by their dotted names. Of an absolute path only the last part is shown."""
    values: dict[str, str] = {}
    for name, value in section.items():
        if isinstance(value, dict):
            values |= _flat(value, f"{prefix}{name}.")
        else:
            values[prefix + name] = _name(str(value))
    return values


def _name(source: str) -> str:
    return Path(source).name if Path(source).is_absolute() else source


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _runs(manifest: dict[str, Any]) -> Table:
    table = Table("What was run", ["Run", "Task and model", "Base model", "Questions", "Seed", "Time (h:mm:ss)"])
    for run, held in manifest["runs"].items():
        params, task = held["params"], held["params"]["task"]
        counts = ", ".join(f"{task[f'{split}_questions']:,} {split}" for split in ("train", "validation", "test"))
        seconds = sum(stage.get("seconds", 0) for stage in manifest["stages"] if stage["run"] == run)
        source = _name(params["base_model"]["source"])
        texts = (params["caption"], source, counts, str(held["seed"]), _duration(seconds))
        table.rows.append((run, [Cell(text) for text in texts]))
    return table


def _stages(manifest: dict[str, Any]) -> Table:
    table = Table(
        "What each notebook took", ["Notebook", "Status", "Time (h:mm:ss)", "Tokens generated", "Tokens trained on"]
    )
    for stage in manifest["stages"]:
        tokens = stage.get("tokens", {})
        counts = [tokens.get(f"tokens_{what}") for what in ("generated", "trained")]
        took = _duration(stage["seconds"]) if "seconds" in stage else ""
        name = f"{stage['run']} {stage['stage']}" if stage["run"] else stage["stage"]
        texts = (stage["status"], took, *("" if count is None else f"{count:,}" for count in counts))
        table.rows.append((name, [Cell(text) for text in texts]))
    return table


def _number(row: Any) -> Cell:
    """A row of a long table: per cent, or points for a difference."""
    if row.n == 0:
        return Cell("n = 0")
    if row.metric.endswith("_p"):
        return Cell(f"{row.value:.2g}")
    return _percent(row.value, row)


def _percent(value: float, row: Any, verdict: str = "") -> Cell:
    interval = f"[{100 * row.ci_low:.1f}, {100 * row.ci_high:.1f}]"
    return Cell(f"{100 * value:.1f}", interval, f"{int(row.n):,}", verdict)


def _method(name: str) -> str:
    """A method, or the two of a difference, in words."""
    return " against ".join(METHODS.get(part, part) for part in name.split("-"))


def _headlines(numbers: Sequence[pd.DataFrame], runs: Sequence[str]) -> Table:
    """The numbers that come first, a row each, a column a run."""
    rows = pd.concat(numbers).drop_duplicates(LONG[:4])
    cells = {(row.method, row.metric, row.task): _number(row) for row in rows.itertuples()}
    table = Table("Per cent [95 % interval], on the test questions", ["", *runs])
    for (method, metric), words in HEADLINES.items():
        found = [cells.get((method, metric, run), Cell("–")) for run in runs]
        if any(cell.n for cell in found):
            table.rows.append((words, found))
    return table


def _scoreboard(path: Path) -> list[Table]:
    """The claims, a row each, with the verdict of every run; none without a scoreboard."""
    columns = ["id", "claim", "paper", "task", "model", "ours", "ci_low", "ci_high", "n", "verdict"]
    scores = _read(path, columns)
    if scores.empty:
        return []
    keys = ["task", "model"] if scores.groupby("task")["model"].nunique().max() > 1 else ["task"]
    scores = scores.assign(run=scores[keys].agg(", ".join, axis=1))
    runs = list(scores["run"].unique())
    counted = scores.groupby(["verdict", "run"], sort=False).size().unstack(fill_value=0)
    counts = Table("Claims by verdict", ["Verdict", *runs])
    counts.rows = [(name, [Cell(str(row[run])) for run in runs]) for name, row in counted.iterrows()]
    claims = Table("Claims: ours in per cent or points [95 % interval]", ["Claim", "The paper", *runs])
    for name, rows in scores.groupby("id", sort=False):
        cells = dict.fromkeys(runs, Cell())
        for row in rows.itertuples():
            cells[row.run] = Cell(verdict=row.verdict) if pd.isna(row.ours) else _percent(row.ours, row, row.verdict)
        first = rows.iloc[0]
        claims.rows.append((f"{name}: {first.claim}", [Cell(str(first.paper)), *cells.values()]))
    return [counts, claims]


def _tables(numbers: pd.DataFrame) -> Iterator[Table]:
    """Of Table 1, 2 or 3 and each run, the values, those against exact labels, and the paired differences."""
    for (task, model), rows in numbers.groupby(["task", "model"], sort=False):
        difference, exact = rows["metric"].str.contains("_difference"), rows["metric"].str.endswith("_exact")
        parts = {
            "per cent": rows[~difference & ~exact], "against exact labels, per cent": rows[~difference & exact],
            "differences, in points": rows[difference],
        }  # fmt: skip
        for what, shown in parts.items():
            if shown.empty:
                continue
            metrics = list(shown["metric"].unique())
            table = Table(f"{task}, {model}: {what}", ["Method", *(METRICS.get(name, name) for name in metrics)])
            for method, of_method in shown.groupby("method", sort=False):
                cells = {row.metric: _number(row) for row in of_method.itertuples()}
                table.rows.append((_method(method), [cells.get(name, Cell()) for name in metrics]))
            yield table


def _figures(folder: Path) -> Iterator[dict[str, Any]]:
    """The figures of a folder, those of the paper first: SVG where there is one, with the numbers that are drawn."""
    there = sorted({path.stem for path in folder.glob("*") if path.suffix in (".svg", ".png")})
    for name in [*(known for known in FIGURES if known in there), *(other for other in there if other not in FIGURES)]:
        title, caption, alt = FIGURES.get(name, (name.replace("_", " ").capitalize(), "", "Chart; its numbers follow."))
        svg = folder / f"{name}.svg"
        picture = svg if svg.exists() else folder / f"{name}.png"
        data = folder / f"{name}.csv"
        yield {
            "name": name, "title": title, "caption": caption, "alt": alt,
            "type": "image/svg+xml" if picture == svg else "image/png",
            "picture": base64.b64encode(picture.read_bytes()).decode(),
            "numbers": _drawn(_read(data, [])) if data.exists() else None,
        }  # fmt: skip


def _drawn(frame: pd.DataFrame) -> Table:
    """The numbers that a figure draws, as they are in its CSV, rounded."""
    table = Table("The numbers drawn", list(frame.columns))
    for first, *rest in frame.itertuples(index=False):
        texts = [f"{value:.3f}" if isinstance(value, float) else str(value) for value in rest]
        table.rows.append((str(first), [Cell(text) for text in texts]))
    return table


def _examples(out: Path, run: str) -> list[str]:
    """The outputs of a run's example cells, as sanitised HTML."""
    path = out / run / "05_evaluation.ipynb"
    if not path.exists():
        return []
    exporter = HTMLExporter(template_name="basic", exclude_input=True, exclude_output_prompt=True)
    exporter.register_preprocessor(SanitizeHTML(**SANITISED), enabled=True)
    shown = []
    for cell in _notebook(path).cells:
        if cell.cell_type == "code" and EXAMPLE in cell.metadata.get("tags", []):
            for output in cell.outputs:
                if html := output.get("data", {}).get("text/html"):  # pandas brings a style of its own
                    output.data["text/html"] = re.sub(r"<style scoped>.*?</style>", "", html, flags=re.DOTALL)
            cell["id"] = f"{run}-{len(shown)}"  # the runs' notebooks have the same ids
            cell.metadata.setdefault("alt", "A picture of the example, which the notebook draws")
            shown.append(exporter.from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))[0])
    return shown


def _notebooks(out: Path, manifest: dict[str, Any]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The rendered notebooks of each run and of all runs: title and path from the report."""
    for run in [*manifest["runs"], None]:
        folder = out / (run or "")
        paths = [folder / f"{stage['stage']}.ipynb" for stage in manifest["stages"] if stage["run"] == run]
        paths += sorted((folder / "appendix").glob("*.ipynb")) if run else []
        if links := [(_title(path), path.relative_to(out).as_posix()) for path in paths if path.exists()]:
            yield run or "All runs", links


def _title(path: Path) -> str:
    """The first heading of a notebook."""
    texts = "\n".join(cell.source for cell in _notebook(path).cells if cell.cell_type == "markdown")
    heading = re.search(r"^# (.+)", texts, re.MULTILINE)
    return heading[1] if heading else path.stem
