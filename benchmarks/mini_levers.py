"""Measure on the validation split what each part of the mini recipe does: `python benchmarks/mini_levers.py hard`.

Each row is the run of params/mini-<difficulty>.yaml with one change: a part as it was before, or more of it; "none" is
the run as it is. The rows share the artifacts that they have in common. The test split is not read. Without `--change`,
all rows are computed, one after the other. At the end, the rows of all CSV files in `--out` are printed.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from glore_lib.method.replication import Replication
from glore_lib.reporting.tables import training_label_outcomes
from glore_lib.run import open_run
from glore_lib.tasks import arithmetic

PARAMS = Path(__file__).parents[1] / "params"
CHANGES: dict[str, dict[str, Any]] = {
    "none": {},
    "reward models and refiner on the student's questions": {"task.reward_questions": 0},
    "rollouts at T = 0.8": {"reward_models.rollout_temperature": 0.8},
    "rollouts alone verify": {"reward_models.samples_verify": False},
    "unsolved questions labelled": {"reward_models.drop_unsolved": False},
    "one learning rate for head and model": {"reward_models.head_rate": 1.0},
    "one round of expert iteration, K = 4": {"student.rounds": 1, "student.samples_per_question": 4},
    "three times the questions, five times the refiner's steps": {
        "task.reward_questions": 2400, "refiner.training.max_steps": 1000, "refiner.training.epochs": 4,
    },
    "no unseen operation": {},
}  # fmt: skip
# Column: method and metric of :attr:`SplitEvaluation.numbers`.
MEASURES = {
    "student": ("greedy", "accuracy"),
    "labels: precision": ("consistent", "label_precision"),
    "labels: recall": ("consistent", "label_recall"),
    "ORM": ("orm", "step_balanced_accuracy_exact"),
    "SORM": ("sorm", "step_balanced_accuracy_exact"),
    "SORM - ORM": ("sorm-orm", "step_balanced_accuracy_difference_exact"),
    "SORM - ORM, by rollouts": ("sorm-orm", "step_balanced_accuracy_difference"),
    "ORM: errors that are false negatives": ("orm", "step_false_negative_share_exact"),
    "first errors, ORM": ("orm", "first_error_accuracy_exact"),
    "first errors, SORM": ("sorm", "first_error_accuracy_exact"),
    "fixed: global": ("global", "fixed_fraction"),
    "local + ORM": ("local+orm", "fixed_fraction"),
    "local + SORM": ("local+sorm", "fixed_fraction"),
    "local + truth": ("local+oracle", "fixed_fraction"),
    "union - union of two tries": ("global+local+sorm-global+global_sampled", "fixed_fraction_difference"),
    "Bo3": ("bo3", "accuracy"),
    "random": ("random_sample", "accuracy"),
    "reranked - Bo3": ("reranked-bo3", "accuracy_difference"),
}


def measured(difficulty: str, change: str, seed: int, artifacts: Path, questions: int) -> pd.DataFrame:
    """Return the validation numbers and label quality of a run with one change, and the seconds of its artifacts."""
    if change == "no unseen operation":
        arithmetic.DIFFICULTIES[difficulty] = replace(arithmetic.DIFFICULTIES[difficulty], reversed=0.0)
        artifacts = artifacts / "seen"  # the difficulty's bounds are in no key
    changed = {"seed": seed, "task.validation_questions": questions, "student.sft_control": False}
    run = open_run(str(PARAMS / f"mini-{difficulty}.yaml"), changed | CHANGES[change], str(artifacts))
    lab = Replication(run)
    of_drafts = lab.validation.numbers
    of_drafts = of_drafts[~of_drafts["metric"].str.startswith("label_")]  # the table shows those of training labels
    numbers = pd.concat([of_drafts, lab.tables.numbers(training_label_outcomes(lab))])
    seconds = sum(artifact.record["seconds"] for artifact in run.store.used.values())
    return numbers.assign(difficulty=difficulty, change=change, seed=seed, seconds=seconds)


def table(numbers: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each difficulty and change: means over seeds in per cent, and seconds."""
    keys = ["difficulty", "change"]
    rows: Mapping[str, pd.Series] = {
        name: numbers.query("method == @method and metric == @metric").groupby(keys)["value"].mean()
        for name, (method, metric) in MEASURES.items()
    }
    runs = numbers.groupby([*keys, "seed"])["seconds"].first().groupby(keys)
    return (100 * pd.DataFrame(rows)).round(1).assign(seconds=runs.mean().round(), seeds=runs.size())


def main(
    difficulty: Annotated[str, typer.Argument(help="hard or easy")],
    change: Annotated[list[str] | None, typer.Option(help="A row; may be repeated.")] = None,
    seed: int = 0,
    artifacts: Path = Path("artifacts"),
    out: Annotated[Path, typer.Option(help="Folder for a CSV file of each row.")] = Path("levers"),
    questions: Annotated[int, typer.Option(help="Validation questions.")] = 300,
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name in change or CHANGES:
        file = f"{difficulty}-{'-'.join(re.findall('[a-z0-9]+', name.lower()))}-{seed}.csv"
        measured(difficulty, name, seed, artifacts, questions).to_csv(out / file, index=False)
    found = [pd.read_csv(path) for path in sorted(out.glob("*.csv"))]
    print(table(pd.concat(found)).T.to_string())


if __name__ == "__main__":
    typer.run(main)
