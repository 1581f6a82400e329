"""Sample with Ray workers on one machine or several, each with its own backend; the completions are the same.

A completion depends only on its request, so any worker can compute it, more than once if need be. Requests are split
into shards; a free worker takes the next shard, and the shard of a lost worker goes to another. Every machine needs
this package and the models' folders under the same paths, so the machines of a cluster need a shared file system.
"""

# sampling.ray is optional in the parameters, and present whenever this module is used.
# mypy: disable-error-code="union-attr"

import logging
import os
import platform
import signal
import socket
from collections import Counter, deque
from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import Any
from weakref import WeakSet

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError
from tqdm import tqdm

from glore_lib.params import ParamsError, Sampling
from glore_lib.sampling import Answers, Request, Sampler
from glore_lib.sampling.resumable import shards

SHARDS = 4  # shards per worker, if they fill its batches: the last shard then ends soon after the others
TRIES = 3  # attempts at a shard whose worker is lost


class RaySampler:
    """A :class:`glore_lib.sampling.Sampler` with Ray workers, each with a backend that ``build`` makes from ``model``.

    Raises ParamsError if Ray is unreachable, has no room for the workers, or a machine lacks the folder ``model``;
    RuntimeError if workers are lost repeatedly; and what a backend raises.
    """

    def __init__(self, build: Callable[[str], Sampler], model: str, sampling: Sampling):
        self._build, self._rows, self._placement = build, sampling.rows, sampling.ray
        self._model = str(Path(model).absolute()) if Path(model).is_dir() else model
        self._free: list[ActorHandle] = []
        self._busy: dict[ray.ObjectRef, tuple[ActorHandle, list[int]]] = {}  # worker and shard; no shard: loading
        _samplers.add(self)
        _connect()
        if (room := self._room()) < self._placement.workers:
            raise ParamsError(
                f"sampling.ray.workers = {self._placement.workers}: Ray's machines have room for {room}, each with "
                f"cpus_per_worker = {self._placement.cpus_per_worker} and gpus_per_worker = "
                f"{self._placement.gpus_per_worker}; lower these, or add machines with ray start"
            )

    def sample(self, requests: list[Request], temperature: float, max_new_tokens: int, progress: str) -> Answers:
        """Distribute the requests; see :meth:`glore_lib.sampling.Sampler.sample` and, for errors, the class."""
        completions: Answers = [[] for _ in requests]
        todo = deque(shards(requests, self._shard_size(sum(r.n for r in requests))))
        losses: Counter[tuple[int, ...]] = Counter()
        for other in _samplers - {self}:  # one kept alive by a traceback would keep its workers' resources
            other._dismiss()
        try:
            with tqdm(total=sum(r.n for r in requests), desc=progress, unit="sample", leave=False) as bar:
                while todo or any(shard for _, shard in self._busy.values()):
                    self._hire()
                    while todo and self._free:
                        worker, shard = self._free.pop(), todo.popleft()
                        asked = [requests[i] for i in shard]
                        self._busy[worker.sample.remote(asked, temperature, max_new_tokens, progress)] = worker, shard
                    (done,), _ = ray.wait(list(self._busy))
                    worker, shard = self._busy.pop(done)
                    try:
                        answers = ray.get(done)
                    except RayTaskError as error:
                        raise error.cause from error
                    except RayError as error:  # the worker's process or machine is lost
                        ray.kill(worker)  # it may only be unreachable
                        todo.extendleft([shard] if shard else [])
                        losses[tuple(shard)] += 1
                        if losses[tuple(shard)] == TRIES:
                            raise RuntimeError(_gave_up(len(shard), error)) from error
                        continue
                    self._free.append(worker)
                    for i, answer in zip(shard, answers, strict=True):
                        completions[i] = answer
                    bar.update(sum(requests[i].n for i in shard))
        except BaseException:
            self._dismiss()
            raise
        return completions

    def _hire(self) -> None:
        """Start missing workers, as many as there is room for: machines may be lost too."""
        missing = self._placement.workers - len(self._free) - len(self._busy)
        if missing:
            missing = min(missing, self._room() - len(self._free) - len(self._busy))
        need = {"num_cpus": self._placement.cpus_per_worker, "num_gpus": self._placement.gpus_per_worker}
        for _ in range(missing):
            actor = ray.remote(_Worker).options(scheduling_strategy="SPREAD", **need)
            worker = actor.remote(self._build, self._model)
            self._busy[worker.load.remote()] = worker, []  # type: ignore[assignment, attr-defined]
        if not self._busy and not self._free:
            raise RuntimeError("sampling.ray: every worker is lost, and no machine is left with room for one")

    def _dismiss(self) -> None:
        for worker in [*self._free, *(worker for worker, _ in self._busy.values())]:
            ray.kill(worker)
        self._free, self._busy = [], {}

    def _room(self) -> int:
        """Return how many workers Ray's machines could hold if nothing else ran there."""
        need = {"CPU": self._placement.cpus_per_worker, "GPU": self._placement.gpus_per_worker}
        return sum(
            min(int(node["Resources"].get(name, 0) // amount) for name, amount in need.items() if amount)
            for node in ray.nodes()
            if node["Alive"]
        )

    def _shard_size(self, samples: int) -> int:
        """Return enough samples to fill a backend's batch, but few enough to give every worker some."""
        workers = self._placement.workers
        return min(ceil(samples / workers), max(self._rows, ceil(samples / workers / SHARDS)))


_samplers: WeakSet[RaySampler] = WeakSet()  # in this process; only one has workers at a time


class _Worker:
    """The actor that Ray runs. It builds its backend in a method: Ray would hide a constructor's error."""

    def __init__(self, build: Callable[[str], Sampler], model: str):
        self.build, self.model = build, model

    def load(self) -> Answers:
        if not ray.get_gpu_ids():
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray does not hide GPUs from workers that use none
        if Path(self.model).is_absolute() and not Path(self.model).is_dir():
            raise ParamsError(
                f"sampling.ray: machine {platform.node()} has no folder {self.model}: put the base model and the "
                "artifacts on a file system that all machines mount at the same path"
            )
        self.sampler = self.build(self.model)
        return []

    def sample(self, *args: Any) -> Answers:
        return self.sampler.sample(*args)


def _connect() -> None:
    """Connect to the cluster at RAY_ADDRESS; if unset, start a local Ray that ends with this process."""
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if port.isdigit():  # checked first: ray.init would retry for minutes
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        handler = signal.getsignal(signal.SIGTERM)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        if callable(handler):  # of the command glore; Ray's would end it without a word
            signal.signal(signal.SIGTERM, handler)
    except (OSError, ValueError, RuntimeError) as error:
        raise ParamsError(
            f"RAY_ADDRESS = {address!r}: no Ray there ({str(error).splitlines()[0]}); give the address that ray start "
            "--head prints, or unset RAY_ADDRESS to use this machine alone"
        ) from None


def _gave_up(requests: int, error: RayError) -> str:
    doing = f"with the same {requests} requests" if requests else "while they loaded the model"
    return (
        f"sampling.ray: {TRIES} workers were lost {doing}; where memory ran out, lower sampling.rows or raise "
        f"cpus_per_worker, so that fewer workers share a machine. Ray says: {' '.join(str(error).split())}"
    )
