"""Check what the benchmarks compare the sampler with: sampling without sharing, and `model.generate`."""

import importlib.util

import pytest
import torch

from glore_lib.models.loading import load_model
from glore_lib.models.sources import MINI_BASE
from glore_lib.models.tokens import encode, load_tokenizer
from glore_lib.sampling import Request
from glore_lib.sampling.transformers import TransformersSampler
from glore_lib.tasks.arithmetic import Arithmetic
from glore_lib.workflow.pipeline import ROOT

spec = importlib.util.spec_from_file_location("measure", ROOT / "benchmarks" / "measure.py")
measure = importlib.util.module_from_spec(spec)
spec.loader.exec_module(measure)


@pytest.fixture(scope="module")
def mini():
    return load_model(str(MINI_BASE), "float32"), load_tokenizer(str(MINI_BASE))


@pytest.fixture(scope="module")
def requests(mini) -> list[Request]:
    task = Arithmetic("easy")
    questions = [encode(mini[1], task.prompt(q.question)) for q in task.questions("train", 3, 0)]
    return [Request(tuple(q.ids), 4, seed, common=q.prompt_length) for seed, q in enumerate(questions)]


@pytest.mark.parametrize("share_questions", [True, False])
def test_sampling_without_sharing_gives_the_same_completions(mini, requests, share_questions):
    model, tokenizer = mini
    expected = TransformersSampler(model, tokenizer, 16).sample(requests, 0.8, 60, "")
    work = measure.Work()
    hook = work.watch(model)
    assert measure.Alone(model, tokenizer, 16, share_questions).sample(requests, 0.8, 60, "") == expected
    hook.remove()
    completions = [c for of_request in expected for c in of_request]
    assert work.decoded >= sum(c.tokens for c in completions)
    longest = max(len(r.prompt) for r in requests) - 1
    assert work.read == longest * len(requests) * (1 if share_questions else 4)


def test_generate_stops_where_the_sampler_does(mini, requests):
    """At a temperature near 0, the texts are the greedy ones."""
    model, tokenizer = mini
    sampler = TransformersSampler(model, tokenizer, 16)
    greedy = [c for of_request in sampler.sample(requests, 0.0, 80, "") for c in of_request]
    assert all(c.finished for c in greedy)
    model.set_attn_implementation("sdpa")
    torch.manual_seed(0)
    assert measure.generating(model, tokenizer, 4, 1e-4)(requests, 80) == sum(c.tokens for c in greedy)
