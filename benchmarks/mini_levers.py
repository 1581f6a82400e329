"""Measure on the validation split what each part of the mini recipe adds: `python benchmarks/mini_levers.py hard`.

Each row is the run of params/mini-<difficulty>.yaml with one part as it was before, named by `--without`; the row
"nothing" is the run as it is. The rows share the artifacts that they have in common. The test split is not read.
Without `--without`, all rows are computed, one after the other. `--table` prints the rows of the CSV files in `--out`.
"""

import time
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
LEVERS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "questions of their own": {"task.reward_questions": 0},
    "rollouts at T = 1.0": {"reward_models.rollout_temperature": 0.8},
    "correct samples as rollouts": {"reward_models.samples_verify": False},
    "leaving out unsolved questions": {"reward_models.drop_unsolved": False},
    "the head's learning rate x 10": {"reward_models.head_rate": 1.0},
    "more refiner pairs": {"refiner.pairs_per_question": 4, "refiner.training.max_steps": 150},
    "expert iteration to convergence": {"student.rounds": 1, "student.samples_per_question": 4},
    "the unseen operation": {},
}
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


def measured(difficulty: str, lever: str, seed: int, artifacts: Path, questions: int) -> pd.DataFrame:
    """Return the validation numbers of a run without a lever, and its label quality, seconds and name."""
    if lever == "the unseen operation":
        arithmetic.DIFFICULTIES[difficulty] = replace(arithmetic.DIFFICULTIES[difficulty], reversed=0.0)
        artifacts = artifacts / "seen"  # the difficulty's bounds are in no key
    changed = {"seed": seed, "task.validation_questions": questions, "student.sft_control": False}
    started = time.process_time()
    run = open_run(str(PARAMS / f"mini-{difficulty}.yaml"), changed | LEVERS[lever], str(artifacts))
    lab = Replication(run)
    numbers = pd.concat([lab.validation.numbers, lab.tables.numbers(training_label_outcomes(lab))])
    return numbers.assign(difficulty=difficulty, without=lever, seed=seed, seconds=time.process_time() - started)


def table(numbers: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each difficulty and lever: means over seeds in per cent."""
    keys = ["difficulty", "without"]
    rows: Mapping[str, pd.Series] = {
        name: numbers.query("method == @method and metric == @metric").groupby(keys)["value"].mean()
        for name, (method, metric) in MEASURES.items()
    }
    seeds = numbers.groupby(keys)["seed"].nunique()
    return (100 * pd.DataFrame(rows)).round(1).assign(seeds=seeds)


def main(
    difficulty: Annotated[str, typer.Argument(help="hard or easy")],
    without: Annotated[list[str] | None, typer.Option(help="A lever; may be repeated.")] = None,
    seed: int = 0,
    artifacts: Path = Path("artifacts"),
    out: Annotated[Path, typer.Option(help="Folder for a CSV file of each row.")] = Path("levers"),
    questions: Annotated[int, typer.Option(help="Validation questions.")] = 300,
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for lever in without or LEVERS:
        name = f"{difficulty}-{'-'.join(lever.split())}-{seed}.csv"
        measured(difficulty, lever, seed, artifacts, questions).to_csv(out / name, index=False)
    found = [pd.read_csv(path) for path in sorted(out.glob("*.csv"))]
    print(table(pd.concat(found)).T.to_string())


if __name__ == "__main__":
    typer.run(main)
