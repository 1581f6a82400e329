"""Which drafts are selected, what is known of them, and how they are rendered."""

from types import SimpleNamespace

import pandas as pd
import pytest
from bs4 import BeautifulSoup
from test_replication import SETTINGS, forbid_work, scripted  # noqa: F401 a fixture

from glore_lib.method.replication import Replication
from glore_lib.reporting import examples
from glore_lib.reporting.examples import (
    Answer,
    Example,
    Outcomes,
    changed,
    example,
    to_html,
    to_text,
    worked_example,
)  # fmt: skip
from glore_lib.solutions import split_steps
from tiny import open_tiny


def an_example(text: str = "a = 1", steps: int = 2, score: float = 0.9) -> Example:
    frame = pd.DataFrame({"text": [text] * steps, "exact": 1, "right": "3/8", "orm": score}, index=range(1, steps + 1))
    answers = [Answer("draft", "\n".join([text] * steps), "1", True), Answer("global", f"{text}\n{text} b", "", False)]
    return Example("what is a ?", "1", frame, 0.5, answers)


def cells(html: str) -> list[list[str]]:
    """Return the texts of all table rows, as a page without styles shows them."""
    rows = BeautifulSoup(html, "html.parser").find_all("tr")
    return [[cell.get_text("\n") for cell in row.find_all(["th", "td"])] for row in rows]


def test_first_errors_are_the_first_step_labelled_0_or_scored_at_most_the_threshold():
    steps = pd.DataFrame(
        {"text": "x", "exact": [1, 1, 0, 0], "orm": [0.9, 0.5, 0.2, 0.6], "sorm": 0.6}, index=[1, 2, 3, 4]
    )
    shown = Example("q", "", steps, 0.5, [])
    assert [shown.first_error(column) for column in ("exact", "orm", "sorm")] == [3, 2, 0]
    assert shown.scored == ["orm", "sorm"]


def test_the_steps_that_a_refinement_changed_are_marked():
    assert changed("a\nb\nc", "a\nx\nc\nd") == [("a", False), ("x", True), ("c", False), ("d", True)]
    assert changed("a\nb", "b\na") == [("b", True), ("a", False)]  # a common order, not a common set
    assert changed("", "a") == [("a", True)]


@pytest.fixture
def outcomes(scripted, tiny_base, monkeypatch) -> Outcomes:  # noqa: F811
    """Of a run of which everything is made."""
    forbid_work(monkeypatch)
    return Outcomes(Replication(open_tiny(tiny_base, scripted[0], **SETTINGS)), "test")


def test_drafts_are_chosen_by_what_came_of_them(outcomes):
    right = outcomes.drafts["is_correct"]
    local, whole = (outcomes.evaluated.refined[kind].read().set_index("sample_id") for kind in ("local+sorm", "global"))
    exact = outcomes.evaluated.draft_set.exact
    for show, expected in {
        "all drafts": [True] * 6,
        "wrong drafts": ~right,
        "fixed by local only": ~right & local["is_correct"] & ~whole["is_correct"],
        "made worse by refining": right & ~(local["is_correct"] & whole["is_correct"]),
    }.items():
        assert outcomes.chosen(show) == list(right.index[expected]), show
    for sample_id in right.index:  # by hand, from the stored scores
        scores = outcomes.scores("sorm").query("sample_id == @sample_id").sort_values("step")
        found = next((r.step for r in scores.itertuples() if r.score <= 0.5), 0)
        labels = exact.query("sample_id == @sample_id").sort_values("step")
        true = next((r.step for r in labels.itertuples() if r.label == 0), 0)
        assert (sample_id in outcomes.chosen("SORM wrong about the first error")) == (found != true)
        assert (sample_id in outcomes.chosen("first error found by the SORM")) == (found == true > 0)
        says_right = outcomes.scores("orm").query("sample_id == @sample_id").sort_values("step")["score"].iloc[-1] > 0.5
        assert (sample_id in outcomes.chosen("ORM wrong about the answer")) == (says_right != right[sample_id])
    every = [set(outcomes.chosen(show)) for show in ("fixed by local only", "fixed by global only", "wrong drafts")]
    assert not every[0] & every[1] and every[0] | every[1] <= every[2]


