"""Fill tables into pages, between marks such as ``<!-- table3 -->`` and ``<!-- /table3 -->``.

``python -m glore_lib.reporting.quoted_tables PAGE.md results/NAME`` replaces all tables that the page has marks for.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd
import typer

from glore_lib.artifacts.manifest import run_folders
from glore_lib.reporting import scoreboard
from glore_lib.reporting.tables import wide

STEPS = {"step_balanced_accuracy": ""}
PEOPLE = {"step_balanced_accuracy_human": "balanced step accuracy", "first_error_accuracy_human": "first errors"}


def quoted(page: str, name: str) -> str:
    """Return the text between the marks of ``name``; raise ValueError if the page has none."""
    if not (found := re.search(rf"<!-- {name} -->\n(.*)\n<!-- /{name} -->", page, re.DOTALL)):
        raise ValueError(f"has no lines <!-- {name} --> and <!-- /{name} -->")
    return found[1]


def filled(page: str, name: str, table: str) -> str:
    """Return the page with ``table`` between the marks of ``name``; raises as :func:`quoted` does."""
    old, new = (f"<!-- {name} -->\n{text}\n<!-- /{name} -->" for text in (quoted(page, name), table))
    return page.replace(old, new)


HEADLINE = ("c2", "c4", "c5", "c10, gain", "c11", "c13", "c14", "c15", "c17, ORM", "q1")  # ten claims that sum it up


def _headline(results: Path) -> pd.DataFrame:
    """Return symbol, difference in points and interval of the :data:`HEADLINE` claims, with one column per run."""
    scores = scoreboard.read(results / "scoreboard.csv")
    shown = scores[scores["id"].isin(HEADLINE)]
    cells = [scoreboard.short(row) for row in shown.itertuples()]
    return shown.assign(cell=cells).pivot(index="claim", columns="task", values="cell").reindex(
        index=shown["claim"].unique(), columns=shown["task"].unique()
    )  # fmt: skip


def _by_method(files: Sequence[Path], metrics: Mapping[str, str], index: str) -> pd.DataFrame:
    """Return the cells of ``tables.wide``, a row per method; ``metrics`` names the columns of a run."""
    table = wide(pd.concat(pd.read_csv(file) for file in files if file.exists()), list(metrics))
    methods, runs = (table.index.unique(level) for level in ("method", "task"))
    columns = {
        f"{run}: {name}" if name else run: table[metric].xs(run).reindex(methods)
        for run in runs for metric, name in metrics.items()
    }  # fmt: skip
    turned = pd.DataFrame(columns).fillna("")
    return turned.set_axis(pd.Index([f"`{method}`" for method in methods], name=index))


# Name of the marks -> the table of a comparison folder; per cent, 95 % intervals.
TABLES: dict[str, Callable[[Path], pd.DataFrame]] = {
    "scoreboard": lambda results: scoreboard.to_read(scoreboard.read(results / "scoreboard.csv")),
    "headline": _headline,
    "counts": lambda results: scoreboard.count_verdicts(results).rename_axis("verdict"),
    "table1": lambda results: _by_method([results / "tables/table1.csv"], STEPS, "reward model"),
    "table3": lambda results: _by_method([results / "tables/table3.csv"], {"fixed_fraction": ""}, "refinement"),
    "figure6": lambda results: _by_method([results / "figures/figure6.csv"], {"accuracy": ""}, "answer"),
    "people": lambda results: _by_method(
        [folder / "appendix" / "g_label_quality.csv" for folder in run_folders(results)], PEOPLE, "who judges"
    ),
}


def tables(page: str, results: Path) -> dict[str, str]:
    """Return the Markdown of the :data:`TABLES` that a page has marks for, by name."""
    asked = {name: make for name, make in TABLES.items() if f"<!-- {name} -->" in page}
    return {name: make(results).reset_index().to_markdown(index=False) for name, make in asked.items()}


def fill(path: Path, results: Path) -> None:
    """Put the tables of a results folder between their marks in a page."""
    page = path.read_text(encoding="utf-8")
    for name, table in tables(page, results).items():
        page = filled(page, name, table)
    path.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    typer.run(fill)
