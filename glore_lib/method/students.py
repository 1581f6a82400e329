"""Students: sampling and supervised fine-tuning (paper, sections 3 and 4.1, step 1; appendix B)."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from glore_lib.artifacts.store import Artifact, Info
from glore_lib.models.prefix_tree import Labelled
from glore_lib.models.tokens import encode
from glore_lib.models.training import solution_example
from glore_lib.params import ParamsError, Training, digest
from glore_lib.run import Run
from glore_lib.sampling import Request
from glore_lib.solutions import split_steps
from glore_lib.tasks import Question


@dataclass(frozen=True)
class Student:
    """A policy: the model (None: the base model itself), its name in the records, and its training solutions."""

    model: Artifact | None
    policy: str
    data: Artifact | None = None


def sample_solutions(
    run: Run, student: Student, split: str, n: int, temperature: float, purpose: str, one_shot: bool = False
) -> Artifact:
    """Sample and grade ``n`` solutions per question of a split (record ``samples``).

    Temperature 0 decodes greedily. ``purpose`` names the samples and gives their seeds.
    """
    questions = list(run.questions(split).values())
    prompt = run.task.one_shot_prompt if one_shot else run.task.prompt
    prompts = [prompt(q.question) for q in questions]

    def make() -> tuple[pd.DataFrame, Info]:
        requests = [
            Request(tuple(encode(run.tokenizer, text).ids), n, run.seed(purpose, split, q.question_id))
            for q, text in zip(questions, prompts, strict=True)
        ]
        sampler = run.sampler(student.model)
        answers = sampler.sample(requests, temperature, run.params.sampling.max_new_tokens, f"{purpose} {split}")
        rows = [
            {
                "question_id": q.question_id,
                "sample_id": f"{q.question_id}/{purpose}/{j}",
                "policy": student.policy,
                "temperature": float(temperature),
                "seed": request.seed,
                "text": completion.text,
                "final_answer": run.task.final_answer(completion.text),
                "is_correct": run.task.is_correct(completion.text, q.reference_answer),
                "finished": completion.finished,
            }
            for q, request, completions in zip(questions, requests, answers, strict=True)
            for j, completion in enumerate(completions)
        ]
        return pd.DataFrame(rows), {"tokens_generated": sum(c.tokens for answer in answers for c in answer)}

    asked = [[q.question_id, text, q.reference_answer] for q, text in zip(questions, prompts, strict=True)]
    params = {
        "n": n,
        "temperature": temperature,
        "sampling": run.params.sampling,
        "purpose": purpose,
        "questions": digest(asked),
        "base": run.base_key,
    }
    return run.frame(f"samples-{purpose}-{split}", "samples", make, params, [student.model] if student.model else [])


def accuracy(samples: Artifact) -> float:
    """Return the share of correct samples; of greedy ones, the paper's maj@1."""
    return float(samples.read()["is_correct"].mean())


def validation_accuracy(run: Run, student: Student) -> float:
    """Return greedy accuracy (maj@1) on the validation split; the base model itself gets a one-shot prompt."""
    purpose, one_shot = f"greedy-{student.policy}", student.model is None
    return accuracy(sample_solutions(run, student, "validation", 1, 0.0, purpose, one_shot))


def greedy_samples(run: Run, student: Student) -> pd.DataFrame:
    """Return a student's greedy answers to the validation questions (record ``samples``)."""
    return sample_solutions(run, student, "validation", 1, 0.0, f"greedy-{student.policy}").read()


def fine_tune(
    run: Run, name: str, pairs: Iterable[tuple[Question, str]], training_params: Training, data: Artifact
) -> Artifact:
    """Fine-tune the base model on (question, solution) pairs, those of the artifact ``data``.

    Raises ParamsError if there are none.
    """

    def make(folder: Path) -> Info:
        examples: dict[str, list[Labelled]] = {}
        for q, solution in pairs:
            example = solution_example(run.tokenizer, run.task.prompt(q.question), split_steps(solution))
            examples.setdefault(q.question_id, []).append(example)
        if not examples:
            raise ParamsError(
                f"student.temperature = {run.params.student.temperature}: none of the samples is right, so the student "
                f"{name} has no solutions to learn from; change it, raise student.samples_per_question, or name a "
                "better model in base_model.source"
            )
        rows = run.packed(examples.values(), run.params.student.solutions_per_row)
        return run.fit(None, name, rows, training_params, folder)

    params = {
        "name": name,
        "base": run.base_key,
        "finetuning": run.params.finetuning,
        "training": training_params,
        "solutions_per_row": run.params.student.solutions_per_row,
    }
    return run.folder(f"student-{name}", make, params, [data])


def reference_pairs(run: Run) -> list[tuple[Question, str]]:
    """Return the first ``student.sft_questions`` training questions with their reference solutions."""
    questions = list(run.questions("train").values())[: run.params.student.sft_questions]
    return [(q, q.reference_solution) for q in questions if q.reference_solution]


def sft_data(run: Run) -> Artifact:
    """Store D_0, the reference solutions that SFT learns (record ``solutions``)."""
    pairs = reference_pairs(run)
    questions = digest([[q.question_id, run.task.prompt(q.question), solution] for q, solution in pairs])
    return run.frame("sft-data", "solutions", lambda: solution_rows(pairs, "reference"), {"questions": questions}, [])


def solution_rows(pairs: list[tuple[Question, str]], source: str) -> pd.DataFrame:
    """Return (question, solution) pairs as records ``solutions``."""
    rows = [{"question_id": q.question_id, "text": text, "source": source} for q, text in pairs]
    return pd.DataFrame(rows, columns=["question_id", "text", "source"])


def sft_student(run: Run) -> Student:
    """Fine-tune the base model on reference solutions, for data sets that have them."""
    data = sft_data(run)
    return Student(fine_tune(run, "sft", reference_pairs(run), run.params.student.sft, data), "sft", data)


def sft_control(run: Run, student: Student) -> Student:
    """Fine-tune the base model on the SFT data for as many steps as ``student``, to show what expert iteration adds."""
    steps = student.model.record["info"]["steps"]  # type: ignore[union-attr]
    training_params = run.params.student.training.model_copy(update={"max_steps": steps, "epochs": steps})
    data = sft_data(run)
    model = fine_tune(run, "sft-control", reference_pairs(run), training_params, data)
    return Student(model, "sft-control", data)