def test_a_draft_without_an_error_has_none_to_find():
    """By hand: SORM and ORM find errors, or none (0), in drafts with and without a true first error."""
    true, sorm, orm = [0, 0, 0, 2, 2, 2, 2], [0, 0, 3, 2, 2, 0, 1], [0, 1, 0, 2, 0, 2, 1]
    found = {"sorm": pd.Series(sorm), "orm": pd.Series(orm)}
    drafts = SimpleNamespace(true_errors=pd.Series(true), found_errors=found.__getitem__)
    chosen = {show: list(examples.DRAFT_FILTERS[show](drafts)) for show in examples.DRAFT_FILTERS if "first" in show}
    assert chosen == {
        "first error found by the SORM": [False, False, False, True, True, False, False],
        "first error found by the SORM, not by the ORM": [False, False, False, False, True, False, False],
        "SORM wrong about the first error": [False, False, True, False, False, True, True],
    }


def test_drafts_whose_first_step_is_wrong_come_last(outcomes):
    telling = outcomes.telling("wrong drafts")
    assert sorted(telling) == sorted(outcomes.chosen("wrong drafts"))
    late = [outcomes.true_errors[sample_id] == 1 for sample_id in telling]
    assert late == sorted(late)


def test_an_example_holds_what_is_stored(outcomes):
    sample_id = outcomes.telling("wrong drafts")[0]
    shown = example(outcomes, sample_id, ["exact", "right", "orm"], ["reference", "local+sorm", "global"])
    draft = outcomes.drafts.loc[sample_id]
    question = outcomes.run.questions("test")[draft["question_id"]]
    assert (shown.question, shown.reference_answer) == (question.question, question.reference_answer)
    assert list(shown.steps["text"]) == split_steps(draft["text"])
    scores = outcomes.scores("orm").set_index(["sample_id", "step"])["score"][sample_id]
    assert shown.steps["orm"].tolist() == scores.sort_index().tolist()
    rollouts = outcomes.evaluated.draft_set.rollouts.read().query("sample_id == @sample_id and step == 1")["is_correct"]
    assert shown.steps.loc[1, "right"] == f"{rollouts.sum()}/{len(rollouts)}"
    assert [answer.name for answer in shown.answers] == ["draft", "reference", "local+sorm", "global"]
    assert [answer.is_correct for answer in shown.answers[:2]] == [False, True]
    at = outcomes.found_errors("sorm")[sample_id] or len(shown.steps)  # as refiner.no_error_found says
    assert shown.marked == at and shown.marked_steps(shown.answers[0])[at - 1][0].startswith("[BAD] ")


def test_html_without_its_styles_says_all():
    shown = an_example(score=0.37)
    heads, *steps, verdicts, answers = cells(to_html(shown))
    assert heads == ["Step", "Text", "Exact label", "Correct rollouts", "ORM"]
    assert steps == [["1", "a = 1", "right", "3/8", "0.37 ◀ first error"], ["2", "a = 1", "right", "3/8", "0.37"]]
    assert verdicts == ["Draft: right, 1", "Global: wrong, no answer"]
    assert answers == ["a = 1\na = 1", "a = 1\n▸ a = 1 b"]
    soup = BeautifulSoup(to_html(shown), "html.parser")
    assert [tag.get_text() for tag in soup.find_all("b")] == ["Correct answer:", "0.37 ◀ first error", "▸ a = 1 b"]
    assert "Exact: none. First error at T = 0.5: ORM: step 1." in soup.get_text()
    marked = Example("q", "", shown.steps, 0.5, shown.answers, marked=2)
    assert cells(to_html(marked))[-1][0] == "a = 1\n[BAD] a = 1"


def test_text_says_the_same():
    lines = to_text(an_example(score=0.37)).splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "what is a ?",
        "Correct answer: 1",
        "Exact: none. First error at T = 0.5: ORM: step 1.",
        "Draft: right, 1",
        "Global: wrong, no answer",
        "Text Exact label Correct rollouts ORM",
        "1 a = 1 right 3/8 0.37 ◀ first error",
        "2 a = 1 right 3/8 0.37",
        "Draft",
        "a = 1",
        "a = 1",
        "Global",
        "a = 1",
        "▸ a = 1 b",
    ]


