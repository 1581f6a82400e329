"""Compute the artifacts of runs in this process, without notebooks: ``glore compute``."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from glore_lib.artifacts.locks import only_run
from glore_lib.method.replication import Replication
from glore_lib.reporting.tables import student_comparison
from glore_lib.run import open_run


def compute(files: Sequence[Path], overrides: dict[str, Any], artifacts: Path, progress: Callable[[str], None]) -> None:
    """Compute what notebooks 01-05 of some params files need; ``progress`` is given each stage as it starts."""
    with only_run(artifacts):
        for file in files:
            lab = Replication(open_run(str(file), overrides, str(artifacts)))
            for stage, make in _stages(lab).items():
                progress(f"{lab.run.params.run} {stage}")
                make()
                lab.run.finish(stage)
            lab.run.free()


def _stages(lab: Replication) -> dict[str, Callable[[], object]]:
    return {
        "01_expert_iteration": lambda: (lab.rounds, student_comparison(lab)),  # it trains the SFT control if asked for
        "02_orm": lambda: [lab.reward_models[kind] for kind in ("orm", "balanced_orm")],
        "03_sorm": lambda: (*lab.reward_models.values(), lab.sft_reward_models),
        "04_refiners": lambda: (lab.refiner, lab.validation.numbers),
        "05_evaluation": lambda: (lab.numbers, lab.test.costs()),
    }
