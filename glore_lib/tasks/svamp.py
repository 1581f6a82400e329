"""SVAMP (Patel et al. 2021): 1,000 short word problems, without solutions in steps.

The GLoRe paper does not say how it split them, so the split is a parameter. ``hub_700_300`` is the hub's split; in a
local folder, which has no split, the first 700 by ID are train. ``mawps_asdiv_1000`` is the SVAMP authors' setup: train
on MAWPS and ASDiv-A, test on all 1,000.
"""

import re
from dataclasses import replace
from typing import Any

from glore_lib.tasks import Question
from glore_lib.tasks.benchmarks import Benchmark, released_number
from glore_lib.tasks.grading import canonical

_CHALLENGE = "svamp/SVAMP.json"
_COMPANION = "svamp/mawps-asdiv-a_svamp.train.csv"
_TRAIN_SIZE = 700
_PLACEHOLDER = re.compile(r"number(\d+)")


class SVAMP(Benchmark):
    """SVAMP, a :class:`glore_lib.tasks.Task` without reference solutions."""

    # Most questions take one operation. The first line chooses quantities and operation, the second computes: in a
    # solution of one line there would be no error to locate.
    example = (
        "Tom had 24 lamps. He sold 9 of them. How many lamps does Tom have now?",
        "The number of lamps left is 24 - 9.\n24 - 9 = 15\n#### 15",
    )

    # A tenth of 700 questions would be too few to tell whether a round of expert iteration helps.
    validation_percent = 20

    def __init__(self, split: str) -> None:
        """Read the split "hub_700_300" or "mawps_asdiv_1000"."""
        super().__init__()
        self.name = f"SVAMP ({split})"
        self.companion = split == "mawps_asdiv_1000"
        if self.companion:
            self.files, self.hub_name = (_COMPANION, _CHALLENGE), None
            self.caption = "SVAMP, trained on MAWPS and ASDiv-A, tested on all 1,000"
        else:
            self.files, self.hub_name = (_CHALLENGE,), "ChilleD/SVAMP"
            self.caption = "SVAMP, the hub's 700/300 split" if self.folder is None else "SVAMP, 700/300 by ID order"

    def _read(self) -> tuple[list[Question], list[Question]]:
        if self.folder is None:
            train, test = (self._questions(split, self._hub_rows(split), _challenge) for split in ("train", "test"))
            return train, test
        challenge = self._questions("test", self._local_rows(_CHALLENGE), _challenge)
        challenge.sort(key=lambda q: int(q.question_id.removeprefix("svamp-chal-")))
        if self.companion:
            return self._questions("train", self._local_rows(_COMPANION), _companion), challenge
        return [replace(q, split="train") for q in challenge[:_TRAIN_SIZE]], challenge[_TRAIN_SIZE:]


def _challenge(split: str, number: int, row: Any) -> Question:
    body = row["Body"].strip()
    if body[-1] not in ".?!,":  # "If he had 26 marbles" + "How many ...?"
        body += ","
    question_id = f"svamp-chal-{int(row['ID'].removeprefix('chal-'))}"
    answer = canonical(released_number(str(row["Answer"])))
    return Question(question_id, split, f"{body} {row['Question'].strip()}", answer, "")


def _companion(split: str, number: int, row: Any) -> Question:
    numbers = [canonical(released_number(text)) for text in row["Numbers"].split()]
    question = _PLACEHOLDER.sub(lambda match: numbers[int(match[1])], row["Question"].strip())
    return Question(f"svamp-mawps-asdiv-{number:06d}", split, question, canonical(released_number(row["Answer"])), "")
