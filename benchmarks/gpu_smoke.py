"""Run SmolLM2-135M through all stages on GSM8K and SVAMP, in bfloat16 and by QLoRA: `python benchmarks/gpu_smoke.py`.

The table has one row per path and task: tokens/s of sampling and training, peak GPU memory, accuracy. It shows that the
stages run on a device and what they cost there, not how well the method works. It also runs on a CPU, where
`--questions 1 --tokens 8` keeps it short.
"""

import platform
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import pandas as pd
import torch
import typer

from glore_lib.method.replication import Replication
from glore_lib.method.students import Student, accuracy, sample_solutions
from glore_lib.params import ParamsError
from glore_lib.run import open_run

PARAMS = Path(__file__).parents[1] / "params" / "smollm2-smoke.yaml"
# As in the paper's runs (params/llama2-*.yaml), and as their comment recommends for a smaller GPU.
BFLOAT16 = {"base_model.dtype": "bfloat16", "finetuning.mixed_precision": True}
PATHS = {"bf16": BFLOAT16, "qlora": BFLOAT16 | {"finetuning.method": "qlora"}}
TASKS = {
    "gsm8k": {"student.start": "sft"},
    "svamp": {"student.start": "one_shot"},  # SVAMP has no solutions to learn from
}
TRAININGS = ("student.sft", "student.training", "reward_models.training", "refiner.training")


def sizes(questions: int, tokens: int) -> dict[str, Any]:
    """Return overrides for this number of training and test questions and of new tokens, with a GPU's batch sizes."""
    return {
        "task.train_questions": questions, "task.validation_questions": max(1, questions // 4),
        "task.test_questions": questions, "student.sft_questions": questions,
        "sampling.max_new_tokens": tokens, "sampling.rows": 512,
        "student.samples_per_question": 4, "reward_models.samples_per_question": 4,
        "finetuning.batch_size": 16, "finetuning.micro_batch_size": 16, "reward_models.figure4": False,
        **{f"{training}.max_steps": 1000 for training in TRAININGS},  # more than an epoch has
    }  # fmt: skip


def smoke(path: str, task: str, overrides: dict[str, Any], artifacts: Path) -> dict[str, Any]:
    """Return the table's row for one of :data:`PATHS` and one of :data:`TASKS`.

    Runs expert iteration, trains all reward models and the refiner, and evaluates on the test split. Existing
    ``artifacts`` are used, not measured again.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    named = {"run": f"smoke-{task}-{path}", "task.name": task}
    run = open_run(str(PARAMS), named | TASKS[task] | PATHS[path] | overrides, str(artifacts))
    lab = Replication(run)
    (greedy,) = lab.numbers.query("method == 'greedy' and metric == 'accuracy'").itertuples()
    one_shot = run.params.student.start == "one_shot"
    first = Student(None, "base") if one_shot else lab.sft_student
    before = sample_solutions(run, first, "test", 1, 0.0, f"greedy-{first.policy}", one_shot)
    made = run.finish("smoke")
    gpu = torch.cuda.is_available()
    return {
        "path": path,
        "task": task,
        "device": torch.cuda.get_device_name() if gpu else f"CPU ({platform.machine()})",
        "seconds": made["seconds"].sum(),
        "sampled tokens/s": per_second(made, "tokens_generated"),
        "trained tokens/s": per_second(made, "tokens_trained"),
        "peak GPU memory, GiB": f"{torch.cuda.max_memory_allocated() / 2**30:.2f}" if gpu else "-",
        "first policy": f"{first.policy}{', one example' * one_shot}: {accuracy(before):.3f}",
        "student": f"{lab.student.policy}: {greedy.value:.3f}",
        "test questions": greedy.n,
    }


def per_second(made: pd.DataFrame, tokens: str) -> float:
    """Return tokens per second over those artifacts of :meth:`glore_lib.run.Run.finish` that have such tokens."""
    took = made[made[tokens].fillna(0) > 0]
    return took[tokens].sum() / took["seconds"].sum()


def main(
    questions: Annotated[
        int, typer.Option(min=1, help="Training questions, and the same number of test questions.")
    ] = 64,
    tokens: Annotated[int, typer.Option(min=1, help="Maximum new tokens of a sample.")] = 300,
) -> None:
    """Run both paths on both tasks, without existing artifacts, and print the table."""
    with TemporaryDirectory(prefix="glore-smoke-") as artifacts:
        try:
            rows = [smoke(path, task, sizes(questions, tokens), Path(artifacts)) for path in PATHS for task in TASKS]
        except ParamsError as error:
            raise SystemExit(f"error: {error}") from None
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=",.0f"))
    print("\nSeconds and tokens/s are from the artifacts' records and include loading and saving models.")
    print("Accuracy: greedy answers to the test questions before and after expert iteration.")


if __name__ == "__main__":
    typer.run(main)
