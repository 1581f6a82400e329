"""Figures 1 and 3-6 of the paper, those that exact step labels make possible, and what a solved problem costs.

The functions take the long ``numbers`` table of one or several runs, draw one panel a run and return the figure; the
``..._rows`` function beside each returns the rows drawn, which :func:`save` writes next to the picture. A method
without data leaves a gap and a note.
"""

import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch, Rectangle
from matplotlib.path import Path as Outline
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import ArrayLike
from scipy.optimize import isotonic_regression

from glore_lib.method.statistics import LEVEL, RESAMPLES, clustered, proportion

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
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # those seen well on white
MARKERS = {"orm": "o", "balanced_orm": "D", "sorm": "s", "sorm_raw": "^", "sorm_consistent": "v", "sorm_balanced": "<"}
COST_MARKERS = {"local+orm": "D", "local+sorm": "s", "global+local+sorm": "^", "resample": "v", "bo3": "D"}
SWEPT_MARKERS = {"local+orm": "o", "local+sorm": "s", "raw": "^", "consistent": "v"}
HATCHES = {"local+orm": "///", "local+sorm": "...", "oracle_bo3": "///", "oracle_reranked": "///"}

RERANKERS = ("orm", "balanced_orm", "sorm", "sorm_raw")
RERANKER_ABLATIONS = ("sorm_consistent", "sorm_balanced")  # drawn where a run has them, not missed where it hasn't
REFERENCES = ("majority", "greedy_sft")
FEW_STEPS = 0.05  # of the most frequent step: means of so few say nothing, and their numbers crowd the axis
REFINERS = ("global", "local+orm", "local+sorm")
DRAFTS = {"accuracy_all_drafts": "All drafts\nrefined", "accuracy_incorrect_drafts": "Only incorrect\ndrafts refined"}
CHOICES = ("greedy", "bo3", "reranked", "oracle_bo3", "oracle_reranked")
LABEL_RULES = ("raw", "monotone", "consistent")
LABEL_METRICS = {"label_precision": "Precision", "label_recall": "Recall"}
LABEL_MARKERS: dict[str, dict[str, Any]] = {
    "Precision": {"marker": "o", "markersize": 7},
    "Recall": {"marker": "s", "markersize": 6.5, "markerfacecolor": "white", "markeredgewidth": 1.8},
}
STEP_SCORERS = ("orm", "balanced_orm", "sorm")
BINS = 5  # of the scores, equally wide
FEW = 10  # steps in a bin: a share of fewer says nothing, and is in the CSV alone
FIXERS = ("global", "local+orm", "local+sorm", "resample")
# Tokens are counted where a draft is known to be wrong, and where the ORM alone decides.
COSTS = {
    "wrong drafts": ("global", "local+orm", "local+sorm", "global+local+sorm", "resample"),
    "all questions": ("bo3", "reranked"),
}

