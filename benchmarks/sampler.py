"""Compare the speed of the transformers backend with `model.generate`: `python benchmarks/sampler.py`.

There are two tasks with eight samples per question. `mini`: the base model that ships with the library, on questions
of the hard task. `smollm2`: SmolLM2-135M on GSM8K questions after one worked example, in bfloat16 on a GPU; it needs
GSM8K in the folder GLORE_DATA_DIR and is skipped otherwise. Every method gets the same prompts in the same groups of
similar length, at most `sampling.rows` samples each. The rows of `model.generate` end as the backend's do, after the
line of the final answer. Methods take turns after a warm-up; a row of the table is the repeat with the median time.
Two rows are the backend without sharing: first of equal completions, then of questions too. vLLM is timed if it is
installed, on all prompts at once; after the first repeat its prefix cache has the prompts.

`text`: tokens of the completions. `decoded`, `read`: tokens that the model processed, padding included. `of square`,
`of shapes`: FLOP/s, at two FLOP per token and parameter outside the embeddings, divided by the measured FLOP/s of a
large square matrix product and of a product of rows x hidden x intermediate. Reading multiplies larger matrices.
"""

import gc
import os
import time
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from measure import Alone, Sample, Work, generating, multiplied, write_record

from glore_lib.models import tokens
from glore_lib.run import Run, open_run
from glore_lib.sampling import Request
from glore_lib.sampling.transformers import TransformersSampler
from glore_lib.sampling.vllm import VLLMSampler

PARAMS = Path(__file__).parents[1] / "params"
N, TEMPERATURE = 8, 0.8


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


