import re
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.testing import assert_allclose

from glore_lib.method.evaluation import NUMBERS
from glore_lib.reporting import analysis_figures, paper_figures, report, results, style
from glore_lib.statistics import NO_DATA, Estimate, clustered, row

KS = (1, 2, 4, 8)
NUMBER_FIGURES = ("figure4", "figure5", "figure6", "label_quality", "accuracy_by_tokens", "auc_by_step")


def numbers() -> pd.DataFrame:
    """Every row that the figures can draw, for two tasks; no two rows of a task have the same value."""
    names = [(method, f"rerank_accuracy@{k}") for k in KS for method in (*paper_figures.RERANKERS, "sorm_consistent")]
    names += [("majority", f"majority@{k}") for k in KS] + [("greedy_sft", "accuracy")]
    names += [(method, metric) for method in paper_figures.REFINERS for metric in paper_figures.DRAFTS]
    names += [(method, "accuracy") for method in paper_figures.CHOICES]
    names += [(method, metric) for method in analysis_figures.LABEL_RULES for metric in analysis_figures.LABEL_METRICS]
    names += [(method, f"accuracy@{k}") for k in KS for method in analysis_figures.SAMPLED]
    names += [
        (method, f"auc_by_step{labels}@{step}") for method in analysis_figures.STEP_SCORERS for step in (1, 2, 3)
        for labels in ("", "_exact")
    ]  # fmt: skip
    names += [("sorm", "step_accuracy"), ("local+oracle", "accuracy")]  # drawn nowhere
    values = np.random.default_rng(0).permutation(np.linspace(0.3, 0.9, 2 * len(names))).reshape(2, -1)
    rows = [
        row(task, "mini-base", method, metric, Estimate(value, value - 0.03, value + 0.04, 600))
        for task, line in zip(("mini-hard", "mini-easy"), values, strict=True)
        for (method, metric), value in zip(names, line, strict=True)
    ]
    spent = {("student_samples", f"tokens@{k}"): 40 * k for k in KS} | {
        (m, "tokens"): 90 for m in analysis_figures.ANSWERED
    }
    rows += [
        row(task, "mini-base", method, metric, Estimate(tokens, tokens - 1, tokens + 1, 600))
        for task in ("mini-hard", "mini-easy") for (method, metric), tokens in spent.items()
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(seed=0)[NUMBERS]


def step_scores() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    rows = [
        ("mini-hard", f"q{question}", step, model, rng.random(), int(rng.random() < 0.7))
        for question in range(20) for step in (1, 2, 3) for model in analysis_figures.STEP_SCORERS
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["task", "question_id", "step", "model", "score", "label"])


def drafts() -> pd.DataFrame:
    """Twenty: of each five, what global, local + ORM, local + SORM and a fresh sample fix."""
    fixed = [(1, 0, 1, 0)] * 3 + [(1, 1, 0, 0)] * 2 + [(0, 0, 1, 1)] * 4 + [(0, 0, 0, 0)] * 11
    return pd.DataFrame(fixed, columns=list(analysis_figures.FIXERS)).astype(bool).assign(task="mini-hard")


def outcomes() -> pd.DataFrame:
    """Forty drafts: every method takes 10 tokens each and solves the first ``i`` more, the i-th of a setting."""
    rows = [
        ("mini-hard", setting, method, 10, int(draft < i))
        for setting, methods in analysis_figures.COSTS.items()
        for i, method in enumerate(methods, start=8) for draft in range(40)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["task", "setting", "method", "tokens", "gain"])


INPUTS = {
    "scores_by_step": step_scores, "calibration": step_scores, "reliability": step_scores, "fixed_overlap": drafts,
    "cost": outcomes,
}  # fmt: skip


def rows_of(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    module = paper_figures if hasattr(paper_figures, name) else analysis_figures
    return getattr(module, f"{name}_rows")(frame)


def draw(name: str, frame: pd.DataFrame) -> Figure:
    """Draw the rows that it selects or computes from a frame."""
    module = paper_figures if hasattr(paper_figures, name) else analysis_figures
    return getattr(module, name)(rows_of(name, frame))


def every_figure() -> dict[str, tuple[Figure, pd.DataFrame]]:
    inputs = {name: numbers() for name in NUMBER_FIGURES} | {name: make() for name, make in INPUTS.items()}
    return {name: (draw(name, frame), rows_of(name, frame)) for name, frame in inputs.items()}


def values(frame: pd.DataFrame, **where: str) -> list[float]:
    for column, wanted in where.items():
        frame = frame[frame[column] == wanted]
    return frame.value.tolist()


def bars(axes) -> dict[str, list]:
    """Return the bars by method, in the order drawn."""
    found: dict[str, list] = {}
    for container in axes.containers:
        if isinstance(container, BarContainer):
            found.setdefault(container.get_label(), []).extend(container.patches)
    return found


def lines(axes) -> dict[str, tuple[list[float], list[float]]]:
    """Label -> points; unlabelled artists, the keys beside the names, are left out."""
    return {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.lines if not line.get_label().startswith("_")
    }  # fmt: skip


def segments(axes) -> np.ndarray:
    """Return the ends of all error bars [bars, 2 ends, x and y]."""
    collections = [artist for artist in axes.collections if isinstance(artist, LineCollection)]
    return np.array([segment for collection in collections for segment in collection.get_segments()])


def texts(figure_or_axes) -> list[str]:
    return [text.get_text() for text in figure_or_axes.findobj(Text) if text.get_text() and text.get_visible()]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """Save every figure into a folder."""
    folder = tmp_path_factory.mktemp("figures")
    for name, (figure, rows) in every_figure().items():
        style.save(figure, rows, folder, name)
    return folder


def test_the_same_input_gives_the_same_bytes(saved: Path, tmp_path: Path):
    drawn = every_figure()
    files = sorted(path.name for path in saved.iterdir())
    written = {f"{name}.{suffix}" for name in drawn for suffix in ("csv", "png", "svg")}
    assert files == sorted(written)
    for name, (figure, rows) in drawn.items():
        style.save(figure, rows, tmp_path, name)
    for name in files:
        assert (saved / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_png_is_150_dpi_and_csv_holds_the_rows_drawn(tmp_path: Path):
    frame = numbers()
    figure, rows = paper_figures.figure6(frame), paper_figures.figure6_rows(frame)
    style.save(figure, rows, tmp_path / "new" / "folder", "figure6")
    again = pd.read_csv(tmp_path / "new" / "folder" / "figure6.csv")
    pd.testing.assert_frame_equal(again, rows.reset_index(drop=True), check_dtype=False)
    assert set(again.method) == set(paper_figures.CHOICES)
    assert len(again) == 2 * len(paper_figures.CHOICES)
    header = (tmp_path / "new" / "folder" / "figure6.png").read_bytes()[16:24]
    assert int.from_bytes(header[:4], "big") == round(figure.get_figwidth() * 150)


def test_svg_keeps_text_as_text_and_no_date(saved: Path):
    for path in saved.glob("*.svg"):
        source = path.read_text()
        found = {text.text for text in ElementTree.fromstring(source).iter("{http://www.w3.org/2000/svg}text")}
        assert len(found) >= 8, path.name
        assert not re.search(r"<dc:date|DejaVuSans-\d", source), path.name  # a date; glyphs drawn as paths


def test_hatches_differ_from_what_they_are_drawn_on_in_svg_too(saved: Path):
    tag = "{http://www.w3.org/2000/svg}"
    found = 0
    for path in saved.glob("*.svg"):
        for pattern in ElementTree.parse(path).iter(f"{tag}pattern"):
            ground, hatch = pattern.find(f"{tag}rect").get("fill"), pattern.find(f"{tag}path").get("style")
            assert f"stroke: {ground};" not in hatch, path.name
            found += 1
    assert found >= len(paper_figures.HATCHES)


def test_every_text_is_at_least_9_points():
    for name, (figure, _) in every_figure().items():
        sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text()]
        assert min(sizes) >= 9, name


def test_figure4_draws_the_frames_numbers():
    frame = numbers()
    for axes, task in zip(paper_figures.figure4(frame).axes, ("mini-hard", "mini-easy"), strict=True):
        drawn, of_task = lines(axes), frame[frame.task == task]
        assert set(drawn) == {*paper_figures.RERANKERS, "sorm_consistent", "majority", "greedy_sft"}
        for method in (*paper_figures.RERANKERS, "sorm_consistent"):
            x, y = drawn[method]
            assert y == [values(of_task, method=method, metric=f"rerank_accuracy@{k}")[0] for k in KS]
            assert_allclose(np.log2(x), np.log2(KS), atol=0.25)
        assert drawn["majority"] == (list(KS), [values(of_task, metric=f"majority@{k}")[0] for k in KS])
        assert drawn["greedy_sft"][1] == values(of_task, method="greedy_sft") * 2
        reranked = of_task[of_task.metric.str.startswith("rerank")]
        assert_allclose(np.sort(segments(axes)[:, 0, 1]), np.sort(reranked.ci_low))
        assert_allclose(np.sort(segments(axes)[:, 1, 1]), np.sort(reranked.ci_high))
        assert axes.get_title(loc="left") == f"{task} (n = 600)"


def test_figure4_sorts_k_as_numbers():
    ks = (1, 2, 16, 128)
    rows = [row("t", "m", "orm", f"rerank_accuracy@{k}", Estimate(0.1 + k / 200, 0.1, 0.9, 9)) for k in ks[::-1]]
    (axes,) = paper_figures.figure4(pd.DataFrame(rows)).axes
    assert lines(axes)["orm"] == (list(ks), [0.1 + k / 200 for k in ks])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "16", "128"]


def test_names_at_the_ends_of_curves_keep_clear_of_each_other():
    rows = [
        row("t", "m", m, f"rerank_accuracy@{k}", Estimate(0.5, 0.4, 0.6, 9))
        for m in paper_figures.RERANKERS
        for k in KS
    ]
    figure = paper_figures.figure4(pd.DataFrame(rows))
    figure.draw_without_rendering()
    names = [text for text in figure.axes[0].texts if text.get_text().endswith("50.0")]
    assert len(names) == len(paper_figures.RERANKERS)
    for one, other in combinations(names, 2):
        assert not one.get_window_extent().overlaps(other.get_window_extent())


def test_figure5_draws_the_frames_numbers():
    frame = numbers()
    for axes, task in zip(paper_figures.figure5(frame).axes, ("mini-hard", "mini-easy"), strict=True):
        of_task = frame[frame.task == task]
        for method, drawn in bars(axes).items():
            expected = [values(of_task, method=method, metric=metric)[0] for metric in paper_figures.DRAFTS]
            assert [bar.get_height() for bar in drawn] == expected
            assert {to_hex(bar.get_facecolor()).upper() for bar in drawn} == {style.METHOD_COLOURS[method]}
        assert set(bars(axes)) == set(paper_figures.REFINERS)
        assert lines(axes)["greedy"][1] == values(of_task, method="greedy", metric="accuracy") * 2


@pytest.mark.parametrize("name", ["figure5", "figure6"])
def test_numbers_on_bars_keep_clear_of_intervals_and_of_each_other(name):
    figure = draw(name, numbers())
    figure.draw_without_rendering()
    for axes in figure.axes:
        labels = [text for text in axes.texts if re.fullmatch(r"\d+\.\d", text.get_text())]
        tops = axes.transData.transform(segments(axes)[:, 1])
        assert len(labels) == len(tops) >= 5
        for label, (_, top) in zip(labels, tops, strict=True):
            assert label.get_window_extent().y0 > top
        for one, other in combinations(labels, 2):
            assert not Text.get_window_extent(one).overlaps(Text.get_window_extent(other))
        drawn = sorted(bar.get_height() for found in bars(axes).values() for bar in found)
        assert sorted(float(label.get_text()) for label in labels) == pytest.approx([100 * d for d in drawn], abs=0.051)


def test_figure6_draws_the_frames_numbers():
    frame = numbers()
    for axes, task in zip(paper_figures.figure6(frame).axes, ("mini-hard", "mini-easy"), strict=True):
        of_task = frame[(frame.task == task) & (frame.metric == "accuracy")]
        drawn = bars(axes)
        assert list(drawn) == list(paper_figures.CHOICES)
        for place, (method, (bar,)) in enumerate(drawn.items()):
            assert [bar.get_height()] == values(of_task, method=method)
            assert bar.get_x() + bar.get_width() / 2 == pytest.approx(place)
        lows = [of_task[of_task.method == method].ci_low.item() for method in paper_figures.CHOICES]
        assert_allclose(segments(axes)[:, 0, 1], lows)


def test_what_colour_sets_apart_a_hatch_or_marker_does_too():
    markers = [style.MARKERS[method] for method in paper_figures.RERANKERS + paper_figures.RERANKER_ABLATIONS]
    assert len(set(markers)) == len(markers)
    assert len({paper_figures.HATCHES.get(method) for method in paper_figures.REFINERS}) == len(paper_figures.REFINERS)
    assert set(style.METHOD_COLOURS) <= set(style.METHOD_LABELS)


def test_label_quality_draws_the_frames_numbers():
    frame = numbers()
    for axes, task in zip(analysis_figures.label_quality(frame).axes, ("mini-hard", "mini-easy"), strict=True):
        for rule in analysis_figures.LABEL_RULES:
            for metric, label in analysis_figures.LABEL_METRICS.items():
                assert lines(axes)[f"{rule} {label}"][0] == values(frame, task=task, method=rule, metric=metric)


def test_accuracy_by_tokens_draws_the_frames_numbers():
    frame = numbers()
    for axes, task in zip(analysis_figures.accuracy_by_tokens(frame).axes, ("mini-hard", "mini-easy"), strict=True):
        drawn, of_task = lines(axes), frame[frame.task == task]
        assert set(drawn) == {*analysis_figures.SAMPLED, *analysis_figures.ANSWERED}
        for method in analysis_figures.SAMPLED:
            x, y = drawn[method]
            assert y == [values(of_task, method=method, metric=f"accuracy@{k}")[0] for k in KS]
            assert_allclose(np.log2(x), np.log2([40 * k for k in KS]), atol=0.25)
            assert f"{style.METHOD_LABELS[method]}  {100 * y[-1]:.1f}" in texts(axes)
        for method in analysis_figures.ANSWERED:
            (value,) = values(of_task, method=method, metric="accuracy")
            assert drawn[method] == ([90], [value])
            assert f"{100 * value:.1f}" in texts(axes)
        assert [label.get_text() for label in axes.get_xticklabels()] == ["40\n(1)", "80\n(2)", "160\n(4)", "320\n(8)"]


def test_answers_without_a_token_are_not_drawn():
    """As those of a model that writes nothing."""
    frame = numbers()
    none = frame.assign(value=frame.value.mask(frame.metric.str.startswith("tokens"), 0))
    assert not set(lines(analysis_figures.accuracy_by_tokens(none).axes[0])) & set(analysis_figures.SAMPLED)


def test_auc_by_step_draws_exact_labels_where_there_are_any_and_no_rare_steps():
    frame = numbers()
    inexact = frame[~(frame.metric.str.contains("_exact") & (frame.task == "mini-easy"))]
    rare = inexact.assign(n=inexact.n.mask(inexact.metric.str.endswith("exact@3"), 20))
    for axes, task, labels in zip(
        analysis_figures.auc_by_step(rare).axes, ("mini-hard", "mini-easy"), ("_exact", ""), strict=True
    ):
        steps = (1, 2) if labels else (1, 2, 3)
        for method in analysis_figures.STEP_SCORERS:
            wanted = [values(frame, task=task, method=method, metric=f"auc_by_step{labels}@{i}")[0] for i in steps]
            assert lines(axes)[method][1] == wanted
            assert_allclose(lines(axes)[method][0], steps, atol=0.1)
        assert [label.get_text() for label in axes.get_xticklabels()] == [str(i) for i in steps]


@pytest.mark.parametrize(
    ("name", "method", "notes"),
    [
        ("figure4", "sorm_raw", ["Samples K\nNo data: SORM, monotone rule only"]),
        ("figure4", "greedy_sft", ["Samples K\nNo data: Greedy"]),
        ("figure4", "sorm_consistent", []),
        ("figure5", "local+orm", ["no data"] * 2),
        ("figure5", "greedy", ["No data: Greedy draft"]),
        ("figure6", "bo3", ["no data"]),
        ("label_quality", "monotone", ["Precision: no data", "Recall: no data"]),
        ("accuracy_by_tokens", "reranked", ["Generated tokens per question (samples N)\nNo data: Refined, reranked"]),
        (
            "accuracy_by_tokens",
            "student_weighted",
            ["Generated tokens per question (samples N)\nNo data: Weighted vote"],
        ),
        ("auc_by_step", "sorm", ["Step\nNo data: SORM"]),
    ],
)
@pytest.mark.parametrize("gone", ["row", "n"])
def test_a_method_without_data_leaves_a_gap_and_a_note(name, method, notes, gone):
    frame = numbers()
    lost = (frame.method == method) & (frame.task == "mini-easy")
    empty = frame.assign(n=frame.n.mask(lost, 0), value=frame.value.mask(lost), ci_low=frame.ci_low.mask(lost))
    figure = draw(name, frame[~lost] if gone == "row" else empty)
    whole, partial = figure.axes
    assert not [text for text in texts(whole) if "no data" in text.lower()]
    assert [text for text in texts(partial) if "no data" in text.lower()] == notes
    present = bars(partial) | lines(partial)
    assert not [label for label in present if label.split()[0] == method]
    assert [label for label in bars(whole) | lines(whole) if label.split()[0] == method]
    assert [bar.get_x() for found in bars(partial).values() for bar in found] == [
        bar.get_x() for label, found in bars(whole).items() if label != method for bar in found
    ]


def test_nothing_to_draw_is_said(tmp_path: Path):
    frames = {name: numbers()[:0] for name in NUMBER_FIGURES}
    for name, frame in (frames | {name: make()[:0] for name, make in INPUTS.items()}).items():
        figure = draw(name, frame)
        assert "No data" in texts(figure), name
        style.save(figure, rows_of(name, frame), tmp_path, name)


def test_a_value_without_interval_is_drawn_without_one():
    frame = numbers().assign(ci_low=np.nan, ci_high=np.nan)
    axes = paper_figures.figure6(frame).axes[0]
    assert len(bars(axes)) == len(paper_figures.CHOICES)
    assert "no data" not in texts(axes)


def test_a_number_given_twice_is_refused():
    frame = numbers()
    with pytest.raises(ValueError, match="mini-hard has several rows of method greedy, metric accuracy"):
        paper_figures.figure6(pd.concat([frame, frame[frame.method == "greedy"].assign(value=0.1)]))


def several(count: int) -> pd.DataFrame:
    """Return the numbers of that many runs, each of its own model."""
    one = numbers().query("task == 'mini-hard'")
    return pd.concat([one.assign(task=f"run-{i}", model=f"model-{i}") for i in range(count)])


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (3, 3, 1), (4, 2, 2), (5, 3, 2)])
def test_three_runs_share_a_row_and_four_stand_in_two(count, columns, rows):
    for name in ("figure4", "figure6"):
        figure = draw(name, several(count))
        figure.draw_without_rendering()
        boxes = [axes.get_window_extent() for axes in figure.axes if axes.axison]
        titles = [axes.get_title(loc="left") for axes in figure.axes if axes.axison]
        assert titles == [f"run-{i} (n = 600)" for i in range(count)]
        assert len({round(box.x0) for box in boxes}) == columns and len({round(box.y0) for box in boxes}) == rows
        assert figure.get_figwidth() < style.WIDEST + 0.01


