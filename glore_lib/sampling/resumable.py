"""Sample in shards that are stored, so that an interrupted run does not sample them again."""

from collections.abc import Callable
from dataclasses import astuple
from itertools import groupby, islice
from typing import Any

import pandas as pd

from glore_lib.sampling import Answers, Completion, Request, Sampler

SHARD_SIZE = 8192  # samples: what an interruption loses at most; larger shards fill batches better


class ResumableSampler:
    """A :class:`glore_lib.sampling.Sampler` that samples shards of ``size`` samples and stores each with ``keep``.

    ``keep`` is :meth:`glore_lib.artifacts.store.Store.shard`. Shards depend on the requests alone, so that the
    completions are bitwise the same after an interruption.
    """

    def __init__(self, sampler: Sampler, keep: Callable[[Any, Callable[[], pd.DataFrame]], pd.DataFrame], size: int):
        self.sampler, self.keep, self.size = sampler, keep, size

    def sample(self, requests: list[Request], temperature: float, max_new_tokens: int, progress: str) -> Answers:
        """Sample only the shards that are not stored; see :meth:`glore_lib.sampling.Sampler.sample`."""
        completions: Answers = [[] for _ in requests]
        for shard in map(sorted, shards(requests, self.size)):
            asked = [requests[i] for i in shard]

            def make(asked: list[Request] = asked) -> pd.DataFrame:
                answers = self.sampler.sample(asked, temperature, max_new_tokens, progress)
                rows = [(c.text, c.finished, c.ids) for answer in answers for c in answer]
                return pd.DataFrame(rows, columns=["text", "finished", "ids"])

            key = [[astuple(request) for request in asked], temperature, max_new_tokens]
            rows = self.keep(key, make).itertuples(index=False)
            for i in shard:
                completions[i] = [
                    Completion(row.text, row.finished, tuple(map(int, row.ids))) for row in islice(rows, requests[i].n)
                ]
        return completions


def shards(requests: list[Request], size: int) -> list[list[int]]:
    """Split requests into shards (their indices) of at most ``size`` samples, longest prefixes first.

    Requests with the same prefix stay in one shard, even if that makes it larger.
    """
    order = sorted(range(len(requests)), key=lambda i: (-requests[i].shared, requests[i].prefix))
    made: list[list[int]] = []
    filled = 0
    for _, same in groupby(order, key=lambda i: requests[i].prefix):
        group = list(same)
        samples = sum(requests[i].n for i in group)
        if not made or filled + samples > size:
            made.append([])
            filled = 0
        made[-1] += group
        filled += samples
    return made
