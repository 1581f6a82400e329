"""Figures beyond the paper's: label quality, scores by step, overlap of fixes, tokens, losses, sweeps.

``..._rows`` computes or selects the rows that a figure draws; the figure draws them, one panel per run.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import cycle, product
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator
from numpy.typing import ArrayLike

from glore_lib.reporting import style
from glore_lib.reporting.style import with_style
from glore_lib.statistics import LEVEL, RESAMPLES, clustered, of_row, proportion

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # those seen well on white
COST_MARKERS = {"local+orm": "D", "local+sorm": "s", "global+local+sorm": "^", "resample": "v", "bo3": "D"}
FEW_STEPS = 0.05  # of the most frequent step: means of so few say nothing, and their numbers crowd the axis
FEW_IN_BINS = 0.2  # of the most frequent step: so few are almost none per bin
LABEL_RULES = ("raw", "monotone", "consistent")
LABEL_METRICS = {"label_precision": "Precision", "label_recall": "Recall"}
LABEL_MARKERS: dict[str, dict[str, Any]] = {
    "Precision": {"marker": "o", "markersize": 7},
    "Recall": {"marker": "s", "markersize": 6.5, "markerfacecolor": "white", "markeredgewidth": 1.8},
}
NOISE = {
    "label_precision": "Precision", "label_recall": "Recall", "label_first_error_accuracy": "First errors located"
}  # fmt: skip
STEP_SCORERS = ("orm", "balanced_orm", "sorm")
SAMPLED = ("student_best_of", "student_weighted", "student_majority")
ANSWERED = {"greedy": "Greedy draft", "reranked": "Draft and two refinements, reranked by the ORM"}
BINS = 5  # of the scores, equally wide
FEW = 10  # steps in a bin: a share of fewer says nothing, and is in the CSV alone
BY_STEP, INTERVAL = ["task", "model", "step"], ["value", "ci_low", "ci_high", "n"]
FIXERS = ("global", "local+orm", "local+sorm", "resample")
# Tokens are counted where a draft is known to be wrong, and where the ORM alone decides.
COSTS = {
    "wrong drafts": ("global", "local+orm", "local+sorm", "global+local+sorm", "resample"),
    "all questions": ("bo3", "reranked"),
}


def label_quality_rows(numbers: pd.DataFrame) -> pd.DataFrame:
    """Select the rows of ``numbers`` that :func:`label_quality` draws."""
    return numbers[numbers.metric.isin(list(LABEL_METRICS)) & numbers.method.isin(LABEL_RULES)]


@with_style({"axes.grid.axis": "x"})
def label_quality(numbers: pd.DataFrame) -> Figure:
    """Draw precision and recall of rollout labels against exact labels, after each post-processing step."""
    figure, panels = style.run_panels(label_quality_rows(numbers), width=4.6, height=2.6, sharex=True)
    for axes, _, cells in panels:
        for place, method in enumerate(LABEL_RULES):
            for offset, metric in zip((-0.16, 0.16), LABEL_METRICS, strict=True):
                label = LABEL_METRICS[metric]
                _dot(axes, place + offset, method, label, cells.get((method, metric)), LABEL_MARKERS[label])
        axes.set_yticks(range(len(LABEL_RULES)), ["Raw", "+ monotone", "+ consistent"])
        axes.set_ylim(len(LABEL_RULES) - 0.5, -0.5)
        axes.set_xlabel("Share of steps (%)")
        axes.tick_params(labelbottom=True)
        style.percent_axis(axes.xaxis)
    keys = [Line2D([], [], color=style.INK, linestyle="", label=k, **look) for k, look in LABEL_MARKERS.items()]
    figure.legend(handles=keys, loc="outside upper center", ncols=len(keys))
    return figure


def scores_by_step_rows(step_scores: pd.DataFrame) -> pd.DataFrame:
    """Return the mean score of correct steps by reward model and step, with intervals by bootstrap over questions.

    ``step_scores`` has the columns task, question_id, step, model, score and label (exact, or by rollouts if unknown).
    """
    right = step_scores[step_scores.label == 1]
    return _grouped(right, BY_STEP, lambda steps: asdict(clustered(steps.score, steps.question_id)))


@with_style()
def scores_by_step(rows: pd.DataFrame) -> Figure:
    """Draw the mean score of correct steps by each reward model; steps that few drafts reach are left out."""
    return _draw_by_step(rows, "Mean score of correct steps")


def calibration_rows(step_scores: pd.DataFrame) -> pd.DataFrame:
    """Return mean score minus share of correct steps, as :func:`scores_by_step_rows`; negative is pessimistic."""
    bounds = (-1.0, 1.0)
    return _grouped(step_scores, BY_STEP, lambda s: asdict(clustered(s.score - s.label, s.question_id, bounds=bounds)))


@with_style()
def calibration(rows: pd.DataFrame) -> Figure:
    """Draw mean score minus share of correct steps: below 0 a reward model is pessimistic, above optimistic."""
    return _draw_by_step(rows, "Mean score − share of correct steps", around_zero=True)


def reliability_rows(step_scores: pd.DataFrame) -> pd.DataFrame:
    """Return the share of correct steps per score bin (named by its lower end), and the mean score in the bin."""
    bins = np.minimum((step_scores.score * BINS).astype(int), BINS - 1) / BINS
    return _grouped(
        step_scores.assign(bin=bins), [*BY_STEP, "bin"],
        lambda steps: {"score": steps.score.mean()} | asdict(proportion(steps.label)), ["score"],
    )  # fmt: skip


def _grouped(
    step_scores: pd.DataFrame, by: list[str], measure: Callable[[pd.DataFrame], dict[str, float]],
    also: Sequence[str] = (),
) -> pd.DataFrame:  # fmt: skip
    """Return a row per group of steps: the columns ``by``, then those of ``measure``."""
    groups = step_scores[step_scores.model.isin(STEP_SCORERS)].groupby(by)
    rows = [dict(zip(by, keys, strict=True)) | measure(group) for keys, group in groups]
    return pd.DataFrame(rows, columns=[*by, *also, *INTERVAL])


def _draw_by_step(rows: pd.DataFrame, label: str, around_zero: bool = False) -> Figure:
    """Draw a panel per task with a curve per reward model against the step."""
    tasks = {task: of_task[of_task.step.isin(_reached(of_task).index)] for task, of_task in _by_task(rows)}
    figure, panels = style.new_panels(len(tasks), width=4.7, height=3.2, sharey=True)
    ends = {}
    reach = max((drawn[["ci_low", "ci_high"]].abs().max().max() for drawn in tasks.values()), default=0) + 0.03
    for axes, (task, drawn) in zip(panels, tasks.items(), strict=True):
        axes.set_ylim((-reach, reach) if around_zero else (0, 1))
        if around_zero:
            axes.axhline(0, color=style.INK, linestyle=style.DASHED, linewidth=1)
        found = [method for method in STEP_SCORERS if method in set(drawn.model)]
        ends[axes] = style.draw_curves(axes, drawn.assign(x=drawn.step, method=drawn.model), found)
        axes.set_xlabel(style.note_missing("Step", STEP_SCORERS, drawn.model))
        axes.set_title(style.title_with_n(task, drawn))
        style.outer_label(axes, label)
    style.label_ends(figure, ends, percent=False)
    return figure


def _by_task(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield each task and its rows, in order of appearance."""
    for task, of_task in rows.groupby("task", sort=False):
        yield str(task), of_task