@pytest.mark.parametrize("name", ["figure4", "accuracy_by_tokens", "auc_by_step"])
def test_of_three_panels_a_legend_has_the_names_of_curves(name):
    for count in (2, 3):
        figure = draw(name, several(count))
        methods = {method for axes in figure.axes for method in lines(axes)} & set(style.METHOD_LABELS)
        legend = {text.get_text() for of in figure.legends for text in of.get_texts()}
        beside = {re.sub(r"  [\d.]+$", "", text.get_text()) for text in figure.axes[0].texts}
        curves = {style.METHOD_LABELS[method] for method in methods} - {"Greedy draft", "Refined, reranked"}
        assert curves <= (legend if count == 3 else beside)
        assert not curves & (beside if count == 3 else legend)


def test_runs_without_a_panel_are_named(tmp_path):
    runs = [{"run": "mini-hard"}, {"run": "mini-easy"}]
    own = [numbers().query("task == 'mini-hard'"), numbers().head(0)]
    c = results.Comparison([], runs, own, {}, {run["run"]: [{}] for run in runs}, {})
    figure = results.save_figure(c, "figure6", tmp_path)
    assert figure.get_supxlabel() == "No data: mini-easy"


def test_a_title_tells_least_and_greatest_n():
    frame = numbers()
    frame.loc[frame.method == "greedy", "n"] = 1200
    assert paper_figures.figure6(frame).axes[0].get_title(loc="left") == "mini-hard (n = 600 to 1,200)"


