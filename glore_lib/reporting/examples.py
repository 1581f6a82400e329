"""Choose drafts and show them with all that is known of them, as in the paper's Figure 2.

An example has the draft's steps with their labels, rollouts and scores, and beside them what the refiner made of the
draft. Notebooks and explorer show the same HTML, in which everything that a model or a user wrote is escaped.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property
from math import inf
from typing import Any

import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_hex, to_rgb

from glore_lib.method import step_labels
from glore_lib.method.refinement import locate_first_error, marked_step
from glore_lib.method.replication import Replication, SplitEvaluation
from glore_lib.method.reward_models import answer_scores
from glore_lib.method.students import sample_solutions
from glore_lib.reporting import read_template
from glore_lib.reporting.style import METHOD_LABELS
from glore_lib.solutions import mark_bad, split_steps

NAMES = METHOD_LABELS | {
    "draft": "Draft", "reference": "Reference solution", "exact": "Exact label", "right": "Correct rollouts",
    "text": "Text", "unknown": "Not in the vocabulary",
}  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """A solution."""

    name: str  # draft, reference or a kind of refinement
    text: str
    final_answer: str
    is_correct: bool | None  # None if the correct answer is unknown
    score: float | None = None  # the ORM's, of the whole answer
    is_picked: bool = False  # by the ORM, among the answers that are reranked

    @property
    def verdict(self) -> str:
        """Whether the answer is correct, if known, the answer, and what the ORM says of it."""
        word = {None: "", True: "right", False: "wrong"}[self.is_correct]
        score = "" if self.score is None else f"ORM {self.score:.2f}"
        said = ", ".join(part for part in (word, self.final_answer or "no answer", score) if part)
        return f"{said} {PICKED}" if self.is_picked else said


@dataclass(frozen=True)
class Example:
    """A question and its draft: ``steps`` has the ``text`` of each, and the :meth:`Outcomes.column` values to show."""

    question: str
    reference_answer: str  # empty if unknown
    steps: pd.DataFrame
    threshold: float
    answers: Sequence[Answer]  # the draft first
    marked: int = 0  # the step before which a local refinement's [BAD] stood; 0: none

    @property
    def columns(self) -> list[str]:
        """The columns of ``steps``."""
        return [str(name) for name in self.steps]

    @property
    def scored(self) -> list[str]:
        """The columns of ``steps`` that are scores."""
        return [name for name in self.columns if name not in ("text", "exact", "right", "unknown")]

    def first_error(self, column: str) -> int:
        """Return the first step labelled 0, or scored at most the threshold; 0 if there is none."""
        limit = 0 if column == "exact" else self.threshold
        return next((step for step in self.steps.index if self.steps.loc[step, column] <= limit), 0)

    def marked_steps(self, answer: Answer) -> list[tuple[str, bool]]:
        """Return the steps of an answer, each with whether a refinement changed it.

        Those of the draft are as the refiner reads them, with [BAD] before the step located as the first error.
        """
        if answer.name not in ("draft", "reference"):
            return changed(self.answers[0].text, answer.text)
        steps = split_steps(answer.text)
        if answer.name == "draft" and self.marked:
            steps = split_steps(mark_bad(steps, self.marked))
        return [(step, False) for step in steps]


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
        drafts = sample_solutions(lab.run, lab.student, split, 1, 0.0, f"greedy-{lab.student.policy}")
        self.drafts = drafts.read().set_index("sample_id")
        self.right = self.drafts["is_correct"]

    @cached_property
    def exact(self) -> pd.DataFrame | None:
        """The exact labels, or None if unknown."""
        return step_labels.exact_labels(self.run, self.drafts.reset_index(), self.split)

    @property
    def true_labels(self) -> pd.DataFrame:
        """The exact labels of all steps or, if unknown, those by rollouts."""
        return self.evaluated.draft_set.labels if self.exact is None else self.exact

    @cached_property
    def true_errors(self) -> pd.Series:
        """The first error of each draft by :attr:`true_labels`; 0: none."""
        return step_labels.first_errors(self.true_labels).reindex(self.drafts.index, fill_value=0)

    def column(self, name: str) -> pd.Series:
        """Return every step's ``exact`` label, ``right`` (correct rollouts, as "3/8") or score by a reward model."""
        steps = ["sample_id", "step"]
        if name == "right":
            rollouts = self.evaluated.draft_set.rollouts.read().groupby(steps)["is_correct"].agg(["sum", "count"])
            return rollouts["sum"].astype(str) + "/" + rollouts["count"].astype(str)
        if name == "exact":
            return self.true_labels.set_index(steps)["label"]
        return self.scores(name).set_index(steps)["score"]

    def scores(self, kind: str) -> pd.DataFrame:
        """Return a reward model's step scores of the drafts."""
        return self.evaluated.scores[kind].read()

    def found_errors(self, kind: str) -> pd.Series:
        """Return the first error of each draft by a reward model at the run's threshold; 0: none."""
        found = locate_first_error(self.scores(kind), self.run.params.reward_models.threshold)
        return found.reindex(self.drafts.index, fill_value=0)

    @cached_property
    def orm_says_right(self) -> pd.Series:
        """Whether the ORM scores each final answer above the threshold."""
        scores = answer_scores(self.scores("orm")).reindex(self.drafts.index, fill_value=0.0)
        return scores > self.run.params.reward_models.threshold

    def refinements(self, kind: str) -> pd.DataFrame:
        """Return the records of one kind of refinement, by ``sample_id``."""
        return self.evaluated.refined[kind].read().set_index("sample_id").loc[self.drafts.index]

    def refined(self, kind: str) -> pd.Series:
        """Return whether each refinement of a kind is correct."""
        return self.refinements(kind)["is_correct"]

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
    "first error found by the SORM": lambda o: (o.true_errors > 0) & (o.found_errors("sorm") == o.true_errors),
    "first error found by the SORM, not by the ORM": lambda o: (
        (o.true_errors > 0) & (o.found_errors("sorm") == o.true_errors) & (o.found_errors("orm") != o.true_errors)
    ),
}


