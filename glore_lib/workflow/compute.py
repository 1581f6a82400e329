"""Compute the artifacts of runs in this process, without notebooks: ``glore compute``, and further seeds of a run.

This needs torch, transformers, peft, pandas, pyarrow, pydantic, scipy, statsmodels and what these require, and none of
the packages that draw, render or execute notebooks.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from glore_lib.artifacts.locks import only_run
from glore_lib.artifacts.manifest import stage_record_path
from glore_lib.method.replication import Replication
from glore_lib.method.reward_models import score_steps
from glore_lib.method.students import greedy_samples
from glore_lib.params import load_params
from glore_lib.reporting import walkthrough
from glore_lib.run import open_run
from glore_lib.workflow.processes import side_by_side
from glore_lib.workflow.runs import UNFINISHED, with_seeds


def _orms(lab: Replication) -> None:
    """Train ORM and balanced ORM, and score the two solutions that notebook 02 shows."""
    two = walkthrough.mixed(lab.data.samples.read()).drop_duplicates("is_correct")
    for kind in ("orm", "balanced_orm"):
        score_steps(lab.run, lab.reward_models[kind], f"{kind}-two", two, lab.run.reward_split, lab.data.samples)


def _sorms(lab: Replication) -> None:
    """Train the other reward models, and score the solution that notebook 03 shows."""
    for _ in (*lab.reward_models.values(), lab.sft_reward_models):
        pass
    one, _ = walkthrough.rolled_out(lab)
    for kind in ("orm", "sorm"):
        score_steps(lab.run, lab.reward_models[kind], f"{kind}-one", one, lab.run.reward_split, lab.data.samples)


# What each of notebooks 01-05 needs.
STAGES: dict[str, Callable[[Replication], object]] = {
    "01_expert_iteration": lambda lab: (lab.rounds, [greedy_samples(lab.run, s) for s in lab.compared_students]),
    "02_orm": _orms,
    "03_sorm": _sorms,
    "04_refiners": lambda lab: (lab.refiner, lab.validation.outcomes),
    "05_evaluation": lambda lab: (lab.outcomes, lab.test.costs()),
}


def ahead(lab: Replication) -> None:
    """Make what notebooks 04 and 05 need beside them: Figure 4 first, so that the two seldom wait for each other."""
    STAGES["04_refiners"](lab)
    _ = [*lab.test.scores.values()], lab._figure4
    STAGES["05_evaluation"](lab)


def compute(
    files: Sequence[Path], overrides: dict[str, Any], seeds: Sequence[int], artifacts: Path,
    progress: Callable[[str], None], jobs: int = 1,
) -> None:  # fmt: skip
    """Compute what notebooks 01-05 of some params files need, with each of ``seeds`` or, without any, their own.

    ``progress`` is given a line for each stage as it starts, for each artifact once it is made, with the seconds that
    it took, and for each stage as it ends. Runs and seeds are done ``jobs`` at a time, each in a process of its own.
    Raises as :func:`glore_lib.run.open_run` does.
    """
    parts = [
        partial(_compute, file, given, f"{params.run} seed {params.seed}" if seeds else params.run, artifacts)
        for file in files
        for params, given in with_seeds(load_params(file, overrides), overrides, seeds)
    ]
    with only_run(artifacts):
        if jobs > 1:
            side_by_side(parts, jobs, lambda number, line: progress(line))
        else:
            for part in parts:
                part(progress)


def _compute(
    file: Path, overrides: dict[str, Any], name: str, artifacts: Path, progress: Callable[[str], None]
) -> None:
    """Compute one run with one seed."""
    lab = open_lab(file, overrides, artifacts)
    lab.run.store.made = lambda artifact: progress(f"  {name}: {artifact.id}: {artifact.record['seconds']:.1f} s")
    for stage, make in STAGES.items():
        progress(f"{name} {stage}")
        started = time.perf_counter()
        try:
            make(lab)
        except BaseException:
            lab.run.finish(UNFINISHED)  # what is made can be packed
            raise
        lab.run.finish(stage)
        progress(f"{name} {stage}: {time.perf_counter() - started:.1f} s")
    stage_record_path(artifacts, lab.run.params, UNFINISHED).unlink(missing_ok=True)
    lab.run.free()


def open_lab(file: Path, overrides: dict[str, Any], artifacts: Path) -> Replication:
    """Open the run of a params file; raise as :func:`glore_lib.run.open_run` does."""
    return Replication(open_run(str(file), overrides, str(artifacts)))