def test_scores_by_step_takes_exactly_right_steps_alone():
    frame = pd.DataFrame(
        [("t", "a", 1, "orm", 0.2, 1), ("t", "b", 1, "orm", 0.6, 1), ("t", "c", 1, "orm", 1.0, 0),
         ("t", "a", 2, "orm", 0.9, 1), ("t", "a", 1, "sorm_raw", 0.5, 1)],
        columns=["task", "question_id", "step", "model", "score", "label"],
    )  # fmt: skip
    rows = analysis_figures.scores_by_step_rows(frame)
    assert rows[["task", "model", "step", "n"]].values.tolist() == [["t", "orm", 1, 2], ["t", "orm", 2, 1]]
    assert rows.value.tolist() == pytest.approx([0.4, 0.9])
    assert rows.ci_low[0] == pytest.approx(clustered([0.2, 0.6], ["a", "b"]).ci_low)
    (axes,) = draw("scores_by_step", frame).axes
    assert lines(axes)["orm"][1] == rows.value.tolist()
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2"]
    assert axes.get_title(loc="left") == "t (n = 1 to 2)"
    assert "No data: Balanced ORM; SORM" in axes.get_xlabel()


def test_steps_that_few_drafts_reach_are_in_the_numbers_but_not_drawn():
    steps = [1] * 100 + [2] * 5 + [3] * 4
    frame = pd.DataFrame(
        {"step": steps, "question_id": range(109), "task": "t", "model": "orm", "score": 0.5, "label": 1}
    )
    assert analysis_figures.scores_by_step_rows(frame).n.tolist() == [100, 5, 4]
    (axes,) = draw("scores_by_step", frame).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2"]
    assert axes.get_title(loc="left") == "t (n = 5 to 100)"
    assert len(lines(axes)["orm"][1]) == 2


