"""Ray: the same completions from workers on one machine or on many, each with a backend of its own.

A completion depends on its request alone, so any worker may make it, and make it again: requests are cut in shards, a
free worker takes the next one, and the shard of a worker that is lost goes to another. Every machine needs this package
and the models' folders under the same paths, so a cluster needs a file system that its machines share.
"""

import logging
import os
import platform
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

SHARDS = 4  # a worker, where they fill its batches: the last to finish is then not waited for long
TRIES = 3  # with a shard that its worker is lost with


class RaySampler:
    """A :class:`glore_lib.sampling.Sampler`: workers on Ray, each with the backend that ``build`` makes of ``model``.

    Raises ParamsError where Ray is not reached, where its machines have no room for the workers, or where one of them
    has no folder ``model``; RuntimeError where workers are lost again and again. What a backend raises is raised here.
    """

    def __init__(self, build: Callable[[str], Sampler], model: str, sampling: Sampling):
        self._build, self._rows, self._placement = build, sampling.rows, sampling.ray
        self._model = str(Path(model).absolute()) if Path(model).is_dir() else model
        self._free: list[ActorHandle] = []
        self._busy: dict[ray.ObjectRef, tuple[ActorHandle, list[int]]] = {}  # with a shard; with none: loading
        _samplers.add(self)
        _connect()
        if (room := self._room()) < self._placement.workers:
            raise ParamsError(
                f"sampling.ray.workers = {self._placement.workers}: Ray's machines have room for {room}, each with "
                f"cpus_per_worker = {self._placement.cpus_per_worker} and gpus_per_worker = "
                f"{self._placement.gpus_per_worker}; lower these, or add machines with ray start"
            )

    def sample(self, requests: list[Request], temperature: float, max_new_tokens: int, progress: str) -> Answers:
        """See :meth:`glore_lib.sampling.Sampler.sample`; for what is raised, the class."""
        completions: Answers = [[] for _ in requests]
        todo = deque(shards(requests, self._shard_size(sum(r.n for r in requests))))
        losses: Counter[tuple[int, ...]] = Counter()
        for other in _samplers - {self}:  # one that a traceback keeps would keep its workers, and we wait for its room
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
                    except RayError as error:  # the worker's process or machine is gone
                        ray.kill(worker)  # or out of reach
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
        """Starts the workers that are missing, as far as there is room for them: machines may be lost too."""
        missing = self._placement.workers - len(self._free) - len(self._busy)
        if missing:
            missing = min(missing, self._room() - len(self._free) - len(self._busy))
        for _ in range(missing):
            worker = (
                ray.remote(_Worker)
                .options(
                    num_cpus=self._placement.cpus_per_worker,
                    num_gpus=self._placement.gpus_per_worker,
                    scheduling_strategy="SPREAD",
                )
                .remote(self._build, self._model)
            )
            self._busy[worker.load.remote()] = worker, []
        if not self._busy and not self._free:
            raise RuntimeError("sampling.ray: every worker is lost, and no machine is left with room for one")

    def _dismiss(self) -> None:
        for worker in [*self._free, *(worker for worker, _ in self._busy.values())]:
            ray.kill(worker)
        self._free, self._busy = [], {}

    def _room(self) -> int:
        """How many workers Ray's machines could hold if nothing else ran there."""
        need = {"CPU": self._placement.cpus_per_worker, "GPU": self._placement.gpus_per_worker}
        return sum(
            min(int(node["Resources"].get(name, 0) // amount) for name, amount in need.items() if amount)
            for node in ray.nodes()
            if node["Alive"]
        )

    def _shard_size(self, samples: int) -> int:
        """Enough samples to fill a backend's batch, unless then workers would have none."""
        workers = self._placement.workers
        return min(ceil(samples / workers), max(self._rows, ceil(samples / workers / SHARDS)))


_samplers: WeakSet[RaySampler] = WeakSet()  # those of this process; one has workers at a time


class _Worker:
    """What runs on Ray. The backend is built by a call: Ray would hide why a constructor failed."""

    def __init__(self, build: Callable[[str], Sampler], model: str):
        self.build, self.model = build, model

    def load(self) -> Answers:
        if not ray.get_gpu_ids():
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray hides no GPU from workers that asked for none
        if Path(self.model).is_absolute() and not Path(self.model).is_dir():
            raise ParamsError(
                f"sampling.ray: machine {platform.node()} has no folder {self.model}: put the base model and the "
                "artifacts on a file system that all machines have under the same path"
            )
        self.sampler = self.build(self.model)
        return []

    def sample(self, *args: Any) -> Answers:
        return self.sampler.sample(*args)


def _connect() -> None:
    """To the cluster at RAY_ADDRESS; where that is not set, to a Ray of our own, which ends with this process."""
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if port.isdigit():  # asked first: ray.init would try for minutes
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
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
