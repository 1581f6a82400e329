"""Students: supervised fine-tuning and expert iteration (paper, sections 3 and 4.1, step 1; appendix B)."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from glore_lib import training
from glore_lib.fitting import fit
from glore_lib.models import encode
from glore_lib.params import Training
from glore_lib.run import Run
from glore_lib.sampling import Request
from glore_lib.solutions import normalise, split_steps
from glore_lib.store import Artifact
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


def merge_solutions(before: pd.DataFrame, samples: pd.DataFrame, source: str, cap: int) -> pd.DataFrame:
    """D_i = R_i ∪ D_(i-1): right samples are added, duplicates by normalised text are not.

    ``cap`` bounds how many distinct new solutions a question gets in this round, in the order they were sampled.
    """
    seen = {(q, normalise(text)) for q, text in zip(before["question_id"], before["text"], strict=True)}
    rows, added = [], {}
    for row in samples[samples["is_correct"]].itertuples():
        key = (row.question_id, normalise(row.text))
        if key not in seen and added.get(row.question_id, 0) < cap:
            seen.add(key)
            added[row.question_id] = added.get(row.question_id, 0) + 1
            rows.append({"question_id": row.question_id, "text": row.text, "source": source})
    return pd.concat([before, pd.DataFrame(rows, columns=before.columns)], ignore_index=True)


def expert_iteration(run: Run) -> tuple[Student, pd.DataFrame]:
    """The converged student, and a row a round: new and all distinct solutions, questions solved, validation maj@1.

    Each round samples K solutions a training question from the last student, adds the right ones to the data, and
    fine-tunes the base model on all of it. It stops after ``student.rounds``, or once validation maj@1 gains less than
    ``student.convergence``; the student with the best validation maj@1 is returned, never the base model itself.
    """
    p = run.params.student
    questions = run.questions("train")
    if p.start == "sft":
        student = sft_student(run)
    else:
        data = run.frame("sft-data", "solutions", lambda: _solutions([], "none"), {"n": 0}, [])
        student = Student(None, "base", data)
    best, best_accuracy, table = student, validation_accuracy(run, student), []
    table.append(
        {"round": 0, "student": student.policy, "new": 0, "solutions": len(student.data.read()), "maj@1": best_accuracy}
    )
    for i in range(1, p.rounds + 1):
        samples = sample_solutions(
            run, student, "train", p.samples_per_question, p.temperature, f"ei{i}", one_shot=student.model is None
        )  # fmt: skip
        before = student.data
        merged = run.frame(
            f"ei{i}-data", "solutions",
            lambda: merge_solutions(before.read(), samples.read(), f"round {i}", p.max_kept_per_question),  # noqa: B023
            {"cap": p.max_kept_per_question}, [before, samples],
        )  # fmt: skip
        pairs = [(questions[r.question_id], r.text) for r in merged.read().itertuples()]
        student = Student(fine_tune(run, f"ei{i}", pairs, p.training, [merged]), f"ei{i}", merged)
        reached = validation_accuracy(run, student)
        drawn = samples.read()
        table.append(
            {
                "round": i, "student": student.policy, "new": len(merged.read()) - len(before.read()),
                "solutions": len(merged.read()), "maj@1": reached, "sampled right": drawn["is_correct"].mean(),
                "questions solved": drawn.groupby("question_id")["is_correct"].any().mean(),
            }
        )  # fmt: skip
        gain = reached - best_accuracy
        if gain > 0 or best.model is None:
            best, best_accuracy = student, reached
        if gain < p.convergence:
            break
    return best, pd.DataFrame(table)


def validation_accuracy(run: Run, student: Student) -> float:
    """Greedy accuracy (maj@1) on the validation split; the base model itself is shown one example."""
    return accuracy(
        sample_solutions(run, student, "validation", 1, 0.0, f"greedy-{student.policy}", one_shot=student.model is None)
    )