def numbered(text: str) -> pd.DataFrame:
    """Return the steps of a solution: column ``text``, index from 1."""
    steps = pd.Series(split_steps(text), dtype=object, name="text")
    return steps.set_axis(range(1, len(steps) + 1)).to_frame()


def example(
    outcomes: Outcomes, sample_id: str, columns: Sequence[str], answers: Sequence[str], threshold: float | None = None
) -> Example:
    """Return a stored draft with :meth:`Outcomes.column` values of its steps, and the answers to show beside it.

    ``exact`` is left out if unknown. ``answers`` are ``reference`` or kinds of refinement.
    """
    draft: Any = outcomes.drafts.loc[sample_id]
    question = outcomes.run.questions(outcomes.split)[draft["question_id"]]
    steps = numbered(draft["text"])
    for name in columns:
        if name != "exact" or outcomes.exact is not None:
            values = outcomes.column(name)
            steps[name] = [values[sample_id, step] for step in steps.index]
    p, shown, marked = outcomes.run.params, [], 0
    for name in ("draft", *answers):
        if name == "reference":
            shown.append(Answer(name, question.reference_solution, question.reference_answer, True))
            continue
        made: Any = draft if name == "draft" else outcomes.refinements(name).loc[sample_id]
        shown.append(Answer(name, made["text"], made["final_answer"], bool(made["is_correct"])))
        if name.startswith("local"):
            marked = marked_step(int(made["first_error"]), len(steps), p.refiner)
    threshold = p.reward_models.threshold if threshold is None else threshold
    return Example(question.question, question.reference_answer, steps, threshold, shown, marked)


def rollouts_of(lab: Replication, split: str, show: str) -> pd.DataFrame:
    """Return the two most frequent rollouts after each step of the first selected draft, up to any first error."""
    outcomes = Outcomes(lab, split)
    chosen = outcomes.telling(show)[:1]
    rollouts = outcomes.evaluated.draft_set.rollouts.read()
    last = max((outcomes.true_errors[sample_id] or inf for sample_id in chosen), default=0)
    rollouts = rollouts[rollouts["sample_id"].isin(chosen) & (rollouts["step"] <= last)]
    written = rollouts.assign(rollout=rollouts["text"].map(lambda text: " / ".join(split_steps(text))))
    times = written.groupby(["step", "rollout", "is_correct", "is_consistent"], sort=False).size().rename("times")
    ranked = times.reset_index().sort_values(["step", "times"], ascending=[True, False], kind="stable")
    return ranked.groupby("step").head(2)[["step", "rollout", "times", "is_correct", "is_consistent"]]


