"""Drafts to be looked at: which ones, and all that is known of one, as in the paper's Figure 2: its steps with their
labels, rollouts and scores, and beside it what the refiner made of it."""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import Rectangle

from glore_lib.method import step_labels
from glore_lib.method.refinement import locate_first_error, marked_step
from glore_lib.method.replication import Replication, SplitEvaluation
from glore_lib.method.reward_models import answer_scores
from glore_lib.method.students import sample_solutions
from glore_lib.reporting.style import FAINT, INK, METHOD_LABELS, STYLE
from glore_lib.solutions import mark_bad, split_steps

REFINEMENTS = ("local+sorm", "global")
NAMES = METHOD_LABELS | {"draft": "Draft", "reference": "Reference solution"}


@dataclass(frozen=True)
class Answer:
    """A solution by its name (``draft``, ``reference`` or the kind of a refinement); ``is_correct`` is None where the
    right answer is not known."""

    name: str
    text: str
    final_answer: str
    is_correct: bool | None

    @property
    def verdict(self) -> str:
        """Whether the answer is right, where that is known, and what it is."""
        says = {None: "", True: "right", False: "wrong"}[self.is_correct]
        return ", ".join(part for part in (says, self.final_answer or "no answer") if part)


@dataclass(frozen=True)
class Example:
    """A question and its draft. ``steps`` has a row a step (index: its number) with its ``text`` and, of what is known:
    ``exact`` (its label), ``right`` (of its rollouts, as "3/8") and the score by each reward model."""

    question: str
    reference_answer: str  # empty where it is not known
    steps: pd.DataFrame
    threshold: float
    answers: Sequence[Answer]  # the draft first
    marked: int = 0  # the step before which a local refinement's [BAD] stood; 0: none

    @property
    def scored(self) -> list[str]:
        """The columns of ``steps`` that are scores."""
        return [name for name in self.steps if name not in ("text", "exact", "right")]

    def first_error(self, column: str) -> int:
        """The first step labelled 0, or scored at most the threshold; 0 where there is none."""
        limit = 0 if column == "exact" else self.threshold
        return int(next((i for i, value in self.steps[column].items() if value <= limit), 0))

    @property
    def draft_steps(self) -> list[str]:
        """The draft as the refiner reads it, marked where the first error is put."""
        steps = list(self.steps["text"])
        return split_steps(mark_bad(steps, self.marked)) if self.marked else steps


def changed(draft: str, answer: str) -> list[tuple[str, bool]]:
    """The steps of an answer, each with whether it is none of the draft's, in the order both have in common."""
    before, after = split_steps(draft), split_steps(answer)
    kept = SequenceMatcher(None, before, after, autojunk=False).get_matching_blocks()
    same = {i for block in kept for i in range(block.b, block.b + block.size)}
    return [(step, i not in same) for i, step in enumerate(after)]