def test_what_the_orm_says_of_an_answer_is_in_its_verdict():
    answer = Answer("global", "#### 4", "4", True, score=0.876, is_picked=True)
    assert answer.verdict == "right, 4, ORM 0.88 ◀ picked by the ORM"
    assert Answer("draft", "", "", None, score=0.0).verdict == "no answer, ORM 0.00"


@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.5, 0.9, 1.0])
def test_colours_of_scores_are_centred_on_the_threshold_and_can_be_read(threshold):
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        return sum(w * (p / 12.92 if p <= 0.04 else ((p + 0.055) / 1.055) ** 2.4)
                   for w, p in zip((0.2126, 0.7152, 0.0722), parts, strict=True))  # fmt: skip

    scores = [score / 20 for score in range(21)]
    colours = [examples.score_colour(score, threshold) for score in scores]
    for score, colour in zip(scores, colours, strict=True):
        red, blue = int(colour[1:3], 16), int(colour[5:7], 16)
        assert (score <= threshold) == (red >= blue - 1), score  # orange to white, or purple
        ink, light = (1.0 if examples.text_colour(colour) == "white" else 0.0), luminance(colour)
        assert (max(ink, light) + 0.05) / (min(ink, light) + 0.05) >= 4.5, score  # WCAG AA
    below = [luminance(colour) for score, colour in zip(scores, colours, strict=True) if score <= threshold]
    above = [luminance(colour) for score, colour in zip(scores, colours, strict=True) if score > threshold]
    assert below == sorted(below) and above == sorted(above, reverse=True)
    assert threshold == 0 or below[-1] > 0.9


@pytest.mark.parametrize("shown", [
    an_example(), an_example("x " * 900, 40), an_example("y" * 4000, 30), an_example("z", 60),
], ids=["short", "long", "unbroken", "many"])  # fmt: skip
def test_text_fits_a_screen(shown):
    lines = to_text(shown).splitlines()
    assert len(lines) <= 45
    assert max(map(len, lines)) <= 130
    assert any(line.startswith("Global: wrong") for line in lines)


@pytest.mark.parametrize("answers", [1, 3, 5])
def test_text_of_many_answers_fits_a_screen(answers):
    frame = pd.DataFrame({"text": ["x " * 90] * 30, "exact": 1, "right": "3/8", "orm": 0.1, "sorm": 0.9}, range(1, 31))
    made = [
        Answer(name, "x\n" * 30, "1", False) for name in ("draft", "reference", "local+orm", "local+sorm", "global")
    ]
    lines = to_text(Example("why " * 400, "1", frame, 0.5, made[:answers])).splitlines()
    assert len(lines) <= 45 and max(map(len, lines)) <= 130


def test_no_draft_of_a_kind_is_said(outcomes, monkeypatch):
    monkeypatch.setitem(examples.DRAFT_FILTERS, "none", lambda o: o.right & ~o.right)
    shown = worked_example(outcomes.evaluated.replication, "test", "none", ["exact"])
    assert repr(shown) == "There are 0 drafts of this kind: none."
    assert shown._repr_html_() == "<p>There are 0 drafts of this kind: none.</p>"
    assert examples.rollouts_of(outcomes.evaluated.replication, "test", "none").empty


def test_rollouts_are_those_up_to_the_first_error_two_a_step(outcomes):
    shown = examples.rollouts_of(outcomes.evaluated.replication, "test", "wrong drafts")
    sample_id = outcomes.telling("wrong drafts")[0]
    assert set(shown["step"]) == set(range(1, outcomes.true_errors[sample_id] + 1))
    rollouts = outcomes.evaluated.draft_set.rollouts.read().query("sample_id == @sample_id")
    for step, rows in shown.groupby("step"):
        texts = rollouts.loc[rollouts["step"] == step, "text"].value_counts()
        assert list(rows["times"]) == sorted(texts, reverse=True)[:2]


def test_rollouts_of_a_draft_without_an_error_are_those_of_all_steps(outcomes, monkeypatch):
    whole = next(sample_id for sample_id, error in outcomes.true_errors.items() if not error)
    monkeypatch.setitem(examples.DRAFT_FILTERS, "whole", lambda o: o.right.index == whole)
    shown = examples.rollouts_of(outcomes.evaluated.replication, "test", "whole")
    assert set(shown["step"]) == set(outcomes.evaluated.draft_set.rollouts.read().query("sample_id == @whole")["step"])
    assert shown["step"].max() > 1
