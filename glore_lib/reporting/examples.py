"""Choose drafts and show them with all that is known of them, as in the paper's Figure 2.

An example has the draft's steps with their labels, rollouts and scores, and beside them what the refiner made of the
draft. Notebooks and explorer show the same HTML, in which everything that a model or a user wrote is escaped.
"""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_hex

from glore_lib.method import step_labels
from glore_lib.method.refinement import locate_first_error, marked_step
from glore_lib.method.replication import Replication, SplitEvaluation
from glore_lib.method.reward_models import answer_scores
from glore_lib.method.students import sample_solutions
from glore_lib.reporting.style import METHOD_LABELS
from glore_lib.solutions import mark_bad, split_steps

REFINEMENTS = ("local+sorm", "global")
NAMES = METHOD_LABELS | {
    "draft": "Draft", "reference": "Reference solution", "exact": "Exact label", "right": "Correct rollouts"
}  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """A solution: ``draft``, ``reference`` or a kind of refinement.

    ``is_correct`` is None if the correct answer is unknown.
    """

    name: str
    text: str
    final_answer: str
    is_correct: bool | None

    @property
    def verdict(self) -> str:
        """Whether the answer is correct, if known, and the answer."""
        word = {None: "", True: "right", False: "wrong"}[self.is_correct]
        return ", ".join(part for part in (word, self.final_answer or "no answer") if part)


@dataclass(frozen=True)
class Example:
    """A question and its draft.

    ``steps`` has a row per step (index: its number) with its ``text`` and, if known: ``exact`` (its label), ``right``
    (correct rollouts, as "3/8") and the score by each reward model.
    """

    question: str
    reference_answer: str  # empty if unknown
    steps: pd.DataFrame
    threshold: float
    answers: Sequence[Answer]  # the draft first
    marked: int = 0  # the step before which a local refinement's [BAD] stood; 0: none

    @property
    def scored(self) -> list[str]:
        """The columns of ``steps`` that are scores."""
        return [str(name) for name in self.steps if name not in ("text", "exact", "right")]

    def first_error(self, column: str) -> int:
        """Return the first step labelled 0, or scored at most the threshold; 0 if there is none."""
        limit = 0 if column == "exact" else self.threshold
        return next((step for step in self.steps.index if self.steps.loc[step, column] <= limit), 0)

    @property
    def draft_steps(self) -> list[str]:
        """The draft as the refiner reads it, with [BAD] before the step located as the first error."""
        steps = list(self.steps["text"])
        return split_steps(mark_bad(steps, self.marked)) if self.marked else steps

    def marked_steps(self, answer: Answer) -> list[tuple[str, bool]]:
        """Return the steps of an answer, each with whether a refinement changed it."""
        if answer.name == "draft":
            return [(step, False) for step in self.draft_steps]
        if answer.name == "reference":
            return [(step, False) for step in split_steps(answer.text)]
        return changed(self.answers[0].text, answer.text)


def changed(draft: str, answer: str) -> list[tuple[str, bool]]:
    """Return the steps of an answer, each with whether it is new: not among the steps in common with the draft."""
    before, after = split_steps(draft), split_steps(answer)
    kept = SequenceMatcher(None, before, after, autojunk=False).get_matching_blocks()
    same = {i for block in kept for i in range(block.b, block.b + block.size)}
    return [(step, i not in same) for i, step in enumerate(after)]