def _reached(rows: pd.DataFrame) -> pd.Series:
    """Count the drafts that reach each step, without the steps that few do."""
    counts = rows.groupby(["model", "step"]).n.sum().groupby("step").max()
    return counts[counts >= FEW_STEPS * counts.max()]


@with_style()
def reliability(rows: pd.DataFrame) -> Figure:
    """Draw the share of correct steps against the score, a row per task and a panel per step, without rare ones."""
    reached = [(task, _reached(of_task)) for task, of_task in _by_task(rows)]
    steps = [(task, counts[counts >= FEW_IN_BINS * counts.max()]) for task, counts in reached]
    columns = max((len(counts) for _, counts in steps), default=1)
    figure, panels = style.new_panels(columns * len(steps), 1.9, 1.95, columns, sharex=True, sharey=True)
    for place, axes in enumerate(panels):
        task, counts = steps[place // columns]
        if place % columns >= len(counts):
            axes.set_axis_off()
            continue
        step = counts.index[place % columns]
        axes.plot([0, 1], [0, 1], color=style.FAINT, linestyle=style.DASHED, linewidth=1)
        drawn = rows[(rows.task == task) & (rows.step == step) & (rows.n >= FEW)].sort_values("score")
        for method, curve in drawn.groupby("model"):
            style.draw_curve(axes, curve.score, curve, str(method))
        axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1], aspect="equal")
        axes.set_title(f"Step {step}\nn = {counts[step]:,}")
        axes.tick_params(labelbottom=True)
        style.outer_label(axes, f"{task}\nShare of correct steps")
    keys = [Line2D([], [], label=style.METHOD_LABELS[method], **style.line_style(method)) for method in STEP_SCORERS]
    figure.legend(handles=keys, loc="outside upper center", ncols=len(keys))
    figure.supxlabel("Score of the step", fontsize=9.5)
    return figure


