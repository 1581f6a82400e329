"""Measure on the validation split what each part of the mini recipe does: `python benchmarks/mini_levers.py hard`.

Each row is the run of params/mini-<difficulty>.yaml with one change: a part as it was before, or more of it; "none" is
the run as it is. The rows share the artifacts that they have in common. The test split is not read. Without `--change`,
all rows are computed, one after the other. At the end, the rows of all CSV files in `--out` are printed.
"""

import re
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
UNSEEN = "no unseen operation"  # which easy does not have
CHANGES: dict[str, dict[str, Any]] = {
    "none": {},
    "reward models and refiner on the student's questions": {"task.reward_questions": 0},
    "rollouts at T = 0.8": {"reward_models.rollout_temperature": 0.8},
    "rollouts alone verify": {"reward_models.samples_verify": False},
    "unsolved questions labelled": {"reward_models.drop_unsolved": False},
    "one learning rate for head and model": {"reward_models.head_rate": 1.0},
    "reward models: 160 steps": {"reward_models.training.max_steps": 160, "reward_models.training.epochs": 12},
    "one round of expert iteration, K = 4": {"student.rounds": 1, "student.samples_per_question": 4},
    "three times the questions, five times the refiner's steps": {
        "task.reward_questions": 2400, "refiner.training.max_steps": 1000, "refiner.training.epochs": 4,
    },
    UNSEEN: {},
}  # fmt: skip
# Column: methods and metrics of :attr:`SplitEvaluation.numbers`. Steps are judged by exact labels.
MEASURES = {
    "student": [("greedy", "accuracy")],
    "labels: precision / recall": [("consistent", "label_precision"), ("consistent", "label_recall")],
    "balanced accuracy: ORM / SORM": [(kind, "step_balanced_accuracy_exact") for kind in ("orm", "sorm")],
    "AUC: ORM / SORM": [(kind, "step_auc_exact") for kind in ("orm", "sorm")],
    "ORM's errors that are false negatives": [("orm", "step_false_negative_share_exact")],
    "first errors: ORM / SORM": [(kind, "first_error_accuracy_exact") for kind in ("orm", "sorm")],
    "fixed: global / local + ORM / + SORM / + truth": [
        (kind, "fixed_fraction") for kind in ("global", "local+orm", "local+sorm", "local+oracle")
    ],
    "global with local + SORM - with a second try": [
        ("global+local+sorm-global+global_sampled", "fixed_fraction_difference")
    ],
    "random / Bo3 / reranked": [(choice, "accuracy") for choice in ("random_sample", "bo3", "reranked")],
}


def measured(difficulty: str, change: str, seed: int, artifacts: Path, questions: int) -> pd.DataFrame:
    """Return the validation numbers and label quality of a run with one change, and the seconds of its artifacts."""
    if change == UNSEEN:
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
    """Return a row for each difficulty and change, as text: means over seeds in per cent, and seconds."""
    keys = ["difficulty", "change"]
    means = numbers.groupby([*keys, "method", "metric"])["value"].mean()
    rows = {}
    for key, of_change in numbers.groupby(keys, sort=False):
        row = {
            column: " / ".join(f"{100 * means.get((*key, *measure), float('nan')):.1f}" for measure in measures)
            for column, measures in MEASURES.items()
        }
        rows[key] = row | {"seconds": f"{of_change.groupby('seed')['seconds'].first().mean():,.0f}"}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(keys)


def main(
    difficulty: Annotated[str, typer.Argument(help="hard or easy")],
    change: Annotated[list[str] | None, typer.Option(help="A row; may be repeated.")] = None,
    seed: int = 0,
    artifacts: Path = Path("artifacts"),
    out: Annotated[Path, typer.Option(help="Folder for a CSV file of each row.")] = Path("levers"),
    questions: Annotated[int, typer.Option(help="Validation questions.")] = 300,
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name in change or [name for name in CHANGES if name != UNSEEN or difficulty == "hard"]:
        file = f"{difficulty}-{'-'.join(re.findall('[a-z0-9]+', name.lower()))}-{seed}.csv"
        measured(difficulty, name, seed, artifacts, questions).to_csv(out / file, index=False)
    found = table(pd.concat([pd.read_csv(path) for path in sorted(out.glob("*.csv"))]))
    for name in found.index.unique("difficulty"):
        print(f"\n{name}\n\n{found.xs(name).to_markdown()}")


if __name__ == "__main__":
    typer.run(main)
