"""Test questions that occur in train or validation."""

from glore_lib.tasks import Question
from glore_lib.tasks.contamination import contamination


def test_contamination_by_text_and_by_eight_words():
    def asked(*texts: str) -> dict[str, Question]:
        return {str(i): Question(str(i), "", text, "", "") for i, text in enumerate(texts)}

    splits = {
        "train": asked("Tom has 3 pens.", "one two three four five six seven eight nine ten"),
        "validation": asked("short"),
        "test": asked("tom  HAS 3 pens?", "now one, two, three, four, five, six, seven, eight are many", "a new one"),
    }
    found = contamination(splits.__getitem__, splits)
    assert found.loc["train"].tolist() == [2, 3, 1, 1, 25.0]  # one of the four 8-word sequences of test
    assert found.loc["validation"].tolist() == [1, 3, 0, 0, 0.0]
    splits["test"] = asked("a new one")
    assert contamination(splits.__getitem__, splits).loc["train", "8 words in common, %"] == "n = 0"
