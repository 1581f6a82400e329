"""The runs that a command names: their parameters, and those of each of their seeds."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glore_lib.params import Params, ParamsError, check_grpo, check_installed, load_params
from glore_lib.tasks import checked_task

STAGES = ("01_expert_iteration", "02_orm", "03_sorm", "04_refiners", "05_evaluation")  # the notebooks of a run
UNFINISHED = "unfinished"  # name of the record of what an interrupted stage has made
MOST = 100


def read_runs(
    files: Sequence[Path], overrides: dict[str, Any], artifacts: Path, appendix: Sequence[str] = ()
) -> dict[str, Params]:  # fmt: skip
    """Return the runs of some params files by name; raise ParamsError if one, or what it needs, cannot be used.

    ``appendix`` are the appendix notebooks that are run too. Warns on stderr of what is slow here.
    """
    from glore_lib.artifacts.packed import is_packed  # imports pandas, which takes a second

    runs: dict[str, Params] = {}
    for path in files:
        params = load_params(path, overrides)
        if params.run in runs:
            raise ParamsError(f"params file {path}: run = {params.run!r}: every params file needs a name of its own")
        runs[params.run] = params
    for params in runs.values():
        checked_task(params)
        if not is_packed(artifacts, params):
            check_installed(params)
            if "appendix/c_refiner_rl" in appendix:
                check_grpo(params)
        if "appendix/g_label_quality" in appendix and params.task.name != "arithmetic":
            from glore_lib.tasks.mr_gsm8k import MRGSM8K  # imports pandas, which takes a second

            MRGSM8K(params.task.calculator_annotations, params.task.test_questions).check_data({})
        if slow := slow_bfloat16(params):
            from glore_lib.artifacts.records import warn  # imports pandas, too

            warn(slow)
    return runs


def slow_bfloat16(params: Params) -> str | None:
    """Return what a run in bfloat16 costs on a CPU without instructions for it, where torch multiplies in plain loops.

    None if the run computes in float32, or if this machine has a GPU or such instructions.
    """
    fields = {
        "base_model.dtype = 'bfloat16'": params.base_model.dtype == "bfloat16",
        "finetuning.mixed_precision = true": params.finetuning.mixed_precision,
    }
    if not any(fields.values()):
        return None
    import torch  # takes seconds

    if torch.cuda.is_available() or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return None
    return (
        f"{', '.join(field for field, used in fields.items() if used)}: this CPU has no instructions for bfloat16, and "
        "float32 is many times as fast here: set base_model.dtype to float32 and finetuning.mixed_precision to false"
    )


def parse_seeds(text: str | None) -> list[int]:
    """Return the seeds that a text such as ``3``, ``0,2,5`` or ``0-4`` names, in its order; for None, no seed."""
    if text is None:
        return []
    seeds: list[int] = []
    for part in text.split(","):
        if not (found := re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part.strip())):
            raise ParamsError(f"--seeds {text}: must be whole numbers such as 3, 0,2,5 or 0-4, and {part!r} is not")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise ParamsError(f"--seeds {text}: the range {part.strip()} must be written as {last}-{first}")
        if last - first + len(seeds) >= MOST:
            raise ParamsError(f"--seeds {text}: must be {MOST} seeds at most")
        seeds += range(first, last + 1)
    if repeated := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
        raise ParamsError(f"--seeds {text}: names {', '.join(map(str, repeated))} twice")
    return seeds


def with_seeds(
    params: Params, overrides: dict[str, Any], seeds: Sequence[int]
) -> list[tuple[Params, dict[str, Any]]]:  # fmt: skip
    """Return a run's parameters and overrides with each seed; without seeds, with its own alone.

    The run's own seed comes first, or else the first of the list. Raises :class:`ParamsError` if ``overrides`` set a
    seed that is not in the list.
    """
    if seeds and "seed" in overrides and params.seed not in seeds:
        raise ParamsError(f"--set seed={params.seed}: must be one of --seeds {','.join(map(str, seeds))}")
    order = sorted(seeds, key=lambda seed: seed != params.seed) or [params.seed]
    return [
        (params.model_copy(update={"seed": seed}), overrides if seed == params.seed else overrides | {"seed": seed})
        for seed in order
    ]
