"""Tables and figures of one run for the notebooks, and the format of numbers in tables."""

import textwrap
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from glore_lib import statistics as st
from glore_lib.artifacts.store import Artifact
from glore_lib.method import refinement, step_labels
from glore_lib.method.appendix.measures import QUALITY
from glore_lib.method.diagnostics import platt, refitted
from glore_lib.method.evaluation import Outcomes, rule_outcomes
from glore_lib.method.replication import Replication
from glore_lib.method.reward_models import RewardModelData, labels_for
from glore_lib.method.schedule import KINDS
from glore_lib.method.students import greedy_samples
from glore_lib.params import Params, ParamsError
from glore_lib.reporting import analysis_figures
from glore_lib.run import Run

SHOWN_COSTS = 12  # artifacts with a row of their own

# The parameters that a run reads only if others say so, by the beginnings of their names.
READ_IF: dict[str, Callable[[Params], bool]] = {
    "task.difficulty": lambda p: p.task.name == "arithmetic",
    "task.calculator_annotations": lambda p: p.task.name == "gsm8k",
    "task.svamp_split": lambda p: p.task.name == "svamp",
    "base_model.pretrain_steps": lambda p: p.base_model.source == "scratch",
    "finetuning.lora_": lambda p: p.finetuning.method != "full",
    "finetuning.double_quantisation": lambda p: p.finetuning.method == "qlora",
    "finetuning.parallel": lambda p: p.finetuning.processes > 1,
    "student.sft": lambda p: p.student.start == "sft",
    "reward_models.rollouts_at_first": lambda p: p.reward_models.early_stop,
    "reward_models.rollouts_per_wave": lambda p: p.reward_models.early_stop,
    "reward_models.figure4_": lambda p: p.reward_models.figure4,
}


def parameters(run: Run, *sections: str) -> pd.DataFrame:
    """Return the parameters of some sections that the run reads, one per row, named as in ``--set``."""
    values = {section: getattr(run.params, section).model_dump() for section in sections}
    rows = pd.json_normalize(values).T.map(str).set_axis(["value"], axis=1)
    unread = tuple(name for name, is_read in READ_IF.items() if not is_read(run.params))
    return rows[~rows.index.str.startswith(unread)] if unread else rows


def training(*models: Artifact) -> pd.DataFrame:
    """Return what each model was trained on: sequences, optimiser steps, tokens, share of padding, seconds."""
    rows = {m.record["name"]: m.record["info"] | {"seconds": m.record["seconds"]} for m in models}
    columns = ["sequences", "too_long", "steps", "tokens_trained", "padding", "seconds"]
    return pd.DataFrame.from_dict(rows, orient="index")[columns]


def losses(*models: Artifact | None) -> Figure:
    """Draw the training loss of each model against its steps; models without training examples have none."""
    trained = [model for model in models if model is not None and model.record["info"]["steps"]]
    return analysis_figures.losses({m.record["name"]: pd.DataFrame(m.record["info"]["losses"]) for m in trained})