class Outcomes:
    """What became of the drafts of a split: series with index ``sample_id``, computed on first use."""

    def __init__(self, lab: Replication, split: str):
        self.run, self.split = lab.run, split
        self.evaluated: SplitEvaluation = getattr(lab, split)
        # The draft set's own, without its rollouts.
        self._drafts = sample_solutions(lab.run, lab.student, split, 1, 0.0, f"greedy-{lab.student.policy}")
        self._columns: dict[str, pd.Series] = {}
        self._refinements: dict[str, pd.DataFrame] = {}

    @cached_property
    def drafts(self) -> pd.DataFrame:
        """The split's drafts by ``sample_id``."""
        return self._drafts.read().set_index("sample_id")

    @property
    def right(self) -> pd.Series:
        """Whether each draft is correct."""
        return self.drafts["is_correct"]

    @cached_property
    def exact(self) -> pd.DataFrame | None:
        """The exact labels, or None if unknown."""
        return step_labels.exact_labels(self.run, self.drafts.reset_index(), self.split)

    @cached_property
    def true_errors(self) -> pd.Series:
        """The first error of each draft by the exact labels or, if unknown, by rollouts; 0: none."""
        labels = self.evaluated.draft_set.labels if self.exact is None else self.exact
        return self._of_all(step_labels.first_errors(labels), 0)

    def column(self, name: str) -> pd.Series:
        """Return a value of every step (index ``sample_id``, ``step``).

        ``name`` is ``exact`` (its label), ``right`` (correct rollouts, as "3/8"), or a reward model (its score).
        """
        if name not in self._columns:
            steps = ["sample_id", "step"]
            if name == "right":
                rollouts = self.evaluated.draft_set.rollouts.read().groupby(steps)["is_correct"].agg(["sum", "count"])
                self._columns[name] = rollouts["sum"].astype(str) + "/" + rollouts["count"].astype(str)
            elif name == "exact":
                assert self.exact is not None
                self._columns[name] = self.exact.set_index(steps)["label"]
            else:
                self._columns[name] = self.scores(name).set_index(steps)["score"]
        return self._columns[name]

    def scores(self, kind: str) -> pd.DataFrame:
        """Return a reward model's step scores of the drafts."""
        return self.evaluated.scores[kind].read()

    def found_errors(self, kind: str) -> pd.Series:
        """Return the first error of each draft by a reward model at the run's threshold; 0: none."""
        return self._of_all(locate_first_error(self.scores(kind), self.run.params.reward_models.threshold), 0)

    @cached_property
    def orm_says_right(self) -> pd.Series:
        """Whether the ORM scores each final answer above the threshold."""
        return self._of_all(answer_scores(self.scores("orm")), 0.0) > self.run.params.reward_models.threshold

    def refinements(self, kind: str) -> pd.DataFrame:
        """Return the records of one kind of refinement, by ``sample_id``."""
        if kind not in self._refinements:
            made = self.evaluated.refined[kind].read().set_index("sample_id")
            self._refinements[kind] = made.loc[self.drafts.index]
        return self._refinements[kind]

    def refined(self, kind: str) -> pd.Series:
        """Return whether each refinement of a kind is correct."""
        return self.refinements(kind)["is_correct"]

    def _of_all(self, values: pd.Series, otherwise: float) -> pd.Series:
        return values.reindex(self.drafts.index, fill_value=otherwise)

    def chosen(self, show: str) -> list[str]:
        """Return the ids of the drafts that a filter selects."""
        return list(self.drafts.index[DRAFT_FILTERS[show](self)])

    def telling(self, show: str) -> list[str]:
        """Return the same ids; drafts whose first step is wrong come last, because they show less."""
        first = () if self.exact is None else self.exact.query("step == 1 and label == 0")["sample_id"].tolist()
        return sorted(self.chosen(show), key=lambda sample_id: sample_id in first)


DRAFT_FILTERS: dict[str, Callable[[Outcomes], pd.Series]] = {
    "all drafts": lambda o: o.right | ~o.right,
    "right drafts": lambda o: o.right,
    "wrong drafts": lambda o: ~o.right,
    "fixed by local only": lambda o: ~o.right & o.refined("local+sorm") & ~o.refined("global"),
    "fixed by global only": lambda o: ~o.right & o.refined("global") & ~o.refined("local+sorm"),
    "made worse by refining": lambda o: o.right & ~(o.refined("local+sorm") & o.refined("global")),
    "ORM wrong about the answer": lambda o: o.orm_says_right != o.right,
    "SORM wrong about the first error": lambda o: o.found_errors("sorm") != o.true_errors,
    "first error found by the SORM, not by the ORM": lambda o: (
        (o.found_errors("sorm") == o.true_errors) & (o.found_errors("orm") != o.true_errors)
    ),
}


