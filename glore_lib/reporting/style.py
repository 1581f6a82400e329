"""Style of the figures: colours, names and markers of the methods, saving, and helpers that several figures share."""

import io
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import ArrayLike
from scipy.optimize import isotonic_regression

Drawing = TypeVar("Drawing", bound=Callable[..., Any])
End = tuple[str, float, float]  # of a curve: its method, x and y

# Okabe and Ito's colours, which the colour-blind tell apart. Blue is the ORM's and red the SORM's, whatever they are
# used for; an oracle has the colour of what it reranks, hatched.
METHOD_COLOURS = {
    "orm": "#0072B2", "local+orm": "#0072B2", "balanced_orm": "#56B4E9",
    "sorm": "#D55E00", "local+sorm": "#D55E00", "sorm_raw": "#E69F00", "raw": "#E69F00",
    "sorm_consistent": "#CC79A7", "consistent": "#CC79A7", "sorm_balanced": "#009E73", "monotone": "#009E73",
    "global": "#009E73", "greedy": "#6E6E6E", "greedy_sft": "#6E6E6E", "majority": "#222222",
    "bo3": "#56B4E9", "oracle_bo3": "#56B4E9", "reranked": "#0072B2", "oracle_reranked": "#0072B2",
    "global+local+sorm": "#222222", "resample": "#CC79A7",
    "value+orm": "#56B4E9", "value+sorm": "#E69F00", "local+oracle": "#222222",
    "gated_global": "#009E73", "gated_local+sorm": "#D55E00",
    "refined_orm": "#0072B2", "refined_vote": "#222222", "refined_weighted": "#CC79A7",
    "sampled_orm": "#0072B2", "sampled_vote": "#222222", "sampled_weighted": "#CC79A7",
}  # fmt: skip
METHOD_LABELS = {
    "orm": "ORM", "balanced_orm": "Balanced ORM", "sorm": "SORM", "sorm_raw": "SORM, raw labels",
    "sorm_consistent": "SORM, consistency", "sorm_balanced": "SORM, balance",
    "global": "Global", "local+orm": "Local + ORM", "local+sorm": "Local + SORM",
    "global+local+orm": "Global ∪ local + ORM", "global+local+sorm": "Global ∪ local + SORM",
    "greedy": "Greedy draft", "greedy_sft": "Greedy", "majority": "Majority vote", "bo3": "Best of 3",
    "reranked": "Refined, reranked", "resample": "Fresh sample",
    "oracle_bo3": "Oracle best of 3", "oracle_reranked": "Refined, oracle reranked",
    "raw": "Raw labels", "monotone": "Monotone labels", "consistent": "Consistent labels",
    "value+orm": "Value + ORM", "value+sorm": "Value + SORM", "local+oracle": "Local + true error",
    "gated_global": "Global, if ORM doubts", "gated_local+sorm": "Local, if ORM doubts",
    "refined_orm": "Six with refinements: ORM", "refined_vote": "Six with refinements: vote",
    "refined_weighted": "Six with refinements: weighted vote",
    "sampled_orm": "Six samples: ORM", "sampled_vote": "Six samples: vote",
    "sampled_weighted": "Six samples: weighted vote",
}  # fmt: skip
BEGUN = ("local+orm", "local+sorm", "local+oracle", "value+orm", "value+sorm")
WAYS = [(method, f"{method}_{way}", f", prefix {way}") for method in BEGUN for way in ("forced", "free")]
METHOD_COLOURS |= {variant: METHOD_COLOURS[method] for method, variant, _ in WAYS}
METHOD_LABELS |= {variant: METHOD_LABELS[method] + words for method, variant, words in WAYS}
MARKERS = {"orm": "o", "balanced_orm": "D", "sorm": "s", "sorm_raw": "^", "sorm_consistent": "v", "sorm_balanced": "<"}
SWEPT_MARKERS = {"local+orm": "o", "local+sorm": "s", "raw": "^", "consistent": "v"}

