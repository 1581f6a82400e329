"""Measure the cost of the SORM's training labels with and without early stop: `python benchmarks/label_cost.py`.

The student of params/mini-hard.yaml is trained first. Its samples on the first `--questions` training questions, from
which the SORM learns, are then labelled by rollouts in several ways with the same seeds:

- exhaustive, separate: all K rollouts of every step of every sample, each decoded from its own question and prefix;
- exhaustive, shared: the library's sampler, and one set of rollouts for prefixes that samples have in common;
- early stop: `reward_models.early_stop`, with one rollout or all of a prefix in its first wave, separate and shared.

`decoded`, `read`: tokens that the model processed, padding included. `x ...`: the first row's value divided by this
row's. `raw`, `monotone`, `consistent`: labels that differ from the first row's after that rule. `texts`: rollouts that
differ, of those that both made; a sample can differ where matrix products of other shapes round differently.
"""

import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any
from unittest.mock import patch

import pandas as pd
import typer
from measure import Alone, Work, write_record

import glore_lib.run
from glore_lib.artifacts.store import Store
from glore_lib.method import rollouts, step_labels
from glore_lib.method.replication import Replication
from glore_lib.method.students import Student
from glore_lib.params import load_params
from glore_lib.run import Run, open_run
from glore_lib.sampling.transformers import TransformersSampler

PARAMS = str(Path(__file__).parents[1] / "params" / "mini-hard.yaml")
# By name: early_stop, rollouts_at_first, each completion decoded separately, prefixes of two samples never shared.
WAYS = {
    "exhaustive, separate": (False, 8, True, True),
    "exhaustive, shared": (False, 8, False, False),
    "early stop, 8 at first, separate": (True, 8, True, False),
    "early stop, 1 at first, separate": (True, 1, True, False),
    "early stop, 1 at first, shared": (True, 1, False, False),
    "early stop, 8 at first, shared (the default)": (True, 8, False, False),
}
KEYS = ["question_id", "sample_id", "step"]


def prefixes_apart(run: Run, sample: Any, split: str, known: dict, of_sample: Any = rollouts._prefixes) -> list:
    """Call ``rollouts._prefixes`` so that no prefix is shared with another sample."""
    mine: dict = {}
    found = of_sample(run, sample, split, mine)
    known |= {(sample.sample_id, *key): prefix for key, prefix in mine.items()}
    return found


def labelled(
    run: Run, student: Student, drafts: pd.DataFrame, purpose: str, inputs: list, alone: bool, apart: bool
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the rollouts and their cost."""
    work = Work()

    def build(model: Any, tokenizer: Any, rows: int, _: bool) -> TransformersSampler:
        work.watch(model)
        return Alone(model, tokenizer, rows, False) if alone else TransformersSampler(model, tokenizer, rows)

    patched = patch.object(rollouts, "_prefixes", prefixes_apart) if apart else nullcontext()
    with patched, patch.object(glore_lib.run.transformers, "build", build):
        start = time.perf_counter()
        made = rollouts.rollouts(run, student, drafts, "train", purpose, inputs)
        seconds = time.perf_counter() - start
    info = made.record["info"]
    return made.read(), {
        "rollouts": info["rollouts_made"], "text": info["tokens_generated"], "decoded": work.decoded,
        "read": work.read, "seconds": seconds,
    }  # fmt: skip


def differing(made: pd.DataFrame, reference: pd.DataFrame) -> dict[str, str]:
    """Count the labels that differ after each rule, and the rollouts that differ of those that both made."""
    found = {}
    for rule, (monotone, consistent) in step_labels.POSTPROCESSING.items():
        one, other = (
            step_labels.rollout_labels(x, monotone, consistent).set_index(KEYS)["label"] for x in (made, reference)
        )
        found[rule] = f"{(one.sort_index() != other.sort_index()).sum()} of {len(other)}"
    both = made.merge(reference, on=[*KEYS, "rollout"])
    return found | {"texts": f"{(both['text_x'] != both['text_y']).sum()} of {len(both)}"}


def main(
    questions: Annotated[int, typer.Option(min=1, help="Training questions whose samples are labelled.")] = 100,
    artifacts: Annotated[
        Path | None, typer.Option(help="Artifacts with the student; without them it is trained.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Where to write the rows as JSON.")] = None,
) -> None:
    """Train the student, label its samples in every way and print the table."""
    with TemporaryDirectory(prefix="glore-labels-") as folder:
        run = open_run(PARAMS, {}, str(artifacts or Path(folder) / "student"))
        lab, p = Replication(run), run.params.reward_models
        samples = lab.data.samples.read()
        some = samples[samples["question_id"].isin(list(run.questions("train"))[:questions])]
        drafts = step_labels.choose_drafts(some, p.sorm_samples_per_question)
        rows: list[dict[str, Any]] = []
        reference = None
        for way, (early_stop, at_first, alone, apart) in WAYS.items():
            overrides = {"reward_models.early_stop": early_stop, "reward_models.rollouts_at_first": at_first}
            # The purpose sets the seeds. Each way has its own store, so it finds no artifacts of another.
            its_run = replace(run, params=load_params(PARAMS, overrides), store=Store(Path(folder) / way))
            purpose = f"rm-{lab.student.policy}"
            made, took = labelled(its_run, lab.student, drafts, purpose, [lab.data.samples], alone, apart)
            reference = made if reference is None else reference
            rows.append({"way": way} | took | differing(made, reference))
    for row in rows:
        row |= {f"x {what}": rows[0][what] / row[what] for what in ("rollouts", "decoded", "read", "seconds")}
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=",.1f", intfmt=","))
    print(f"\n{len(drafts)} samples of {drafts['question_id'].nunique()} questions, K = {p.rollouts_per_step}")
    sizes = {"questions": questions, "samples": len(drafts), "rollouts_per_step": p.rollouts_per_step}
    write_record(json, {"sizes": sizes, "seed": run.params.seed, "rows": rows})


if __name__ == "__main__":
    typer.run(main)
