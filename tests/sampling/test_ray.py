"""Sampling on a real Ray: the records of sampling without it, also where workers and machines are lost."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster
from tqdm import tqdm

from glore_lib.method.students import Student, sample_solutions
from glore_lib.models.tokens import encode
from glore_lib.params import ParamsError, RayParams, Sampling
from glore_lib.run import Run, build_sampler
from glore_lib.sampling import Completion, Request
from glore_lib.sampling import ray as backend
from glore_lib.sampling.ray import RaySampler
from glore_lib.sampling.resumable import shards
from tiny import open_tiny

MEMORY = 80 * 2**20  # of the object store: the least that Ray takes
LIMIT = 12


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Start a Ray cluster of one machine with two cores and no GPU, and set RAY_ADDRESS to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # Ray's 15 starves workers where the machine does something else
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": MEMORY})
        patch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster
    ray.shutdown()
    cluster.shutdown()


def placed(workers: int, cpus: int = 1, gpus: int = 0, rows: int = 2) -> Sampling:
    ray = RayParams(workers=workers, cpus_per_worker=cpus, gpus_per_worker=gpus)
    return Sampling(rows=rows, max_new_tokens=LIMIT, ray=ray)


def requests_of(run: Run) -> list[Request]:
    """As samples and rollouts are asked for, mixed: prompts of several lengths, some with a question in common."""
    found = []
    for number, q in enumerate(run.questions("train").values()):
        question = tuple(encode(run.tokenizer, q.question + "\n").ids)
        found += [Request(question[: 5 + 3 * number], 3, seed=number, first=number)]
        found += [Request(question + question[2:end], 2, 9 + end, common=len(question)) for end in (2, 4, 7)]
    return found[::2] + found[1::2]


def texts(answers: list[list[Completion]]) -> list[list[str]]:
    return [[completion.text for completion in completions] for completions in answers]


def numbered(n: int) -> list[Request]:
    return [Request((i, 0), 1, seed=i) for i in range(n)]


def says(answer: Callable[[int], str]) -> Callable[[str], object]:
    """Build a backend without a model that answers each request with ``answer(seed)``.

    The class is nested so that workers get it by value and need not import this module.
    """

    class Backend:
        def sample(self, requests, temperature, max_new_tokens, progress):
            return [[Completion(answer(r.seed), True, (1,))] * r.n for r in requests]

    return lambda model: Backend()


class Killer(threading.Thread):
    """Waits for a file with a process id and kills that process."""

    def __init__(self, file: Path):
        super().__init__(daemon=True)
        self.file, self.pid = file, None

    def run(self) -> None:
        while not self.file.exists():
            time.sleep(0.02)
        self.pid = int(self.file.read_text())
        os.kill(self.pid, signal.SIGKILL)


def first_waits(build: Callable[[str], object], folder: Path) -> Callable[[str], object]:
    """Wrap the backends of ``build``: the first one used writes its process id to ``folder`` and waits to be killed.

    The others record theirs.
    """

    class Backend:
        def __init__(self, model):
            self.backend = build(model)

        def sample(self, *args):
            try:
                (folder / "taken").touch(exist_ok=False)
            except FileExistsError:
                (folder / f"worked-{os.getpid()}").touch()
            else:
                (folder / "writing").write_text(str(os.getpid()))
                (folder / "writing").rename(folder / "waiting")
                time.sleep(600)
            return self.backend.sample(*args)

    return Backend


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() and "zombie" not in Path(f"/proc/{pid}/status").read_text()


# The same records


@pytest.mark.slow
def test_a_worker_killed_at_work_changes_no_record(cluster, run, tmp_path):
    requests = requests_of(run)
    alone = run.sampler(None)
    build = first_waits(
        partial(build_sampler, tokenizer=run.tokenizer, params=run.params, base=run.base, support=run.support), tmp_path
    )
    sampler = RaySampler(build, run.path(None), placed(workers=2))
    killer = Killer(tmp_path / "waiting")
    killer.start()
    for temperature in (1.0, 0.0):
        expected = alone.sample(requests, temperature, LIMIT, "test")
        assert len({text for answers in texts(expected) for text in answers}) > 8
        assert sampler.sample(requests, temperature, LIMIT, "test") == expected
    worked = {int(file.name.partition("-")[2]) for file in tmp_path.glob("worked-*")}
    assert worked
    assert killer.pid not in worked
    assert not alive(killer.pid)


@pytest.mark.slow
def test_a_run_on_ray_makes_the_artifacts_of_one_without(cluster, run, tiny_base, tmp_path):
    on_ray = open_tiny(tiny_base, tmp_path / "ray", sampling__ray__workers=1)
    assert isinstance(on_ray.backend(None), RaySampler)
    assert on_ray.params.digest() == run.params.digest()
    ours, theirs = (sample_solutions(r, Student(None, "base"), "train", 3, 0.7, "test") for r in (on_ray, run))
    assert ours.folder != theirs.folder
    assert ours.id == theirs.id
    assert ours.read().equals(theirs.read())


# Shards


def test_a_lone_worker_that_is_killed_is_followed_by_a_fresh_one(cluster, tmp_path):
    killer = Killer(tmp_path / "waiting")
    killer.start()
    sampler = RaySampler(first_waits(says(str), tmp_path), "hub/model", placed(workers=1))
    assert texts(sampler.sample(numbered(9), 1.0, LIMIT, "test")) == [[str(i)] for i in range(9)]
    (fresh,) = tmp_path.glob("worked-*")
    assert fresh.name != f"worked-{killer.pid}"


def test_a_shard_that_takes_every_worker_with_it_ends_the_run(cluster, tmp_path):
    def answer(seed: int) -> str:
        if seed == 4:
            (tmp_path / f"{os.getpid()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return str(seed)

    sampler = RaySampler(says(answer), "hub/model", placed(workers=2))
    with pytest.raises(
        RuntimeError, match=r"^sampling\.ray: 3 workers were lost with the same 2 requests; .*$"
    ) as error:
        sampler.sample(numbered(8), 1.0, LIMIT, "test")
    assert "\n" not in str(error.value)
    assert len(list(tmp_path.iterdir())) == backend.TRIES


def test_what_a_backend_raises_is_raised_once_and_its_workers_are_let_go(cluster, tmp_path):
    def answer(seed: int) -> str:
        if seed == 4:
            with (tmp_path / "asked").open("a") as file:
                file.write("once ")
            raise ValueError("no such prompt")
        return str(seed)

    sampler = RaySampler(says(answer), "hub/model", placed(workers=2))
    with pytest.raises(ValueError, match=r"^no such prompt$"):
        sampler.sample(numbered(8), 1.0, LIMIT, "test")
    assert (tmp_path / "asked").read_text() == "once "
    assert texts(sampler.sample(numbered(3), 1.0, LIMIT, "test")) == [["0"], ["1"], ["2"]]


def test_a_sampler_that_is_kept_does_not_keep_the_room_of_another(cluster):
    """A failed cell's traceback keeps it; the machine has room for two workers."""
    first, second = (RaySampler(says(str), "hub/model", placed(workers=2)) for _ in range(2))
    for sampler in (first, second, first):
        assert texts(sampler.sample(numbered(3), 1.0, LIMIT, "test")) == [["0"], ["1"], ["2"]]


