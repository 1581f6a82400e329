"""The vLLM backend: an engine in processes of its own, with continuous batching, prefix caching, tensor parallelism and
adapters that are not merged.

Every completion is a request of its own. vLLM splits a request for n samples in the same way, but then none of them can
be stopped alone, with the line that holds the final answer. What prompts begin with alike is read once.

A completion's random numbers come from ``(seed, j)`` alone, so that it is the same whatever is asked for beside it, up
to floating-point rounding: the engine's kernels round differently in batches of other sizes, and where two tokens are
nearly as likely that may decide. Another backend draws other samples from the same seed.
"""

import gc
import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count, islice
from multiprocessing import connection
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from glore_lib.models.loading import base_and_adapters, locate
from glore_lib.params import ParamsError, Sampling
from glore_lib.sampling import Answers, Completion, Request, newline_tokens
from glore_lib.solutions import ANSWER_MARK

if TYPE_CHECKING:  # importing it takes seconds, and most machines don't have it
    from vllm import LLMEngine
    from vllm.lora.request import LoRARequest

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # an adapter's files, as peft names them
# An error as a process of the engine tells it, alone or in its log. One whose worker is gone tells "cancelled".
_ERROR = re.compile(r"^(?:\([^)]*\) ERROR [^\]]*\] )?[\w.]*(?:Error|Exception): (?!cancelled$)(.+)", re.MULTILINE)
# What ended it where no process has told an error.
_KILLED = "one of its processes was killed, as the system does where the machine's memory runs out"


@dataclass
class _Row:
    """A sample while it grows."""

    request: Request
    number: int
    tokens: list[int] = field(default_factory=list)
    line: int = 0  # where the last line starts in ``tokens``
    finished: bool = False

    @property
    def seed(self) -> int:
        """As many bits as vLLM takes: seeds of different rows are never the same."""
        return int(np.random.SeedSequence([self.request.seed, self.number]).generate_state(1, np.uint64)[0] >> 1)


