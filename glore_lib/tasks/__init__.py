"""Tasks: questions, reference solutions, grading and prompts. One file a task; :func:`load_task` picks one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from glore_lib import params


@dataclass(frozen=True)
class Question:
    """One question of one split. ``reference_solution`` is empty where the data set has none (SVAMP)."""

    question_id: str
    split: str  # train, validation or test
    question: str
    reference_answer: str
    reference_solution: str


class Task(Protocol):
    """What every stage needs of a task. Solutions are steps separated by newlines, the last one ``#### answer``."""

    caption: str  # names the data set and the split, for tables

    def check_data(self, counts: Mapping[str, int]) -> None:
        """Raises a one-line ParamsError where the task's data can't be read, or where a split has fewer questions than
        ``counts`` asks for; called before any work."""

    def questions(self, split: str, count: int, seed: int) -> list[Question]:
        """``count`` distinct questions of a split; the same arguments give the same ones.

        Raises ParamsError where the split has fewer.
        """

    def prompt(self, question: str) -> str:
        """The text after which a model writes a solution."""

    def one_shot_prompt(self, question: str) -> str:
        """:meth:`prompt` after one worked example, for a base model that has seen no solution of the task."""

    def refine_prompt(self, question: str, marked_draft: str) -> str:
        """The text after which the refiner writes a solution, given a draft with its ``[BAD]`` mark."""

    def final_answer(self, solution: str) -> str:
        """The solution's normalised final answer; empty where there is none. Never raises."""

    def is_correct(self, solution: str, reference_answer: str) -> bool:
        """Whether the solution's final answer equals the reference; False without an answer. Never raises."""

    def exact_step_labels(self, question: Question, solution: str) -> list[int] | None:
        """The true label of every step where the task knows it, else None."""


def load_task(task: params.Task) -> Task:
    """The task that the parameters name."""
    if task.name == "arithmetic":
        from glore_lib.tasks.arithmetic import Arithmetic

        return Arithmetic(task.difficulty)
    if task.name == "gsm8k":
        from glore_lib.tasks.gsm8k import GSM8K

        return GSM8K(task.calculator_annotations)
    from glore_lib.tasks.svamp import SVAMP

    return SVAMP(task.svamp_split)


def checked_task(p: params.Params) -> Task:
    """The task of a run that can begin. Raises ParamsError where its data can't be read or are fewer than it asks for,
    or where a base model or a package that it needs is not on this machine."""
    task = load_task(p.task)
    task.check_data(p.task.counts)
    params.check_installed(p)
    return task
