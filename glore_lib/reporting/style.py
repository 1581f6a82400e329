"""Style of the figures: colours, names and markers of the methods, saving, and helpers that several figures share."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import ArrayLike
from scipy.optimize import isotonic_regression

from glore_lib.artifacts.records import write
from glore_lib.reporting import ASSETS, read_asset

Drawing = TypeVar("Drawing", bound=Callable[..., Any])
End = tuple[str, float, float]  # of a curve: its method, x and y
Cells = dict[tuple[str, str], Any]  # rows by method and metric

# Okabe and Ito's colours, which the colour-blind tell apart. Blue is the ORM's and red the SORM's, whatever they are
# used for; an oracle has the colour of what it reranks, hatched.
METHODS = read_asset("methods.csv").set_index("method")
METHOD_LABELS = METHODS["label"].to_dict()
METHOD_COLOURS = METHODS.loc[METHODS["colour"] != "", "colour"].to_dict()
MARKERS = METHODS.loc[METHODS["marker"] != "", "marker"].to_dict()
REFERENCES = ("majority", "greedy_sft")
INK, FAINT = "#222222", "#707070"
DASHED, DOTTED = (0, (5, 2)), (0, (1, 1.2))
LABEL_DISTANCE = 0.19  # inches between the names of two curves
WHISKER: dict[str, Any] = {"fmt": "none", "elinewidth": 1.1}  # of every interval
WIDEST = 11.7  # inches of a figure on a screen
STYLE = ASSETS / "glore.mplstyle"


def with_style(changes: dict[str, Any] | None = None) -> Callable[[Drawing], Drawing]:
    """Make a function draw in :data:`STYLE` with some changes."""
    return cast(Callable[[Drawing], Drawing], plt.style.context([STYLE, changes or {}]))


@with_style()
def save(figure: Figure, data: pd.DataFrame, folder: Path, name: str) -> None:
    """Write ``name``.png, .svg and .csv (the rows drawn) into ``folder``; the same figure gives the same bytes."""
    save_rows(data, folder, name)
    for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        temporary = folder / f".{name}.{suffix}"
        figure.savefig(temporary, format=suffix, metadata=metadata, facecolor="white")
        temporary.replace(folder / f"{name}.{suffix}")


def save_rows(data: pd.DataFrame, folder: Path, name: str) -> None:
    """Write ``name``.csv into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / f"{name}.csv", data.to_csv(index=False, lineterminator="\n"))


