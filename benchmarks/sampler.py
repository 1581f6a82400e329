"""Compare the speed of the transformers backend with `model.generate` and vLLM: `python benchmarks/sampler.py`.

`mini` is the base model that ships with the library, on questions of the hard task. `smollm2` (SmolLM2-135M, from its
package) and `qwen` (the GGUF file of params/qwen-coder-svamp.yaml) answer questions of SVAMP and GSM8K, from the folder
GLORE_DATA_DIR, after one worked example. A model or data set that is not there is skipped. Every method gets the same
prompts in the same groups of similar length, at most `rows` samples each; with one sample per question there are more
questions, so that the samples are as many. The rows of `model.generate` end as the backend's do, after the line of the
final answer. Methods take turns after a warm-up; a row of the table is the repeat with the median time. vLLM is timed
if it is installed, on all prompts at once, on a CPU as it is by default and on all cores; after the first repeat its
prefix cache has the prompts. For one thread: `taskset -c 0 python benchmarks/sampler.py`.

Two further rows of `mini` are the backend without sharing: first of equal completions, then of questions too. `reading`
are the seconds to read 22 prompts of 90 tokens: by the backend, and as `model.generate` does after an adapter was
loaded, when PyTorch multiplies a slice of the hidden states with the frozen output layer.

`text`: tokens of the completions. `decoded`, `read`: tokens that the model processed, padding included.
"""

import gc
import os
import time
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal
from unittest.mock import patch

import pandas as pd
import torch
import typer
from measure import Alone, Sample, Work, generating, write_record

from glore_lib.models import tokens
from glore_lib.params import ParamsError
from glore_lib.run import Run, open_run
from glore_lib.sampling import Request
from glore_lib.sampling.transformers import TransformersSampler
from glore_lib.sampling.vllm import VLLMSampler

PARAMS = Path(__file__).parents[1] / "params"
TEMPERATURE = 0.8
MODELS = {"mini": "mini-hard", "smollm2": "smollm2-smoke", "qwen": "qwen-coder-svamp"}
FEW = {"train_questions": 8, "reward_questions": 0, "validation_questions": 4}
DATA = {name: FEW | {"name": name} for name in ("svamp", "gsm8k")}


def sampling(sampler: TransformersSampler | VLLMSampler) -> Sample:
    """Return a sampler as a function that counts the tokens of its texts."""

    def sample(requests: list[Request], tokens: int) -> int:
        return sum(c.tokens for found in sampler.sample(requests, TEMPERATURE, tokens, "samples") for c in found)

    return sample


@dataclass
class Method:
    """A way to sample, its number of questions per call, and the counter of its model's tokens."""

    name: str
    sample: Sample
    questions: int
    work: Work | None

    def run(self, requests: list[Request], tokens: int) -> tuple[float, int, int, int]:
        """Return seconds, tokens of the texts, tokens decoded and tokens read."""
        before = replace(self.work) if self.work else None
        start = time.perf_counter()
        starts = range(0, len(requests), self.questions)
        text = sum(self.sample(requests[i : i + self.questions], tokens) for i in starts)
        seconds = time.perf_counter() - start
        done = (self.work.decoded - before.decoded, self.work.read - before.read) if self.work else (0, 0)
        return seconds, text, *done