class VLLMSampler:
    """A :class:`glore_lib.sampling.Sampler` of the model in ``source``: a folder, also an adapter's, or a hub name.

    The engine starts with the first requests and holds the GPU until :meth:`free`.
    """

    def __init__(self, source: str, tokenizer: PreTrainedTokenizerBase, dtype: str, params: Sampling):
        self.source, self.tokenizer, self.dtype, self.params = source, tokenizer, dtype, params
        self._newlines = newline_tokens(tokenizer)
        self._names = map(str, count())
        self._resources = ExitStack()
        self._log: Path | None = None
        self._engine: LLMEngine | None = None
        self._adapter: LoRARequest | None = None

    def sample(self, requests: list[Request], temperature: float, max_new_tokens: int, progress: str) -> Answers:
        """Raises ParamsError where the engine does not start, or dies, or where a prompt and its answer may be longer
        than it reads."""
        if not requests:
            return []
        if not self._engine:
            self._start()
        from vllm.v1.engine.exceptions import EngineDeadError
        from zmq import ZMQError  # a request was on its way to an engine that died

        self._check(max((len(r.prompt) for r in requests), default=0), max_new_tokens)
        samples = [[_Row(r, j) for j in range(r.first, r.first + r.n)] for r in requests]
        # Prompts that begin alike come after each other, while what they have in common is still cached.
        order = sorted(range(len(requests)), key=lambda i: requests[i].prompt)
        waiting = (row for i in order for row in samples[i])
        watched = self._watched(EngineDeadError, ZMQError)
        with watched, tqdm(total=sum(r.n for r in requests), desc=progress, unit="sample", leave=False) as bar:
            for _ in self._grow(waiting, temperature, max_new_tokens):
                bar.update()
        return [[self._completion(row) for row in rows] for rows in samples]

    def free(self) -> None:
        """Ends the engine's processes, and with them their hold on the GPU."""
        self._engine = None
        self._resources.close()

    def _start(self) -> None:
        gc.collect()  # models that were trained or scored with before
        torch.cuda.empty_cache()
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # or it reports what it runs to its makers
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"  # a fork would inherit this process's threads and GPU
        from vllm import EngineArgs, LLMEngine
        from vllm.usage.usage_lib import UsageContext

        folder = Path(self._resources.enter_context(TemporaryDirectory(prefix="glore-vllm-")))
        self._log = folder / "log.txt"
        with self._watched(Exception), _output_to(self._log):
            base, adapters = base_and_adapters(self.source)
            model, revision = locate(base)
            arguments = EngineArgs(
                model=model, **revision, load_format="safetensors",  # never pickled weights
                dtype=self.dtype, max_model_len=-1, max_num_seqs=self.params.rows,
                tensor_parallel_size=self.params.vllm.tensor_parallel_size,
                gpu_memory_utilization=self.params.vllm.memory_fraction, enable_prefix_caching=True,
                # Prompts come as tokens and go back as tokens, and what ends a text is decided here.
                skip_tokenizer_init=True, generation_config="vllm", disable_log_stats=True,
                **(self._adapt(adapters, folder) if adapters else {}),
            )  # fmt: skip
            self._engine = LLMEngine.from_engine_args(arguments, UsageContext.LLM_CLASS, enable_multiprocessing=True)
        self._resources.callback(self._engine.engine_core.shutdown, timeout=60)
        self._end_with_the_engine()

    def _end_with_the_engine(self) -> None:
        """Has :meth:`sample` raise where an engine's process is killed. vLLM sees that too, and closes what the
        engine's outputs come from, but its ``step`` goes on waiting for the next one."""
        from vllm.v1.engine.exceptions import EngineDeadError

        client = self._engine.engine_core
        outputs = client.outputs_queue
        # The processes are kept, for a sentinel is closed with its process.
        ends = {process.sentinel: process for process in client.resources.engine_manager.processes}

        def report_death() -> None:
            connection.wait(list(ends))
            outputs.put(EngineDeadError())

        Thread(target=report_death, daemon=True).start()

    def _adapt(self, adapters: list[str], folder: Path) -> dict[str, Any]:
        """Has requests ask for the adapters; returns what the engine has to be told for it."""
        from vllm.config.lora import MaxLoRARanks
        from vllm.lora.request import LoRARequest

        path = Path(adapters[0]) if len(adapters) == 1 else join_adapters(adapters, folder / "adapter")
        rank, known = json.loads((path / _CONFIG).read_text())["r"], sorted(get_args(MaxLoRARanks))
        if rank > known[-1]:
            raise ParamsError(
                f"finetuning.lora_rank: the adapters that {self.source} stands on have rank {rank} together, and vLLM "
                f"takes at most {known[-1]}; lower it, or set sampling.backend to transformers"
            )
        self._adapter = LoRARequest("adapter", 1, str(path))
        return {"enable_lora": True, "max_lora_rank": next(r for r in known if r >= rank)}

    @contextmanager
    def _watched(self, *errors: type[Exception]) -> Iterator[None]:
        """Tells such errors in one line. After an error or an interruption there is no engine any more."""
        try:
            yield
        except BaseException as error:
            engines = isinstance(error, errors) and not isinstance(error, ParamsError)
            told = self._explain(error) if engines else None
            self.free()
            if told:
                raise told from error
            raise

    def _explain(self, error: Exception) -> ParamsError:
        """The first error that a process of the engine has told is the cause of the others, this process's as well."""
        log = self._log.read_text(errors="replace")
        found = _ERROR.search(log)
        if isinstance(error, ValidationError):
            cause = error.errors()[0]["msg"]
        elif found:
            cause = found[1]
        else:
            cause = _KILLED if self._engine else str(error)
        vllm = self.params.vllm
        if cause == _KILLED:
            setting = "sampling.backend = 'vllm'"
            remedy = "free some of the machine's memory and run again, or set it to transformers"
        elif re.search("memory|cache blocks", cause, re.IGNORECASE):
            setting = f"sampling.vllm.memory_fraction = {vllm.memory_fraction}"
            remedy = (
                "lower it or sampling.rows where something else holds memory, raise it or tensor_parallel_size where "
                "the model needs more"
            )
        elif vllm.tensor_parallel_size > 1 and re.search("parallel|GPU|device|NUMA", cause):
            setting = f"sampling.vllm.tensor_parallel_size = {vllm.tensor_parallel_size}"
            remedy = "must divide the model's attention heads, and there must be as many GPUs"
        elif self._engine:
            setting = "sampling.backend = 'vllm'"
            remedy = "run again, or set it to transformers"
        else:
            setting = f"base_model.source = {base_and_adapters(self.source)[0]!r}"
            remedy = "name a model that vLLM supports, or set sampling.backend to transformers"
        told = ParamsError(
            f"{setting}: vLLM {'died' if self._engine else 'did not start'} ({' '.join(cause.split())}); {remedy}"
        )
        told.add_note(log)
        return told

    def _check(self, longest_prompt: int, max_new_tokens: int) -> None:
        reads = self._engine.model_config.max_model_len
        if longest_prompt + max_new_tokens > reads:
            raise ParamsError(
                f"sampling.max_new_tokens = {max_new_tokens}: the longest prompt has {longest_prompt} tokens, and of "
                f"both together the engine reads {reads}; lower it, or name a model that reads more"
            )

    def _grow(self, waiting: Iterator[_Row], temperature: float, limit: int) -> Iterator[_Row]:
        """Lets the samples grow, and yields each when it has ended."""
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind

        growing: dict[str, _Row] = {}
        while True:
            # Some more than are decoded at a time, so that none waits for this process; all would fill its memory.
            for row in islice(waiting, 2 * self.params.rows - len(growing)):
                name = next(self._names)
                how = SamplingParams(
                    temperature=temperature, seed=row.seed, max_tokens=limit,
                    stop_token_ids=[self.tokenizer.eos_token_id], detokenize=False,
                    output_kind=RequestOutputKind.DELTA,
                )  # fmt: skip
                prompt = tokens_input(list(row.request.prompt))
                self._engine.add_request(name, prompt, how, lora_request=self._adapter)
                growing[name] = row
            if not growing:
                return
            for output in self._engine.step():
                row, (part,) = growing[output.request_id], output.outputs
                if self._append(row, part.token_ids):
                    self._engine.abort_request([output.request_id])
                elif output.finished:
                    row.finished = part.finish_reason == "stop"
                else:
                    continue
                yield growing.pop(output.request_id)

    def _append(self, row: _Row, tokens: list[int]) -> bool:
        """Whether one of the tokens ends the line that holds the final answer; those after it are dropped."""
        for token in tokens:
            row.tokens.append(token)
            if self._newlines[token]:
                row.finished = ANSWER_MARK in self.tokenizer.decode(row.tokens[row.line :])
                row.line = len(row.tokens)
                if row.finished:
                    return True
        return False

    def _completion(self, row: _Row) -> Completion:
        return Completion(self.tokenizer.decode(row.tokens, skip_special_tokens=True), row.finished, tuple(row.tokens))