def new_panels(
    count: int, width: float, height: float, most: int | None = None, **shared: Any
) -> tuple[Figure, list[Axes]]:
    """Return a figure of ``count`` panels, ``most`` per row, sized in inches per panel; for 0, one empty panel.

    By default three share a row, and four stand in two rows. Panels are narrowed to what a page holds.
    """
    most = most or (2 if count == 4 else 3)
    columns, rows = min(max(count, 1), most), max(-(-count // most), 1)
    size = (min(width, WIDEST / columns) * columns, height * rows)
    figure, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, **shared)
    figure.get_layout_engine().set(wspace=0.06, hspace=0.06)
    plt.close(figure)  # pyplot forgets it, so that a notebook shows it once: as the value of its cell
    for axes in grid.flat[count:]:
        axes.set_axis_off()
    if count == 0:
        grid[0, 0].text(0.5, 0.5, "No data", ha="center", va="center", color=FAINT)
    return figure, list(grid.flat[:count])


def run_panels(
    numbers: pd.DataFrame, width: float, height: float, **shared: Any
) -> tuple[Figure, list[tuple[Axes, pd.DataFrame, Cells]]]:
    """Return a figure with a panel per run, its title set, each with the run's rows that hold a value in two forms."""
    runs = numbers.groupby("task", sort=False)
    figure, panels = new_panels(len(runs), width, height, **shared)
    drawn = []
    for axes, (task, rows) in zip(panels, runs, strict=True):
        rows = with_data(rows)
        axes.set_title(title_with_n(str(task), rows))
        drawn.append((axes, rows, by_method_and_metric(rows)))
    return figure, drawn


def with_data(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of one run that hold a value; raise ValueError if a number is given twice."""
    for twice in rows[rows.duplicated(["method", "metric"])].itertuples():
        raise ValueError(f"numbers: {twice.task} has several rows of method {twice.method}, metric {twice.metric}")
    return rows[(rows.n > 0) & rows.value.notna()]


def by_method_and_metric(rows: pd.DataFrame) -> Cells:
    """Return the rows of one run by method and metric."""
    return {(row.method, row.metric): row for row in rows.itertuples()}


def title_with_n(title: str, rows: pd.DataFrame) -> str:
    """Add the range of n to a title."""
    counts = sorted({rows.n.min(), rows.n.max()}) if len(rows) else []
    return f"{title} (n = {' to '.join(f'{n:,}' for n in counts)})" if counts else title


def note_missing(label: str, expected: Sequence[str], found: pd.Series) -> str:
    """Add the expected methods without data to an axis label."""
    missing = "; ".join(METHOD_LABELS[method] for method in expected if method not in set(found))
    return f"{label}\n{textwrap.fill(f'No data: {missing}', 45)}".strip() if missing else label


def percent_axis(axis: Axis) -> None:
    """Label an axis of shares in per cent."""
    axis.set_major_formatter(lambda value, _: f"{round(100 * value, 6):g}")
    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def outer_label(axes: Axes, label: str) -> None:
    """Label the y axis once per row of panels."""
    spec = axes.get_subplotspec()
    if spec and spec.is_first_col():
        axes.set_ylabel(label)


def line_style(method: str) -> dict[str, Any]:
    """Return the line style of a method's curve; references are dashed and have no marker."""
    if method in REFERENCES:
        return {"color": METHOD_COLOURS[method], "linestyle": DASHED if method == "greedy_sft" else DOTTED}
    marker = {"marker": MARKERS[method], "markeredgecolor": "white", "markeredgewidth": 0.7}
    return {"color": METHOD_COLOURS[method]} | marker


def error_lengths(rows: Any) -> np.ndarray:
    """Return the lengths of the error bars below and above the values: [2, rows]."""
    below, above = np.atleast_1d(rows.value - rows.ci_low), np.atleast_1d(rows.ci_high - rows.value)
    return np.clip([below, above], 0, None)


def draw_curve(axes: Axes, x: ArrayLike, rows: pd.DataFrame, method: str) -> End:
    """Draw a method's values, with intervals unless it is a reference; return the method and the curve's end."""
    (line,) = axes.plot(x, rows.value, label=method, zorder=3, **line_style(method))
    if method not in REFERENCES:
        colour = METHOD_COLOURS[method]
        axes.errorbar(x, rows.value, error_lengths(rows), ecolor=colour, alpha=0.6, **WHISKER)
    return method, np.asarray(line.get_xdata())[-1], np.asarray(line.get_ydata())[-1]


def draw_curves(axes: Axes, rows: pd.DataFrame, methods: Sequence[str], log: bool = False) -> list[End]:
    """Draw a curve of value against x for each method, shifted so that intervals lie side by side; return the ends."""
    xs = sorted(rows.x.unique())
    spacing = (xs[-1] - xs[0]) / (len(xs) - 1) if len(xs) > 1 else 1
    ends = []
    for place, method in enumerate(methods):
        curve = rows[rows.method == method].sort_values("x")
        shift = 0.06 * (place - (len(methods) - 1) / 2)
        ends.append(draw_curve(axes, curve.x * 2**shift if log else curve.x + shift * spacing, curve, method))
    if log:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(xs, [f"{x:g}" for x in xs])
    return ends


def label_ends(figure: Figure, ends: Mapping[Axes, list[End]], percent: bool, keys: Sequence[Artist] = ()) -> None:
    """Write beside the end of each curve (method, x, y) its name and last value; labels keep clear of each other.

    Of three and more panels, a legend above has the names. ``keys`` are further entries of the legend.
    """
    named = len(ends) < 3
    for axes, of_panel in ends.items():
        if of_panel:
            _label_ends(axes, of_panel, named, percent)
    methods = dict.fromkeys(method for of_panel in ends.values() for method, _, _ in of_panel if not named)
    keys = [*keys, *(Line2D([], [], label=METHOD_LABELS[method], **line_style(method)) for method in methods)]
    if keys:
        figure.legend(handles=keys, loc="outside upper center", ncols=min(len(keys), 4))


def _label_ends(axes: Axes, ends: list[End], named: bool, percent: bool) -> None:
    low, high = axes.get_ylim()
    wanted = np.array([(y - low) / (high - low) for _, _, y in ends])
    order = np.argsort(wanted, kind="stable")
    # Least moves under a least distance: isotonic regression once the distances are taken out.
    distances = LABEL_DISTANCE / (axes.bbox.height / axes.figure.dpi) * np.arange(len(ends))
    places = isotonic_regression(wanted[order] - distances).x + distances
    for i, place in zip(order, places, strict=True):
        method, x, y = ends[i]
        leader = {"arrowstyle": "-", "color": METHOD_COLOURS[method], "linewidth": 0.7, "shrinkA": 0, "shrinkB": 4}
        axes.annotate("", (x, y), (1.05, place), textcoords="axes fraction", annotation_clip=False, arrowprops=leader)
        key = [1.05, 1.085, 1.12], [place] * 3
        axes.plot(*key, transform=axes.transAxes, clip_on=False, markevery=[1], **line_style(method))
        number = f"{100 * y:.1f}" if percent else f"{y:.2f}"
        text = f"{METHOD_LABELS[method]}  {number}" if named else number
        axes.text(1.15, place, text, transform=axes.transAxes, va="center")
