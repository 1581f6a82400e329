"""The vLLM backend: an engine in its own processes, with continuous batching, prefix caching and unmerged adapters.

Every completion is a separate request. vLLM splits a request for n samples in the same way, but then no sample can be
stopped on its own, at the line with the final answer. Common beginnings of prompts are read once.

A completion's random numbers depend only on ``(seed, j)``, so it does not depend on other requests, up to rounding:
kernels round differently for other batch sizes, which decides where two tokens are almost equally likely;
``sampling.vllm.batch_invariant`` selects kernels that do not. Other backends draw other samples from the same seed.
"""

import gc
import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
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

from glore_lib.models.loading import base_and_adapters
from glore_lib.models.sources import ADAPTER_FILES, locate
from glore_lib.models.tokens import generation_config
from glore_lib.params import ParamsError, Sampling
from glore_lib.sampling import Answers, Completion, Ends, Growing, Request

if TYPE_CHECKING:  # slow to import, and often not installed
    from vllm.lora.request import LoRARequest

_CONFIG, _WEIGHTS = ADAPTER_FILES
# An error in the output of an engine's process. A process whose worker is gone reports "cancelled".
_ERROR = re.compile(r"^(?:\([^)]*\) ERROR [^\]]*\] )?[\w.]*(?:Error|Exception): (?!cancelled$)(.+)", re.MULTILINE)
# The cause if no process has reported an error.
_KILLED = "one of its processes was killed, as the system does where the machine's memory runs out"


@dataclass
class _Row(Growing):
    """A sample while it is generated."""

    request: Request
    number: int

    @property
    def seed(self) -> int:
        """Return a seed of as many bits as vLLM takes, so that no two rows share one."""
        return int(np.random.SeedSequence([self.request.seed, self.number]).generate_state(1, np.uint64)[0] >> 1)


