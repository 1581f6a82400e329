"""Tables, figures and findings of the appendix notebooks."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from glore_lib import statistics as st
from glore_lib.method.appendix.ablation_labels import RULES
from glore_lib.method.appendix.ablation_refinement import CHOICE_PAIRS, TWICE
from glore_lib.method.appendix.measures import LOCATORS, QUALITY
from glore_lib.reporting import style
from glore_lib.reporting.tables import wide

JUDGES = {"exact": "the exact labels", "human": "people"}


# What the notebooks show and keep


def sweep_table(numbers: pd.DataFrame, metric: str) -> pd.DataFrame:
    """``metric@x`` to read: a row a method, a column an x."""
    return wide(numbers, [m for m in numbers["metric"].unique() if m.startswith(f"{metric}@")])


def save(figure: Figure, name: str, out: str, *numbers: pd.DataFrame) -> Figure:
    """Writes a figure as PNG and SVG, and all numbers of its experiment as CSV, into the folder ``out``."""
    style.save(figure, pd.concat(numbers, ignore_index=True), Path(out), name)
    return figure


def judge_suffix(numbers: pd.DataFrame) -> str:
    """What the metrics of :func:`label_quality` end in that are against the judge."""
    metrics = set(numbers["metric"])
    return next(f"_{judge}" for judge in JUDGES if f"first_error_accuracy_{judge}" in metrics)


@dataclass(frozen=True)
class Told:
    """Numbers in words: "not known" where there is none, or nothing to count."""

    numbers: pd.DataFrame

    def value(self, method: str, metric: str) -> str:
        """A number in per cent, with its interval and n."""
        row = self._row(method, metric)
        return f"{st.estimate(row).percent(' %')} (n = {row.n:,})" if row else "not known"

    def difference(self, a: str, b: str, metric: str, suffix: str = "") -> str:
        """a - b in points, and on which side of 0 its interval lies."""
        row = self._row(f"{a}-{b}", f"{metric}_difference{suffix}")
        if row is None:
            return "not known"
        verdict = "more" if row.ci_low > 0 else "less" if row.ci_high < 0 else "no clear difference"
        return f"{st.estimate(row).percent(' points', '+')}, {verdict}"

    def _row(self, method: str, metric: str) -> Any:
        rows = self.numbers[(self.numbers["method"] == method) & (self.numbers["metric"] == metric)]
        return next(rows[rows["n"] > 0].itertuples(), None)


def found_label_quality(numbers: pd.DataFrame) -> list[str]:
    """What :func:`label_quality` found, a sentence each."""
    told = Told(numbers)
    suffix = judge_suffix(numbers)
    lines = [f"The judge: {JUDGES[suffix[1:]]}."]
    if "raw" in set(numbers["method"]):
        lines += [
            f"Positive labels by rollouts that are right: raw {told.value('raw', 'label_precision')}, after "
            f"post-processing 1 and 2 {told.value('consistent', 'label_precision')}.",
            f"Right steps that they find: raw {told.value('raw', 'label_recall')}, after post-processing "
            f"{told.value('consistent', 'label_recall')}.",
            "First errors put where the judge puts them, labels by rollouts: raw "
            f"{told.value('raw', f'first_error_accuracy{suffix}')}, after post-processing "
            f"{told.value('consistent', f'first_error_accuracy{suffix}')}.",
        ]
    for kind, name in (("orm", "ORM"), ("balanced_orm", "balanced ORM"), ("sorm", "SORM")):
        lines.append(
            f"The {name} judges {told.value(kind, f'step_accuracy{suffix}')} of the steps as the judge does, and puts "
            f"{told.value(kind, f'first_error_accuracy{suffix}')} of the first errors in their place."
        )
    return [
        *lines,
        f"SORM − ORM: steps {told.difference('sorm', 'orm', 'step_accuracy', suffix)}; first errors "
        f"{told.difference('sorm', 'orm', 'first_error_accuracy', suffix)}.",
    ]


def found_value_refinement(numbers: pd.DataFrame) -> list[str]:
    """What :func:`value_refinement` found, a sentence each."""
    told, lines = Told(numbers), []
    ways = [way for way in ("", "_forced", "_free") if f"value+orm{way}" in set(numbers["method"])]
    for locator in LOCATORS:
        for way in ways:
            value, process = f"value+{locator}{way}", f"local+{locator}{way}"
            lines.append(
                f"{value} fixes {told.value(value, 'fixed_fraction')} of the wrong drafts, {process} "
                f"{told.value(process, 'fixed_fraction')}: {told.difference(value, process, 'fixed_fraction')}."
            )
        places = [told.value(f"value+{locator}", f"first_error_{p}_exact") for p in ("accuracy", "early", "late")]
        lines.append(
            f"value+{locator} begins at the true first error in {places[0]}, before it in {places[1]}, after it in "
            f"{places[2]}."
        )
    return lines


def found_labels(rules: pd.DataFrame, counts: pd.DataFrame) -> list[str]:
    """What :func:`label_rules` and :func:`rollout_counts` found, a sentence each."""
    told, curve = Told(rules), Told(counts)
    lines = [
        f"{rule}: positive {told.value(rule, 'positive_labels')}; precision {told.value(rule, 'label_precision')}, "
        f"recall {told.value(rule, 'label_recall')}."
        for rule in (*RULES, "consistent+balanced")
    ]
    ks = sorted(int(metric.partition("@")[2]) for metric in counts["metric"].unique() if "positive" in metric)
    for metric in (f"{name}@" for name in ("positive_labels", *QUALITY)):
        ends = [f"{curve.value('consistent', f'{metric}{k}')} with K = {k}" for k in (ks[0], ks[-2], ks[-1])]
        lines.append(f"{metric.strip('@').replace('_', ' ')}: {'; '.join(ends)}.")
    return lines


def found_refinement(
    swept: pd.DataFrame, otherwise: pd.DataFrame, chosen: pd.DataFrame, ts: Mapping[str, float]
) -> list[str]:
    """What :func:`thresholds`, :func:`refined_otherwise` and :func:`choices` found, a sentence each."""
    validation, told, picked = Told(swept), Told(otherwise), Told(chosen)
    lines = []
    for locator, t in ts.items():
        kind = f"local+{locator}"
        lines.append(
            f"{kind}: T = {t:g} fixes most on validation, {validation.value(kind, f'fixed_fraction@{t:g}')}, and "
            f"begins at the first step in {validation.value(kind, f'begun_at_first_step@{t:g}')}. On test it fixes "
            f"{told.value(f'{kind}_tuned', 'fixed_fraction')}, the usual T "
            f"{told.value(kind, 'fixed_fraction')}: {told.difference(f'{kind}_tuned', kind, 'fixed_fraction')}."
        )
    for twice, once in TWICE.items():
        lines.append(
            f"{twice} fixes {told.value(twice, 'fixed_fraction')}, {once} {told.value(once, 'fixed_fraction')}: "
            f"{told.difference(twice, once, 'fixed_fraction')}."
        )
    lines.append(f"The ORM doubts {picked.value('orm', 'drafts_doubted')} of the drafts.")
    for a, b in CHOICE_PAIRS:
        lines.append(
            f"{a} against {b}: {picked.value(a, 'accuracy')} and {picked.value(b, 'accuracy')}, "
            f"{picked.difference(a, b, 'accuracy')}."
        )
    return lines