class Outcomes:
    """What came of the drafts of a split: series with index ``sample_id``, each made when it is first asked for."""

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
        """Whether each draft is right."""
        return self.drafts["is_correct"]

    @cached_property
    def exact(self) -> pd.DataFrame | None:
        """The exact labels, where they are known."""
        return step_labels.exact_labels(self.run, self.drafts.reset_index(), self.split)

    @cached_property
    def true_errors(self) -> pd.Series:
        """The first error of each draft by the exact labels or, where they are not known, by rollouts; 0: none."""
        labels = self.evaluated.draft_set.labels if self.exact is None else self.exact
        return self._of_all(step_labels.first_errors(labels), 0)

    def column(self, name: str) -> pd.Series:
        """Of every step (index ``sample_id``, ``step``): ``exact`` (its label, where known), ``right`` (of its
        rollouts, as "3/8"), or the score by a reward model."""
        if name not in self._columns:
            steps = ["sample_id", "step"]
            if name == "right":
                rollouts = self.evaluated.draft_set.rollouts.read().groupby(steps)["is_correct"].agg(["sum", "count"])
                self._columns[name] = rollouts["sum"].astype(str) + "/" + rollouts["count"].astype(str)
            elif name == "exact":
                self._columns[name] = self.exact.set_index(steps)["label"]
            else:
                self._columns[name] = self.scores(name).set_index(steps)["score"]
        return self._columns[name]

    def scores(self, kind: str) -> pd.DataFrame:
        """A reward model's step scores of the drafts."""
        return self.evaluated.scores[kind].read()

    def found_errors(self, kind: str) -> pd.Series:
        """The first error of each draft by a reward model at the run's threshold; 0: none."""
        return self._of_all(locate_first_error(self.scores(kind), self.run.params.reward_models.threshold), 0)

    @cached_property
    def orm_says_right(self) -> pd.Series:
        """Of the answers."""
        return self._of_all(answer_scores(self.scores("orm")), 0.0) > self.run.params.reward_models.threshold

    def refinements(self, kind: str) -> pd.DataFrame:
        """The records of one kind of refinement, by ``sample_id``."""
        if kind not in self._refinements:
            made = self.evaluated.refined[kind].read().set_index("sample_id")
            self._refinements[kind] = made.loc[self.drafts.index]
        return self._refinements[kind]

    def refined(self, kind: str) -> pd.Series:
        """Whether it is right."""
        return self.refinements(kind)["is_correct"]

    def _of_all(self, values: pd.Series, otherwise: float) -> pd.Series:
        return values.reindex(self.drafts.index, fill_value=otherwise)

    def chosen(self, show: str) -> list[str]:
        """The ids of the drafts that are to be shown."""
        return list(self.drafts.index[SHOW[show](self)])

    def telling(self, show: str) -> list[str]:
        """The same; those whose first step is wrong come last, where that is known, since less can be seen of them."""
        first = () if self.exact is None else self.exact.query("step == 1 and label == 0")["sample_id"].tolist()
        return sorted(self.chosen(show), key=lambda sample_id: sample_id in first)


