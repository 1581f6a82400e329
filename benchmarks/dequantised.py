"""Estimate what SmolLM2 loses because its weights come from a 4-bit file: `python benchmarks/dequantised.py`.

The original weights are not available. The table shows the loss per token on solutions for (a) the unpacked base
model, (b) its linear layers rounded to four bits once more (NF4, as in QLoRA), which shows the cost of one rounding,
and (c) the first fine-tuned model of params/smollm2-svamp.yaml, from the artifacts or newly trained, to show if
training gains more. Solutions are the base model's own right answers to SVAMP, which this training used, and the first
reference solutions of GSM8K, which it did not. Differences to (a) are paired by solution.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from scipy.stats import bootstrap
from transformers import PreTrainedModel

from glore_lib.method.expert_iteration import expert_iteration
from glore_lib.models import loading
from glore_lib.models.language_model import attended
from glore_lib.models.prefix_tree import IGNORE, Labelled, collate, pack
from glore_lib.models.training import solution_example
from glore_lib.run import open_run
from glore_lib.solutions import split_steps

ROOT = Path(__file__).parents[1]
BATCH = 8  # solutions


def losses(model: PreTrainedModel, examples: list[Labelled], pad: int) -> np.ndarray:
    """Return the mean negative log-likelihood of each solution's tokens, in nats, [solutions]."""
    found = []
    for i in range(0, len(examples), BATCH):
        batch = collate(
            [row for example in examples[i : i + BATCH] for row in pack([example], 1, len(example.ids))], pad
        )
        with torch.inference_mode():
            logits = model(input_ids=batch["input_ids"], **attended(model, batch["visible"])).logits.float()
        for of_row, places, labels in zip(logits, batch["label_at"], batch["labels"], strict=True):
            learned = labels != IGNORE
            found.append(torch.nn.functional.cross_entropy(of_row[places[learned]], labels[learned]).item())
    return np.array(found)


def interval(values: np.ndarray) -> str:
    """Format the mean and its 95 % bootstrap interval."""
    low, high = bootstrap((values,), np.mean, rng=np.random.default_rng(0)).confidence_interval
    return f"{values.mean():+.3f} [{low:+.3f}, {high:+.3f}]"


def main(
    artifacts: Annotated[Path, typer.Option(help="Artifacts of the run of params/smollm2-svamp.yaml.")] = (
        ROOT / "artifacts"
    ),
    solutions: Annotated[int, typer.Option(help="Solutions of each kind.")] = 100,
) -> None:
    """Compute the losses and print a table."""
    run = open_run(str(ROOT / "params" / "smollm2-svamp.yaml"), {}, str(artifacts))
    gsm8k = open_run(str(ROOT / "params" / "smollm2-gsm8k.yaml"), {}, str(artifacts))
    expert_iteration(run)
    made = {artifact.record["name"]: artifact for artifact in run.store.used.values()}
    fitted, data = made["student-ei1"], made["ei1-data"]
    svamp = data.read().head(solutions)
    questions = run.questions("train")
    pairs = {
        "SVAMP, learned from": [
            (run.task.prompt(questions[r.question_id].question), r.text) for r in svamp.itertuples()
        ],
        "GSM8K references": [
            (gsm8k.task.prompt(q.question), q.reference_solution)
            for q in list(gsm8k.questions("train").values())[:solutions]
        ],
    }  # fmt: skip
    tokenizer = run.tokenizer
    examples = {
        name: [solution_example(tokenizer, prompt, split_steps(text)) for prompt, text in of_kind]
        for name, of_kind in pairs.items()
    }
    rounded = loading.load_model(run.base, "float32")
    loading._round(rounded, double_quantisation=True)
    variants = {
        "as unpacked": loading.load_model(run.base, "float32"), "rounded to 4 bits once more": rounded,
        "after the first fine-tuning": loading.load_model(run.path(fitted), "float32"),
    }  # fmt: skip
    rows = []
    for name, of_kind in examples.items():
        loss = {variant: losses(model, of_kind, tokenizer.pad_token_id) for variant, model in variants.items()}
        first = next(iter(loss.values()))
        rows += [
            {"solutions": name, "n": len(of_kind), "model": variant, "nats a token": round(values.mean(), 3),
             "minus (a), paired": interval(values - first) if values is not first else ""}
            for variant, values in loss.items()
        ]  # fmt: skip
    print(pd.DataFrame(rows).to_markdown(index=False))


if __name__ == "__main__":
    typer.run(main)