def student_comparison(lab: Replication) -> pd.DataFrame:
    """Return the validation accuracy of the SFT student, its control, and the student of expert iteration."""
    compared = lab.compared_students  # may hold one twice
    shares = {s.policy: st.proportion(greedy_samples(lab.run, s)["is_correct"]) for s in compared}
    rows = {name: {"accuracy, %": share.percent(), "n": share.n} for name, share in shares.items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("student")


def questions(lab: Replication, count: int) -> None:
    """Print the first training questions with their reference solutions."""
    for question in list(lab.run.questions("train").values())[:count]:
        lines = f"{question.question}\n{question.reference_solution}".split("\n")
        print("\n".join(textwrap.fill(line, 110) for line in lines), end="\n\n")


def costs(run: Run, stage: str) -> pd.DataFrame:
    """Return what a notebook computed or read, most expensive first, and record it for the manifest."""
    used = run.finish(stage).sort_values("seconds", ascending=False, kind="stable").set_index("artifact")
    rest = used.iloc[SHOWN_COSTS:]
    sums = {f"{len(rest)} more": rest.sum()} if len(rest) else {}
    return pd.concat([used.head(SHOWN_COSTS), pd.DataFrame(sums | {"all": used.sum()}).T]).round(1)


def sample_counts(data: RewardModelData) -> pd.DataFrame:
    """Count the samples, and the questions whose samples are all right, mixed, or all wrong."""
    samples = data.samples.read()
    share = samples.groupby("question_id")["is_correct"].mean()
    counts = {
        "samples": len(samples), "right, %": round(100 * samples["is_correct"].mean(), 1), "questions": len(share),
        "all right": int((share == 1).sum()), "mixed": int(share.between(0, 1, inclusive="neither").sum()),
        "all wrong": int((share == 0).sum()),
    }  # fmt: skip
    return pd.Series(counts).to_frame("count")


def rollout_counts(data: RewardModelData) -> pd.DataFrame:
    """Count the samples with rollouts, their prefixes (P_i), and the rollouts."""
    rollouts, info = data.rollouts.read(), data.rollouts.record["info"]
    counts = {
        "samples with rollouts": rollouts["sample_id"].nunique(), "prefixes": info["prefixes"],
        "distinct prefixes": info["distinct_prefixes"], "rollouts, those of alike prefixes counted each": len(rollouts),
        "tokens generated": info["tokens_generated"],
    }  # fmt: skip
    return pd.Series(counts).to_frame("count")


def label_counts(lab: Replication, *kinds: str) -> pd.DataFrame:
    """Return the number of training labels and the share of positive ones by step number."""
    frames = {k: labels_for(lab.run, k, lab.data).groupby("step")["label"].agg(["count", "mean"]) for k in kinds}
    return pd.concat(frames, axis=1).round(2)


def reward_model_table(lab: Replication, split: str, *kinds: str) -> pd.DataFrame:
    """Return step, final-answer and first-error accuracy of some reward models on a split."""
    evaluated = getattr(lab, split)
    scores = {k: evaluated.scores[k] for k in kinds}
    tables, drafts = lab.tables, evaluated.draft_set
    numbers = tables.numbers(tables.table1(drafts, scores) | tables.table2(drafts, scores))
    metrics = ["step_balanced_accuracy", "step_accuracy", "step_auc", "final_balanced_accuracy", "final_accuracy"]
    metrics += [f"{metric}_exact" for metric in ("step_balanced_accuracy", "step_accuracy", "first_error_accuracy")]
    return wide(numbers, metrics)


def scored_steps(lab: Replication, split: str, kinds: Sequence[str]) -> pd.DataFrame:
    """Return the steps of a split's drafts with their scores and labels: exact ones, or by rollouts if unknown."""
    evaluated = getattr(lab, split)
    truth = list(evaluated.draft_set.truths.values())[-1]
    scores = pd.concat([evaluated.scores[k].read() for k in kinds])
    merged = scores.merge(truth[["sample_id", "step", "label"]], on=["sample_id", "step"])
    return merged.assign(task=lab.run.params.run)


def pessimism(lab: Replication, split: str, *kinds: str) -> Figure:
    """Draw the mean score of correct steps by step number."""
    return analysis_figures.scores_by_step(analysis_figures.scores_by_step_rows(scored_steps(lab, split, kinds)))


def score_ranges(lab: Replication) -> pd.DataFrame:
    """Return the range of test steps' scores, as trained and with scale and bias refitted on the validation split."""
    suffix = list(lab.test.draft_set.truths)[-1]
    rows = {}
    for kind in KINDS:
        steps, before = (split.judged_steps[kind, suffix] for split in (lab.test, lab.validation))
        fitted = platt(before["score"], before["label"])
        ranges = {"as trained": steps["score"], "refitted": pd.Series(refitted(steps["score"], fitted))}
        rows[kind] = {f"{end}, {name}": getattr(s, end)() for name, s in ranges.items() for end in ("min", "max")}
        rows[kind] |= dict(zip(("scale", "bias"), fitted, strict=True))
    return pd.DataFrame.from_dict(rows, orient="index").round(2)


def training_label_outcomes(lab: Replication) -> Outcomes:
    """Compare the training rollout labels with the exact ones after each post-processing rule; {} if unknown."""
    rollouts, samples = lab.data.rollouts.read(), lab.data.samples.read()
    labelled = samples[samples["sample_id"].isin(rollouts["sample_id"])]
    exact = step_labels.exact_labels(lab.run, labelled, lab.run.reward_split)
    return {} if exact is None else rule_outcomes(rollouts, exact)


def training_label_quality(lab: Replication) -> pd.DataFrame:
    """Return precision, recall and accuracy of the training rollout labels, after each post-processing rule."""
    outcomes = training_label_outcomes(lab)
    return (
        wide(lab.tables.numbers(outcomes), list(QUALITY)) if outcomes else pd.DataFrame({"exact labels": ["unknown"]})
    )


def stepwise(lab: Replication) -> pd.DataFrame:
    """Export the SORM's training data in TRL's stepwise-supervision format; return the first rows."""
    labels = labels_for(lab.run, "sorm_consistent", lab.data)
    frame = step_labels.stepwise_supervision(lab.run, lab.data.samples.read(), labels, lab.run.reward_split)
    path = lab.run.store.root / "stepwise" / f"{lab.run.params.run}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(path, index=False)
    return frame.head(3)


def pair_counts(lab: Replication) -> pd.DataFrame:
    """Count distinct pairs of each kind by the step of the first error (global pairs: step 1)."""
    pairs = refinement.refiner_pairs(lab.run, lab.data)
    return pairs.groupby(["kind", "first_error"]).size().unstack(fill_value=0)


def read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a CSV file with exactly these columns; raise :class:`ParamsError` if it is missing or damaged.

    Floats come back as they were written, and only empty fields are missing values.
    """
    try:
        frame = pd.read_csv(path, keep_default_na=False, na_values=[""])
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; glore run PARAMS --from 05 writes it") from None
    except ValueError:  # empty, not UTF-8, or rows of different lengths
        frame = pd.DataFrame()
    if list(frame) != list(columns):
        raise ParamsError(f"{path}: must be a CSV file with the columns {', '.join(columns)}; glore run writes it")
    return frame


def wide(numbers: pd.DataFrame, metrics: list[str]) -> pd.DataFrame:
    """Return a table to read: a row per task and method, a column per metric, in order of appearance.

    Each cell is "value [low, high] (n=...)" in per cent, a p value, or "n = 0" if nothing was counted.
    """
    shown = numbers[numbers["metric"].isin(metrics)]
    cells = [
        f"{row.value:.2g}" if row.metric.endswith("_p") and row.n else format_estimate(st.of_row(row))
        for row in shown.itertuples()
    ]
    table = shown.assign(cell=cells).pivot(index=["task", "method"], columns="metric", values="cell").fillna("")
    order = [key for key in product(shown["task"].unique(), shown["method"].unique()) if key in table.index]
    return table.loc[order][[m for m in metrics if m in table]]


def format_estimate(estimate: st.Estimate, sign: str = "") -> str:
    """Return "value [low, high] (n=...)" in per cent, or "n = 0"."""
    return f"{estimate.percent(sign=sign)} (n={estimate.n})" if estimate.n else "n = 0"
