"""Tables that a page quotes, between marks such as ``<!-- table3 -->`` and ``<!-- /table3 -->``.

``python -m glore_lib.readme README.md results/NAME`` puts the scoreboard and Table 3 of these results into the README.
"""

import re
from pathlib import Path

import pandas as pd
import typer

from glore_lib import scoreboard
from glore_lib import statistics as st


def quoted(page: str, name: str) -> str:
    """What a page has between the marks of ``name``; raises ValueError where it has none."""
    if not (found := re.search(rf"<!-- {name} -->\n(.*)\n<!-- /{name} -->", page, re.DOTALL)):
        raise ValueError(f"has no lines <!-- {name} --> and <!-- /{name} -->")
    return found[1]


def filled(page: str, name: str, table: str) -> str:
    """The page with ``table`` between the marks of ``name``; raises ValueError as :func:`quoted` does."""
    old, new = (f"<!-- {name} -->\n{text}\n<!-- /{name} -->" for text in (quoted(page, name), table))
    return page.replace(old, new)


def tables(results: Path) -> dict[str, str]:
    """Name of the marks -> Markdown table: the scoreboard, a column a run, and of Table 3 the shares that are fixed."""
    shares = pd.read_csv(results / "tables" / "table3.csv").query("metric == 'fixed_fraction'")
    shares = shares.assign(cell=[f"{st.estimate(row).percent()} (n={row.n})" for row in shares.itertuples()])
    wide = shares.pivot(index="method", columns="task", values="cell")
    wide = wide.reindex(index=shares["method"].unique(), columns=shares["task"].unique()).fillna("")
    wide.index = pd.Index([f"`{method}`" for method in wide.index], name="refinement")
    verdicts = scoreboard.to_read(scoreboard.read(results / "scoreboard.csv"))
    both = {"scoreboard": verdicts, "table3": wide}
    return {name: frame.reset_index().to_markdown(index=False) for name, frame in both.items()}


def fill(readme: Path, results: Path) -> None:
    """Put the tables of a results folder between their marks in README."""
    page = readme.read_text()
    for name, table in tables(results).items():
        page = filled(page, name, table)
    readme.write_text(page)


if __name__ == "__main__":
    typer.run(fill)
