"""The vLLM backend with the real engine, against the transformers backend. ``make test-vllm`` runs these."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import psutil
import pytest
import ray
import torch
from peft import PeftModel
from tqdm import tqdm

from glore_lib.artifacts.store import Artifact
from glore_lib.method.students import Student, sample_solutions
from glore_lib.models.loading import adapt, load_model, save_model
from glore_lib.models.sources import MINI_BASE
from glore_lib.models.tokens import encode, load_tokenizer
from glore_lib.params import Finetuning, ParamsError
from glore_lib.run import Run
from glore_lib.sampling import Completion, Request
from glore_lib.sampling import vllm as backend
from glore_lib.sampling.transformers import TransformersSampler
from glore_lib.sampling.vllm import join_adapters
from glore_lib.tasks.arithmetic import Arithmetic
from tiny import open_tiny

engine = pytest.mark.skipif(not find_spec("vllm"), reason="vllm is not installed; make test-vllm has it")
slow = pytest.mark.slow
TOKENIZER = load_tokenizer(str(MINI_BASE))
QUESTIONS = Arithmetic("easy").questions("train", 8, 0)
PROMPTS = [tuple(encode(TOKENIZER, q.question + "\n").ids) for q in QUESTIONS]
SOLVED = tuple(encode(TOKENIZER, QUESTIONS[0].question + "\n", QUESTIONS[0].reference_solution.split("\n")).ids)
GREEDY = [Request(prompt, 1, seed=0) for prompt in PROMPTS]


def open_vllm(store: Path, source: Path = MINI_BASE, **overrides) -> Run:
    return open_tiny(
        source, store, **{"sampling__backend": "vllm", "sampling__vllm__memory_fraction": 0.1} | overrides
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def small_cpu_engine() -> Iterator[None]:
    """Configure the engine's CPU build: 1 GiB for its cache, and no compilation in advance."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("VLLM_CPU_CI_ENV", "1")
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Open a run whose engine the tests share, because it takes half a minute to start."""
    run = open_vllm(tmp_path_factory.mktemp("run"))
    yield run
    run.free()


def sample(run: Run, requests: list[Request], temperature: float = 1.0, limit: int = 60) -> list[list[Completion]]:
    return run.sampler(None).sample(requests, temperature, limit, "test")


def greedy_of_transformers(source: Path, requests: list[Request] = GREEDY, limit: int = 60) -> list[list[Completion]]:
    return TransformersSampler(load_model(str(source), "float32"), TOKENIZER, 64).sample(requests, 0.0, limit, "test")


def engines(pid: int | None = None) -> list[psutil.Process]:
    """List the living engine processes below a process, by default this one: each engine before its worker.

    They are found by their parents: vLLM does not name them if the environment's first variable was changed.
    """
    living = []
    for process in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has ended, if only as a zombie
            if "multiprocessing.resource_tracker" not in " ".join(process.cmdline()):
                living.append(process)
    return living


def save_adapter(start: Path, folder: Path, seed: int, rank: int, alpha: int, targets: list[str]) -> Path:
    """Save an adapter over the model in ``start`` whose weights are all random, as after training."""
    finetuning = Finetuning(
        method="lora", lora_rank=rank, lora_alpha=alpha, lora_targets=targets, batch_size=1, micro_batch_size=1,
        max_length=1,
    )  # fmt: skip
    model = adapt(load_model(str(start), "float32"), finetuning, seed)
    torch.manual_seed(seed)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.15)
    folder.mkdir()
    save_model(model, TOKENIZER, str(start), folder)
    return folder


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Save an adapter over the base, and another adapter over that."""
    root = tmp_path_factory.mktemp("adapters")
    first = save_adapter(MINI_BASE, root / "first", 1, 4, 8, ["q_proj", "v_proj", "gate_proj"])
    return [first, save_adapter(first, root / "second", 2, 3, 12, ["q_proj", "down_proj"])]


@engine
@slow
def test_greedy_is_the_transformers_backends(run):
    requests = [Request(prompt, 2, seed=i) for i, prompt in enumerate([*PROMPTS, SOLVED])]
    got = sample(run, requests, 0.0)
    assert got == greedy_of_transformers(MINI_BASE, requests)
    assert sum("####" in completions[0].text for completions in got) > 4


@engine
@slow
def test_completions_end_as_they_do_with_the_other_backend(run):
    """With the line of the answer, with the end-of-sequence token, and at the token limit."""
    ((answered,), (ended,)) = sample(run, [Request(PROMPTS[0], 1, 0), Request(SOLVED, 1, 0)], 0.0)
    assert answered.text.splitlines()[-1].startswith("####")
    assert answered.text.endswith("\n")
    assert answered.finished
    # A verdict, and the end-of-sequence token.
    assert (ended.text, ended.finished, ended.tokens) == ("right\n", True, 3)
    for limit in (1, answered.tokens - 1, answered.tokens):
        expected = greedy_of_transformers(MINI_BASE, GREEDY[:1], limit)
        assert sample(run, GREEDY[:1], 0.0, limit) == expected
        assert expected[0][0].finished == (limit == answered.tokens)


