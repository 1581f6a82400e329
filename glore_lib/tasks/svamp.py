"""SVAMP (Patel et al. 2021): 1,000 short word problems, without solutions in steps.

The GLoRe paper does not say how it split them, so the split is a parameter. ``hub_700_300`` is the hub's split; in a
local folder, which has no split, the first 700 by ID are train. ``mawps_asdiv_1000`` is the SVAMP authors' setup: train
on MAWPS and ASDiv-A, test on all 1,000.
"""

import re

from glore_lib.tasks import Question
from glore_lib.tasks.benchmarks import Benchmark, Rows, released_number
from glore_lib.tasks.grading import canonical

_CHALLENGE = "svamp/SVAMP.json"
_COMPANION = "svamp/mawps-asdiv-a_svamp.train.csv"
_TRAIN_SIZE = 700
_PLACEHOLDER = re.compile(r"number(\d+)")


class SVAMP(Benchmark):
    """SVAMP, a :class:`glore_lib.tasks.Task` without reference solutions."""

    # Most questions take one operation, and a small base model answers at the example's length: 40 to 60 % of SmolLM2's
    # answers to training questions ended after longer examples, 90 % after this one.
    example = ("Tom had 24 lamps. He sold 9 of them. How many lamps does Tom have now?", "24 - 9 = 15\n#### 15")

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
            train, test = self._hub_rows("train"), self._hub_rows("test")
            return _challenge_questions("train", train), _challenge_questions("test", test)
        challenge = sorted(self._local_rows(_CHALLENGE), key=lambda row: int(row["ID"].removeprefix("chal-")))
        if self.companion:
            return _companion_questions(self._local_rows(_COMPANION)), _challenge_questions("test", challenge)
        train, test = challenge[:_TRAIN_SIZE], challenge[_TRAIN_SIZE:]
        return _challenge_questions("train", train), _challenge_questions("test", test)


def _challenge_questions(split: str, rows: Rows) -> list[Question]:
    found = []
    for row in rows:
        body = row["Body"].strip()
        if body[-1] not in ".?!,":  # "If he had 26 marbles" + "How many ...?"
            body += ","
        answer = canonical(released_number(str(row["Answer"])))
        found.append(Question(f"svamp-{row['ID']}", split, f"{body} {row['Question'].strip()}", answer, ""))
    return found


def _companion_questions(rows: Rows) -> list[Question]:
    found = []
    for i, row in enumerate(rows):
        numbers = [canonical(released_number(number)) for number in row["Numbers"].split()]
        text = _PLACEHOLDER.sub(lambda match, numbers=numbers: numbers[int(match[1])], row["Question"].strip())  # type: ignore[misc]
        answer = canonical(released_number(row["Answer"]))
        found.append(Question(f"svamp-mawps-asdiv-{i:06d}", "train", text, answer, ""))
    return found