def fixed_overlap_rows(drafts: pd.DataFrame) -> pd.DataFrame:
    """Return the shares of wrong drafts that ``fixed_by`` fixes and ``not_by``, if not empty, does not.

    ``drafts`` has a row per wrong draft: task, and a boolean for each of ``FIXERS``.
    """
    rows = []
    for task, group in _by_task(drafts):
        for one, other in product(FIXERS, FIXERS):
            fixed = group[one] if one == other else group[one] & ~group[other]
            names = {"task": task, "fixed_by": one, "not_by": "" if one == other else other}
            rows.append(names | asdict(proportion(fixed)) | {"count": int(fixed.sum())})
    return pd.DataFrame(rows, columns=["task", "fixed_by", "not_by", "value", "ci_low", "ci_high", "count", "n"])


@with_style({"axes.grid": False})
def fixed_overlap(rows: pd.DataFrame) -> Figure:
    """Draw the wrong drafts that one refinement fixes and another does not (paper, Table 3)."""
    tasks = list(_by_task(rows))
    figure, panels = style.new_panels(len(tasks), width=5.0, height=3.9, sharey=True)
    names = [style.METHOD_LABELS[method].replace(" ", "\n", 1) for method in FIXERS]
    shape = (len(FIXERS), len(FIXERS))
    for axes, (task, cells) in zip(panels, tasks, strict=True):
        shown = [of_row(row).percent().replace(" ", "\n", 1) for row in cells.itertuples()]
        sns.heatmap(
            cells.value.to_numpy().reshape(shape), vmin=0, vmax=0.8, cmap="Blues", annot=np.reshape(shown, shape),
            fmt="", annot_kws={"size": 9, "color": style.INK}, cbar=False, linewidths=2, ax=axes,
        )  # fmt: skip
        for i in range(len(FIXERS)):
            axes.add_patch(Rectangle((i, i), 1, 1, fill=False, edgecolor=style.INK, linewidth=1.4))
        axes.set_yticklabels(names, rotation=0)
        axes.set_xticklabels([f"but not by\n{name}" for name in names], rotation=0)
        axes.tick_params(length=0)
        axes.set_title(f"{task} (n = {cells.n.iloc[0]:,})")
        axes.set_xlabel("Framed: all that it fixes")
        style.outer_label(axes, "Fixed by (% of wrong drafts)")
    return figure


def cost_rows(outcomes: pd.DataFrame) -> pd.DataFrame:
    """Return the extra tokens per additional solved problem, for each task, setting and method.

    ``outcomes`` has a row per task, setting, method (see ``COSTS``) and draft: extra ``tokens``, and ``gain``: 1 if the
    problem is newly solved, -1 if it is lost. Without a net gain the value is infinite. Intervals resample drafts.
    """
    by = ["task", "setting", "method"]
    rows = []
    for keys, group in outcomes.groupby(by, sort=False):
        tokens, gain, n = group.tokens.to_numpy(float), group.gain.to_numpy(float), len(group)
        drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), RESAMPLES)
        costs = _per_problem(drawn @ tokens, drawn @ gain)
        low, high = np.quantile(costs, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2], method="nearest")  # no mean of infinities
        rows.append((*keys, _per_problem(tokens.sum(), gain.sum()).item(), low, high, n))
    return pd.DataFrame(rows, columns=[*by, *INTERVAL])


def _per_problem(tokens: ArrayLike, solved: ArrayLike) -> np.ndarray:
    return np.where(np.asarray(solved) > 0, tokens / np.maximum(solved, 1), np.inf)