SHOW: dict[str, Callable[[Outcomes], pd.Series]] = {
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
    """A draft with ``columns`` of its steps (``exact`` where known, ``right``, reward models) and, beside it,
    ``answers`` (``reference``, kinds of refinement), as stored. ``threshold`` is the run's where none is given."""
    draft = outcomes.drafts.loc[sample_id]
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
        made = outcomes.refinements(name).loc[sample_id]
        shown.append(Answer(name, made["text"], made["final_answer"], bool(made["is_correct"])))
        if name.startswith("local"):
            marked = marked_step(int(made["first_error"]), len(texts), outcomes.run.params.refiner)
    threshold = outcomes.run.params.reward_models.threshold if threshold is None else threshold
    return Example(question.question, question.reference_answer, steps, threshold, shown, marked)


def worked_example(
    lab: Replication, split: str, show: str, columns: Sequence[str], answers: Sequence[str] = (), number: int = 0
) -> Figure:
    """The draft ``number`` of those that ``show`` (of :data:`SHOW`) chooses, as a figure; see :func:`example`."""
    outcomes = Outcomes(lab, split)
    chosen = outcomes.telling(show)
    if number >= len(chosen):
        return _canvas(0.4, f"There are {len(chosen)} drafts of this kind: {show}.")[0]
    return draw(example(outcomes, chosen[number], columns, answers))


def rollouts_of(lab: Replication, split: str, show: str) -> pd.DataFrame:
    """Of the first such draft, rollouts after each step up to its first error: what was written, how often, whether its
    answer is right, and whether it uses what the steps before it computed. Of each step the two most frequent."""
    outcomes = Outcomes(lab, split)
    chosen = outcomes.telling(show)[:1]
    rollouts = outcomes.evaluated.draft_set.rollouts.read()
    last = max((outcomes.true_errors[sample_id] or 1 for sample_id in chosen), default=0)
    rollouts = rollouts[rollouts["sample_id"].isin(chosen) & (rollouts["step"] <= last)]
    written = rollouts.assign(rollout=rollouts["text"].map(lambda text: " / ".join(split_steps(text))))
    times = written.groupby(["step", "rollout", "is_correct", "is_consistent"], sort=False).size().rename("times")
    ranked = times.reset_index().sort_values(["step", "times"], ascending=[True, False], kind="stable")
    return ranked.groupby("step").head(2)[["step", "rollout", "times", "is_correct", "is_consistent"]]


# The figure. Lengths are in inches; text is set in a font whose letters have one width, so that lines can be counted.
WIDTH, LINE, LETTER, PAD = 9.6, 0.165, 0.0712, 0.04
FONT = {"family": "DejaVu Sans Mono", "size": 8.5, "parse_math": False}
CELL, MARGIN = 0.8, 0.32
QUESTION_LINES, STEP_LINES, TABLE_LINES, ANSWER_LINES = 6, 3, 13, 13
COLOURS = colormaps["Oranges_r"]  # dark where a step is doubted; its lightness alone says so too
HEADINGS = {"exact": "exact", "right": "rollouts\nright", "orm": "ORM", "balanced_orm": "bal. ORM", "sorm": "SORM",
            "sorm_raw": "raw SORM"}  # fmt: skip


@plt.rc_context(STYLE)
def draw(example: Example) -> Figure:
    """A row a step: its text, exact label, right rollouts and scores, the darker the less likely right; below, the
    draft beside its refinements, the steps that are not the draft's in bold and marked with ▸."""
    columns = [name for name in example.steps if name != "text"]
    question = _wrap(example.question, int((WIDTH - 0.1) / LETTER), QUESTION_LINES)
    if example.reference_answer:
        question.append(f"Right answer: {example.reference_answer}")
    room = WIDTH - MARGIN - CELL * len(columns) - 0.3
    rows = _table_rows(example, int(room / LETTER))
    width = WIDTH / len(example.answers)
    answers = [_answer_lines(example, answer, int((width - 0.15) / LETTER)) for answer in example.answers]
    table = sum(len(lines) * LINE + 2 * PAD for _, lines in rows)
    figure, axes = _canvas((len(question) + max(map(len, answers))) * LINE + table + 1.35)
    for i, line in enumerate(question):
        _text(axes, 0.05, (i + 1) * LINE, line)
    top = len(question) * LINE + 0.5
    longest = max((len(line) for _, lines in rows for line in lines), default=0)
    _draw_table(axes, example, top, rows, MARGIN + min(max(longest, 40) * LETTER + 0.3, room + 0.3))
    for place, (answer, lines) in enumerate(zip(example.answers, answers, strict=True)):
        left, y = place * width + 0.05, top + table + 0.6
        _text(axes, left, y, f"{NAMES[answer.name]}: {answer.verdict}", weight="bold")
        axes.plot([left, left + width - 0.15], [y + 0.06, y + 0.06], color=FAINT, linewidth=0.8)
        for i, (line, new) in enumerate(lines):
            _text(axes, left, y + 0.08 + (i + 0.9) * LINE, line, weight="bold" if new else "normal")
    return figure


def _draw_table(axes: Axes, example: Example, y: float, rows: list[tuple[int, list[str]]], left: float) -> None:
    """The steps from height ``y`` on, with their columns from ``left`` on."""
    columns = {name: left + CELL * place for place, name in enumerate(c for c in example.steps if c != "text")}
    right = left + CELL * len(columns)
    for column, at in columns.items():
        _text(axes, at + CELL / 2, y - 0.06, HEADINGS[column], ha="center", va="bottom")
    framed = {column: example.first_error(column) for column in columns if column != "right"}
    for step, lines in rows:
        axes.plot([0.05, right], [y, y], color="#D0D0D0", linewidth=0.6)
        deep = len(lines) * LINE + 2 * PAD
        for i, line in enumerate(lines):
            _text(axes, MARGIN, y + PAD + (i + 0.75) * LINE, line)
        if step:
            _text(axes, 0.05, y + PAD + 0.75 * LINE, str(step), color=FAINT)
            for column, at in columns.items():
                _cell(axes, at, y, deep, column, example.steps.loc[step, column], framed.get(column) == step)
        y += deep
    if framed:
        by_label = ["labelled wrong"] if "exact" in framed else []
        by_model = [f"scored at most T = {example.threshold:g}"] if example.scored else []
        _text(axes, 0.05, y + LINE, f"Framed: the first step {' or '.join(by_label + by_model)}.", color=FAINT)


def _canvas(height: float, text: str = "") -> tuple[Figure, Axes]:
    """A figure whose axes count inches from its top left corner."""
    figure = plt.figure(figsize=(WIDTH, height))
    plt.close(figure)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(height, 0))
    axes.set_axis_off()
    _text(axes, 0.05, 0.25, text)
    return figure, axes