def test_the_bar_advances_with_every_shard(cluster, monkeypatch):
    advanced = []

    class Bar(tqdm):
        def update(self, n):
            advanced.append(n)
            return super().update(n)

    monkeypatch.setattr(backend, "tqdm", Bar)
    sampler = RaySampler(says(str), "hub/model", placed(workers=1))
    sampler.sample(numbered(8), 1.0, LIMIT, "test")
    assert [n for n in advanced if n] == [2] * 4


def test_requests_that_begin_alike_stay_together():
    requests = [Request((*prefix, end), n, 0, common=len(prefix)) for prefix, end, n in (
        ((1, 2), 0, 2), ((3, 4, 5), 0, 1), ((1, 2), 1, 2), ((6,), 0, 1), ((3, 4, 5), 1, 1), ((7,), 0, 9), ((1, 2), 2, 2)
    )]  # fmt: skip
    assert shards(requests, 4) == [[1, 4], [0, 2, 6], [3], [5]]
    assert shards(requests, 8) == [[1, 4, 0, 2, 6], [3], [5]]
    assert shards([], 4) == []


# Where Ray can't do what is asked for


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"workers": 3}, "sampling.ray.workers = 3: Ray's machines have room for 2, each with cpus_per_worker = 1 and "
         "gpus_per_worker = 0; "),
        ({"workers": 1, "cpus": 3}, "sampling.ray.workers = 1: Ray's machines have room for 0, each with "
         "cpus_per_worker = 3 and gpus_per_worker = 0; "),
        ({"workers": 1, "gpus": 1}, "sampling.ray.workers = 1: Ray's machines have room for 0, each with "
         "cpus_per_worker = 1 and gpus_per_worker = 1; "),
    ],
)  # fmt: skip
def test_more_than_the_machines_hold_is_refused(cluster, asked, message):
    with pytest.raises(ParamsError) as error:
        RaySampler(says(str), "hub/model", placed(**asked))
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_a_worker_that_does_not_see_the_models_folder_says_so(cluster, tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    sampler = RaySampler(says(str), "model", placed(workers=1))
    (tmp_path / "model").rmdir()
    with pytest.raises(ParamsError, match=rf"^sampling\.ray: machine \S+ has no folder {tmp_path}/model: put the "):
        sampler.sample(numbered(1), 1.0, LIMIT, "test")


@pytest.mark.slow
def test_machines_with_gpus_come_and_go(cluster, tmp_path):
    """Two workers with a GPU each on a separate machine that is then lost."""
    machine = cluster.add_node(num_cpus=2, num_gpus=2, object_store_memory=MEMORY)

    def answer(seed: int) -> str:
        (tmp_path / f"{seed}").touch()
        while len(list(tmp_path.iterdir())) < 2 or seed == 2:  # both are at work; 2: until its machine is gone
            time.sleep(0.02)
        return os.environ["CUDA_VISIBLE_DEVICES"]

    sampler = RaySampler(says(answer), "hub/model", placed(workers=2, gpus=1, rows=1))
    assert {text for (text,) in texts(sampler.sample(numbered(2), 1.0, LIMIT, "test"))} == {"0", "1"}
    with pytest.raises(RuntimeError, match=r"^sampling\.ray: every worker is lost, and no machine is left with room"):
        threading.Timer(1, lambda: cluster.remove_node(machine)).start()
        sampler.sample(numbered(3)[2:], 1.0, LIMIT, "test")


def test_workers_without_gpus_see_none(cluster, monkeypatch):
    def answer(seed: int) -> str:
        return repr(os.environ["CUDA_VISIBLE_DEVICES"])

    sampler = RaySampler(says(answer), "hub/model", placed(workers=1))
    assert texts(sampler.sample(numbered(1), 1.0, LIMIT, "test")) == [["''"]]


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nonsense"])
def test_an_address_without_ray_is_told_at_once(monkeypatch, address):
    ray.shutdown()
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ParamsError, match=rf"^RAY_ADDRESS = '{address}': no Ray there \(.*\); give the address"):
        RaySampler(says(str), "hub/model", placed(workers=1))


@pytest.mark.slow
def test_without_an_address_a_ray_is_started(monkeypatch):
    ray.shutdown()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    sampler = RaySampler(says(str), "hub/model", placed(workers=1))
    assert texts(sampler.sample(numbered(2), 1.0, LIMIT, "test")) == [["0"], ["1"]]
    ray.shutdown()
