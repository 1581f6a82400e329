"""GSM8K (Cobbe et al. 2021): 7,473 train and 1,319 test word problems with solutions in steps."""

from typing import Any

from glore_lib import solutions
from glore_lib.tasks import Question
from glore_lib.tasks.benchmarks import Benchmark, released_number
from glore_lib.tasks.grading import canonical


class GSM8K(Benchmark):
    """GSM8K, a :class:`glore_lib.tasks.Task`."""

    name = "GSM8K"
    files = ("gsm8k/train.jsonl", "gsm8k/test.jsonl")
    hub_name = "openai/gsm8k"
    example = (
        "A farmer fills 4 crates with 15 melons each. She sells 22 melons in the morning and half of the rest in the "
        "afternoon. How many melons does she have left?",
        "The farmer starts with 4 * 15 = <<4*15=60>>60 melons.\n"
        "After the morning she has 60 - 22 = <<60-22=38>>38 melons.\n"
        "In the afternoon she sells 38 / 2 = <<38/2=19>>19 melons.\n"
        "She has 38 - 19 = <<38-19=19>>19 melons left.\n"
        "#### 19",
    )

    def __init__(self, calculator_annotations: bool = False) -> None:
        """Keep the released ``<<3*4=12>>`` in solutions if ``calculator_annotations`` is true."""
        super().__init__()
        self.caption = "GSM8K, its own train and test splits" + ", annotated" * calculator_annotations
        self.written = str if calculator_annotations else solutions.strip_annotations
        question, solution = self.example
        self.example = question, self.written(solution)

    def _read(self) -> tuple[list[Question], list[Question]]:
        if self.folder is None:
            train, test = (self._hub_rows(split, config="main") for split in ("train", "test"))
        else:
            train, test = map(self._local_rows, self.files)
        return self._questions("train", train, self._question), self._questions("test", test, self._question)

    def _question(self, split: str, number: int, row: Any) -> Question:
        text, _, answer = row["answer"].partition(solutions.ANSWER_MARK)
        reference = canonical(released_number(answer))
        steps = [*solutions.split_steps(self.written(text)), f"{solutions.ANSWER_MARK} {reference}"]
        question_id, question = f"gsm8k-{split}-{number:06d}", row["question"].strip()
        return Question(question_id, split, question, reference, solutions.join_steps(steps))
