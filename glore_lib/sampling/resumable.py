"""Sampling in parts that are kept: what was sampled before an interruption is not sampled again."""

from collections.abc import Callable
from dataclasses import astuple
from itertools import groupby, islice
from typing import Any

import pandas as pd

from glore_lib.sampling import Completion, Request, Sampler

BATCHES = 16  # in a part, where they are full: what an interruption loses, against batches that are not


class ResumableSampler:
    """A :class:`glore_lib.sampling.Sampler` that gives ``sampler`` ``size`` samples at a time and has ``keep`` (of
    :meth:`glore_lib.artifacts.store.Store.shard`) keep them. The parts depend on the requests alone, so that completions are the
    same, to the last bit, whatever was interrupted."""

    def __init__(self, sampler: Sampler, keep: Callable[[Any, Callable[[], pd.DataFrame]], pd.DataFrame], size: int):
        self.sampler, self.keep, self.size = sampler, keep, size

    def sample(
        self, requests: list[Request], temperature: float, max_new_tokens: int, progress: str
    ) -> list[list[Completion]]:
        """See :meth:`glore_lib.sampling.Sampler.sample`; parts that are kept already are not sampled."""
        completions: list[list[Completion]] = [[] for _ in requests]
        for part in map(sorted, shards(requests, self.size)):
            asked = [requests[i] for i in part]

            def make(asked: list[Request] = asked) -> pd.DataFrame:
                answers = self.sampler.sample(asked, temperature, max_new_tokens, progress)
                rows = [(c.text, c.finished, c.ids) for answer in answers for c in answer]
                return pd.DataFrame(rows, columns=["text", "finished", "ids"])

            key = [[astuple(request) for request in asked], temperature, max_new_tokens]
            rows = self.keep(key, make).itertuples(index=False)
            for i in part:
                completions[i] = [
                    Completion(row.text, row.finished, tuple(map(int, row.ids))) for row in islice(rows, requests[i].n)
                ]
        return completions


def shards(requests: list[Request], size: int) -> list[list[int]]:
    """Indices of requests, longest prefixes first, in parts of at most ``size`` samples, or of one prefix: requests
    that share theirs stay together."""
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