REFERENCES = ("majority", "greedy_sft")
INK, FAINT = "#222222", "#707070"
DASHED, DOTTED = (0, (5, 2)), (0, (1, 1.2))
LABEL_DISTANCE = 0.19  # inches between the names of two curves
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "Helvetica", "sans-serif"],
    "font.size": 9.5, "axes.titlesize": 10.5, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.labelsize": 9.5, "xtick.labelsize": 9, "ytick.labelsize": 9, "legend.fontsize": 9.5, "legend.frameon": False,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": FAINT, "xtick.color": FAINT, "ytick.color": FAINT,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "axes.linewidth": 0.8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "axes.grid": True, "axes.grid.axis": "y", "grid.color": "#E4E4E4", "grid.linewidth": 0.7,
    "lines.linewidth": 1.8, "lines.markersize": 5.5, "hatch.linewidth": 0.8,
    "savefig.dpi": 150, "svg.fonttype": "none", "svg.hashsalt": "glore",
}  # fmt: skip


def with_style(changes: dict[str, Any] | None = None) -> Callable[[Drawing], Drawing]:
    """Make a function draw in :data:`STYLE` with some changes."""
    return cast(Callable[[Drawing], Drawing], plt.rc_context(STYLE | (changes or {})))


@with_style()
def save(figure: Figure, data: pd.DataFrame, folder: Path, name: str) -> None:
    """Write ``name``.png (150 dpi), ``name``.svg (text as text) and ``name``.csv (the rows drawn) into ``folder``.

    The same figure and rows give the same bytes. A file is written whole or not at all.
    """
    save_rows(data, folder, name)
    for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, metadata=metadata, facecolor="white")
        _write(buffer.getvalue(), folder, f"{name}.{suffix}")


def save_rows(data: pd.DataFrame, folder: Path, name: str) -> None:
    """Write ``name``.csv into ``folder``."""
    _write(data.to_csv(index=False, lineterminator="\n").encode(), folder, f"{name}.csv")


def _write(content: bytes, folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{name}.tmp"
    temporary.write_bytes(content)
    temporary.replace(folder / name)


def new_panels(count: int, width: float, height: float, **shared: Any) -> tuple[Figure, list[Axes]]:
    """Return a figure of ``count`` panels, at most two per row, sized in inches per panel; for 0, one empty panel."""
    columns, rows = min(max(count, 1), 2), max(-(-count // 2), 1)
    size = (width * columns, height * rows)
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
) -> tuple[Figure, list[tuple[Axes, pd.DataFrame]]]:
    """Return a figure with a panel per run, each with the run's rows that hold a value.

    Its title has the run and n, and the model if there are several.
    """
    runs, several = numbers.groupby(["task", "model"], sort=False), numbers.model.nunique() > 1
    figure, panels = new_panels(len(runs), width, height, **shared)
    drawn = []
    for axes, ((task, model), rows) in zip(panels, runs, strict=True):
        drawn.append((axes, with_data(rows)))
        axes.set_title(title_with_n(f"{task}, {model}" if several else str(task), drawn[-1][1]))
    return figure, drawn


def with_data(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of one run that hold a value; raise ValueError if a number is given twice."""
    for twice in rows[rows.duplicated(["method", "metric"])].itertuples():
        raise ValueError(f"numbers: {twice.task} has several rows of method {twice.method}, metric {twice.metric}")
    return rows[(rows.n > 0) & rows.value.notna()]


def by_method_and_metric(rows: pd.DataFrame) -> dict[tuple[str, str], Any]:
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
    marker = {"marker": (MARKERS | SWEPT_MARKERS)[method], "markeredgecolor": "white", "markeredgewidth": 0.7}
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
        axes.errorbar(x, rows.value, error_lengths(rows), fmt="none", ecolor=colour, elinewidth=0.9, alpha=0.5)
    return method, np.asarray(line.get_xdata())[-1], np.asarray(line.get_ydata())[-1]


def draw_curves(axes: Axes, rows: pd.DataFrame, methods: Sequence[str], log: bool = False) -> list[End]:
    """Draw a curve of value against x for each method; return their ends.

    Curves are shifted a little, so that their intervals lie side by side.
    """
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


def label_ends(axes: Axes, ends: list[End], percent: bool) -> None:
    """Name each curve right of its end (method, x, y), with its last value; names keep clear of each other."""
    if not ends:
        return
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
        axes.text(1.15, place, f"{METHOD_LABELS[method]}  {number}", transform=axes.transAxes, va="center")