@with_style({"axes.grid.axis": "x"})
def cost(rows: pd.DataFrame) -> Figure:
    """Draw extra tokens per additional solved problem; an arrow is an interval without an upper end."""
    tasks = list(_by_task(rows))
    methods = [(setting, method) for setting, group in COSTS.items() for method in group]
    figure, panels = style.new_panels(len(tasks), width=5.2, height=3.4, sharex=True, sharey=True)
    places = [i + 0.8 * (setting == "all questions") for i, (setting, _) in enumerate(methods)]
    drawn = rows[["ci_low", "ci_high", "value"]].to_numpy(float).ravel()
    drawn = drawn[np.isfinite(drawn) & (drawn > 0)]
    for axes, (task, of_task) in zip(panels, tasks, strict=True):
        cells = {(r.setting, r.method): r for r in of_task.itertuples()}
        axes.set_xscale("log")
        if len(drawn):
            axes.set_xlim(0.7 * drawn.min(), 1.5 * drawn.max())
        for y, key in zip(places, methods, strict=True):
            _cost(axes, y, key[1], cells.get(key))
        axes.set_yticks(places, [style.METHOD_LABELS[method] for _, method in methods])
        axes.set_ylim(places[-1] + 0.6, -1.1)
        for y, (setting, group) in zip((-0.75, places[len(COSTS["wrong drafts"])] - 0.75), COSTS.items(), strict=True):
            counts = [cells[setting, method].n for method in group if (setting, method) in cells]
            text = f"{setting.capitalize()} (n = {counts[0]:,})" if counts else setting.capitalize()
            axes.text(
                0.01, y, text, transform=axes.get_yaxis_transform(), va="center", style="italic", color=style.FAINT
            )
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3) if len(tasks) < 3 else (1,)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("Extra tokens per additional solved problem")
        axes.set_title(task)
    return figure


def _cost(axes: Axes, y: float, method: str, row: Any) -> None:
    """Draw a point with its interval, and both as numbers at the right."""
    text = "no data"
    look: dict[str, Any] = {"color": style.METHOD_COLOURS[method], "marker": COST_MARKERS.get(method, "o")}
    if row is not None and np.isinf(row.ci_low):
        text = "no gain"
    elif row is not None:
        end = row.ci_high if np.isfinite(row.ci_high) else axes.get_xlim()[1]
        axes.plot([row.ci_low, end], [y, y], color=style.INK, linewidth=style.WHISKER["elinewidth"])
        if end != row.ci_high:
            axes.plot(end, y, marker=">", color=style.INK, clip_on=False)
        if np.isfinite(row.value):
            axes.plot(row.value, y, markersize=7, zorder=3, **look)
        shown = ["∞" if np.isinf(x) else f"{x:,.0f}" for x in (row.value, row.ci_low, row.ci_high)]
        text = "{} [{}, {}]".format(*shown)
    axes.text(1.03, y, text, transform=axes.get_yaxis_transform(), va="center")


def accuracy_by_tokens_rows(numbers: pd.DataFrame) -> pd.DataFrame:
    """Select the rows of ``numbers`` that :func:`accuracy_by_tokens` draws."""
    samples = numbers.metric.str.fullmatch(r"(accuracy|tokens)@\d+") & numbers.method.isin(
        [*SAMPLED, "student_samples"]
    )
    return numbers[samples | (numbers.metric.isin(["accuracy", "tokens"]) & numbers.method.isin(list(ANSWERED)))]


@with_style()
def accuracy_by_tokens(numbers: pd.DataFrame) -> Figure:
    """Draw the accuracy of N samples of the student, of its draft and of the reranked refinements against tokens."""
    figure, panels = style.run_panels(accuracy_by_tokens_rows(numbers), width=5.4, height=3.6)
    ends = {}
    points = {method: style.line_style(method) | {"markersize": 10, "linestyle": ""} for method in ANSWERED}
    for axes, drawn, cells in panels:
        spent = {m.removeprefix("tokens"): row.value for (_, m), row in cells.items() if m.startswith("tokens@")}
        samples = drawn[drawn.method.isin(SAMPLED)]
        samples = samples.assign(x=samples.metric.str.removeprefix("accuracy").map(spent)).query("x > 0")
        found = [method for method in SAMPLED if method in set(samples.method)]
        ends[axes] = style.draw_curves(axes, samples, found, log=True)
        for method, look in points.items():
            if {(method, "accuracy"), (method, "tokens")} <= cells.keys():
                x, row = cells[method, "tokens"].value, cells[method, "accuracy"]
                axes.errorbar(x, row.value, style.error_lengths(row), ecolor=look["color"], **style.WHISKER)
                axes.plot(x, row.value, label=method, zorder=4, **look)
                axes.annotate(f"{100 * row.value:.1f}", (x, row.value), (8, 5), textcoords="offset points", zorder=4)
        axes.set_xticks([*spent.values()], [f"{x:,.0f}\n({at[1:]})" for at, x in spent.items()])
        label = "Generated tokens per question (samples N)"
        axes.set_xlabel(style.note_missing(label, (*SAMPLED, *ANSWERED), drawn.method))
        style.percent_axis(axes.yaxis)
        style.outer_label(axes, "Accuracy (%)")
    keys = [Line2D([], [], label=ANSWERED[method], **look) for method, look in points.items()]
    style.label_ends(figure, ends, percent=True, keys=keys)
    return figure