def join_adapters(adapters: list[str], folder: Path) -> Path:
    """Writes to ``folder`` the one LoRA adapter that does what several do, each trained over the ones before it, and
    returns the folder. What they add to a matrix is summed, B1 A1 + B2 A2 = [B1 B2] [A1; A2], and so are the ranks."""
    configs = [json.loads((Path(adapter) / _CONFIG).read_text()) for adapter in adapters]
    rank, start = sum(config["r"] for config in configs), 0
    joined: dict[str, torch.Tensor] = {}  # zero where an adapter leaves alone what another one changes
    for adapter, config in zip(adapters, configs, strict=True):
        ranks = slice(start, start := start + config["r"])
        for name, weight in load_file(Path(adapter) / _WEIGHTS).items():
            if name.endswith("lora_B.weight"):
                whole = joined.setdefault(name, weight.new_zeros(weight.shape[0], rank))
                whole[:, ranks] = weight * (config["lora_alpha"] / config["r"])
            else:
                whole = joined.setdefault(name, weight.new_zeros(rank, weight.shape[1]))
                whole[ranks] = weight
    targets = sorted({target for config in configs for target in config["target_modules"]})
    folder.mkdir()
    save_file(joined, folder / _WEIGHTS)
    (folder / _CONFIG).write_text(json.dumps(configs[-1] | {"r": rank, "lora_alpha": rank, "target_modules": targets}))
    return folder


@contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """What this process and those that it starts write is kept in a file: the engine's processes print for as long as
    they live, and only there do they tell what ended them."""
    saved = {stream: os.dup(stream) for stream in (1, 2)}
    with path.open("wb") as log:
        for stream in saved:
            os.dup2(log.fileno(), stream)
    try:
        yield
    finally:
        for stream, copy in saved.items():
            os.dup2(copy, stream)
            os.close(copy)
