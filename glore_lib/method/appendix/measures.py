"""Measures that several experiments of the appendix share."""

from collections.abc import Iterable, Mapping, Sequence
from math import nan
from typing import Any

import pandas as pd

from glore_lib import statistics as st
from glore_lib.artifacts.store import Artifact
from glore_lib.method.evaluation import NUMBERS, Numbers, Outcomes, Tables, difference_name
from glore_lib.method.step_labels import first_errors
from glore_lib.params import Section
from glore_lib.run import Run

LOCATORS = ("orm", "sorm")
QUALITY = ("label_precision", "label_recall", "label_accuracy")


def true_errors(drafts: Artifact, labels: pd.DataFrame) -> pd.Series:
    """Return the first step labelled 0 of each wrong draft that has one."""
    samples, errors = drafts.read(), first_errors(labels)
    return errors[errors.index.isin(samples.loc[~samples["is_correct"], "sample_id"])]


def first_error_numbers(
    tables: Tables, truth: pd.Series, found: Mapping[str, pd.Series], suffix: str, pairs: Sequence[tuple[str, str]] = ()
) -> Numbers:
    """Compute how often a method locates the first error exactly, too early, too late, or not at all.

    ``truth`` and each of ``found`` are steps by ``sample_id``; 0, or a missing entry in ``found``, means not at all.
    """
    numbers, hits = [], {}
    for method, places in found.items():
        at = places.reindex(truth.index, fill_value=0)
        hits[method] = at == truth
        outcomes = {
            "accuracy": hits[method], "early": (at > 0) & (at < truth), "late": at > truth, "missed": at == 0,
        }  # fmt: skip
        numbers += [tables.row(method, f"first_error_{name}{suffix}", st.proportion(o)) for name, o in outcomes.items()]
    for a, b in pairs:
        numbers += tables.compared(a, b, hits, "first_error_accuracy", suffix)
    return numbers


def label_numbers(tables: Tables, method: str, labels: pd.DataFrame, exact: pd.DataFrame | None) -> Numbers:
    """Compute precision, recall and accuracy of labels against the exact ones; nothing if these are not known."""
    if exact is None:
        return []
    keys = ["sample_id", "step"]
    truth = exact.set_index(keys)["label"].reindex(pd.MultiIndex.from_frame(labels[keys]))
    c = st.confusion(truth, labels["label"], labels["question_id"])
    return [tables.row(method, m, st.estimate([c[m.removeprefix("label_")]])) for m in QUALITY]


def outcome_differences(
    tables: Tables, outcomes: Sequence[Outcomes], pairs: Iterable[tuple[str, str]], metrics: Iterable[str]
) -> pd.DataFrame:
    """Compare pairs of methods in the metrics that both have, over one or several seeds: difference and p value."""
    rows = []
    for a, b in pairs:
        for metric in metrics:
            if {(a, metric), (b, metric)} <= outcomes[0].keys():
                one, other = ([of_seed[method, metric] for of_seed in outcomes] for method in (a, b))
                change = st.difference(one, other).estimate()
                p = st.paired_p(one, other) if change.n else nan
                name, tested = difference_name(metric), st.Estimate(p, nan, nan, change.n, change.clusters)
                rows += [tables.row(f"{a}-{b}", name, change), tables.row(f"{a}-{b}", f"{name}_p", tested)]
    return pd.DataFrame(rows, columns=NUMBERS)


def with_parameters(run: Run, section: str, **values: Any) -> Run:
    """Return the run with other parameters in a section, on the same artifacts."""
    run.free()  # otherwise there would be two engines
    changed: Section = getattr(run.params, section).model_copy(update=values)
    return Run(run.params.model_copy(update={section: changed}), run.store, run.task)
