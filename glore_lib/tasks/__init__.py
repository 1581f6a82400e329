"""Tasks: questions, reference solutions, grading and prompts. One module per task; :func:`load_task` picks one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from glore_lib import params


@dataclass(frozen=True)
class Question:
    """A question of one split. ``reference_solution`` is empty if the data set has none (SVAMP)."""

    question_id: str
    split: str  # train, validation or test
    question: str
    reference_answer: str
    reference_solution: str


class Task(Protocol):
    """The interface of a task. Solutions are steps separated by newlines, the last one ``#### answer``."""

    caption: str  # names the data set and the split, for tables

    def check_data(self, counts: Mapping[str, int]) -> None:
        """Raise ParamsError if the data can't be read or a split has fewer questions than ``counts`` asks for."""

    def questions(self, split: str, count: int, seed: int) -> list[Question]:
        """Return ``count`` distinct questions of a split, the same for the same arguments.

        Raises ParamsError if the split has fewer.
        """

    def prompt(self, question: str) -> str:
        """Return the text after which a model writes a solution."""

    def one_shot_prompt(self, question: str) -> str:
        """Return :meth:`prompt` after one worked example, for a base model that was not trained on the task."""

    def refine_prompt(self, question: str, marked_draft: str) -> str:
        """Return the text after which the refiner writes a solution, given a draft with its ``[BAD]`` mark."""

    def final_answer(self, solution: str) -> str:
        """Return the solution's normalised final answer, or "" if there is none. Never raises."""

    def is_correct(self, solution: str, reference_answer: str) -> bool:
        """Return whether the solution's final answer equals the reference; False without one. Never raises."""

    def exact_step_labels(self, question: Question, solution: str) -> list[int] | None:
        """Return the true label of every step if the task knows it, else None."""


def load_task(task: params.Task) -> Task:
    """Return the task that the parameters name."""
    if task.name == "arithmetic":
        from glore_lib.tasks.arithmetic import Arithmetic

        return Arithmetic(task.difficulty)
    if task.name == "gsm8k":
        from glore_lib.tasks.gsm8k import GSM8K

        return GSM8K(task.calculator_annotations)
    from glore_lib.tasks.svamp import SVAMP

    return SVAMP(task.svamp_split)


def checked_task(p: params.Params) -> Task:
    """Return the task of a run; raise ParamsError if its data is missing or does not suit the parameters."""
    task = load_task(p.task)
    task.check_data(p.task.counts)
    _check_solutions(task, p)
    return task


def _check_solutions(task: Task, p: params.Params) -> None:
    """Raise ParamsError if supervised fine-tuning is asked for and no question that it uses has a solution."""
    settings = {
        "student.start = 'sft'": (p.student.start == "sft", "one_shot"),
        "student.sft_control = true": (p.student.sft_control, "false"),
        "reward_models.figure4 = true": (p.reward_models.figure4, "false"),
    }
    asked = [(setting, remedy) for setting, (is_asked, remedy) in settings.items() if is_asked]
    counts = 1, min(p.student.sft_questions, p.task.train_questions)  # the first question mostly has one
    if asked and not any(q.reference_solution for n in counts for q in task.questions("train", n, p.seed)):
        setting, remedy = asked[0]
        raise params.ParamsError(
            f"{setting}: trains on reference solutions, and {task.caption} has none; set it to {remedy}"
        )
