"""Several seeds of a run: which there are, and the parameters of each."""

import re
from collections.abc import Sequence
from typing import Any

from glore_lib.params import Params, ParamsError

MOST = 100


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