def example(
    outcomes: Outcomes, sample_id: str, columns: Sequence[str], answers: Sequence[str], threshold: float | None = None
) -> Example:
    """Return a stored draft with what is known of it.

    ``columns`` are values of its steps (``exact``, left out if unknown; ``right``; reward models), ``answers`` are
    shown beside it (``reference``, kinds of refinement). ``threshold`` defaults to the run's.
    """
    draft: Any = outcomes.drafts.loc[sample_id]
    question = outcomes.run.questions(outcomes.split)[draft["question_id"]]
    texts = split_steps(draft["text"])
    steps = pd.DataFrame({"text": pd.Series(texts, dtype=object)}).set_axis(np.arange(1, len(texts) + 1))
    for name in columns:
        if name != "exact" or outcomes.exact is not None:
            steps[name] = [outcomes.column(name)[sample_id, step] for step in steps.index]
    shown, marked = [Answer("draft", draft["text"], draft["final_answer"], bool(draft["is_correct"]))], 0
    for name in answers:
        if name == "reference":
            shown.append(Answer(name, question.reference_solution, question.reference_answer, True))
            continue
        made: Any = outcomes.refinements(name).loc[sample_id]
        shown.append(Answer(name, made["text"], made["final_answer"], bool(made["is_correct"])))
        if name.startswith("local"):
            marked = marked_step(int(made["first_error"]), len(texts), outcomes.run.params.refiner)
    threshold = outcomes.run.params.reward_models.threshold if threshold is None else threshold
    return Example(question.question, question.reference_answer, steps, threshold, shown, marked)


def rollouts_of(lab: Replication, split: str, show: str) -> pd.DataFrame:
    """Return the two most frequent rollouts after each step of the first selected draft, up to its first error.

    Columns: the rollout, how often it was sampled, whether its answer is correct, and whether it is consistent: uses
    what the steps before it computed.
    """
    outcomes = Outcomes(lab, split)
    chosen = outcomes.telling(show)[:1]
    rollouts = outcomes.evaluated.draft_set.rollouts.read()
    last = max((outcomes.true_errors[sample_id] or 1 for sample_id in chosen), default=0)
    rollouts = rollouts[rollouts["sample_id"].isin(chosen) & (rollouts["step"] <= last)]
    written = rollouts.assign(rollout=rollouts["text"].map(lambda text: " / ".join(split_steps(text))))
    times = written.groupby(["step", "rollout", "is_correct", "is_consistent"], sort=False).size().rename("times")
    ranked = times.reset_index().sort_values(["step", "times"], ascending=[True, False], kind="stable")
    return ranked.groupby("step").head(2)[["step", "rollout", "times", "is_correct", "is_consistent"]]


# The renderer

LINES, COLUMNS = 45, 130  # the most that an example takes as text
FIRST_ERROR, NEW = "◀ first error", "▸"
COLOURS = colormaps["Oranges_r"]  # dark for a low score; the lightness alone shows it
TEXT_STYLE = "text-align:left;white-space:pre-wrap;vertical-align:top"


@dataclass(frozen=True)
class Rendered:
    """HTML for notebooks, and the same as plain text."""

    html: str
    text: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


def worked_example(
    lab: Replication, split: str, show: str, columns: Sequence[str], answers: Sequence[str] = (), number: int = 0
) -> Rendered:
    """Show draft ``number`` of those that ``show`` (of :data:`DRAFT_FILTERS`) selects; see :func:`example`."""
    outcomes = Outcomes(lab, split)
    chosen = outcomes.telling(show)
    if number >= len(chosen):
        text = f"There are {len(chosen)} drafts of this kind: {show}."
        return Rendered(f"<p>{escape(text)}</p>", text)
    shown = example(outcomes, chosen[number], columns, answers)
    return Rendered(to_html(shown), to_text(shown))


def to_html(example: Example) -> str:
    """Return an example as HTML that is complete without styles: colour only adds to what text says."""
    columns = [str(name) for name in example.steps if name != "text"]
    heads = "".join(f"<th>{escape(name)}</th>" for name in ["Step", "Text", *(NAMES[c] for c in columns)])
    rows = "".join(
        f'<tr><td>{step}</td><td style="{TEXT_STYLE}">{escape(text)}</td>'
        + "".join(_html_cell(example, column, step) for column in columns)
        + "</tr>"
        for step, text in zip(example.steps.index, example.steps["text"], strict=True)
    )
    verdicts = "".join(
        f'<th style="text-align:left">{escape(NAMES[a.name])}: {escape(a.verdict)}</th>' for a in example.answers
    )
    texts = "".join(f'<td style="{TEXT_STYLE}">{_html_lines(example, answer)}</td>' for answer in example.answers)
    reference = f"<br><b>Correct answer:</b> {escape(example.reference_answer)}" if example.reference_answer else ""
    return (
        f'<div class="tex2jax_ignore mathjax_ignore"><p>{escape(example.question)}{reference}</p>'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
        f"<p>{escape(_legend(example))}</p>"
        f"<table><thead><tr>{verdicts}</tr></thead><tbody><tr>{texts}</tr></tbody></table></div>"
    )