def timed(run: Run, methods: list[Method], prompts: list[tuple[int, ...]], tokens: int, repeats: int) -> list[dict]:
    """Return one row per method: the repeat with the median time."""

    def requests(repeat: int) -> list[Request]:
        return [Request(prompt, N, run.seed("benchmark", repeat, i)) for i, prompt in enumerate(prompts)]

    for method in methods:
        method.run(requests(-1)[: method.questions], 4)
    taken = [[method.run(requests(repeat), tokens) for method in methods] for repeat in range(repeats)]
    rows, samples, given = [], N * len(prompts), N * sum(map(len, prompts))
    for method, runs in zip(methods, map(sorted, zip(*taken, strict=True)), strict=True):
        seconds, text, decoded, read = runs[(repeats - 1) // 2]
        rows.append({
            "task": run.params.run, "method": method.name, "seconds": seconds,
            "seconds of all": [took for took, *_ in runs], "sequences/s": samples / seconds,
            "tokens/s": text / seconds, "text": text, "decoded": decoded or None, "read": read or None,
            "decoded / text": decoded / text or None, "read / prompts": read / given or None,
        })  # fmt: skip
    return rows


def measured(run: Run, prompts: list[tuple[int, ...]], tokens: int, repeats: int) -> list[dict[str, Any]]:
    """Return the rows of one task."""
    prompts = sorted(prompts, key=len, reverse=True)
    tokenizer, p = run.tokenizer, run.params
    plain, model = run.load(None).eval(), run.load(None)
    of_plain, of_model = Work(), Work()
    of_plain.watch(plain)
    of_model.watch(model)
    group = min(p.sampling.rows // N, len(prompts))
    ours = sampling(TransformersSampler(model, tokenizer, p.sampling.rows))
    once, alone = (sampling(Alone(model, tokenizer, p.sampling.rows, share)) for share in (True, False))
    methods = [
        Method("model.generate", generating(plain, tokenizer, N, TEMPERATURE), group, of_plain),
        Method("ours", ours, group, of_model),
        *([Method("ours, all questions at once", ours, len(prompts), of_model)] if group < len(prompts) else []),
        Method("ours, each completion a row", once, group, of_model),
        Method("ours, and each reads its question", alone, group, of_model),
    ]
    rows = timed(run, methods, prompts, tokens, repeats)
    hidden, inner = model.config.hidden_size, model.config.intermediate_size
    side = 8192 if torch.cuda.is_available() else 2048
    weights = model.num_parameters(exclude_embeddings=True)
    for name, shape in {"square": (side, side, side), "shapes": (group * N, hidden, inner)}.items():
        rate = multiplied(*shape, model.dtype, model.device)
        for row in rows:
            row[f"GFLOP/s, {name}"] = rate / 1e9
            row[f"of {name}"] = 2 * weights * (row["decoded"] + row["read"]) / row["seconds"] / rate
    del plain, model, methods, ours, once, alone
    gc.collect()
    if find_spec("vllm"):
        engine = VLLMSampler(run.base, tokenizer, p.base_model.dtype, p.sampling)
        rows += timed(run, [Method("vLLM", sampling(engine), len(prompts), None)], prompts, tokens, repeats)
        engine.free()
    else:
        print(f"{p.run}: vLLM is not installed, its row is skipped")
    return [row | {"x generate": row["sequences/s"] / rows[0]["sequences/s"]} for row in rows]


def main(
    mini_questions: Annotated[int, typer.Option(min=1)] = 64,
    smollm2_questions: Annotated[int, typer.Option(min=1)] = 2,
    smollm2_tokens: Annotated[int, typer.Option(min=1, help="Maximum new tokens of a sample.")] = 64,
    smollm2_rows: Annotated[int, typer.Option(min=N, help="Sequences per batch.")] = 48,
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    json: Annotated[Path | None, typer.Option(help="Where to write the rows as JSON.")] = None,
) -> None:
    """Time both tasks and print the table."""
    sizes = {name: value for name, value in locals().items() if name != "json"}
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory(prefix="glore-sampler-") as artifacts:
        overrides: dict[str, Any] = {"run": "mini", "task.test_questions": mini_questions}
        run = open_run(str(PARAMS / "mini-hard.yaml"), overrides, artifacts)
        prompts = [run.task.prompt(q.question) for q in run.questions("test").values()]
        rows += measured(run, [encoded(run, x) for x in prompts], run.params.sampling.max_new_tokens, repeats)
        if "GLORE_DATA_DIR" in os.environ:
            overrides = {"run": "smollm2", "task.test_questions": smollm2_questions, "sampling.rows": smollm2_rows}
            if torch.cuda.is_available():
                overrides["base_model.dtype"] = "bfloat16"
            run = open_run(str(PARAMS / "smollm2-smoke.yaml"), overrides, artifacts)
            prompts = [run.task.one_shot_prompt(q.question) for q in run.questions("test").values()]
            rows += measured(run, [encoded(run, x) for x in prompts], smollm2_tokens, repeats)
        else:
            print("smollm2: GLORE_DATA_DIR is not set, its rows are skipped")
    columns = ["task", "method", "x generate", "sequences/s", "tokens/s", "text", "decoded", "read", "decoded / text",
               "read / prompts", "of square", "of shapes"]  # fmt: skip
    formats = ["", "", ".2f", ",.1f", ",.0f", ",.0f", ",.0f", ",.0f", ".2f", ".2f", ".1%", ".1%"]
    frame = pd.DataFrame(rows)[columns].astype(object)
    print(frame.where(frame.notna(), None).to_markdown(index=False, floatfmt=formats, missingval="-"))
    for task, of_task in pd.DataFrame(rows).groupby("task", sort=False):
        rates = ", ".join(f"{n} {of_task[f'GFLOP/s, {n}'].iloc[0]:,.0f} GFLOP/s" for n in ("square", "shapes"))
        print(f"{task}: matrix products {rates}")
    sizes |= {"samples_per_question": N, "temperature": TEMPERATURE}
    write_record(json, {"sizes": sizes, "seed": run.params.seed, "rows": rows})


def encoded(run: Run, prompt: str) -> tuple[int, ...]:
    """Return the token ids of a prompt."""
    return tuple(tokens.encode(run.tokenizer, prompt).ids)


if __name__ == "__main__":
    typer.run(main)
