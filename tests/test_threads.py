"""How many cores a container, a batch system or the user grants."""

import os

import pytest

from clone import TINY
from glore_lib import threads


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),  # docker --cpus=1.5
        ("0::/\n", {"cpu.max": "5000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "1600000 100000\n"}, 8),
        ("0::/jobs/12\n", {"jobs/12/cpu.max": "max 100000\n", "jobs/cpu.max": "300000 100000\n"}, 3),
        ("4:memory:/a\n3:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "20000", "cpu/a/cpu.cfs_period_us": "10000"}, 2),
        ("3:cpuacct,cpu:/docker/1\n", {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "25000"}, 2),
        ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ("3:cpuset:/\n", {"cpu.max": "100000 100000\n"}, 8),
        (None, {}, 8),  # no /proc
    ],
)  # fmt: skip
def test_the_cores_are_those_of_the_affinity_within_the_quota(tmp_path, monkeypatch, groups, files, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    given = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in (given | ({"proc/self/cgroup": groups} if groups else {})).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert threads.cores(tmp_path) == expected


@pytest.mark.parametrize(("given", "set_to"), [("OMP_NUM_THREADS", []), ("MKL_NUM_THREADS", []), (None, [5])])
def test_a_run_uses_as_many_threads_as_the_user_says_and_else_its_cores(tmp_path, monkeypatch, given, set_to):
    from glore_lib import run

    found: list[int] = []
    monkeypatch.setattr(run, "cores", lambda: 5)
    monkeypatch.setattr(run.torch, "set_num_threads", found.append)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv(given, "3")
    run.open_run(str(TINY), {}, str(tmp_path))
    assert found == set_to