def to_text(example: Example) -> str:
    """Return an example as plain text of at most :data:`LINES` lines of :data:`COLUMNS` characters."""
    columns = [str(name) for name in example.steps if name != "text"]
    cells = {step: [_cell_text(example, column, step) for column in columns] for step in example.steps.index}
    widths = [max(len(text) for text in [NAMES[c], *(row[i] for row in cells.values())]) for i, c in enumerate(columns)]
    room = COLUMNS - 6 - sum(width + 2 for width in widths)
    texts = {step: _shortened(text, room) for step, text in example.steps["text"].items()}
    widths.insert(0, max(map(len, ["Text", *texts.values()])))
    rows = [("", ["Text", *(NAMES[c] for c in columns)]), *((step, [texts[step], *cells[step]]) for step in cells)]
    table = [f"{step:>4}  " + "  ".join(map(str.ljust, row, widths)) for step, row in rows]
    question = textwrap.wrap(example.question, COLUMNS, max_lines=4, placeholder=" …")
    reference = [f"Correct answer: {example.reference_answer}"] if example.reference_answer else []
    lines = [*question, *reference, *_cut(table, 14), *textwrap.wrap(_legend(example), COLUMNS, max_lines=3)]
    limit = (LINES - len(lines)) // max(len(example.answers), 1) - 1
    for answer in example.answers:
        steps = [f"{NEW if new else ' '} {step}" for step, new in example.marked_steps(answer)]
        lines += [f"{NAMES[answer.name]}: {answer.verdict}", *_cut(steps, limit)]
    return "\n".join(_shortened(line.rstrip(), COLUMNS) for line in lines)


def _cut(lines: list[str], limit: int) -> list[str]:
    return lines if len(lines) <= limit else [*lines[: limit - 1], f"  … and {len(lines) - limit + 1} more"]


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 2]} …"


def _legend(example: Example) -> str:
    """Return where the first errors are, by labels and by scores."""
    exact = f"Exact: {_step_name(example.first_error('exact'))}. " if "exact" in example.steps else ""
    scores = ", ".join(f"{NAMES[kind]}: {_step_name(example.first_error(kind))}" for kind in example.scored)
    return exact + (f"First error at T = {example.threshold:g}: {scores}." if scores else "")


def _step_name(step: int) -> str:
    return f"step {step}" if step else "none"


def _cell_text(example: Example, column: str, step: int) -> str:
    value: Any = example.steps.loc[step, column]
    if column == "right":
        return str(value)
    text = ("right" if value else "wrong") if column == "exact" else f"{value:.2f}"
    return f"{text} {FIRST_ERROR}" if example.first_error(column) == step else text


def _html_cell(example: Example, column: str, step: int) -> str:
    text = escape(_cell_text(example, column, step))
    style = "text-align:center"
    if column in example.scored:
        value: Any = example.steps.loc[step, column]
        colour = score_colour(float(value))
        style += f";background-color:{colour};color:{text_colour(float(value))}"
    return f'<td style="{style}">{f"<b>{text}</b>" if FIRST_ERROR in text else text}</td>'


def _html_lines(example: Example, answer: Answer) -> str:
    return "<br>".join(
        f"<b>{NEW} {escape(step)}</b>" if new else escape(step) for step, new in example.marked_steps(answer)
    )


def score_colour(score: float) -> str:
    """Return the background colour of a score in [0, 1], as #rrggbb."""
    return to_hex(COLOURS(float(score)))


def text_colour(score: float) -> str:
    """Return the text colour with the better contrast on :func:`score_colour`."""
    return "white" if score < 0.24 else "black"