INK, FAINT = "#222222", "#707070"
DASHED, DOTTED = (0, (5, 2)), (0, (1, 1.2))
LABEL_DISTANCE = 0.19  # inches between the names of two curves
STYLE = {
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


@plt.rc_context(STYLE)
def save(figure: Figure, data: pd.DataFrame | None, folder: Path, name: str) -> None:
    """Write ``name``.png (150 dpi), ``name``.svg (text as text) and ``name``.csv (the rows drawn) into ``folder``.

    A diagram has no ``data`` and gets no CSV. The same figure and rows give the same bytes. A file is written whole or
    not at all.
    """
    if data is not None:
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


def figure4_rows(numbers: pd.DataFrame) -> pd.DataFrame:
    """Of a ``numbers`` frame, the rows that :func:`figure4` draws."""
    rerank = numbers.metric.str.fullmatch(r"rerank_accuracy@\d+") & numbers.method.isin(RERANKERS + RERANKER_ABLATIONS)
    majority = numbers.metric.str.fullmatch(r"majority@\d+") & (numbers.method == "majority")
    return numbers[rerank | majority | ((numbers.metric == "accuracy") & (numbers.method == "greedy_sft"))]


@plt.rc_context(STYLE)
def figure4(numbers: pd.DataFrame) -> Figure:
    """Accuracy of the sample that each reward model ranks first, against the number K of samples (paper, Figure 4)."""
    runs = list(_runs(numbers))
    figure, panels = _panels(len(runs), width=5.0, height=3.6)
    for axes, (title, rows) in zip(panels, runs, strict=True):
        drawn = _with_data(figure4_rows(rows))
        drawn = drawn.assign(k=pd.to_numeric(drawn.metric.str.extract(r"@(\d+)", expand=False)))
        ends: list[tuple[str, float, float]] = []
        found = [method for method in RERANKERS + RERANKER_ABLATIONS if method in set(drawn.method)]
        for place, method in enumerate(found):
            curve = drawn[drawn.method == method].sort_values("k")
            x = curve.k.to_numpy() * 2 ** (0.06 * (place - (len(found) - 1) / 2))  # so that intervals lie side by side
            ends.append(_curve(axes, x, curve, method))
        majority = drawn[drawn.method == "majority"].sort_values("k")
        if len(majority):
            ends.append(_curve(axes, majority.k, majority, "majority"))
        ks = sorted(int(k) for k in drawn.k.dropna().unique())
        for greedy in drawn[drawn.method == "greedy_sft"].itertuples():
            axes.axhline(greedy.value, label="greedy_sft", **_line("greedy_sft"))
            ends.append(("greedy_sft", ks[-1] if ks else 1, greedy.value))
        axes.set_xscale("log", base=2)
        axes.set_xticks(ks, [str(k) for k in ks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(_noting_missing("Samples K", RERANKERS + REFERENCES, drawn.method))
        axes.set_title(_titled(title, drawn))
        _percent(axes.yaxis)
        _outer_label(axes, "Accuracy of the top-ranked sample (%)")
        _label_ends(axes, ends, percent=True)
    return figure


def figure5_rows(numbers: pd.DataFrame) -> pd.DataFrame:
    """Of a ``numbers`` frame, the rows that :func:`figure5` draws."""
    bars = numbers.metric.isin(list(DRAFTS)) & numbers.method.isin(REFINERS)
    return numbers[bars | ((numbers.metric == "accuracy") & (numbers.method == "greedy"))]


@plt.rc_context(STYLE)
def figure5(numbers: pd.DataFrame) -> Figure:
    """Accuracy after refining all drafts, and only the incorrect ones, without reranking (paper, Figure 5)."""
    runs = list(_runs(numbers))
    figure, panels = _panels(len(runs), width=4.6, height=3.6, sharey=True)
    for axes, (title, rows) in zip(panels, runs, strict=True):
        drawn = _with_data(figure5_rows(rows))
        cells = _cells(drawn)
        for group, metric in enumerate(DRAFTS):
            for place, method in enumerate(REFINERS):
                _bar(axes, group + 0.28 * (place - 1), 0.25, method, cells.get((method, metric)))
        if ("greedy", "accuracy") in cells:
            value = cells["greedy", "accuracy"].value
            axes.axhline(value, label="greedy", color=INK, linestyle=DASHED, linewidth=1.2, zorder=3)
            text = f"Greedy\ndraft\n{100 * value:.1f}"
            axes.text(1.01, value, text, transform=axes.get_yaxis_transform(), va="center")
        axes.set_xticks(range(len(DRAFTS)), list(DRAFTS.values()))
        axes.set_xlim(-0.5, len(DRAFTS) - 0.5)
        axes.set_xlabel(_noting_missing("", ("greedy",), drawn.method))
        axes.set_title(_titled(title, drawn))
        _accuracy_from_zero(axes, drawn)
    keys = [Patch(label=METHOD_LABELS[method], **_fill(method)) for method in REFINERS]
    figure.legend(handles=keys, loc="outside upper center", ncols=len(keys))
    return figure


def figure6_rows(numbers: pd.DataFrame) -> pd.DataFrame:
    """Of a ``numbers`` frame, the rows that :func:`figure6` draws."""
    return numbers[(numbers.metric == "accuracy") & numbers.method.isin(CHOICES)]


@plt.rc_context(STYLE)
def figure6(numbers: pd.DataFrame) -> Figure:
    """Greedy draft, best of three samples, reranked refinements, and both with an oracle reranker (paper, Figure 6)."""
    runs = list(_runs(numbers))
    figure, panels = _panels(len(runs), width=4.4, height=3.4, sharey=True)
    for axes, (title, rows) in zip(panels, runs, strict=True):
        drawn = _with_data(figure6_rows(rows))
        cells = _cells(drawn)
        for place, method in enumerate(CHOICES):
            _bar(axes, place, 0.68, method, cells.get((method, "accuracy")))
        axes.set_xticks(range(len(CHOICES)), ["Greedy\ndraft", *["Best\nof 3", "Refined,\nreranked"] * 2])
        axes.set_xlim(-0.6, len(CHOICES) - 0.4)
        below = axes.get_xaxis_transform()
        for x, text in ((1.5, "by the ORM"), (3.5, "by an oracle")):
            axes.plot([x - 0.85, x + 0.85], [-0.2, -0.2], color=FAINT, linewidth=0.8, transform=below, clip_on=False)
            axes.text(x, -0.22, text, transform=below, ha="center", va="top")
        axes.set_title(_titled(title, drawn))
        _accuracy_from_zero(axes, drawn)
    return figure


def label_quality_rows(numbers: pd.DataFrame) -> pd.DataFrame:
    """Of a ``numbers`` frame, the rows that :func:`label_quality` draws."""
    return numbers[numbers.metric.isin(list(LABEL_METRICS)) & numbers.method.isin(LABEL_RULES)]


@plt.rc_context(STYLE | {"axes.grid.axis": "x"})
def label_quality(numbers: pd.DataFrame) -> Figure:
    """Precision and recall of step labels by rollouts against the exact labels, after each post-processing step."""
    runs = list(_runs(numbers))
    figure, panels = _panels(len(runs), width=4.6, height=2.6, sharex=True)
    for axes, (title, rows) in zip(panels, runs, strict=True):
        drawn = _with_data(label_quality_rows(rows))
        cells = _cells(drawn)
        for place, method in enumerate(LABEL_RULES):
            for offset, metric in zip((-0.16, 0.16), LABEL_METRICS, strict=True):
                label = LABEL_METRICS[metric]
                _dot(axes, place + offset, method, label, cells.get((method, metric)), LABEL_MARKERS[label])
        axes.set_yticks(range(len(LABEL_RULES)), ["Raw", "+ monotone", "+ consistent"])
        axes.set_ylim(len(LABEL_RULES) - 0.5, -0.5)
        axes.set_xlabel("Share of steps (%)")
        axes.tick_params(labelbottom=True)
        axes.set_title(_titled(title, drawn))
        _percent(axes.xaxis)
    keys = [Line2D([], [], color=INK, linestyle="", label=label, **LABEL_MARKERS[label]) for label in LABEL_MARKERS]
    figure.legend(handles=keys, loc="outside upper center", ncols=len(keys))
    return figure


def scores_by_step_rows(step_scores: pd.DataFrame) -> pd.DataFrame:
    """The mean score of right steps: columns task, model, step, value, ci_low, ci_high, n.

    ``step_scores`` has the columns task, question_id, step, model (orm, balanced_orm or sorm), score and label (the
    exact one, or where none is known that by rollouts). Intervals are by bootstrap over questions.
    """
    right = step_scores[(step_scores.label == 1) & step_scores.model.isin(STEP_SCORERS)]
    columns = ["task", "model", "step", "value", "ci_low", "ci_high", "n"]
    rows = [
        dict(zip(columns, keys, strict=False)) | asdict(clustered(group.score, group.question_id, seed=0))
        for keys, group in right.groupby(columns[:3])
    ]
    return pd.DataFrame(rows, columns=columns)


@plt.rc_context(STYLE)
def scores_by_step(step_scores: pd.DataFrame) -> Figure:
    """What each reward model says of steps that are right: the ORM's pessimism about early ones.

    ``step_scores`` is as for :func:`scores_by_step_rows`. Steps that few drafts reach are not drawn.
    """
    rows = scores_by_step_rows(step_scores)
    tasks = list(step_scores.task.unique())
    figure, panels = _panels(len(tasks), width=4.7, height=3.2, sharey=True)
    for axes, task in zip(panels, tasks, strict=True):
        axes.set_ylim(0, 1)
        _by_step(axes, _often_reached(rows[rows.task == task]), "Step (number of right ones)")
        axes.set_title(task)
        _outer_label(axes, "Mean score of right steps")
    return figure


def calibration_rows(step_scores: pd.DataFrame) -> pd.DataFrame:
    """Mean score minus the share of right steps: columns task, model, step, value, ci_low, ci_high, n.

    Negative is pessimistic. ``step_scores`` and intervals are as for :func:`scores_by_step_rows`.
    """
    columns = ["task", "model", "step", "value", "ci_low", "ci_high", "n"]
    known = step_scores[step_scores.model.isin(STEP_SCORERS)]
    rows = [
        dict(zip(columns, keys, strict=False))
        | asdict(clustered(group.score - group.label, group.question_id, seed=0, bounds=(-1.0, 1.0)))
        for keys, group in known.groupby(columns[:3])
    ]
    return pd.DataFrame(rows, columns=columns)


@plt.rc_context(STYLE)
def calibration(step_scores: pd.DataFrame) -> Figure:
    """How far each reward model's scores lie from the truth, by step: below 0 it is pessimistic, above optimistic."""
    rows = calibration_rows(step_scores)
    tasks = list(step_scores.task.unique())
    figure, panels = _panels(len(tasks), width=4.7, height=3.2, sharey=True)
    by_task = {task: _often_reached(rows[rows.task == task]) for task in tasks}
    reach = max((frame[["ci_low", "ci_high"]].abs().max(axis=None) for frame in by_task.values()), default=0)
    for axes, task in zip(panels, tasks, strict=True):
        axes.set_ylim(-reach - 0.03, reach + 0.03)
        axes.axhline(0, color=INK, linestyle=DASHED, linewidth=1)
        _by_step(axes, by_task[task], "Step (number of drafts that reach it)")
        axes.set_title(task)
        _outer_label(axes, "Mean score − share of right steps")
    return figure


def reliability_rows(step_scores: pd.DataFrame) -> pd.DataFrame:
    """Of the steps with scores in a bin, the share that is right: columns task, model, step, bin (its lower end), score
    (the mean of those in it), value, ci_low, ci_high, n. One draft a question: Wilson intervals."""
    columns = ["task", "model", "step", "bin", "score", "value", "ci_low", "ci_high", "n"]
    known = step_scores[step_scores.model.isin(STEP_SCORERS)]
    bins = np.minimum((known.score * BINS).astype(int), BINS - 1) / BINS
    rows = [
        dict(zip(columns, keys, strict=False)) | {"score": group.score.mean()} | asdict(proportion(group.label))
        for keys, group in known.assign(bin=bins).groupby(columns[:4])
    ]
    return pd.DataFrame(rows, columns=columns)


@plt.rc_context(STYLE)
def reliability(step_scores: pd.DataFrame) -> Figure:
    """Share of right steps against the score, a row of panels a task and a panel a step; the diagonal is calibrated.

    Steps that few drafts reach, and bins of fewer than ten steps, are not drawn.
    """
    rows = reliability_rows(step_scores)
    steps = {task: _reached(rows[rows.task == task]) for task in step_scores.task.unique()}
    columns = max(map(len, steps.values()), default=1)
    size = (1.95 * columns + 0.4, 2.25 * max(len(steps), 1) + 0.4)
    figure, grid = plt.subplots(
        max(len(steps), 1), columns, figsize=size, layout="constrained", squeeze=False, sharex=True, sharey=True
    )
    plt.close(figure)
    if not steps:
        grid[0, 0].text(0.5, 0.5, "No data", ha="center", va="center", color=FAINT)
        return figure
    for panels, (task, counts) in zip(grid, steps.items(), strict=True):
        for axes in panels[len(counts) :]:
            axes.set_axis_off()
        for axes, (step, count) in zip(panels, counts.items(), strict=False):
            axes.plot([0, 1], [0, 1], color=FAINT, linestyle=DASHED, linewidth=1)
            drawn = rows[(rows.task == task) & (rows.step == step) & (rows.n >= FEW)]
            for method in STEP_SCORERS:
                curve = drawn[drawn.model == method].sort_values("score")
                if len(curve):
                    _curve(axes, curve.score, curve, method)
            axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1], aspect="equal")
            axes.set_title(f"Step {step} (n = {count:,})")
            axes.tick_params(labelbottom=True)
        panels[0].set_ylabel(f"{task}\nShare of right steps")
    keys = [Line2D([], [], label=METHOD_LABELS[method], **_line(method)) for method in STEP_SCORERS]
    figure.legend(handles=keys, loc="outside upper center", ncols=len(keys))
    figure.supxlabel("Score of the step", fontsize=9.5)
    return figure


def _reached(rows: pd.DataFrame) -> pd.Series:
    """How many drafts reach each step, without the steps that few do."""
    counts = rows.groupby(["model", "step"]).n.sum().groupby("step").max()
    return counts[counts >= FEW_STEPS * counts.max()]


def _often_reached(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows.step.isin(_reached(rows).index)]


def _by_step(axes: Axes, rows: pd.DataFrame, label: str) -> None:
    """A curve a reward model of its values by step, with the numbers behind them below the axis."""
    counts = rows.groupby("step").n.max()
    ends = []
    for place, method in enumerate(STEP_SCORERS):
        curve = rows[rows.model == method]
        if len(curve):
            ends.append(_curve(axes, curve.step.to_numpy() + 0.06 * (place - 1), curve, method))
    axes.set_xticks(counts.index, [f"{step}\n({n:,})" for step, n in counts.items()])
    axes.set_xlabel(_noting_missing(label, STEP_SCORERS, rows.model))
    _label_ends(axes, ends, percent=False)


def fixed_overlap_rows(drafts: pd.DataFrame) -> pd.DataFrame:
    """Shares of incorrect drafts: columns task, fixed_by, not_by, value, ci_low, ci_high, count, n (Wilson).

    Where ``not_by`` is empty, those that ``fixed_by`` fixes at all. ``drafts`` has one row an incorrect draft: columns
    task and, of booleans, each of ``FIXERS``.
    """
    rows = []
    for task, group in drafts.groupby("task", sort=False):
        for one in FIXERS:
            for other in FIXERS:
                only = group[one] if one == other else group[one] & ~group[other]
                share = asdict(proportion(only))
                n = share.pop("n")
                names = {"task": task, "fixed_by": one, "not_by": "" if one == other else other}
                rows.append(names | share | {"count": int(only.sum()), "n": n})
    return pd.DataFrame(rows, columns=["task", "fixed_by", "not_by", "value", "ci_low", "ci_high", "count", "n"])


@plt.rc_context(STYLE | {"axes.grid": False})
def fixed_overlap(drafts: pd.DataFrame) -> Figure:
    """What each refinement fixes that another does not, of the incorrect drafts (paper, Table 3): how far they
    complement each other. A fresh sample is there to compare with: chance alone fixes other drafts, too.

    ``drafts`` is as for :func:`fixed_overlap_rows`.
    """
    rows = fixed_overlap_rows(drafts)
    tasks = list(rows.task.unique())
    figure, panels = _panels(len(tasks), width=5.0, height=3.9)
    names = [METHOD_LABELS[method] for method in FIXERS]
    for axes, task in zip(panels, tasks, strict=True):
        cells = rows[rows.task == task]
        shape = (len(FIXERS), len(FIXERS))
        shown = [
            f"{100 * r.value:.1f}\n[{100 * r.ci_low:.1f}, {100 * r.ci_high:.1f}]" for r in cells.itertuples()
        ]  # fmt: skip
        sns.heatmap(
            cells.value.to_numpy().reshape(shape), vmin=0, vmax=0.8, cmap="Blues", annot=np.reshape(shown, shape),
            fmt="", annot_kws={"size": 9.5, "color": INK}, cbar=False, linewidths=2, ax=axes,
        )  # fmt: skip
        for i in range(len(FIXERS)):
            axes.add_patch(Rectangle((i, i), 1, 1, fill=False, edgecolor=INK, linewidth=1.4))
        axes.set_yticklabels([name.replace(" ", "\n", 1) for name in names], rotation=0)
        axes.set_xticklabels([f"not by\n{name}" for name in names], rotation=0)
        axes.tick_params(length=0)
        axes.set_title(f"{task} (n = {cells.n.iloc[0]:,})")
        axes.set_xlabel("Framed: fixed at all")
        _outer_label(axes, "Fixed by (% of incorrect drafts)")
    return figure


def cost_rows(outcomes: pd.DataFrame) -> pd.DataFrame:
    """Tokens generated per additionally solved problem: columns task, setting, method, value, ci_low, ci_high, n.

    ``outcomes`` has one row a task, setting and method (see ``COSTS``) and draft: its ``tokens``, and its ``gain``: 1
    where the problem is solved now and was not by the greedy draft, -1 the other way round. Infinite where no more are
    solved than lost. The interval is by bootstrap over drafts.
    """
    columns = ["task", "setting", "method", "value", "ci_low", "ci_high", "n"]
    rows = []
    for keys, group in outcomes.groupby(columns[:3], sort=False):
        tokens, gain, n = group.tokens.to_numpy(float), group.gain.to_numpy(float), len(group)
        drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), RESAMPLES)
        costs = _per_problem(drawn @ tokens, drawn @ gain)
        low, high = np.quantile(costs, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2], method="nearest")  # no mean of infinities
        rows.append((*keys, _per_problem(tokens.sum(), gain.sum()).item(), low, high, n))
    return pd.DataFrame(rows, columns=columns)


