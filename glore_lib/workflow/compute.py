"""Compute the artifacts of runs in this process, without notebooks: ``glore compute``, and further seeds of a run."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from glore_lib.artifacts.locks import only_run
from glore_lib.method.replication import Replication
from glore_lib.params import load_params
from glore_lib.reporting.tables import student_comparison
from glore_lib.run import open_run
from glore_lib.workflow.seeds import with_seeds

# What each of notebooks 01-05 needs.
STAGES: dict[str, Callable[[Replication], object]] = {
    "01_expert_iteration": lambda lab: (lab.rounds, student_comparison(lab)),  # it trains the SFT control if asked for
    "02_orm": lambda lab: [lab.reward_models[kind] for kind in ("orm", "balanced_orm")],
    "03_sorm": lambda lab: (*lab.reward_models.values(), lab.sft_reward_models),
    "04_refiners": lambda lab: (lab.refiner, lab.validation.outcomes),
    "05_evaluation": lambda lab: (lab.outcomes, lab.test.costs()),
}


def compute(
    files: Sequence[Path], overrides: dict[str, Any], seeds: Sequence[int], artifacts: Path,
    progress: Callable[[str], None],
) -> None:  # fmt: skip
    """Compute what notebooks 01-05 of some params files need, with each of ``seeds`` or, without any, their own.

    ``progress`` is given each stage as it starts.
    """
    with only_run(artifacts):
        for file in files:
            for params, given in with_seeds(load_params(file, overrides), overrides, seeds):
                lab = open_lab(file, given, artifacts)
                for stage, make in STAGES.items():
                    progress(f"{params.run} seed {params.seed} {stage}" if seeds else f"{params.run} {stage}")
                    make(lab)
                    lab.run.finish(stage)
                lab.run.free()


def open_lab(file: Path, overrides: dict[str, Any], artifacts: Path) -> Replication:
    """Open the run of a params file; raise as :func:`glore_lib.run.open_run` does."""
    return Replication(open_run(str(file), overrides, str(artifacts)))
