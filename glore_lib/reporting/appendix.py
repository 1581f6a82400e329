"""Tables, figures and findings of the appendix notebooks."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from glore_lib.method.appendix.ablation_labels import RULES
from glore_lib.method.appendix.ablation_refinement import CHOICE_PAIRS, TWICE
from glore_lib.method.appendix.measures import LOCATORS, QUALITY
from glore_lib.reporting import style
from glore_lib.reporting.findings import Values
from glore_lib.reporting.tables import wide

JUDGES = {"exact": "exact labels", "human": "human labels"}


def sweep_table(numbers: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return ``metric@x`` to read: a row per method, a column per x."""
    return wide(numbers, [m for m in numbers["metric"].unique() if m.startswith(f"{metric}@")])


def save(figure: Figure, name: str, out: str, *numbers: pd.DataFrame) -> Figure:
    """Write a figure as PNG and SVG, and all numbers of its experiment as CSV, to the folder ``out``."""
    style.save(figure, pd.concat(numbers, ignore_index=True), Path(out), name)
    return figure


def judge_suffix(numbers: pd.DataFrame) -> str:
    """Return the suffix of the metrics that compare with the reference labels."""
    metrics = set(numbers["metric"])
    return next(f"_{judge}" for judge in JUDGES if f"first_error_accuracy_{judge}" in metrics)


def found_label_quality(numbers: pd.DataFrame) -> list[str]:
    """Return the findings of the label quality, one sentence each."""
    values = Values(numbers)
    suffix = judge_suffix(numbers)
    lines = [f"Reference: {JUDGES[suffix[1:]]}."]
    if "raw" in set(numbers["method"]):
        lines += [
            f"Precision of positive labels by rollouts: raw {values.share('raw', 'label_precision')}, after "
            f"post-processing 1 and 2 {values.share('consistent', 'label_precision')}.",
            f"Recall of correct steps: raw {values.share('raw', 'label_recall')}, after post-processing "
            f"{values.share('consistent', 'label_recall')}.",
            "First errors located as in the reference, labels by rollouts: raw "
            f"{values.share('raw', f'first_error_accuracy{suffix}')}, after post-processing "
            f"{values.share('consistent', f'first_error_accuracy{suffix}')}.",
        ]
    for kind, name in (("orm", "ORM"), ("balanced_orm", "balanced ORM"), ("sorm", "SORM")):
        lines.append(
            f"The {name} judges {values.share(kind, f'step_accuracy{suffix}')} of the steps as the reference does, "
            f"and locates {values.share(kind, f'first_error_accuracy{suffix}')} of the first errors."
        )
    return [
        *lines,
        f"SORM − ORM: steps {values.difference('sorm', 'orm', 'step_accuracy', suffix)}; first errors "
        f"{values.difference('sorm', 'orm', 'first_error_accuracy', suffix)}.",
    ]


def found_value_refinement(numbers: pd.DataFrame) -> list[str]:
    """Return the findings of value-based refinement, one sentence each."""
    values, lines = Values(numbers), []
    ways = [way for way in ("", "_forced", "_free") if f"value+orm{way}" in set(numbers["method"])]
    for locator in LOCATORS:
        for way in ways:
            value, process = f"value+{locator}{way}", f"local+{locator}{way}"
            lines.append(
                f"{value} fixes {values.share(value, 'fixed_fraction')} of the wrong drafts, {process} "
                f"{values.share(process, 'fixed_fraction')}: {values.difference(value, process, 'fixed_fraction')}."
            )
        places = [values.share(f"value+{locator}", f"first_error_{p}_exact") for p in ("accuracy", "early", "late")]
        lines.append(
            f"value+{locator} begins at the true first error in {places[0]}, before it in {places[1]}, after it in "
            f"{places[2]}."
        )
    return lines


def found_labels(rules: pd.DataFrame, counts: pd.DataFrame) -> list[str]:
    """Return the findings of the ablation of labels, one sentence each."""
    values, curve = Values(rules), Values(counts)
    lines = [
        f"{rule}: positive {values.share(rule, 'positive_labels')}; precision {values.share(rule, 'label_precision')}, "
        f"recall {values.share(rule, 'label_recall')}."
        for rule in (*RULES, "consistent+balanced")
    ]
    ks = sorted(int(metric.partition("@")[2]) for metric in counts["metric"].unique() if "positive" in metric)
    for metric in (f"{name}@" for name in ("positive_labels", *QUALITY)):
        ends = [f"{curve.share('consistent', f'{metric}{k}')} with K = {k}" for k in (ks[0], ks[-2], ks[-1])]
        lines.append(f"{metric.strip('@').replace('_', ' ')}: {'; '.join(ends)}.")
    return lines


def found_refinement(
    swept: pd.DataFrame, otherwise: pd.DataFrame, chosen: pd.DataFrame, ts: Mapping[str, float]
) -> list[str]:
    """Return the findings of the ablation of refinement, one sentence each."""
    validation, values, picked = Values(swept), Values(otherwise), Values(chosen)
    lines = []
    for locator, t in ts.items():
        kind = f"local+{locator}"
        lines.append(
            f"{kind}: T = {t:g} fixes most on validation, {validation.share(kind, f'fixed_fraction@{t:g}')}, and "
            f"begins at the first step in {validation.share(kind, f'begun_at_first_step@{t:g}')}. On test it fixes "
            f"{values.share(f'{kind}_tuned', 'fixed_fraction')}, the default T "
            f"{values.share(kind, 'fixed_fraction')}: {values.difference(f'{kind}_tuned', kind, 'fixed_fraction')}."
        )
    for twice, once in TWICE.items():
        lines.append(
            f"{twice} fixes {values.share(twice, 'fixed_fraction')}, {once} {values.share(once, 'fixed_fraction')}: "
            f"{values.difference(twice, once, 'fixed_fraction')}."
        )
    lines.append(f"The ORM rejects {picked.share('orm', 'drafts_doubted')} of the drafts.")
    for a, b in CHOICE_PAIRS:
        lines.append(
            f"{a} and {b}: {picked.share(a, 'accuracy')} and {picked.share(b, 'accuracy')}, "
            f"{picked.difference(a, b, 'accuracy')}."
        )
    return lines