def test_calibration_is_score_minus_truth_by_step():
    frame = pd.DataFrame(
        [("t", "a", 1, "orm", 0.2, 1), ("t", "b", 1, "orm", 0.6, 0), ("t", "a", 2, "orm", 0.9, 1)],
        columns=["task", "question_id", "step", "model", "score", "label"],
    )
    rows = analysis_figures.calibration_rows(frame)
    assert rows.value.tolist() == pytest.approx([-0.1, -0.1])  # (-0.8 + 0.6) / 2; 0.9 - 1
    assert rows.n.tolist() == [2, 1]
    assert rows.ci_low[0] == pytest.approx(clustered([-0.8, 0.6], ["a", "b"], bounds=(-1, 1)).ci_low)
    (axes,) = draw("calibration", frame).axes
    assert lines(axes)["orm"][1] == rows.value.tolist()


def test_reliability_bins_by_hand():
    scores = [0.0, 0.1, 0.19, 0.2, 0.99, 1.0] + [0.5] * 10
    labels = [0, 0, 1, 1, 1, 1] + [1] * 7 + [0] * 3
    frame = pd.DataFrame({"score": scores, "label": labels, "question_id": range(16), "task": "t", "model": "sorm"})
    rows = analysis_figures.reliability_rows(frame.assign(step=1))
    assert rows["bin"].tolist() == pytest.approx([0.0, 0.2, 0.4, 0.8])
    assert rows.n.tolist() == [3, 1, 10, 2]
    assert rows.value.tolist() == pytest.approx([1 / 3, 1, 0.7, 1])
    assert rows.score.tolist() == pytest.approx([0.29 / 3, 0.2, 0.5, 0.995])
    (axes,) = draw("reliability", frame.assign(step=1)).axes
    assert lines(axes)["sorm"] == ([0.5], [0.7])  # bins of fewer than ten are in the rows alone
    assert axes.get_title(loc="left") == "Step 1\nn = 16"


