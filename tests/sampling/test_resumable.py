"""Sampling in shards: the same completions, each sampled once, whatever was interrupted."""

import pandas as pd
import pytest

from glore_lib.artifacts.store import Store
from glore_lib.sampling import Completion, Request
from glore_lib.sampling.resumable import ResumableSampler
from tiny import Scripted

REQUESTS = [Request(tuple(range(5, 8 + i % 6)), 1 + i % 4, seed=i, first=i % 2) for i in range(12)]


class Counted(Scripted):
    """A sampler that stops before shard number ``stop``."""

    stop: int | None = None

    def sample(self, *arguments) -> list[list[Completion]]:
        if len(self.calls) == self.stop:
            raise KeyboardInterrupt
        return super().sample(*arguments)


@pytest.fixture
def sampler(tokenizer) -> Counted:
    return Counted(tokenizer, lambda prompt, seed, number: "1 " * (1 + seed % 3), limit=2)


def ask(sampler: Counted, store: Store, size: int) -> list[list[Completion]]:
    found = []

    def make() -> pd.DataFrame:
        found.extend(ResumableSampler(sampler, store.shard, size).sample(REQUESTS, 0.7, 9, "test"))
        return pd.DataFrame({"question_id": [], "text": [], "source": []}, dtype="str")

    store.frame("x", "solutions", {}, make)
    return found


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_shards_make_up_the_whole(sampler, tmp_path, size):
    whole = sampler.sample(REQUESTS, 0.7, 9, "test")
    assert {c.finished for answer in whole for c in answer} == {True, False}
    assert ResumableSampler(sampler, Store(tmp_path).shard, size).sample(REQUESTS, 0.7, 9, "test") == whole
    assert ask(sampler, Store(tmp_path), size) == whole
    assert ResumableSampler(sampler, Store(tmp_path).shard, size).sample([], 0.7, 9, "test") == []


def test_a_single_shard_keeps_the_order_of_requests(sampler, tmp_path):
    ResumableSampler(sampler, Store(tmp_path).shard, 1000).sample(REQUESTS, 0.7, 9, "test")
    assert sampler.calls == [REQUESTS]


@pytest.mark.parametrize("stop", [0, 1, 3])
def test_no_finished_shard_is_sampled_again(sampler, tmp_path, stop):
    whole = ResumableSampler(sampler, Store(tmp_path).shard, 7).sample(REQUESTS, 0.7, 9, "test")
    all_shards, sampler.calls = sampler.calls, []
    sampler.stop = stop
    with pytest.raises(KeyboardInterrupt):
        ask(sampler, Store(tmp_path), 7)
    sampler.stop = None
    assert ask(sampler, Store(tmp_path), 7) == whole
    assert sampler.calls == all_shards
    assert len(all_shards) > 3
