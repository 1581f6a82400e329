"""Tables, figures and findings of the appendix notebooks."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from glore_lib.method.appendix.ablation_labels import RULES
from glore_lib.method.appendix.ablation_refinement import CHOICE_PAIRS, CONTROL_PAIRS, TWICE
from glore_lib.method.appendix.label_noise import JUDGED, LABELS, PAIRS
from glore_lib.method.appendix.measures import LOCATORS, QUALITY
from glore_lib.reporting import style
from glore_lib.reporting.findings import Values
from glore_lib.reporting.style import METHOD_LABELS
from glore_lib.reporting.tables import wide

JUDGES = {"exact": "exact labels", "human": "human labels"}
CONSTANT = ("always_first", "always_most_frequent")  # places that are named without reading the solution

REWARDS = {
    "answer": "final answer", "orm": "ORM's score", "improvement": "ORM's gain on the draft",
    "steps": "SORM's scores of steps",
}  # fmt: skip


def sweep_table(numbers: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return ``metric@x`` to read: a row per method, a column per x."""
    return wide(numbers, [m for m in numbers["metric"].unique() if m.startswith(f"{metric}@")])


def training_table(curves: pd.DataFrame) -> pd.DataFrame:
    """Return the measures of GRPO trainings in per cent: a row per reward and measure, a column per part."""
    parts = curves["metric"].str.extract(r"(?P<reward>\w+)@(?P<part>\d+)").astype({"part": int})
    rows = curves[["method", "value"]].join(parts)
    table = rows.pivot(index=["reward", "method"], columns="part", values="value").mul(100).round(1)
    return table.loc[list(dict.fromkeys(zip(rows["reward"], rows["method"], strict=True)))]


def save(figure: Figure, name: str, out: str, *numbers: pd.DataFrame) -> Figure:
    """Write a figure as PNG and SVG, and all numbers of its experiment as CSV, to the folder ``out``."""
    style.save(figure, pd.concat(numbers, ignore_index=True), Path(out), name)
    return figure


def judge_suffix(numbers: pd.DataFrame) -> str:
    """Return the suffix of the metrics that compare with the reference labels."""
    metrics = set(numbers["metric"])
    return next(f"_{judge}" for judge in JUDGES if f"first_error_accuracy_{judge}" in metrics)


def _shares(values: Values, method: str, metrics: Mapping[str, str], name: str = "") -> str:
    """Return a sentence with some metrics (name -> words) of a method."""
    return f"{name or method}: " + "; ".join(f"{words} {values.share(method, m)}" for m, words in metrics.items()) + "."


def _pairs(values: Values, metric: str, pairs: Iterable[tuple[str, str]], words: str = "") -> list[str]:
    """Return a sentence per pair of methods: both values of a metric, and their paired difference."""
    words = words or metric.replace("_", " ")
    return [
        f"{_name(a)} − {_name(b)}, {words}: {values.share(a, metric)} and {values.share(b, metric)}: "
        f"{values.difference(a, b, metric)}." for a, b in pairs
    ]  # fmt: skip


def _name(method: str) -> str:
    """Return the name of a method, or of one that is made of others."""
    for end, words in {"_tuned": ", best threshold", "_twice": ", twice"}.items():
        if method.endswith(end):
            return _name(method.removesuffix(end)) + words
    if method in METHOD_LABELS:
        return METHOD_LABELS[method]
    first, joint, second = next(method.partition(way) for way in ("_then_", "+") if way in method)
    return f"{_name(first)}{', then ' if joint == '_then_' else ' ∪ '}{_name(second)}"


def found_label_quality(numbers: pd.DataFrame) -> list[str]:
    """Return the findings of the label quality, one sentence each."""
    values, suffix = Values(numbers), judge_suffix(numbers)
    located = {f"first_error_accuracy{suffix}": "first errors located"}
    quality = {"label_precision": "precision", "label_recall": "recall"} | located
    rules = {"raw": "Raw labels", "consistent": "Labels after post-processing 1 and 2"}
    models, steps = {"orm": "ORM", "balanced_orm": "Balanced ORM", "sorm": "SORM"}, "step_balanced_accuracy"
    return [
        f"Reference: {JUDGES[suffix[1:]]}.",
        f"SORM − ORM: steps {values.difference('sorm', 'orm', steps, suffix)}; first errors "
        f"{values.difference('sorm', 'orm', 'first_error_accuracy', suffix)}.",
        "SORM − most frequent step: first errors "
        f"{values.difference('sorm', 'always_most_frequent', 'first_error_accuracy', suffix)}.",
        *(_shares(values, rule, quality, words) for rule, words in rules.items() if rule in set(numbers["method"])),
        *(_shares(values, k, {steps + suffix: "balanced step accuracy"} | located, n) for k, n in models.items()),
        *(_shares(values, name, located, METHOD_LABELS[name]) for name in CONSTANT),
    ]


def found_value_refinement(numbers: pd.DataFrame) -> list[str]:
    """Return the findings of value-based refinement, one sentence each."""
    values, made = Values(numbers), set(numbers["method"])
    ends = [f"{locator}{way}" for locator in LOCATORS for way in ("", "_forced", "_free")]
    places = {"accuracy": "begins at the true first error", "early": "before it", "late": "after it"}
    metrics = {f"first_error_{place}_exact": words for place, words in places.items()}
    pairs = [(f"value+{end}", f"local+{end}") for end in ends if f"value+{end}" in made]
    begun = [_shares(values, f"value+{locator}", metrics, _name(f"value+{locator}")) for locator in LOCATORS]
    return _pairs(values, "fixed_fraction", pairs) + begun