def test_reliability_has_no_panel_of_a_step_that_less_than_a_fifth_of_the_drafts_reach():
    reached = {1: 100, 2: 21, 3: 19}  # drafts by step
    frame = pd.DataFrame([
        {"step": step, "score": 0.5, "label": i % 2, "question_id": i, "task": "t", "model": "sorm"}
        for step, count in reached.items() for i in range(count)
    ])  # fmt: skip
    titles = [axes.get_title(loc="left") for axes in draw("reliability", frame).axes]
    assert titles == ["Step 1\nn = 100", "Step 2\nn = 21"]
    assert set(rows_of("reliability", frame).step) == {*reached}


@pytest.mark.parametrize("name", [*NUMBER_FIGURES, *INPUTS])
def test_a_figure_of_four_runs_fits_a_screen(name):
    frame = INPUTS[name]() if name in INPUTS else numbers()
    run = frame[frame.task == frame.task.iloc[0]]
    runs = pd.concat([run.assign(task=f"run-{i}") for i in range(4)])
    width, height = draw(name, runs).get_size_inches()
    assert width <= style.WIDEST and height <= 8.1  # inches


def test_fixed_overlap_by_hand():
    rows = analysis_figures.fixed_overlap_rows(drafts()).set_index(["fixed_by", "not_by"])
    assert rows.loc[("global", ""), "count"] == 5
    assert rows.loc[("global", "local+sorm"), "count"] == 2
    assert rows.loc[("local+sorm", "global"), "count"] == 4
    assert rows.loc[("local+sorm", "resample"), "count"] == 3
    assert rows.loc[("resample", "local+sorm"), "count"] == 0
    assert (rows.value == rows["count"] / 20).all() and (rows.n == 20).all()
    # However one counts, what either of two fixes is the same.
    for one, other in combinations(analysis_figures.FIXERS, 2):
        either = [rows.loc[(a, ""), "count"] + rows.loc[(b, a), "count"] for a, b in ((one, other), (other, one))]
        assert either[0] == either[1] == (drafts()[one] | drafts()[other]).sum()
    (axes,) = draw("fixed_overlap", drafts()).axes
    shown = [text.get_text().split("\n")[0] for text in axes.texts]
    assert shown == [f"{100 * value:.1f}" for value in rows.value]
    assert shown[:4] == ["25.0", "15.0", "10.0", "25.0"]
    assert axes.get_title(loc="left") == "mini-hard (n = 20)"