# The renderer

LINES, COLUMNS = 45, 130  # the most that an example takes as text
FIRST_ERROR, PICKED, NEW = "◀ first error", "◀ picked by the ORM", "▸"
COLOURS = colormaps["PuOr"]  # which the colour-blind tell apart
TEXT_STYLE = "text-align:left;white-space:pre-wrap;vertical-align:top"
TEMPLATE = read_template("example.html.jinja")


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
        return Rendered(f"<p>{text}</p>", text)
    shown = example(outcomes, chosen[number], columns, answers)
    return Rendered(to_html(shown), to_text(shown))


def to_html(example: Example) -> str:
    """Return an example as HTML that is complete without styles: colour only adds to what text says."""
    rows = {
        step: [(_cell_text(example, column, step), _cell_style(example, column, step)) for column in example.columns]
        for step in example.steps.index
    }
    return TEMPLATE.render(
        example=example, names=NAMES, rows=rows, legend=_legend(example), first_error=FIRST_ERROR, new=NEW,
        text_style=TEXT_STYLE,
    )  # fmt: skip


def to_text(example: Example) -> str:
    """Return an example as plain text, cut to :data:`LINES` lines of :data:`COLUMNS` characters."""
    cells = {NAMES[c]: [_cell_text(example, c, step) for step in example.steps.index] for c in example.columns}
    steps = pd.DataFrame(cells, index=example.steps.index).to_string(max_colwidth=COLUMNS // 2)
    reference = [f"Correct answer: {example.reference_answer}"] if example.reference_answer else []
    lines = [example.question, *reference, _legend(example)]
    lines += [f"{NAMES[answer.name]}: {answer.verdict}" for answer in example.answers] + steps.split("\n")
    for answer in example.answers:
        lines += [NAMES[answer.name], *(f"{NEW if new else ' '} {s}" for s, new in example.marked_steps(answer))]
    return "\n".join(line if len(line) <= COLUMNS else f"{line[: COLUMNS - 2]} …" for line in lines[:LINES])


def _legend(example: Example) -> str:
    """Return where the first errors are, by labels and by scores."""
    first = {
        column: f"step {step}" if (step := example.first_error(column)) else "none"
        for column in example.columns if column == "exact" or column in example.scored
    }  # fmt: skip
    exact = f"Exact: {first.pop('exact')}. " if "exact" in first else ""
    scores = ", ".join(f"{NAMES[kind]}: {step}" for kind, step in first.items())
    return exact + (f"First error at T = {example.threshold:g}: {scores}." if scores else "")


def _cell_text(example: Example, column: str, step: int) -> str:
    value: Any = example.steps.loc[step, column]
    if column in ("text", "right", "unknown"):
        return str(value)
    text = ("right" if value else "wrong") if column == "exact" else f"{value:.2f}"
    return f"{text} {FIRST_ERROR}" if example.first_error(column) == step else text


def _cell_style(example: Example, column: str, step: int) -> str:
    if column not in example.scored:
        return TEXT_STYLE if column == "text" else "text-align:center"
    value: Any = example.steps.loc[step, column]
    colour = score_colour(value, example.threshold)
    return f"text-align:center;background-color:{colour};color:{text_colour(colour)}"


def score_colour(score: float, threshold: float) -> str:
    """Return the background colour of a score in [0, 1], as #rrggbb: white at the threshold, below it orange."""
    if score <= threshold:
        return to_hex(COLOURS(0.5 * score / (threshold or 1.0)))
    return to_hex(COLOURS(0.5 + 0.5 * (score - threshold) / (1 - threshold)))


def text_colour(background: str) -> str:
    """Return the text colour with the better contrast, which is at least 4.5 to 1 (WCAG AA)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(background)]
    return "white" if 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] < 0.179 else "black"