def _per_problem(tokens: ArrayLike, solved: ArrayLike) -> np.ndarray:
    return np.where(np.asarray(solved) > 0, tokens / np.maximum(solved, 1), np.inf)


@plt.rc_context(STYLE | {"axes.grid.axis": "x"})
def cost(outcomes: pd.DataFrame) -> Figure:
    """Tokens generated per problem that is solved over and above the greedy drafts (:func:`cost_rows`); less is better.

    Above, of drafts that are known to be wrong; below, of all questions, where the ORM picks the answer. An arrow is an
    interval without an upper end.
    """
    rows = cost_rows(outcomes)
    tasks = list(rows.task.unique())
    methods = [(setting, method) for setting, group in COSTS.items() for method in group]
    figure, panels = _panels(len(tasks), width=5.2, height=3.4, sharex=True, sharey=True)
    places = [i + 0.8 * (setting == "all questions") for i, (setting, _) in enumerate(methods)]
    drawn = rows[["ci_low", "ci_high", "value"]].to_numpy(float).ravel()
    drawn = drawn[np.isfinite(drawn) & (drawn > 0)]
    for axes, task in zip(panels, tasks, strict=True):
        cells = {(r.setting, r.method): r for r in rows[rows.task == task].itertuples()}
        axes.set_xscale("log")
        if len(drawn):
            axes.set_xlim(0.7 * drawn.min(), 1.5 * drawn.max())
        for y, key in zip(places, methods, strict=True):
            _cost(axes, y, key[1], cells.get(key))
        axes.set_yticks(places, [METHOD_LABELS[method] for _, method in methods])
        axes.set_ylim(places[-1] + 0.6, -1.1)
        for y, (setting, group) in zip((-0.75, places[len(COSTS["wrong drafts"])] - 0.75), COSTS.items(), strict=True):
            counts = [cells[setting, method].n for method in group if (setting, method) in cells]
            text = f"{setting.capitalize()} (n = {counts[0]:,})" if counts else setting.capitalize()
            axes.text(0.01, y, text, transform=axes.get_yaxis_transform(), va="center", style="italic", color=FAINT)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("Tokens generated per problem solved more")
        axes.set_title(task)
    return figure


