"""Make artifacts of a run that is being computed, in a second process: `python benchmarks/gpu_beside.py PARAMS DIR`.

Decoding on a GPU is bound by the launching of kernels, and one process leaves most of the GPU idle. This process makes
what the other needs last: the test and validation samples and their rollouts, and what Figure 4 is of. Each artifact is
made by the process that first asks for it, and the other waits.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from glore_lib.method.replication import Replication
from glore_lib.params import read_yaml
from glore_lib.workflow.compute import open_lab

PARTS: dict[str, Callable[[Replication], object]] = {
    "Figure 4: rollouts": lambda lab: lab.run.params.reward_models.figure4 and lab.sft_data.rollouts,
    "rollouts": lambda lab: lab.data.rollouts,
    "test": lambda lab: (lab.test.draft_set, lab.test.pool),
    "validation": lambda lab: (lab.validation.draft_set, lab.validation.pool),
    "Figure 4: reward models": lambda lab: lab.sft_reward_models,
    "Figure 4": lambda lab: lab._figure4,
}


def main(
    params: Path, artifacts: Path,
    settings: Annotated[list[str], typer.Option("--set", metavar="KEY.SUB=VALUE", default_factory=list)],
) -> None:  # fmt: skip
    """Make the parts one after another."""
    overrides = {key: read_yaml(value) for key, _, value in (setting.partition("=") for setting in settings)}
    lab = open_lab(params, overrides, artifacts)
    for name, make in PARTS.items():
        started = time.perf_counter()
        make(lab)
        lab.run.finish("beside")  # what is made can be packed
        print(f"{params.stem} beside: {name}: {time.perf_counter() - started:.1f} s", flush=True)


if __name__ == "__main__":
    typer.run(main)