def auc_by_step_rows(numbers: pd.DataFrame) -> pd.DataFrame:
    """Select the rows of ``numbers`` that :func:`auc_by_step` draws: those by exact labels of a run that has them."""
    rows = numbers[numbers.metric.str.fullmatch(r"auc_by_step(_exact)?@\d+") & numbers.method.isin(STEP_SCORERS)]
    exact = rows.metric.str.contains("_exact")
    return rows[exact | ~rows.task.isin(rows.task[exact])]


@with_style()
def auc_by_step(numbers: pd.DataFrame) -> Figure:
    """Draw how well each reward model tells right first, second, ... steps from wrong ones; rare steps are left out."""
    figure, panels = style.run_panels(auc_by_step_rows(numbers), width=4.7, height=3.2, sharey=True)
    ends = {}
    for axes, drawn, _ in panels:
        steps = drawn.assign(x=pd.to_numeric(drawn.metric.str.extract(r"@(\d+)", expand=False)))
        counts = steps.groupby("x").n.max()
        steps = steps[steps.x.isin(counts.index[counts >= FEW_STEPS * counts.max()])]
        found = [method for method in STEP_SCORERS if method in set(steps.method)]
        ends[axes] = style.draw_curves(axes, steps, found)
        axes.axhline(0.5, color=style.INK, linestyle=style.DASHED, linewidth=1)
        axes.set_ylim(min(0.45, axes.get_ylim()[0], steps.ci_low.min() - 0.02), 1)  # the panels share the axis
        axes.set_xlabel(style.note_missing("Step", STEP_SCORERS, drawn.method))
        style.outer_label(axes, "AUC of step scores")
    style.label_ends(figure, ends, percent=False)
    return figure


@with_style()
def losses(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw the training loss (columns step, loss) of each model by name."""
    figure, panels = style.new_panels(min(len(curves), 1), width=6.0, height=3.2)
    looks = cycle((colour, dashes) for dashes in ("-", style.DASHED, style.DOTTED) for colour in OKABE_ITO)
    for axes in panels:
        for (name, curve), (colour, dashes) in zip(curves.items(), looks, strict=False):
            axes.plot(curve.step, curve.loss, label=name, color=colour, linestyle=dashes, marker="o", markersize=3)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("Optimiser step")
        axes.set_ylabel("Training loss")
        figure.legend(loc="outside right upper")
    return figure


def sweep_rows(numbers: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Select the rows ``metric@x`` of ``numbers`` that hold a value, with ``x`` as a column."""
    at = pd.to_numeric(numbers.metric.str.extract(rf"^{metric}@([\d.]+)$", expand=False))
    rows = numbers.assign(x=at)[at.notna()]
    return style.with_data(rows).sort_values(["method", "x"])


@with_style()
def sweep(numbers: pd.DataFrame, metrics: Mapping[str, str], label: str, log: bool = False) -> Figure:
    """Draw one run's ``metric@x`` against x: a panel per metric (name -> title) with data, a curve per method."""
    panelled = {title: rows for metric, title in metrics.items() if len(rows := sweep_rows(numbers, metric))}
    figure, panels = style.new_panels(len(panelled), width=4.9, height=3.2)
    ends = {}
    for axes, (title, rows) in zip(panels, panelled.items(), strict=True):
        ends[axes] = style.draw_curves(axes, rows, list(rows.method.unique()), log)
        axes.set_xlabel(label)
        style.outer_label(axes, "Share (%)")
        axes.set_title(style.title_with_n(title, rows))
        style.percent_axis(axes.yaxis)
    style.label_ends(figure, ends, percent=True)
    return figure


def label_noise_rows(numbers: pd.DataFrame) -> pd.DataFrame:
    """Select the rows that :func:`label_noise` draws, with temperature, K and distinct texts per prefix as columns."""
    named = numbers.metric.str.extract(r"^(?P<name>\w+)@(?P<k>\d+)$")
    rows = numbers.assign(name=named["name"], k=pd.to_numeric(named["k"]))
    rows = rows.assign(temperature=pd.to_numeric(rows.method.str.extract(r"^temperature_([\d.]+)$", expand=False)))
    shares = rows[rows.name == "distinct_share"].set_index(["temperature", "k"])["value"]
    drawn = style.with_data(rows[rows.name.isin(list(NOISE)) & rows.temperature.notna()])
    texts = np.array([k * shares[t, k] for t, k in zip(drawn.temperature, drawn.k, strict=True)], dtype=float)
    return drawn.assign(k=drawn.k.astype(float), distinct=texts).sort_values(["temperature", "k"])


@with_style()
def label_noise(numbers: pd.DataFrame) -> Figure:
    """Draw one run's label quality against K (above) and against distinct texts per prefix, by temperature."""
    rows = label_noise_rows(numbers)
    figure, panels = style.new_panels(2 * rows.name.nunique(), width=3.5, height=2.7, most=3, sharey="col")
    temperatures = sorted(rows.temperature.unique())
    colours = sns.color_palette("viridis", len(temperatures) + 1)  # without the last one, a yellow
    looks = list(zip(temperatures, colours, cycle("osD^v"), strict=False))
    xs = {"k": "Rollouts K per prefix", "distinct": "Distinct texts among them (mean)"}
    for axes, (x, name) in zip(panels, product(xs, NOISE if len(rows) else ()), strict=True):
        of_panel = rows[rows.name == name]
        for shift, (temperature, colour, marker) in enumerate(looks):
            curve = of_panel[of_panel.temperature == temperature]
            at = curve[x] * (2 ** (0.08 * (shift - (len(temperatures) - 1) / 2)) if x == "k" else 1)
            look = {"color": colour, "marker": marker, "markeredgecolor": "white", "markeredgewidth": 0.7}
            axes.plot(at, curve.value, label=f"T = {temperature:g}", zorder=3, **look)
            errors = style.error_lengths(curve)
            axes.errorbar(at, curve.value, errors, ecolor=colour, alpha=0.6, **style.WHISKER)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(xs[x])
        style.percent_axis(axes.yaxis)
        if x == "k":
            axes.set_xticks(sorted(of_panel.k.unique()))
            axes.set_title(style.title_with_n(NOISE[name], of_panel))
        style.outer_label(axes, "Share (%)")
    if looks:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(temperatures))
    return figure


