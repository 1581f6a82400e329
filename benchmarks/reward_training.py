"""Compare the training of a reward model with TRL's PRMTrainer: `python benchmarks/reward_training.py`.

The data are an SFT student's solutions to generated questions, with exact labels of every step. Every method starts
from the same base model and takes the same number of steps at the same learning rate, with the same solutions per step
and the same tokens:

- TRL: PRMTrainer with a token classifier of two classes, a row per solution;
- ours, a row per solution;
- ours, all sampled solutions of a question in one row, which reads the question once (as the mini runs do); a step
  then has fewer questions, and the last row takes three times the steps.

Methods take turns. `seconds` is the median over the repeats. `tokens/s` counts the tokens of the solutions and their
questions in all methods alike, without padding. `step accuracy` is that of the last repeat on the validation questions
at 0.5, with a 95 % interval over questions.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from datasets import Dataset
from measure import write_record
from peft import LoraConfig, TaskType
from transformers import AutoModelForTokenClassification
from trl.experimental.prm import PRMConfig, PRMTrainer

from glore_lib import statistics as st
from glore_lib.cli import _parse
from glore_lib.method.replication import Replication
from glore_lib.method.reward_models import _score, labelled_solution
from glore_lib.method.step_labels import exact_labels
from glore_lib.method.students import sample_solutions
from glore_lib.models import training
from glore_lib.models.launch import Job
from glore_lib.models.prefix_tree import Labelled
from glore_lib.params import Training
from glore_lib.run import Run, open_run

PARAMS = Path(__file__).parents[1] / "params" / "mini-hard.yaml"


@dataclass
class Data:
    """Labelled solutions by question."""

    solutions: list[list[Labelled]]

    @property
    def rows(self) -> list[Labelled]:
        return [solution for of_question in self.solutions for solution in of_question]

    @property
    def labels(self) -> list[int]:
        return [int(label) for row in self.rows for _, label in sorted(row.labels.items())]

    @property
    def questions(self) -> list[int]:
        return [i for i, of_question in enumerate(self.solutions) for row in of_question for _ in row.labels]


def labelled(run: Run, student: Any, split: str, samples: int) -> Data:
    """Sample solutions and label every step."""
    made = sample_solutions(run, student, split, samples, run.params.reward_models.temperature, f"benchmark-{split}")
    frame, questions = made.read(), run.questions(split)
    labels = exact_labels(run, frame, split)
    if labels is None:
        raise SystemExit(f"error: the task {run.params.task.name} has no exact step labels; use arithmetic")
    texts = frame.set_index("sample_id")["text"]
    return Data([
        [labelled_solution(run, questions[question], texts[sample], dict(zip(rows["step"], rows["label"], strict=True)))
         for sample, rows in of_question.groupby("sample_id", sort=False)]
        for question, of_question in labels.groupby("question_id", sort=False)
    ])  # fmt: skip


def ours(run: Run, data: Data, test: Data, batch: int, together: int, how: Training) -> tuple[float, list[float]]:
    """Train with this library, ``together`` solutions a row; return seconds and the scores of the test labels."""
    rows = max(1, batch // together)
    finetuning = run.params.finetuning.model_copy(update={"batch_size": rows, "micro_batch_size": rows})
    job = Job(run.base, run.base, run.params.base_model.dtype, finetuning, how, run.params.seed, 0.0)
    model, examples, pad = job.build(), run.packed(data.solutions, together), run.tokenizer.pad_token_id
    with TemporaryDirectory() as folder:
        start = time.perf_counter()
        training.train(model, examples, finetuning, how, pad, run.params.seed, Path(folder))
        seconds = time.perf_counter() - start
    with torch.autocast(model.head.weight.device.type, torch.bfloat16, enabled=finetuning.mixed_precision):
        return seconds, _score(model.eval(), run.packed(test.solutions, together), pad)


def trl(run: Run, data: Data, test: Data, batch: int, how: Training) -> tuple[float, list[float]]:
    """Train with TRL and return the same."""
    p = run.params
    dtype = getattr(torch, p.base_model.dtype)
    model = AutoModelForTokenClassification.from_pretrained(run.base, num_labels=2, dtype=dtype)
    model.config.pad_token_id = run.tokenizer.pad_token_id
    adapters = LoraConfig(
        task_type=TaskType.TOKEN_CLS, r=p.finetuning.lora_rank, lora_alpha=p.finetuning.lora_alpha,
        target_modules=p.finetuning.lora_targets,
    )  # fmt: skip
    with TemporaryDirectory() as folder:
        arguments = PRMConfig(
            output_dir=folder, max_steps=how.max_steps, learning_rate=how.learning_rate, optim=p.finetuning.optimiser,
            per_device_train_batch_size=batch, lr_scheduler_type="cosine", warmup_steps=how.max_steps // 20,
            weight_decay=0.01, max_grad_norm=1.0, train_sampling_strategy="group_by_length", max_length=None,
            bf16=p.finetuning.mixed_precision, gradient_checkpointing=p.finetuning.gradient_checkpointing,
            save_strategy="no", report_to="none", disable_tqdm=True, logging_steps=how.max_steps, seed=p.seed,
            use_cpu=not torch.cuda.is_available(), dataloader_pin_memory=torch.cuda.is_available(),
        )  # fmt: skip
        trainer = PRMTrainer(
            model, arguments, train_dataset=token_labels(data), processing_class=run.tokenizer,
            peft_config=None if p.finetuning.method == "full" else adapters,
        )  # fmt: skip
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
        trainer.args.train_sampling_strategy = "random"  # predictions in the order of the data
        found = trainer.predict(token_labels(test))
    logits = torch.tensor(found.predictions)[torch.tensor(found.label_ids) != -100]
    return seconds, logits.softmax(-1)[:, 1].tolist()


def token_labels(data: Data) -> Dataset:
    """Return the solutions with a label for every token, -100 for none."""
    return Dataset.from_list([
        {"input_ids": list(row.ids), "labels": [int(row.labels.get(i, -100)) for i in range(len(row.ids))]}
        for row in data.rows
    ])  # fmt: skip


def main(
    params: Annotated[Path, typer.Option(help="Params of a run on generated questions.")] = PARAMS,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY.SUB=VALUE")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Solutions per question.")] = 8,
    batch: Annotated[int, typer.Option(min=1, help="Solutions per step.")] = 32,
    steps: Annotated[int, typer.Option(min=1)] = 100,
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    json: Annotated[Path | None, typer.Option(help="Where to write the rows as JSON.")] = None,
) -> None:
    """Train with every method and print the table."""
    with TemporaryDirectory(prefix="glore-training-") as artifacts:
        run = open_run(str(params), _parse(settings or []), artifacts)
        student = Replication(run).sft_student
        data, test = (labelled(run, student, split, samples) for split in (run.reward_split, "validation"))
        rate = run.params.reward_models.training.learning_rate
        how, longer = (Training(epochs=1000, max_steps=n, learning_rate=rate) for n in (steps, 3 * steps))
        alone, packed = (partial(ours, run, data, test, batch, together) for together in (1, samples))
        methods: dict[str, tuple[Callable[[Training], tuple[float, list[float]]], Training]] = {
            "TRL PRMTrainer": (partial(trl, run, data, test, batch), how),
            "ours, a row per solution": (alone, how),
            f"ours, {samples} solutions a row": (packed, how),
            f"ours, {samples} solutions a row, 3 times the steps": (packed, longer),
        }
        taken = [{name: train(how) for name, (train, how) in methods.items()} for _ in range(repeats)]
    tokens = sum(len(row.ids) for row in data.rows) / len(data.rows) * batch
    rows = []
    for name, (_, how) in methods.items():
        seconds, done = [of[name][0] for of in taken], how.max_steps
        right = [(score >= 0.5) == bool(label) for score, label in zip(taken[-1][name][1], test.labels, strict=True)]
        found = st.estimate([st.Outcome.of(right, test.questions)])
        rows.append({
            "method": name, "steps": done, "seconds": median(seconds), "seconds of all": seconds,
            "tokens/s": done * tokens / median(seconds), "step accuracy": found.percent(),
        })  # fmt: skip
    frame = pd.DataFrame(rows)
    shown = frame.drop(columns="seconds of all").assign(**{"x TRL": frame["tokens/s"] / frame["tokens/s"][0]})
    print(f"{run.params.run}, {len(data.rows)} solutions of {len(data.solutions)} questions, {steps} steps of {batch}")
    print(shown.to_markdown(index=False, floatfmt=",.3g"))
    print(f"constant prediction: {max(sum(test.labels), len(test.labels) - sum(test.labels)) / len(test.labels):.3f}")
    write_record(json, {"rows": rows})


if __name__ == "__main__":
    typer.run(main)