def test_cost_is_tokens_over_problems_solved_more():
    rows = analysis_figures.cost_rows(outcomes()).set_index("method")
    assert rows.value["global"] == 400 / 8
    assert rows.value["resample"] == 400 / 12
    assert (rows.n == 40).all()
    assert ((rows.ci_low < rows.value) & (rows.value < rows.ci_high)).all()
    (axes,) = draw("cost", outcomes()).axes
    low, high = rows.loc["global", ["ci_low", "ci_high"]]
    assert f"50 [{low:,.0f}, {high:,.0f}]" in texts(axes)


def test_cost_where_no_more_is_solved_than_lost_has_no_end():
    frame = outcomes()
    bo3, reranked = frame.method == "bo3", frame.method == "reranked"
    frame.loc[bo3, "gain"] = [1, -1] * 20
    frame.loc[reranked, "gain"] = [-1] * 40
    rows = analysis_figures.cost_rows(frame).set_index("method")
    assert rows.value["bo3"] == rows.ci_high["bo3"] == np.inf
    assert np.isfinite(rows.ci_low["bo3"])
    shown = texts(draw("cost", frame))
    assert "no gain" in shown
    assert f"∞ [{rows.ci_low['bo3']:,.0f}, ∞]" in shown
    assert texts(draw("cost", frame.assign(gain=0))).count("no gain") == len(rows)


