"""How many threads this process should use; imported without torch."""

import os
from collections.abc import Iterator
from contextlib import suppress
from math import ceil
from pathlib import Path


def cores(root: Path = Path("/")) -> int:
    """Return the number of cores that this process may use: its affinity, limited by its CPU quota, rounded up.

    Containers set a quota, by ``docker --cpus`` or a limit of Kubernetes. ``root`` is where ``proc`` and ``sys`` are.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([allowed, *map(ceil, _quotas(root))])


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quotas, in cores, of this process's control group and of those around it, of versions 1 and 2."""
    groups = root / "proc/self/cgroup"
    for line in groups.read_text(encoding="utf-8").splitlines() if groups.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        for group in (Path(path), *Path(path).parents):  # a container may see its own as the topmost one
            folder = root / "sys/fs/cgroup" / ("cpu" if controllers else "") / group.relative_to("/")
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
            with suppress(OSError, ValueError):  # no such file, or "max"
                quota, period = (int(n) for name in names for n in (folder / name).read_text(encoding="utf-8").split())
                if quota > 0:  # -1: unlimited
                    yield quota / period
