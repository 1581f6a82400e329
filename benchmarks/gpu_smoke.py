"""SmolLM2-135M through every stage on GSM8K and SVAMP, in bfloat16 and by QLoRA: `python benchmarks/gpu_smoke.py`.

One table, a row a path and task: tokens/s of sampling and of training, the GPU's peak memory, accuracy. It shows that
the stages run on a device and what they take there, not what the method reaches. It runs on a CPU too, where
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
# As in the paper's runs (params/llama2-*.yaml), and what their comment says for a smaller GPU.
BFLOAT16 = {"base_model.dtype": "bfloat16", "finetuning.mixed_precision": True}
PATHS = {"bf16": BFLOAT16, "qlora": BFLOAT16 | {"finetuning.method": "qlora"}}
TASKS = {
    "gsm8k": {"student.start": "sft"},
    "svamp": {"student.start": "one_shot"},  # it has no solutions to learn from
}
TRAININGS = ("student.sft", "student.training", "reward_models.training", "refiner.training")


def sizes(questions: int, tokens: int) -> dict[str, Any]:
    """Overrides for so many training and test questions, and so many new tokens at most, that fill a GPU's batches."""
    return {
        "task.train_questions": questions, "task.validation_questions": max(1, questions // 4),
        "task.test_questions": questions, "student.sft_questions": questions,
        "sampling.max_new_tokens": tokens, "sampling.rows": 512,
        "student.samples_per_question": 4, "reward_models.samples_per_question": 4,
        "finetuning.batch_size": 16, "finetuning.micro_batch_size": 16, "reward_models.figure4": False,
        **{f"{training}.max_steps": 1000 for training in TRAININGS},  # each is an epoch of fewer
    }  # fmt: skip


def smoke(path: str, task: str, overrides: dict[str, Any], artifacts: Path) -> dict[str, Any]:
    """The table's row for one of :data:`PATHS` and of :data:`TASKS`: expert iteration, all reward models, the refiner
    and the numbers of the test split. What ``artifacts`` holds of it already is not measured again."""
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
    """Tokens of that kind a second, over the artifacts in :meth:`glore_lib.run.Run.finish`'s table that took any."""
    took = made[made[tokens].fillna(0) > 0]
    return took[tokens].sum() / took["seconds"].sum()


def main(
    questions: Annotated[int, typer.Option(min=1, help="Training questions, and as many test questions.")] = 64,
    tokens: Annotated[int, typer.Option(min=1, help="New tokens of a sample at most.")] = 300,
) -> None:
    """Runs both paths on both tasks, from nothing, and prints the table."""
    with TemporaryDirectory(prefix="glore-smoke-") as artifacts:
        try:
            rows = [smoke(path, task, sizes(questions, tokens), Path(artifacts)) for path in PATHS for task in TASKS]
        except ParamsError as error:
            raise SystemExit(f"error: {error}") from None
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=",.0f"))
    print("\nSeconds, and tokens/s, are those of the artifacts' records: loading and saving models are part of them.")
    print("Accuracy: greedy answers on the test questions, of the policy that expert iteration starts from and after.")


if __name__ == "__main__":
    typer.run(main)