@engine
@slow
def test_samples_are_made_by_their_seeds(run):
    requests = [Request(prompt, 6, seed=i) for i, prompt in enumerate(PROMPTS)]
    first = sample(run, requests)
    assert sample(run, requests) == first
    assert [len(completions) for completions in first] == [6] * 8
    assert sum(len({c.text for c in completions}) for completions in first) > 16
    assert sample(run, [Request(r.prompt, r.n, r.seed + 100) for r in requests]) != first


@engine
@slow
def test_a_completion_is_the_same_whatever_is_asked_beside_it(run):
    requests = [Request(prompt, 8, seed=3) for prompt in PROMPTS]
    whole = sample(run, requests)
    waves = [
        sample(run, [Request(r.prompt, n, r.seed, first) for r in requests])
        for first, n in ((0, 1), (1, 1), (2, 2), (4, 4))
    ]
    assert [list(chain(*parts)) for parts in zip(*waves, strict=True)] == whole
    assert sample(run, requests[::-1])[::-1] == whole
    assert sample(run, requests[2:3]) == whole[2:3]


@engine
@pytest.mark.parametrize("invariant", [True, False])
def test_the_engine_is_told_whether_to_be_batch_invariant(tmp_path, monkeypatch, invariant):
    """Check the run's parameter, and not the shell's variable, decides."""
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", str(int(not invariant)))
    told: dict[str, str] = {}

    def stop(**_):
        told.update(os.environ)
        raise KeyboardInterrupt

    monkeypatch.setattr("vllm.EngineArgs", stop)
    with pytest.raises(KeyboardInterrupt):
        sample(open_vllm(tmp_path, sampling__vllm__batch_invariant=invariant), GREEDY[:1])
    assert told["VLLM_BATCH_INVARIANT"] == str(int(invariant))


@engine
@slow
def test_a_prompt_that_leaves_no_room_is_reported_in_one_line(run):
    room = 384 - len(PROMPTS[0])
    message = rf"^sampling\.max_new_tokens = {room + 1}: .* exceeds the model's context of 384; lower it.*$"
    with pytest.raises(ParamsError, match=message):
        sample(run, GREEDY[:1], 0.0, room + 1)
    assert sample(run, GREEDY[:1], 0.0, room) == greedy_of_transformers(MINI_BASE, GREEDY[:1])


@engine
@slow
def test_nothing_asked_nothing_given(run):
    assert sample(run, []) == []


@engine
@slow
def test_samples_of_the_backends_are_artifacts_of_their_own(run):
    made = sample_solutions(run, Student(None, "base"), "test", 2, 0.7, "try")
    assert made.read().groupby("question_id").size().to_dict() == dict.fromkeys(run.questions("test"), 2)
    other = open_tiny(MINI_BASE, run.store.root)
    assert sample_solutions(other, Student(None, "base"), "test", 2, 0.7, "try").id != made.id


@engine
@slow
@pytest.mark.parametrize("when", ["between two calls", "at work"])
@pytest.mark.parametrize("number", [0, 1], ids=["engine", "worker"])
def test_an_engine_that_is_killed_is_told_and_the_next_call_starts_another(run, monkeypatch, number, when):
    expected = sample(run, GREEDY, 0.0)
    sampler, processes = run.sampler(None), engines()
    assert len(processes) == 2
    victim = processes[number]

    class Bar(tqdm):
        def update(self, n=1):  # the first sample has ended
            if victim.is_running():
                victim.kill()
            return super().update(n)

    if when == "at work":
        monkeypatch.setattr(backend, "tqdm", Bar)
    else:
        victim.kill()
    with pytest.raises(ParamsError) as error:
        sampler.sample([Request(prompt, 100, seed=0) for prompt in PROMPTS], 1.0, 60, "test")
    message = (
        r"sampling\.backend = 'vllm': vLLM died \(one of its processes was killed, as the system does where the "
        r"machine's memory runs out\); free some of the machine's memory and run again, or set it to transformers"
    )
    assert re.fullmatch(message, str(error.value))  # what the engine wrote is a note beside it
    assert not psutil.wait_procs(processes, timeout=60)[1]
    monkeypatch.setattr(backend, "tqdm", tqdm)
    assert sampler.sample(GREEDY, 0.0, 60, "test") == expected