def score_colour(score: float) -> str:
    """The colour of a score in [0, 1], as #rrggbb."""
    return to_hex(COLOURS(float(score)))


def text_colour(score: float) -> str:
    """Of a score on its colour: the one of the two that is read better."""
    return "white" if score < 0.24 else "black"


def _cell(axes: Axes, left: float, top: float, deep: float, column: str, value: object, first_error: bool) -> None:
    """A value as text, on its colour where it is a score, in a frame where it marks the first error."""
    ink, shown = INK, str(value)
    if column == "exact":
        shown = "right" if value else "wrong"
    elif column != "right":
        ink, shown = text_colour(value), f"{value:.2f}"
        cell = Rectangle((left + 0.02, top + 0.01), CELL - 0.04, deep - 0.02, facecolor=score_colour(value))
        axes.add_patch(cell)
    if first_error:
        frame = Rectangle((left + 0.04, top + 0.03), CELL - 0.08, deep - 0.06, fill=False, edgecolor=INK, linewidth=2)
        axes.add_patch(frame)
    weight = "bold" if first_error else "normal"
    _text(axes, left + CELL / 2, top + deep / 2, shown, ha="center", va="center", color=ink, weight=weight)


def _table_rows(example: Example, letters: int) -> list[tuple[int, list[str]]]:
    """The steps' numbers and lines, as many as there is room for; then, as number 0, how many are left out."""
    rows, used = [], 0
    for step, text in example.steps["text"].items():
        lines = _wrap(text, letters, STEP_LINES)
        used += len(lines)
        if used > TABLE_LINES:
            return [*rows, (0, [f"… and {len(example.steps) - len(rows)} more"])]
        rows.append((step, lines))
    return rows


def _answer_lines(example: Example, answer: Answer, letters: int) -> list[tuple[str, bool]]:
    """The lines of an answer, each with whether it is new."""
    if answer.name == "draft":
        steps = [(step, False) for step in example.draft_steps]
    elif answer.name == "reference":
        steps = [(step, False) for step in split_steps(answer.text)]
    else:
        steps = changed(example.answers[0].text, answer.text)
    lines = []
    for step, new in steps:
        first, *rest = _wrap(step, letters - 2, STEP_LINES)
        lines += [(f"{'▸' if new else ' '} {first}", new), *((f"  {line}", new) for line in rest)]
    return lines if len(lines) <= ANSWER_LINES else [*lines[: ANSWER_LINES - 1], ("  …", False)]


def _wrap(text: str, letters: int, lines: int) -> list[str]:
    return textwrap.wrap(text, max(letters, 8), max_lines=lines, placeholder=" …") or [""]


def _text(axes: Axes, x: float, y: float, text: str, **look: object) -> None:
    """Text as it is: no formulas, and a sign that the font has not got is drawn as one that says so."""
    known = get_font(findfont(FontProperties(family=FONT["family"]))).get_charmap()
    axes.text(x, y, "".join(c if ord(c) in known or c == "\n" else "\ufffd" for c in text), **(FONT | look))