def test_losses_draws_a_curve_a_model():
    curves = {
        name: pd.DataFrame({"step": [1, 10, 20], "loss": [2.0, 1.0 / n, 0.5 / n]})
        for n, name in enumerate(["student", "orm", "refiner"], start=1)
    }
    figure = analysis_figures.losses(curves)
    (axes,) = figure.axes
    assert lines(axes) == {name: ([1, 10, 20], curve.loss.tolist()) for name, curve in curves.items()}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(curves)
    assert len({line.get_color() for line in axes.lines}) == 3
    assert "No data" in texts(analysis_figures.losses({}))


@pytest.mark.parametrize("name", results.DIAGRAMS)
def test_diagrams_are_copied_with_a_title_and_text_as_text(name, tmp_path):
    shown = results.save_diagram(name, tmp_path)
    svg, png = (tmp_path / "figures" / f"{name}.{suffix}" for suffix in ("svg", "png"))
    assert "<title>" in shown.data and png.read_bytes().startswith(b"\x89PNG")
    root = ElementTree.parse(svg).getroot()
    found = {text.text for text in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"Base model,", "labels"} <= found or {"Question", "Draft"} <= found
    title = root.find("{http://www.w3.org/2000/svg}title").text
    assert root.get("role") == "img" and len(title) > 30 and report.ALTERNATIVES[name] == title


def test_figures_leave_pyplot_and_its_settings_alone():
    before, size = plt.get_fignums(), plt.rcParams["font.size"]
    paper_figures.figure6(numbers())
    assert plt.get_fignums() == before
    assert plt.rcParams["font.size"] == size