def dots_rows(numbers: pd.DataFrame, metrics: Mapping[str, str]) -> pd.DataFrame:
    """Select the rows of ``numbers`` that :func:`dots` draws."""
    return numbers[numbers.metric.isin(list(metrics)) & numbers.method.isin(list(style.METHOD_LABELS))]


@with_style({"axes.grid.axis": "x"})
def dots(numbers: pd.DataFrame, metrics: Mapping[str, str]) -> Figure:
    """Draw one run's values: a panel per metric (name -> title), a row per method in order of appearance."""
    drawn = style.with_data(dots_rows(numbers, metrics))
    methods, shown = list(drawn.method.unique()), [m for m in metrics if m in set(drawn.metric)]
    figure, panels = style.new_panels(len(shown), width=4.9, height=1.1 + 0.3 * len(methods), sharey=True)
    cells = style.by_method_and_metric(drawn)
    for axes, metric in zip(panels, shown, strict=True):
        for place, method in enumerate(methods):
            if (method, metric) in cells:
                _dot(axes, place, method, metric, cells[method, metric], {"marker": "o", "markersize": 7})
        axes.set_yticks(range(len(methods)), [style.METHOD_LABELS[method] for method in methods])
        axes.set_ylim(len(methods) - 0.5, -0.5)
        axes.set_xlabel("Share (%)")
        axes.set_title(style.title_with_n(metrics[metric], drawn[drawn.metric == metric]))
        style.percent_axis(axes.xaxis)
        axes.margins(x=0.2)  # for the numbers
    return figure


def _dot(axes: Axes, y: float, method: str, label: str, row: Any, marker: Mapping[str, Any]) -> None:
    """Draw a point with its interval and number, or a note if there is no row."""
    if row is None:
        axes.text(0.02, y, f"{label}: no data", transform=axes.get_yaxis_transform(), va="center", color=style.FAINT)
        return
    axes.errorbar(row.value, y, xerr=style.error_lengths(row), ecolor=style.INK, **style.WHISKER)
    axes.plot(row.value, y, color=style.METHOD_COLOURS[method], label=f"{method} {label}", zorder=3, **marker)
    right = np.nanmax([row.value, row.ci_high])
    axes.annotate(f"{100 * row.value:.1f}", (right, y), (5, 0), textcoords="offset points", va="center")
