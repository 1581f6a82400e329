"""Make artifacts of a run in a further process: `python benchmarks/gpu_beside.py PARAMS DIR PART`.

Decoding on a GPU is bound by the launching of kernels, and one process leaves most of the GPU idle. A further process
makes what the run needs last: ``samples`` are those of the test and validation questions and their rollouts,
``figure4`` is what Figure 4 needs. Each artifact is made by the process that first asks for it, and the others wait.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from glore_lib.cli import _parse
from glore_lib.method.replication import Replication
from glore_lib.workflow.compute import open_lab

PARTS: dict[str, dict[str, Callable[[Replication], object]]] = {
    "figure4": {
        "rollouts": lambda lab: lab.sft_data.rollouts,
        "reward models": lambda lab: lab.sft_reward_models,
        "figure": lambda lab: lab._figure4,
    },
    "samples": {
        "rollouts": lambda lab: lab.data.rollouts,
        "test": lambda lab: (lab.test.draft_set, lab.test.pool),
        "validation": lambda lab: (lab.validation.draft_set, lab.validation.pool),
    },
}


def main(
    params: Path, artifacts: Path, part: Literal["samples", "figure4"],
    settings: Annotated[list[str], typer.Option("--set", metavar="KEY.SUB=VALUE", default_factory=list)],
) -> None:  # fmt: skip
    """Make the parts one after another."""
    lab = open_lab(params, _parse(settings), artifacts)
    wanted = part != "figure4" or lab.run.params.reward_models.figure4
    for name, make in (PARTS[part] if wanted else {}).items():
        started = time.perf_counter()
        make(lab)
        lab.run.finish("beside")  # what is made can be packed
        print(f"{params.stem} beside: {part}, {name}: {time.perf_counter() - started:.1f} s", flush=True)


if __name__ == "__main__":
    typer.run(main)