def found_labels(rules: pd.DataFrame, counts: pd.DataFrame) -> list[str]:
    """Return the findings of the ablation of labels, one sentence each."""
    metrics = {m: m.removeprefix("label_").replace("_", " ") for m in ("positive_labels", *QUALITY)}
    ks = sorted(int(metric.partition("@")[2]) for metric in counts["metric"].unique() if "positive" in metric)
    at = {m: {f"{m}@{k}": f"K = {k}" for k in (ks[0], ks[-2], ks[-1])} for m in metrics}
    by_rule = [
        _shares(Values(rules), rule, metrics, rule.replace("_", " ").capitalize())
        for rule in (*RULES, "consistent+balanced")
    ]
    return by_rule + [_shares(Values(counts), "consistent", at[m], words) for m, words in metrics.items()]


def found_label_noise(curves: pd.DataFrame, policies: pd.DataFrame) -> list[str]:
    """Return the findings on label noise, one sentence each."""
    if policies.empty:
        return ["This task has no exact labels to compare with."]
    at, of = Values(curves), Values(policies)
    shown = {m: m.removeprefix("label_").replace("_", " ") for m in (*LABELS, "distinct_share")}
    temperatures = [m for m in curves["method"].unique() if "-" not in m]
    ks = sorted(int(m.partition("@")[2]) for m in curves["metric"].unique() if m.startswith("distinct_share@"))
    ends = temperatures[-1], temperatures[0]
    hot, cold = (f"T = {t.partition('_')[2]}" for t in ends)
    found = []
    for few in curves["metric"].str.extract(r"_difference@(\d+)$", expand=False).dropna().unique():
        words = "; ".join(f"{shown[m]} {at.difference(*ends, m, f'@{few}')}" for m in LABELS)
        found.append(f"{hot} − {cold}, K = {few}: {words}.")
    for a, b in PAIRS:
        judged = {f"{m}_exact": m.replace("_", " ") for m in JUDGED}
        words = "; ".join(f"{w} {of.difference(a, b, m.removesuffix('_exact'), '_exact')}" for m, w in judged.items())
        found.append(f"SORM, {METHOD_LABELS[a]} − {METHOD_LABELS[b]}: {words}.")
    found += [
        _shares(at, t, {f"{m}@{k}": words for m, words in shown.items()}, f"T = {t.partition('_')[2]}, K = {k}")
        for t in reversed(ends) for k in (ks[0], ks[-1])
    ]  # fmt: skip
    quality = {m: shown[m] for m in LABELS} | {"token_share": "tokens"}
    samples = {"wrong": "wrong samples", "right": "correct samples"}
    parts = {f"{m}_{which}": f"{shown[m]}, {words}" for which, words in samples.items() for m in LABELS[:2]}
    found.append(_shares(of, "any_run", parts, METHOD_LABELS["any_run"]))
    named = [m for m in policies["method"].unique() if "-" not in m]
    return found + [_shares(of, m, quality, METHOD_LABELS[m]) for m in named]


def found_controls(numbers: pd.DataFrame, split: str) -> list[str]:
    """Return the findings on what the refiner needs, one sentence each."""
    values, made = Values(numbers), set(numbers["method"])
    pairs = [pair for pair in CONTROL_PAIRS if "-".join(pair) in made]
    of_all = [(a, b) for a, b in pairs if b == "greedy"]
    lines = _pairs(values, "accuracy_all_drafts", of_all)
    lines += _pairs(values, "fixed_fraction", [pair for pair in pairs if pair not in of_all])
    return [f"{split.capitalize()}: {line}" for line in lines]


def found_refinement(
    swept: pd.DataFrame, otherwise: pd.DataFrame, chosen: pd.DataFrame, ts: Mapping[str, float]
) -> list[str]:
    """Return the findings of the ablation of refinement, one sentence each."""
    values, picked = Values(otherwise), Values(chosen)
    best = {
        k: {f"fixed_fraction@{t:g}": "fixed", f"begun_at_first_step@{t:g}": "begun at step 1"} for k, t in ts.items()
    }
    tuned = [
        _shares(Values(swept), f"local+{k}", best[k], f"{_name(f'local+{k}')} with T = {t:g}, the best on validation")
        for k, t in ts.items()
    ]
    pairs = [*((f"local+{locator}_tuned", f"local+{locator}") for locator in ts), *TWICE.items()]
    doubted = f"The ORM rejects {picked.share('orm', 'drafts_doubted')} of the drafts."
    return [*_pairs(picked, "accuracy", CHOICE_PAIRS), doubted, *_pairs(values, "fixed_fraction", pairs), *tuned]


def found_refiner_rl(numbers: pd.DataFrame, curves: pd.DataFrame) -> list[str]:
    """Return the findings on training the refiner further, one sentence each."""
    values, compared = Values(numbers), [m.partition("-")[::2] for m in numbers["method"].unique() if "-" in m]
    first = [(a, b) for a, b in compared if b == "supervised" and a != "round_1"]
    rest = [pair for pair in compared if pair not in first]
    (fixed, rest_fixed), (broken, rest_broken) = (
        [_pairs(values, metric, pairs, words) for pairs in (first, rest)]
        for metric, words in {"fixed_union": "wrong drafts fixed", "broken_global": "correct drafts broken"}.items()
    )
    changes = []
    for reward, rows in training_table(curves).groupby(level=0, sort=False):
        ends = zip(rows.index.get_level_values(1), rows.iloc[:, 0], rows.iloc[:, -1], strict=True)
        words = ", ".join(f"{METHOD_LABELS[measure].lower()} {a} to {b} %" for measure, a, b in ends)
        changes.append(f"While training, reward {REWARDS[str(reward)]}: {words}.")
    return fixed + broken + changes + rest_fixed + rest_broken