def timed(
    name: str, run: Run, methods: list[Method], prompts: list[tuple[int, ...]], n: int, tokens: int, repeats: int
) -> list[dict]:
    """Return one row per method: the repeat with the median time."""

    def requests(repeat: int) -> list[Request]:
        return [Request(prompt, n, run.seed("benchmark", repeat, i)) for i, prompt in enumerate(prompts)]

    for method in methods:
        method.run(requests(-1)[: method.questions], 4)
    taken = [[method.run(requests(repeat), tokens) for method in methods] for repeat in range(repeats)]
    rows, samples, given = [], n * len(prompts), n * sum(map(len, prompts))
    for method, runs in zip(methods, map(sorted, zip(*taken, strict=True)), strict=True):
        seconds, text, decoded, read = runs[(repeats - 1) // 2]
        rows.append({
            "task": name, "n": n, "method": method.name, "seconds": seconds,
            "seconds of all": [took for took, *_ in runs], "sequences/s": samples / seconds,
            "tokens/s": text / seconds, "text": text, "decoded": decoded or None, "read": read or None,
            "decoded / text": decoded / text or None, "read / prompts": read / given or None,
        })  # fmt: skip
    return rows


def measured(
    model_name: str, run: Run, sets: dict[str, list[str]], counts: list[int], tokens: int, rows: int, repeats: int
) -> list[dict[str, Any]]:
    """Return the rows of one model: each of the ``sets`` of prompts, each number of samples per question.

    A set has a prompt for each sample; with several samples per question, the first ones are asked.
    """
    tokenizer, p = run.tokenizer, run.params
    plain, model = run.load(None).eval(), run.load(None)
    of_plain, of_model = Work(), Work()
    of_plain.watch(plain)
    of_model.watch(model)
    cases = {
        (task, n): sorted((encoded(run, p) for p in prompts[: len(prompts) // n]), key=len, reverse=True)
        for task, prompts in sets.items()
        for n in counts
    }
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for (task, n), prompts in cases.items():
        group = max(1, min(rows // n, len(prompts)))
        ours = sampling(TransformersSampler(model, tokenizer, rows))
        methods = [
            Method("model.generate", generating(plain, tokenizer, n, TEMPERATURE), group, of_plain),
            Method("ours", ours, group, of_model),
            *([Method("ours, all questions at once", ours, len(prompts), of_model)] if group < len(prompts) else []),
        ]
        if model_name == "mini" and n > 1:
            once, alone = (sampling(Alone(model, tokenizer, rows, share)) for share in (True, False))
            methods += [
                Method("ours, each completion a row", once, group, of_model),
                Method("ours, and each reads its question", alone, group, of_model),
            ]
        found[task, n] = timed(task, run, methods, prompts, n, tokens, repeats)
    del plain, model, methods, ours
    gc.collect()
    if find_spec("vllm"):
        for name, environment in engines().items():
            with patch.dict(os.environ, environment):
                engine = VLLMSampler(run.base, tokenizer, p.base_model.dtype, p.sampling)
                for (task, n), prompts in cases.items():
                    methods = [Method(name, sampling(engine), len(prompts), None)]
                    found[task, n] += timed(task, run, methods, prompts, n, tokens, repeats)
                engine.free()
    else:
        print(f"{model_name}: vLLM is not installed, its rows are skipped")
    return [
        row | {"x generate": row["sequences/s"] / case[0]["sequences/s"]} for case in found.values() for row in case
    ]


def engines() -> dict[str, dict[str, str]]:
    """Return the environment variables of each row of vLLM: on a CPU it reserves a core for its scheduler."""
    if torch.cuda.is_available() or len(os.sched_getaffinity(0)) == 1:
        return {"vLLM": {}}
    return {"vLLM": {}, "vLLM, all cores": {"VLLM_CPU_NUM_OF_RESERVED_CPU": "0"}}


def reading(run: Run) -> dict[str, float]:
    """Return the seconds to read 22 prompts of 90 tokens, as PyTorch does after loading adapters and as we do."""
    model = run.load(None).eval().requires_grad_(False)
    ids = torch.randint(0, 1000, (22, 90), device=model.device)
    ways = {
        "model, logits of the last token": lambda: model(input_ids=ids, logits_to_keep=1),
        "ours, no logits": lambda: model.base_model(input_ids=ids),
    }
    taken = {}
    with torch.no_grad():
        for name, read in ways.items():
            start = time.perf_counter()
            read()
            taken[name] = time.perf_counter() - start
    return taken


def prompts_of(model: str, data: str, questions: int, dtype: str, artifacts: str) -> tuple[Run, list[str]]:
    """Return a run with the model and prompts of test questions; an LLM has the ``dtype``."""
    overrides: dict[str, Any] = {"run": model, "task": DATA.get(data, {}) | {"test_questions": questions}}
    if data:
        overrides |= {"base_model.dtype": dtype, "student.start": "one_shot", "reward_models.figure4": False}
    if not torch.cuda.is_available():  # where vLLM shares the memory with this process
        overrides["sampling.vllm.memory_fraction"] = 0.3
    run = open_run(str(PARAMS / f"{MODELS[model]}.yaml"), overrides, artifacts)
    prompt = run.task.one_shot_prompt if data else run.task.prompt
    return run, [prompt(q.question) for q in run.questions("test").values()]


def main(
    models: Annotated[str, typer.Option(help="Separated by commas.")] = ",".join(MODELS),
    counts: Annotated[str, typer.Option(help="Samples per question, separated by commas.")] = "1,8",
    mini_samples: Annotated[int, typer.Option(min=1, help="Samples of the small model, of all questions.")] = 512,
    samples: Annotated[int, typer.Option(min=1, help="Samples of an LLM, of all questions of a data set.")] = 32,
    tokens: Annotated[int, typer.Option(min=1, help="Maximum new tokens of a sample of an LLM.")] = 64,
    rows: Annotated[int, typer.Option(min=1, help="Sequences per batch.")] = 64,
    dtype: Annotated[Literal["bfloat16", "float32"], typer.Option(help="Of an LLM.")] = "bfloat16",
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    json: Annotated[Path | None, typer.Option(help="Where to write the rows as JSON.")] = None,
) -> None:
    """Time each model and print the table."""
    sizes = {name: value for name, value in locals().items() if name != "json"}
    made: list[dict[str, Any]] = []
    read: dict[str, dict[str, float]] = {}
    with TemporaryDirectory(prefix="glore-sampler-") as artifacts:
        for model in models.split(","):
            own, sets = model == "mini", dict[str, list[str]]()
            for data in [""] if own else DATA:
                task = f"{model} {data}".strip()
                try:
                    run, sets[task] = prompts_of(model, data, mini_samples if own else samples, dtype, artifacts)
                except ParamsError as error:
                    print(f"{task} is skipped: {error}")
            if sets:
                limit = run.params.sampling.max_new_tokens if own else tokens
                made += measured(model, run, sets, [*map(int, counts.split(","))], limit, rows, repeats)
                if not own:
                    read[model] = reading(run)
    columns = ["task", "n", "method", "x generate", "sequences/s", "tokens/s", "text", "decoded", "read",
               "decoded / text", "read / prompts"]  # fmt: skip
    formats = ["", "", "", ".2f", ",.1f", ",.0f", ",.0f", ",.0f", ",.0f", ".2f", ".2f"]
    frame = pd.DataFrame(made)[columns].astype(object)
    print(frame.where(frame.notna(), None).to_markdown(index=False, floatfmt=formats, missingval="-"))
    print(pd.DataFrame(read).T.rename_axis("reading, seconds").to_markdown(floatfmt=".2f") if read else "")
    sizes |= {"temperature": TEMPERATURE}
    write_record(json, {"sizes": sizes, "rows": made, "reading": read})


def encoded(run: Run, prompt: str) -> tuple[int, ...]:
    """Return the token ids of a prompt."""
    return tuple(tokens.encode(run.tokenizer, prompt).ids)


if __name__ == "__main__":
    typer.run(main)