def _cost(axes: Axes, y: float, method: str, row: Any) -> None:
    """A point with its interval, and both as numbers at the right."""
    text, look = "no data", {"color": METHOD_COLOURS[method], "marker": COST_MARKERS.get(method, "o")}
    if row is not None and np.isinf(row.ci_low):
        text = "no gain"
    elif row is not None:
        end = row.ci_high if np.isfinite(row.ci_high) else axes.get_xlim()[1]
        axes.plot([row.ci_low, end], [y, y], color=INK, linewidth=1.1)
        if end != row.ci_high:
            axes.plot(end, y, marker=">", color=INK, clip_on=False)
        if np.isfinite(row.value):
            axes.plot(row.value, y, markersize=7, zorder=3, **look)
        shown = ["∞" if np.isinf(x) else f"{x:,.0f}" for x in (row.value, row.ci_low, row.ci_high)]
        text = "{} [{}, {}]".format(*shown)
    axes.text(1.03, y, text, transform=axes.get_yaxis_transform(), va="center")


@plt.rc_context(STYLE)
def losses(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """The training loss of each model, by its name, against its optimiser steps: frames of columns step, loss."""
    figure, panels = _panels(min(len(curves), 1), width=6.0, height=3.2)
    looks = cycle((colour, style) for style in ("-", DASHED, DOTTED) for colour in OKABE_ITO)
    for axes in panels:
        for (name, curve), (colour, style) in zip(curves.items(), looks, strict=False):
            axes.plot(curve.step, curve.loss, label=name, color=colour, linestyle=style, marker="o", markersize=3)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("Optimiser step")
        axes.set_ylabel("Training loss")
        figure.legend(loc="outside right upper")
    return figure


def sweep_rows(numbers: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Of a ``numbers`` frame, the rows of ``metric@x`` that hold a value, with ``x`` as a column."""
    at = pd.to_numeric(numbers.metric.str.extract(rf"^{metric}@([\d.]+)$", expand=False))
    rows = numbers.assign(x=at)[at.notna()]
    return _with_data(rows).sort_values(["method", "x"])


@plt.rc_context(STYLE)
def sweep(numbers: pd.DataFrame, metrics: Mapping[str, str], label: str, log: bool = False) -> Figure:
    """One run's ``metric@x`` against x: a panel a metric (name -> title), a curve a method. A metric without data has
    no panel."""
    panelled = {title: rows for metric, title in metrics.items() if len(rows := sweep_rows(numbers, metric))}
    figure, panels = _panels(len(panelled), width=4.9, height=3.2)
    for axes, (title, rows) in zip(panels, panelled.items(), strict=True):
        xs = sorted(rows.x.unique())
        methods = list(rows.method.unique())
        ends = []
        for place, method in enumerate(methods):
            curve = rows[rows.method == method]
            aside = 0.04 * (place - (len(methods) - 1) / 2)  # so that intervals lie side by side
            x = curve.x * 2**aside if log else curve.x + aside * (xs[-1] - xs[0]) / max(len(xs) - 1, 1)
            ends.append(_curve(axes, x.to_numpy(), curve, method))
        if log:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(xs, [f"{x:g}" for x in xs])
        axes.set_xlabel(label)
        _outer_label(axes, "Share (%)")
        axes.set_title(_titled(title, rows))
        _percent(axes.yaxis)
        _label_ends(axes, ends, percent=True)
    return figure


def dots_rows(numbers: pd.DataFrame, metrics: Mapping[str, str]) -> pd.DataFrame:
    """Of a ``numbers`` frame, the rows that :func:`dots` draws."""
    return numbers[numbers.metric.isin(list(metrics)) & numbers.method.isin(list(METHOD_LABELS))]


@plt.rc_context(STYLE | {"axes.grid.axis": "x"})
def dots(numbers: pd.DataFrame, metrics: Mapping[str, str]) -> Figure:
    """One run's values with intervals: a panel a metric (name -> title), a row a method in order of appearance."""
    drawn = _with_data(dots_rows(numbers, metrics))
    methods, shown = list(drawn.method.unique()), [m for m in metrics if m in set(drawn.metric)]
    figure, panels = _panels(len(shown), width=4.9, height=1.1 + 0.3 * len(methods), sharey=True)
    cells = _cells(drawn)
    for axes, metric in zip(panels, shown, strict=True):
        for place, method in enumerate(methods):
            if (method, metric) in cells:
                _dot(axes, place, method, metric, cells[method, metric], {"marker": "o", "markersize": 7})
        axes.set_yticks(range(len(methods)), [METHOD_LABELS[method] for method in methods])
        axes.set_ylim(len(methods) - 0.5, -0.5)
        axes.set_xlabel("Share (%)")
        axes.set_title(_titled(metrics[metric], drawn[drawn.metric == metric]))
        _percent(axes.xaxis)
        axes.margins(x=0.2)  # for the numbers
    return figure


def _runs(numbers: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of each run under its title, in order of appearance; the model is named where there are several."""
    several = numbers.model.nunique() > 1
    for (task, model), rows in numbers.groupby(["task", "model"], sort=False):
        yield f"{task}, {model}" if several else str(task), rows


def _panels(count: int, width: float, height: float, **shared: bool) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` panels, at most two a row, sized in inches a panel; of one empty panel where it is 0."""
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


def _with_data(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of one run that hold a value; raises ValueError where a number is there twice."""
    for twice in rows[rows.duplicated(["method", "metric"])].itertuples():
        raise ValueError(f"numbers: {twice.task} has several rows of method {twice.method}, metric {twice.metric}")
    return rows[(rows.n > 0) & rows.value.notna()]


def _cells(rows: pd.DataFrame) -> dict[tuple[str, str], Any]:
    return {(row.method, row.metric): row for row in rows.itertuples()}


def _titled(title: str, rows: pd.DataFrame) -> str:
    counts = sorted({rows.n.min(), rows.n.max()}) if len(rows) else []
    return f"{title} (n = {' to '.join(f'{n:,}' for n in counts)})" if counts else title


def _noting_missing(label: str, expected: Sequence[str], found: pd.Series) -> str:
    missing = "; ".join(METHOD_LABELS[method] for method in expected if method not in set(found))
    return f"{label}\n{textwrap.fill(f'No data: {missing}', 45)}".strip() if missing else label


def _percent(axis: Axis) -> None:
    axis.set_major_formatter(lambda value, _: f"{round(100 * value, 6):g}")
    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def _outer_label(axes: Axes, label: str) -> None:
    """The label of the y axis, once a row of panels."""
    if axes.get_subplotspec().is_first_col():
        axes.set_ylabel(label)


def _accuracy_from_zero(axes: Axes, rows: pd.DataFrame) -> None:
    _percent(axes.yaxis)
    _outer_label(axes, "Accuracy (%)")
    top = 1.12 * rows[["value", "ci_high"]].max(axis=None) if len(rows) else 1.0
    axes.set_ylim(0, max(axes.get_ylim()[1], top))  # the panels share the axis


def _fill(method: str) -> dict[str, Any]:
    colour = METHOD_COLOURS[method]
    if method.startswith("oracle"):
        light = tuple(1 - 0.2 * (1 - part) for part in to_rgb(colour))  # not translucent: SVG hatches are opaque
        return {"facecolor": light, "edgecolor": colour, "hatch": HATCHES[method], "linewidth": 1}
    return {"facecolor": colour, "edgecolor": "white", "hatch": HATCHES.get(method), "linewidth": 0}


def _line(method: str) -> dict[str, Any]:
    """How a method's curve is drawn; those of reference have no marker and are broken."""
    if method in REFERENCES:
        return {"color": METHOD_COLOURS[method], "linestyle": DASHED if method == "greedy_sft" else DOTTED}
    marker = {"marker": (MARKERS | SWEPT_MARKERS)[method], "markeredgecolor": "white", "markeredgewidth": 0.7}
    return {"color": METHOD_COLOURS[method]} | marker


def _bar(axes: Axes, x: float, width: float, method: str, row: Any) -> None:
    """A bar with its interval and, above both, its number; a note where there is no row."""
    if row is None:
        axes.text(x, 0.02, "no data", transform=axes.get_xaxis_transform(), rotation=90, ha="center", color=FAINT)
        return
    axes.bar(x, row.value, width, label=method, **_fill(method))
    axes.errorbar(x, row.value, _reach(row), fmt="none", ecolor=INK, elinewidth=1.1, capsize=3)
    axes.annotate(
        f"{100 * row.value:.1f}", (x, np.nanmax([row.value, row.ci_high])), (0, 3), textcoords="offset points",
        ha="center", va="bottom", zorder=4, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
    )  # fmt: skip


def _dot(axes: Axes, y: float, method: str, label: str, row: Any, marker: Mapping[str, Any]) -> None:
    """A point with its interval and, right of both, its number; a note where there is no row."""
    if row is None:
        axes.text(0.02, y, f"{label}: no data", transform=axes.get_yaxis_transform(), va="center", color=FAINT)
        return
    axes.errorbar(row.value, y, xerr=_reach(row), fmt="none", ecolor=INK, elinewidth=1.1, capsize=3)
    axes.plot(row.value, y, color=METHOD_COLOURS[method], label=f"{method} {label}", zorder=3, **marker)
    right = np.nanmax([row.value, row.ci_high])
    axes.annotate(f"{100 * row.value:.1f}", (right, y), (5, 0), textcoords="offset points", va="center")


def _reach(rows: Any) -> np.ndarray:
    """How far the intervals of one row or several reach below and above the values: [2, rows]."""
    below, above = np.atleast_1d(rows.value - rows.ci_low), np.atleast_1d(rows.ci_high - rows.value)
    return np.clip([below, above], 0, None)


def _curve(axes: Axes, x: ArrayLike, rows: pd.DataFrame, method: str) -> tuple[str, float, float]:
    """Draw a method's values, with intervals unless it is a reference; returns the method and the curve's end."""
    (line,) = axes.plot(x, rows.value, label=method, zorder=3, **_line(method))
    if method not in REFERENCES:
        colour = METHOD_COLOURS[method]
        axes.errorbar(x, rows.value, _reach(rows), fmt="none", ecolor=colour, elinewidth=0.9, alpha=0.5)
    return method, line.get_xdata()[-1], line.get_ydata()[-1]


def _label_ends(axes: Axes, ends: list[tuple[str, float, float]], percent: bool) -> None:
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
        axes.plot(*key, transform=axes.transAxes, clip_on=False, markevery=[1], **_line(method))
        number = f"{100 * y:.1f}" if percent else f"{y:.2f}"
        axes.text(1.15, place, f"{METHOD_LABELS[method]}  {number}", transform=axes.transAxes, va="center")


Box = tuple[float, float, float]  # of the diagram: its centre and its width
BOX_HEIGHT = 0.66


DIAGRAM = STYLE | {"axes.grid": False, "font.size": 10.5}
SOLUTION = ("S1", "S2", "S3", "S4")  # the wrong sample of the diagram; its third step is the first error
VERIFYING = (5, 2, 0, 0)  # of eight rollouts from each of its prefixes


@plt.rc_context(DIAGRAM)
def pipeline_diagram() -> Figure:
    """What each model is trained on, and how a question is answered; a model has one colour throughout."""
    figure, axes = _canvas(6.16)
    _draw_training(axes)
    _draw_test_time(axes)
    return figure


@plt.rc_context(DIAGRAM)
def figure1_diagram() -> Figure:
    """The three steps of training, on one wrong sample: its labels and the pairs made of it (paper, Figure 1)."""
    figure, axes = _canvas(8.3)
    _band(axes, 6.6, 1.65, "1  Student")
    _draw_expert_iteration(axes, 7.38)
    _band(axes, 2.95, 3.55, "2  Reward models")
    _draw_labels(axes)
    _band(axes, 0.05, 2.8, "3  Refiner")
    _draw_pairs(axes)
    return figure


@plt.rc_context(DIAGRAM)
def figure3_diagram() -> Figure:
    """How a question is answered: draft, global and local refinement, reranked by the ORM (paper, Figure 3)."""
    figure, axes = _canvas(2.96)
    _draw_test_time(axes)
    return figure


def _canvas(height: float) -> tuple[Figure, Axes]:
    figure, axes = plt.subplots(figsize=(11, height), layout="constrained")
    plt.close(figure)
    axes.set(xlim=(0, 11), ylim=(0, height), aspect="equal")
    axes.set_axis_off()
    return figure, axes


def _band(axes: Axes, bottom: float, height: float, title: str) -> None:
    _rounded(axes, 0.05, bottom, 10.9, height, facecolor="#F4F4F2", edgecolor="none")
    axes.text(0.25, bottom + height - 0.28, title, size=12.5, weight="bold", va="center")


def _draw_expert_iteration(axes: Axes, y: float) -> None:
    questions = _box(axes, 1.15, y, 1.4, "Training\nquestions")
    student = _box(axes, 3.1, y, 1.4, "Student", "greedy")
    samples = _box(axes, 5.05, y, 1.45, "K samples\na question")
    right = _box(axes, 7.2, y, 1.85, "The correct ones,\neach once")
    base = _box(axes, 9.75, y, 1.9, "Base model,\nfine-tuned on all")
    for one, other in ((questions, student), (student, samples), (samples, right), (right, base)):
        _link(axes, one, other)
    under = y - BOX_HEIGHT / 2
    _arrow(axes, (9.75, under), (9.75, under - 0.2), (3.1, under - 0.2), (3.1, under))
    axes.text(6.4, under - 0.24, "until validation accuracy no longer rises", ha="center", va="top", size=9.5)


def _draw_labels(axes: Axes) -> None:
    """The labels of one wrong sample for the ORM, and for the SORM from eight rollouts of each prefix."""
    for y, text in (
        (5.55, "ORM: the final answer\nlabels every step"),
        (4.35, "SORM: eight rollouts\nfrom each prefix"),
    ):
        axes.text(0.25, y, text, va="center", linespacing=1.3)
    labels = [int(count > 0) for count in VERIFYING]
    for y, given, method, gap in ((5.55, [0] * 4, "orm", 0.0), (4.35, labels, "sorm", 0.5)):
        ends = [_cell(axes, 3.2 + 0.95 * i, y, step) for i, step in enumerate(SOLUTION)]
        axes.text(ends[-1] + 0.12, y, "#### 7  wrong", va="center")
        for i, label in enumerate(given):
            axes.text(3.2 + 0.95 * i, y - 0.42 - gap, str(label), ha="center", va="center", weight="bold", size=12)
        axes.text(ends[-1] + 0.12, y - 0.42 - gap, "labels", va="center")
        model = _box(axes, 9.9, y - 0.2 - gap / 2, 1.5, method.upper(), method)
        _arrow(axes, (8.2, model[1]), (9.15, model[1]))
    for i, count in enumerate(VERIFYING):
        for j in range(8):
            look = {"markerfacecolor": METHOD_COLOURS["sorm"] if j < count else "white"}
            at = 3.2 + 0.95 * i + 0.17 * (j % 4 - 1.5), 4.35 - 0.38 - 0.18 * (j // 4)
            axes.plot(*at, marker="o", markersize=5.5, markeredgecolor=METHOD_COLOURS["sorm"], **look)
    axes.text(6.6, 3.88, "filled: reaches the\nright answer", va="center", size=9.5)
    rules = "A label of 1 makes earlier ones 1; a rollout must use what its prefix computed; as many 0 as 1 at a step."
    axes.text(0.25, 3.16, rules, va="center", size=9.5)


def _draw_pairs(axes: Axes) -> None:
    """The pairs made of the same sample: its first error is the first label of 0."""
    model = _box(axes, 9.9, 1.27, 1.5, "Refiner", "global")
    rows = (
        (1.85, "Local: [BAD] at\nthe first error", 2, ("S1", "S2", "T3", "T4"), "correct: a rollout that verifies"),
        (0.7, "Global: [BAD] at\nthe start", 0, ("R1", "R2", "R3"), "another sample, a correct one"),
    )
    for y, text, bad, target, source in rows:
        axes.text(0.25, y, text, va="center", linespacing=1.3)
        x = 2.1
        for i, step in enumerate(SOLUTION):
            if i == bad:
                axes.text(x - 0.2, y, "[BAD]", weight="bold", va="center", color=METHOD_COLOURS["sorm"])
                x += 0.62
            x = _cell(axes, x + 0.11, y, step, width=0.6) + 0.3
        _arrow(axes, (5.35, y), (5.7, y))
        ends = [_cell(axes, 6.15 + 0.7 * i, y, step, width=0.6, own=step[0] == "S") for i, step in enumerate(target)]
        axes.text(5.85, y - 0.4, source, va="center", size=9.5)
        _arrow(axes, (ends[-1] + 0.1, y), (8.95, y), (8.95, model[1]), (9.15, model[1]))


def _cell(axes: Axes, x: float, y: float, step: str, width: float = 0.75, own: bool = True) -> float:
    """A step, grey where it is not the sample's own or after its first error; returns the right end of its cell."""
    wrong = step in SOLUTION[2:]
    style = {"facecolor": "#DDDDDD" if wrong else "white", "edgecolor": FAINT, "linestyle": "-" if own else DASHED}
    _rounded(axes, x - width / 2, y - 0.19, width, 0.38, **style)
    axes.text(x, y, step, ha="center", va="center")
    return x + width / 2


def _draw_training(axes: Axes) -> None:
    _band(axes, 3.06, 3.05, "Training")
    top, middle, bottom = 5.585, 4.585, 3.585
    questions = _box(axes, 0.95, middle, 1.35, "Training\nquestions")
    student = _box(axes, 2.85, middle, 1.55, "Student", "greedy")
    samples = _box(axes, 4.8, middle, 1.45, "K samples\na question")
    _link(axes, questions, student)
    _link(axes, student, samples)
    under = middle - BOX_HEIGHT / 2
    _arrow(axes, (4.8, under), (4.8, under - 0.3), (2.85, under - 0.3), (2.85, under))
    axes.text(3.82, under - 0.45, "expert iteration:\nkeep the correct ones", ha="center", va="top")
    for y, text, name, method in (
        (top, "Each step: is the\nfinal answer right?", "ORM", "orm"),
        (middle, "Each step: is one of\nits rollouts right?", "SORM", "sorm"),
        (bottom, "Pairs: incorrect and\ncorrect solution", "Refiner", "global"),
    ):
        data = _box(axes, 7.2, y, 2.3, text)
        _link(axes, samples, data)
        _link(axes, data, _box(axes, 9.9, y, 1.7, name, method))
    _arrow(axes, (7.2, under), (7.2, bottom + BOX_HEIGHT / 2))
    axes.text(7.3, (middle + bottom) / 2, "first error, correct rollout", size=9.5, va="center")


def _draw_test_time(axes: Axes) -> None:
    _band(axes, 0.05, 2.86, "Test time")
    top, middle, bottom = 2.38, 1.48, 0.58
    question = _box(axes, 0.95, middle, 1.35, "Question")
    student = _box(axes, 2.5, middle, 1.15, "Student", "greedy")
    draft = _box(axes, 3.95, middle, 1.05, "Draft")
    rerank = _box(axes, 8.85, middle, 1.15, "ORM\nreranks", "orm")
    _link(axes, question, student)
    _link(axes, student, draft)
    _link(axes, rerank, _box(axes, 10.25, middle, 1.0, "Answer"))
    kept = _box(axes, 6.35, top, 3.0, "The draft as it is")
    _link(axes, draft, kept)
    _link(axes, kept, rerank)
    whole = _box(axes, 5.55, middle, 1.4, "[BAD] at\nthe start")
    found = _box(axes, 5.55, bottom, 1.4, "SORM finds\nfirst error", "sorm")
    for y, mark, text in ((middle, whole, "Refiner:\nglobal"), (bottom, found, "Refiner:\nlocal")):
        refiner = _box(axes, 7.25, y, 1.2, text, "global")
        _link(axes, draft, mark)
        _link(axes, mark, refiner)
        _link(axes, refiner, rerank)


def _rounded(axes: Axes, left: float, bottom: float, width: float, height: float, **style: Any) -> None:
    axes.add_patch(FancyBboxPatch((left, bottom), width, height, boxstyle="round,pad=0,rounding_size=0.1", **style))


def _box(axes: Axes, x: float, y: float, width: float, text: str, method: str | None = None) -> Box:
    """A box of data in white or, with the ``method`` whose colour it has, of a model."""
    style = {"facecolor": METHOD_COLOURS[method] if method else "white", "edgecolor": "none" if method else FAINT}
    _rounded(axes, x - width / 2, y - BOX_HEIGHT / 2, width, BOX_HEIGHT, **style)
    font = {"color": "white", "weight": "bold"} if method else {}
    axes.text(x, y, text, ha="center", va="center", linespacing=1.25, **font)
    return x, y, width


def _link(axes: Axes, left: Box, right: Box) -> None:
    """An arrow from the right side of a box to the left side of another, square where they are not level."""
    (x0, y0, width0), (x1, y1, width1) = left, right
    start, end = x0 + width0 / 2, x1 - width1 / 2
    _arrow(axes, (start, y0), ((start + end) / 2, y0), ((start + end) / 2, y1), (end, y1))


def _arrow(axes: Axes, *points: tuple[float, float]) -> None:
    style = {"arrowstyle": "-|>", "mutation_scale": 11, "joinstyle": "round", "color": INK, "linewidth": 1.1}
    axes.add_patch(FancyArrowPatch(path=Outline(points), **style))
