"""Figures 4, 5 and 6 of the paper, drawn from the rows of a ``numbers`` table, one panel per run.

``..._rows`` selects the rows that a figure draws. A method without data leaves a gap and a note.
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from glore_lib.reporting import style
from glore_lib.reporting.style import with_style

HATCHES = {
    "local+orm": "///",
    "local+balanced_orm": "\\\\\\",
    "local+sorm": "...",
    "oracle_bo3": "///",
    "oracle_reranked": "///",
}
RERANKERS = ("orm", "balanced_orm", "sorm", "sorm_raw")
RERANKER_ABLATIONS = ("sorm_consistent", "sorm_balanced")  # drawn where a run has them, not missed where it hasn't
REFINERS = ("global", "local+orm", "local+balanced_orm", "local+sorm")
DRAFTS = {"accuracy_all_drafts": "All drafts\nrefined", "accuracy_incorrect_drafts": "Only wrong\ndrafts refined"}
CHOICES = ("greedy", "bo3", "reranked", "oracle_bo3", "oracle_reranked")


def figure4_rows(numbers: pd.DataFrame) -> pd.DataFrame:
    """Select the rows of ``numbers`` that :func:`figure4` draws."""
    rerank = numbers.metric.str.fullmatch(r"rerank_accuracy@\d+") & numbers.method.isin(RERANKERS + RERANKER_ABLATIONS)
    majority = numbers.metric.str.fullmatch(r"majority@\d+") & (numbers.method == "majority")
    return numbers[rerank | majority | ((numbers.metric == "accuracy") & (numbers.method == "greedy_sft"))]


@with_style()
def figure4(numbers: pd.DataFrame) -> Figure:
    """Draw the accuracy of the sample that each reward model ranks first, against K (paper, Figure 4)."""
    figure, panels = style.run_panels(figure4_rows(numbers), width=5.0, height=3.6)
    ends = {}
    for axes, drawn, _ in panels:
        curves = drawn.assign(x=pd.to_numeric(drawn.metric.str.extract(r"@(\d+)", expand=False))).dropna(subset="x")
        found = [method for method in RERANKERS + RERANKER_ABLATIONS if method in set(drawn.method)]
        ends[axes] = style.draw_curves(axes, curves, found, log=True)
        majority = curves[curves.method == "majority"].sort_values("x")
        if len(majority):
            ends[axes].append(style.draw_curve(axes, majority.x, majority, "majority"))
        for greedy in drawn[drawn.method == "greedy_sft"].itertuples():
            axes.axhline(greedy.value, label="greedy_sft", **style.line_style("greedy_sft"))
            ends[axes].append(("greedy_sft", curves.x.max() if len(curves) else 1, greedy.value))
        axes.set_xlabel(style.note_missing("Samples K", RERANKERS + style.REFERENCES, drawn.method))
        style.percent_axis(axes.yaxis)
        style.outer_label(axes, "Accuracy of the top-ranked sample (%)")
    style.label_ends(figure, ends, percent=True)
    return figure


def figure5_rows(numbers: pd.DataFrame) -> pd.DataFrame:
    """Select the rows of ``numbers`` that :func:`figure5` draws."""
    bars = numbers.metric.isin(list(DRAFTS)) & numbers.method.isin(REFINERS)
    return numbers[bars | ((numbers.metric == "accuracy") & (numbers.method == "greedy"))]


@with_style()
def figure5(numbers: pd.DataFrame) -> Figure:
    """Draw the accuracy after refining all drafts, and only the wrong ones, without reranking (paper, Figure 5)."""
    figure, panels = style.run_panels(figure5_rows(numbers), width=5.2, height=3.6, sharey=True)
    for axes, drawn, cells in panels:
        for group, metric in enumerate(DRAFTS):
            for place, method in enumerate(REFINERS):
                _bar(axes, group + 0.22 * (place - 1.5), 0.2, method, cells.get((method, metric)))
        if ("greedy", "accuracy") in cells:
            value = cells["greedy", "accuracy"].value
            axes.axhline(value, label="greedy", color=style.INK, linestyle=style.DASHED, linewidth=1.2, zorder=3)
            text = f"Greedy\ndraft\n{100 * value:.1f}"
            axes.text(1.01, value, text, transform=axes.get_yaxis_transform(), va="center")
        axes.set_xticks(range(len(DRAFTS)), list(DRAFTS.values()))
        axes.set_xlim(-0.5, len(DRAFTS) - 0.5)
        axes.set_xlabel(style.note_missing("", ("greedy",), drawn.method))
        _accuracy_from_zero(axes, drawn)
    keys = [Patch(label=style.METHOD_LABELS[method], **_fill(method)) for method in REFINERS]
    figure.legend(handles=keys, loc="outside upper center", ncols=min(len(keys), 2 * max(1, len(panels))))
    return figure


def figure6_rows(numbers: pd.DataFrame) -> pd.DataFrame:
    """Select the rows of ``numbers`` that :func:`figure6` draws."""
    return numbers[(numbers.metric == "accuracy") & numbers.method.isin(CHOICES)]


@with_style()
def figure6(numbers: pd.DataFrame) -> Figure:
    """Draw greedy draft, best of three, reranked refinements, and both with an oracle (paper, Figure 6)."""
    figure, panels = style.run_panels(figure6_rows(numbers), width=4.4, height=3.4, sharey=True)
    for axes, drawn, cells in panels:
        for place, method in enumerate(CHOICES):
            _bar(axes, place, 0.68, method, cells.get((method, "accuracy")))
        axes.set_xticks(range(len(CHOICES)), ["Greedy\ndraft", *["Best\nof 3", "Refined,\nreranked"] * 2])
        axes.set_xlim(-0.6, len(CHOICES) - 0.4)
        below = axes.get_xaxis_transform()
        for x, text in ((1.5, "by the ORM"), (3.5, "by an oracle")):
            axes.plot(
                [x - 0.85, x + 0.85], [-0.2, -0.2], color=style.FAINT, linewidth=0.8, transform=below, clip_on=False
            )
            axes.text(x, -0.22, text, transform=below, ha="center", va="top")
        _accuracy_from_zero(axes, drawn)
    return figure


def _accuracy_from_zero(axes: Axes, rows: pd.DataFrame) -> None:
    style.percent_axis(axes.yaxis)
    style.outer_label(axes, "Accuracy (%)")
    top = 1.12 * rows[["value", "ci_high"]].max().max() if len(rows) else 1.0
    axes.set_ylim(0, max(axes.get_ylim()[1], top))  # the panels share the axis


def _fill(method: str) -> dict[str, Any]:
    colour = style.METHOD_COLOURS[method]
    if method.startswith("oracle"):
        light = tuple(1 - 0.2 * (1 - part) for part in to_rgb(colour))  # not translucent: SVG hatches are opaque
        return {"facecolor": light, "edgecolor": colour, "hatch": HATCHES[method], "linewidth": 1}
    return {"facecolor": colour, "edgecolor": "white", "hatch": HATCHES.get(method), "linewidth": 0}


def _bar(axes: Axes, x: float, width: float, method: str, row: Any) -> None:
    """Draw a bar with its interval and number, or a note if there is no row."""
    if row is None:
        axes.text(x, 0.02, "no data", transform=axes.get_xaxis_transform(), rotation=90, ha="center", color=style.FAINT)
        return
    axes.bar(x, row.value, width, label=method, **_fill(method))
    axes.errorbar(x, row.value, style.error_lengths(row), ecolor=style.INK, **style.WHISKER)
    axes.annotate(
        f"{100 * row.value:.1f}", (x, np.nanmax([row.value, row.ci_high])), (0, 3), textcoords="offset points",
        ha="center", va="bottom", zorder=4,
    )  # fmt: skip
