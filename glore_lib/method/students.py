"""Students: supervised fine-tuning and expert iteration (paper, sections 3 and 4.1, step 1; appendix B)."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from glore_lib.artifacts.store import Artifact
from glore_lib.models import training
from glore_lib.models.launch import fit
from glore_lib.models.tokens import encode
from glore_lib.params import Training
from glore_lib.run import Run
from glore_lib.sampling import Request
from glore_lib.solutions import split_steps
from glore_lib.tasks import Question


@dataclass(frozen=True)
class Student:
    """A policy: the model, its name in the records, and the solutions it was trained on."""

    model: Artifact | None  # None: the base model itself
    policy: str
    data: Artifact | None = None


def sample_solutions(
    run: Run, student: Student, split: str, n: int, temperature: float, purpose: str, one_shot: bool = False
) -> Artifact:
    """``n`` graded solutions a question of a split (record ``samples``); temperature 0 is greedy decoding."""
    questions = run.questions(split)
    prompt = run.task.one_shot_prompt if one_shot else run.task.prompt

    def make() -> pd.DataFrame:
        requests = [
            Request(tuple(encode(run.tokenizer, prompt(q.question)).ids), n, run.seed(purpose, split, q.question_id))
            for q in questions.values()
        ]  # fmt: skip
        sampler = run.sampler(student.model)
        answers = sampler.sample(requests, temperature, run.params.sampling.max_new_tokens, f"{purpose} {split}")
        rows, tokens = [], 0
        for q, request, completions in zip(questions.values(), requests, answers, strict=True):
            for j, completion in enumerate(completions):
                tokens += completion.tokens
                rows.append(
                    {
                        "question_id": q.question_id, "sample_id": f"{q.question_id}/{purpose}/{j}",
                        "policy": student.policy,
                        "temperature": float(temperature), "seed": request.seed, "text": completion.text,
                        "final_answer": run.task.final_answer(completion.text),
                        "is_correct": run.task.is_correct(completion.text, q.reference_answer),
                        "finished": completion.finished,
                    }
                )  # fmt: skip
        frame = pd.DataFrame(rows)
        frame.attrs["tokens_generated"] = tokens
        return frame

    params = {
        "n": n,
        "temperature": temperature,
        "sampling": run.params.sampling,
        "purpose": purpose,
        "count": len(questions),
        "base": run.base_key if student.model is None else None,
    }
    return run.frame(f"samples-{purpose}-{split}", "samples", make, params, [student.model] if student.model else [])


def accuracy(samples: Artifact) -> float:
    """The fraction of right samples; of greedy ones, the paper's maj@1."""
    return float(samples.read()["is_correct"].mean())


def fine_tune(
    run: Run, name: str, pairs: Iterable[tuple[Question, str]], training_params: Training, inputs: list[Artifact]
) -> Artifact:
    """The base model, fine-tuned on (question, solution) pairs."""

    def make(folder: Path) -> dict:
        examples = [
            training.solution_example(run.tokenizer, run.task.prompt(q.question), split_steps(solution))
            for q, solution in pairs
        ]  # fmt: skip
        return fit(run, None, name, examples, training_params, folder)

    params = {
        "name": name,
        "base": run.base_key,
        "finetuning": run.params.finetuning,
        "training": training_params,
    }
    return run.folder(f"student-{name}", make, params, inputs)


def sft_data(run: Run) -> list[tuple[Question, str]]:
    """The first ``student.sft_questions`` training questions with their reference solutions."""
    questions = list(run.questions("train").values())[: run.params.student.sft_questions]
    return [(q, q.reference_solution) for q in questions if q.reference_solution]


def sft_student(run: Run) -> Student:
    """The base model fine-tuned on reference solutions, where the data set has them."""
    data = _sft_frame(run)
    return Student(fine_tune(run, "sft", sft_data(run), run.params.student.sft, [data]), "sft", data)


def sft_control(run: Run, student: Student) -> Student:
    """The base model fine-tuned on the SFT data for as many steps as ``student``: what expert iteration adds to it."""
    steps = student.model.record["info"]["steps"]
    training_params = run.params.student.training.model_copy(update={"max_steps": steps, "epochs": steps})
    data = _sft_frame(run)
    return Student(fine_tune(run, "sft-control", sft_data(run), training_params, [data]), "sft-control", data)


def _sft_frame(run: Run) -> Artifact:
    n = run.params.student.sft_questions
    return run.frame("sft-data", "solutions", lambda: _solutions(sft_data(run), "reference"), {"n": n}, [])


def _solutions(pairs: list[tuple[Question, str]], source: str) -> pd.DataFrame:
    rows = [{"question_id": q.question_id, "text": text, "source": source} for q, text in pairs]
    return pd.DataFrame(rows, columns=["question_id", "text", "source"])


def validation_accuracy(run: Run, student: Student) -> float:
    """Greedy accuracy (maj@1) on the validation split; the base model itself is shown one example."""
    return accuracy(
        sample_solutions(run, student, "validation", 1, 0.0, f"greedy-{student.policy}", one_shot=student.model is None)
    )