class VLLMSampler:
    """A :class:`glore_lib.sampling.Sampler` of the model ``source``: a folder, perhaps of an adapter, or a hub name.

    ``base`` is the base model of its run. The engine starts with the first requests and holds the GPU until
    :meth:`free`.
    """

    def __init__(
        self, source: str, tokenizer: PreTrainedTokenizerBase, dtype: str, params: Sampling, base: str | None = None
    ):  # fmt: skip
        self.source, self.tokenizer, self.dtype, self.params = source, tokenizer, dtype, params
        self._base, self._adapters = base_and_adapters(source, base)
        self.ends = Ends(tokenizer, generation_config(self._base))
        self._names = map(str, count())
        self._resources = ExitStack()
        self._log: Path | None = None
        self._engine: Any = None  # a vllm.LLMEngine
        self._adapter: LoRARequest | None = None

    def sample(self, requests: list[Request], temperature: float, max_new_tokens: int, progress: str) -> Answers:
        """Raise ParamsError if the engine fails, or if a prompt and its answer may exceed the model's context."""
        if not requests:
            return []
        if not self._engine:
            self._start()
        from vllm.v1.engine.exceptions import EngineDeadError
        from zmq import ZMQError  # a request was sent to an engine that had died

        self._check(max((len(r.prompt) for r in requests), default=0), max_new_tokens)
        samples = [[_Row(r, j) for j in range(r.first, r.first + r.n)] for r in requests]
        # Prompts with a common beginning come in sequence, while it is cached.
        order = sorted(range(len(requests)), key=lambda i: requests[i].prompt)
        waiting = (row for i in order for row in samples[i])
        watched = self._watched(EngineDeadError, ZMQError)
        with watched, tqdm(total=sum(r.n for r in requests), desc=progress, unit="sample", leave=False) as bar:
            for _ in self._grow(waiting, temperature, max_new_tokens):
                bar.update()
        return [[self._completion(row) for row in rows] for rows in samples]

    def free(self) -> None:
        """Stop the engine's processes, which frees the GPU."""
        self._engine = None
        self._resources.close()

    def _start(self) -> None:
        gc.collect()  # free models used before
        torch.cuda.empty_cache()
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # do not send usage statistics
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"  # a fork would inherit threads and GPU state
        os.environ["VLLM_BATCH_INVARIANT"] = str(int(self.params.vllm.batch_invariant))  # not the shell's
        from vllm import EngineArgs, LLMEngine
        from vllm.platforms import current_platform
        from vllm.usage.usage_lib import UsageContext

        folder = Path(self._resources.enter_context(TemporaryDirectory(prefix="glore-vllm-")))
        self._log = folder / "log.txt"
        with self._watched(Exception), _output_to(self._log):
            model, revision = locate(self._base)
            arguments = EngineArgs(
                model=model, **revision, load_format="safetensors",  # never pickled weights
                dtype=self.dtype, max_model_len=-1, max_num_seqs=self.params.rows,
                tensor_parallel_size=self.params.vllm.tensor_parallel_size,
                gpu_memory_utilization=self.params.vllm.memory_fraction, enable_prefix_caching=True,
                # After a chunk of a seeded prompt vLLM turns the generator back, which torch cannot do on a CPU.
                enable_chunked_prefill=False if current_platform.is_cpu() else None,
                # Prompts and completions are tokens, and this class decides where a text ends.
                skip_tokenizer_init=True, generation_config="vllm", disable_log_stats=True,
                **(self._adapt(self._adapters, folder) if self._adapters else {}),
            )  # fmt: skip
            self._engine = LLMEngine.from_engine_args(arguments, UsageContext.LLM_CLASS, enable_multiprocessing=True)
        self._resources.callback(self._engine.engine_core.shutdown, timeout=60)
        self._end_with_the_engine()

    def _end_with_the_engine(self) -> None:
        """Make :meth:`sample` raise if an engine's process is killed: vLLM's ``step`` would wait forever."""
        from vllm.v1.engine.exceptions import EngineDeadError

        client = self._engine.engine_core
        outputs = client.outputs_queue
        # Keep the processes: a sentinel is closed with its process.
        ends = {process.sentinel: process for process in client.resources.engine_manager.processes}

        def report_death() -> None:
            connection.wait(list(ends))
            outputs.put(EngineDeadError())

        Thread(target=report_death, daemon=True).start()

    def _adapt(self, adapters: list[str], folder: Path) -> dict[str, Any]:
        """Make requests use the adapters; return the engine's arguments for them."""
        from vllm.config.lora import MaxLoRARanks
        from vllm.lora.request import LoRARequest

        path = Path(adapters[0]) if len(adapters) == 1 else join_adapters(adapters, folder / "adapter")
        rank, known = json.loads((path / _CONFIG).read_text(encoding="utf-8"))["r"], sorted(get_args(MaxLoRARanks))
        if rank > known[-1]:
            raise ParamsError(
                f"finetuning.lora_rank: the adapters of {self.source} have a total rank of {rank}, and vLLM supports "
                f"{known[-1]}; lower it, or set sampling.backend to transformers"
            )
        self._adapter = LoRARequest("adapter", 1, str(path))
        return {"enable_lora": True, "max_lora_rank": next(r for r in known if r >= rank)}

    @contextmanager
    def _watched(self, *errors: type[Exception]) -> Iterator[None]:
        """Explain such errors in one line. After any error or interruption the engine is stopped."""
        try:
            yield
        except BaseException as error:
            from_engine = isinstance(error, errors) and not isinstance(error, ParamsError)
            explained = self._explain(error) if from_engine else None  # type: ignore[arg-type]
            self.free()
            if explained:
                raise explained from error
            raise

    def _explain(self, error: Exception) -> ParamsError:
        """Explain an error by the first one that a process of the engine reported, which caused the others."""
        log = self._log.read_text(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
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
            remedy = "lower it or sampling.rows if memory is in use, raise it or tensor_parallel_size if it is too low"
        elif vllm.tensor_parallel_size > 1 and re.search("parallel|GPU|device|NUMA", cause):
            setting = f"sampling.vllm.tensor_parallel_size = {vllm.tensor_parallel_size}"
            remedy = "must divide the model's attention heads, and there must be as many GPUs"
        elif self._engine:
            setting = "sampling.backend = 'vllm'"
            remedy = "run again, or set it to transformers"
        else:
            setting = f"base_model.source = {self._base!r}"
            remedy = "name a model that vLLM supports, or set sampling.backend to transformers"
        event = "died" if self._engine else "did not start"
        explained = ParamsError(f"{setting}: vLLM {event} ({' '.join(cause.split())}); {remedy}")
        explained.add_note(log)
        return explained

    def _check(self, longest_prompt: int, max_new_tokens: int) -> None:
        reads = self._engine.model_config.max_model_len
        if longest_prompt + max_new_tokens > reads:
            raise ParamsError(
                f"sampling.max_new_tokens = {max_new_tokens}: with the longest prompt ({longest_prompt} tokens) it "
                f"exceeds the model's context of {reads}; lower it, or name a model with a longer context"
            )

    def _grow(self, waiting: Iterator[_Row], temperature: float, limit: int) -> Iterator[_Row]:
        """Generate the samples, and yield each when it is finished."""
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind

        growing: dict[str, _Row] = {}
        while True:
            # Queue more than are decoded at a time, so that the engine never waits; all of them would fill its memory.
            for row in islice(waiting, 2 * self.params.rows - len(growing)):
                name = next(self._names)
                how = SamplingParams(
                    temperature=temperature, seed=row.seed, max_tokens=limit,
                    stop_token_ids=sorted(self.ends.tokens), detokenize=False,
                    output_kind=RequestOutputKind.DELTA,
                )  # fmt: skip
                prompt = tokens_input(list(row.request.prompt))
                self._engine.add_request(name, prompt, how, lora_request=self._adapter)
                growing[name] = row
            if not growing:
                return
            for output in self._engine.step():
                row, (part,) = growing[output.request_id], output.outputs
                self.ends.append(row, part.token_ids)
                if row.finished and not output.finished:
                    self._engine.abort_request([output.request_id])
                if row.finished or output.finished:
                    yield growing.pop(output.request_id)

    def _completion(self, row: _Row) -> Completion:
        return Completion(self.tokenizer.decode(row.tokens, skip_special_tokens=True), row.finished, tuple(row.tokens))  # type: ignore[arg-type]


def join_adapters(adapters: list[str], folder: Path) -> Path:
    """Write one LoRA adapter equivalent to several, each trained over the previous ones; return ``folder``.

    Their updates of a matrix add up, B1 A1 + B2 A2 = [B1 B2] [A1; A2], and so do the ranks.
    """
    configs = [json.loads((Path(adapter) / _CONFIG).read_text(encoding="utf-8")) for adapter in adapters]
    rank, start = sum(config["r"] for config in configs), 0
    joined: dict[str, torch.Tensor] = {}  # zero where an adapter does not change what another does
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
    config = configs[-1] | {"r": rank, "lora_alpha": rank, "target_modules": targets}
    (folder / _CONFIG).write_text(json.dumps(config), encoding="utf-8")
    return folder


@contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Redirect the output of this process and of those it starts to a file, where the engine reports its errors."""
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