def swept() -> pd.DataFrame:
    """Two metrics of two methods at three points, and one at one without data; no two values are the same."""
    cells = [
        (m, f"{metric}@{x}") for metric in ("recall", "fixed") for m in ("raw", "consistent") for x in (10, 2, 0.5)
    ]
    rows = [
        row("mini-hard", "mini-base", method, metric, Estimate(0.3 + i / 50, 0.2 + i / 50, 0.5 + i / 50, 60))
        for i, (method, metric) in enumerate(cells)
    ]
    empty = row("mini-hard", "mini-base", "raw", "fixed@20", Estimate(np.nan, np.nan, np.nan, 0))
    return pd.DataFrame([*rows, empty])


def test_a_sweep_draws_the_frames_numbers_by_x():
    frame = swept()
    figure = analysis_figures.sweep(frame, {"recall": "Recall", "fixed": "Fixed", "nothing": "Nothing"}, "K", log=True)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Recall (n = 60)", "Fixed (n = 60)"]
    for axes, metric in zip(figure.axes, ("recall", "fixed"), strict=True):
        for method in ("raw", "consistent"):
            wanted = [values(frame, method=method, metric=f"{metric}@{x}")[0] for x in (0.5, 2, 10)]
            assert lines(axes)[method][1] == wanted
            assert_allclose(lines(axes)[method][0], [0.5, 2, 10], rtol=0.03)
            assert f"{style.METHOD_LABELS[method]}  {100 * wanted[-1]:.1f}" in texts(axes)
        assert [text.get_text() for text in axes.get_xticklabels()] == ["0.5", "2", "10"]
        assert_allclose(np.ptp(segments(axes)[:, :, 1], axis=1), 0.3)


def test_label_noise_is_drawn_against_k_and_against_distinct_texts():
    cells = {
        (t, k, metric): 0.4 + 0.01 * t + 0.02 * k + 0.1 * i
        for t in (7, 10) for k in (1, 4) for i, metric in enumerate(analysis_figures.NOISE)
    }  # fmt: skip
    cells |= {(t, k, "distinct_share"): 1 if k == 1 else t / 20 for t in (7, 10) for k in (1, 4)}
    frame = pd.DataFrame(
        [
            row("mini-hard", "mini-base", f"temperature_{t / 10:g}", f"{metric}@{k}", Estimate(v, v - 0.1, v + 0.1, 60))
            for (t, k, metric), v in cells.items()
        ]
    )
    other = row("mini-hard", "mini-base", "temperature_1-temperature_0.7", "label_recall_difference@4", NO_DATA)
    figure = analysis_figures.label_noise(pd.concat([frame, pd.DataFrame([other])]))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["T = 0.7", "T = 1"]
    titles = [f"{name} (n = 60)" for name in analysis_figures.NOISE.values()]
    assert [axes.get_title(loc="left") for axes in figure.axes] == [*titles, "", "", ""]
    for i, axes in enumerate(figure.axes):
        metric = list(analysis_figures.NOISE)[i % 3]
        for t in (7, 10):
            x, y = lines(axes)[f"T = {t / 10:g}"]
            assert_allclose(y, [cells[t, k, metric] for k in (1, 4)])
            assert_allclose(x, [1, 4] if i < 3 else [1, 4 * t / 20], rtol=0.03 if i < 3 else 1e-9)
        assert_allclose(np.ptp(segments(axes)[:, :, 1], axis=1), 0.2)


def test_dots_draw_the_frames_numbers_in_their_order():
    frame = numbers()[lambda f: f.task == "mini-easy"]
    panels = {"label_recall": "Recall", "accuracy": "Accuracy", "none": "None"}
    recall, accuracy = analysis_figures.dots(frame, panels).axes
    methods = [label.get_text() for label in recall.get_yticklabels()]
    drawn = analysis_figures.dots_rows(frame, panels)
    assert methods == [style.METHOD_LABELS[method] for method in drawn.method.unique()]
    for axes, metric in ((recall, "label_recall"), (accuracy, "accuracy")):
        wanted = drawn[drawn.metric == metric].set_index("method").value
        assert {label.split()[0]: x for label, (x, _) in lines(axes).items()} == {m: [v] for m, v in wanted.items()}
        assert all(f"{100 * value:.1f}" in texts(axes) for value in wanted)