@engine
@slow
def test_more_prompts_than_are_read_at_once_have_seeds(tmp_path):
    """The engine reads up to 4,096 tokens at once."""
    questions = Arithmetic("hard").questions("train", 100, 0)
    prompts = [tuple(encode(TOKENIZER, q.question + "\n").ids) for q in questions]
    assert sum(map(len, prompts)) > 4096
    many = open_vllm(tmp_path, sampling__rows=128)
    try:
        found = sample(many, [Request(prompt, 1, seed=i) for i, prompt in enumerate(prompts)], limit=4)
    finally:
        many.free()
    assert [len(completions) for completions in found] == [1] * len(prompts)


@engine
@slow
def test_loading_a_model_ends_the_engine(run):
    sample(run, GREEDY[:1])
    assert len(engines()) == 2  # the engine and its worker
    run.load(None)
    assert engines() == []


@engine
@slow
@pytest.mark.parametrize("number", [0, 1], ids=["an adapter", "an adapter over an adapter"])
def test_adapters_are_applied(run, adapters, number):
    sampler = run.backend(Artifact(adapters[number]))
    got = sampler.sample(GREEDY, 0.0, 60, "test")
    assert got == greedy_of_transformers(adapters[number])
    assert got != greedy_of_transformers(MINI_BASE)
    assert run.backend(Artifact(adapters[number])) is sampler
    assert len(engines()) == 2  # not also the one that ran before


@engine
@slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"memory_fraction": 0.999}, r"sampling\.vllm\.memory_fraction = 0\.999: vLLM did not start \(Available memory "
         r".*\); lower it or sampling\.rows if memory is in use, .*"),
        ({"tensor_parallel_size": 3}, r"sampling\.vllm\.tensor_parallel_size = 3: vLLM did not start \(.*heads \(4\) "
         r"must be divisible .*\); must divide the model's attention heads, and there must be as many GPUs"),
    ],
    ids=["too little memory", "heads that can't be shared"],
)  # fmt: skip
def test_an_engine_that_does_not_start_is_reported_in_one_line(tmp_path, monkeypatch, overrides, message):
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE")
    before = engines()
    run = open_vllm(tmp_path, **{f"sampling__vllm__{name}": value for name, value in overrides.items()})
    with pytest.raises(ParamsError) as error:
        sample(run, GREEDY)
    assert re.fullmatch(message, str(error.value))
    assert engines() == before


@engine
@slow
def test_a_model_that_vllm_does_not_know_is_reported_in_one_line(tmp_path):
    load_model(str(MINI_BASE), "float32").save_pretrained(tmp_path / "model")
    TOKENIZER.save_pretrained(tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"architectures": ["NewKindForCausalLM"]}))
    run = open_vllm(tmp_path, tmp_path / "model")
    message = (
        r"^base_model\.source = .*: vLLM did not start \(.*NewKindForCausalLM.*\); name a model that vLLM supports"
    )
    with pytest.raises(ParamsError, match=message):
        sample(run, GREEDY)


@engine
@slow
def test_engines_in_ray_workers_give_the_same_and_end_with_them(run, tmp_path, monkeypatch):
    requests = [Request(prompt, 2, seed=i) for i, prompt in enumerate(PROMPTS)]
    expected = [sample(run, requests, temperature) for temperature in (0.0, 1.0)]
    run.free()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_worker_niceness", "0")  # Ray's 15 starves workers where the machine does something else
    on_ray = open_vllm(tmp_path, sampling__ray__workers=2)
    processes: list[psutil.Process] = []
    try:
        for answers, temperature in zip(expected, (0.0, 1.0), strict=True):
            sampler = on_ray.sampler(None)  # a new one, whose workers take the place of the last one's
            assert sampler.sample(requests, temperature, 60, "test") == answers
            assert not psutil.wait_procs(processes, timeout=60)[1]
            pids = ray.get([w.__ray_call__.remote(lambda _: os.getpid()) for w in sampler.sampler._free])
            below = [engines(pid) for pid in pids]
            assert [len(each) for each in below] == [2, 2]
            processes = list(chain(*below))
        del sampler  # as when a stage has its samples
        assert not psutil.wait_procs(processes, timeout=60)[1]
    finally:
        ray.shutdown()


def test_adapters_over_each_other_are_joined_into_one(adapters, tmp_path):
    joined = join_adapters([str(adapter) for adapter in adapters], tmp_path / "joined")
    model = PeftModel.from_pretrained(load_model(str(MINI_BASE), "float32"), str(joined))
    ids = torch.tensor([SOLVED])
    with torch.inference_mode():
        expected, got = (m(input_ids=ids).logits for m in (load_model(str(adapters[1]), "float32"), model))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-3)
    assert json.loads((joined / "adapter_config.json").read_text())["r"] == 7
