"""Choose the examples on which notebooks 01-05 apply the method's functions, and display their input and output.

The notebooks call the functions of :mod:`glore_lib.method` themselves; nothing of the method is repeated here. The
choice depends on stored records only. Where a run has no example of the kind wanted, the next best is taken; where it
has none at all, frames are empty and are displayed as a sentence that says so.
"""

import html
import textwrap
from dataclasses import dataclass

import pandas as pd

from glore_lib.artifacts.store import Artifact
from glore_lib.method.expert_iteration import first_student, merge_solutions, round_samples
from glore_lib.method.replication import Replication, SplitEvaluation
from glore_lib.method.reward_models import answer_scores
from glore_lib.method.step_labels import exact_labels, first_errors, rollout_labels
from glore_lib.solutions import mark_bad, prefix_text, split_steps

WIDTH = 110  # columns of printed text
ROOM = 43  # lines of a table on one screen
TRIED = 200  # questions among which an example of expert iteration is chosen
NONE = "This run has no such example."


@dataclass(frozen=True)
class Table:
    """A frame to read: each step of a solution has its own line, scores have two digits, and rows fit a screen."""

    frame: pd.DataFrame

    def _repr_html_(self) -> str:
        lines = self.frame.map(lambda value: 1 + _cell(value).count("\n")).max(axis=1).cumsum()
        fitting = self.frame.head(max(1, (lines < ROOM).sum()))
        shown = fitting.map(lambda value: html.escape(_cell(value)).replace("\n", "<br>"))
        table = shown.to_html(escape=False, border=0, justify="left", index=shown.index.nlevels > 1)
        rest = len(self.frame) - len(fitting)
        return NONE if shown.empty else table + (f"<p>... and {rest} more</p>" if rest else "")

    def __repr__(self) -> str:
        shown = self.frame.map(lambda value: _cell(value).replace("\n", " / "))
        return NONE if shown.empty else shown.to_string(index=shown.index.nlevels > 1, max_colwidth=WIDTH)


def _cell(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value).strip()


def question(lab: Replication, records: pd.DataFrame, split: str) -> None:
    """Print the question that the records are about, and its reference answer."""
    for question_id in records["question_id"].head(1):
        asked = lab.run.questions(split)[question_id]
        print(f"{textwrap.fill(asked.question, WIDTH)}\nReference answer: {asked.reference_answer}")


def of(samples: pd.DataFrame, records: pd.DataFrame) -> pd.DataFrame:
    """Return the records (labels, rollouts, scores, refinements) that belong to these samples."""
    return records[records["sample_id"].isin(samples["sample_id"])]


def by_step(samples: pd.DataFrame, **columns: pd.DataFrame) -> Table:
    """Return a row a step of the samples, with a column for each frame of labels or scores; blank if it has none."""
    rows = [
        (s["sample_id"], i, "correct" if s["is_correct"] else "wrong", text)
        for s in samples.to_dict("records")
        for i, text in enumerate(split_steps(s["text"]), start=1)
    ]
    steps = pd.DataFrame(rows, columns=["sample_id", "step", "answer", "text"]).set_index(["sample_id", "step"])
    for name, frame in columns.items():
        values = frame.set_index(["sample_id", "step"])["score" if "score" in frame else "label"]
        steps[name] = values.astype(object).map(_cell).reindex(steps.index).fillna("")
    return Table(steps.reset_index("sample_id", drop=True).set_index("answer", append=True))


def exact(lab: Replication, samples: pd.DataFrame, split: str) -> dict[str, pd.DataFrame]:
    """Return the exact labels as a column for :func:`by_step`, or no column if the task has none."""
    labels = exact_labels(lab.run, samples, split)
    return {} if labels is None else {"exact": labels}


def read_and_written(lab: Replication, pairs: pd.DataFrame) -> None:
    """Print what the refiner reads and what it learns to write, of the first of the pairs."""
    for pair in pairs.head(1).to_dict("records"):
        marked = mark_bad(split_steps(pair["draft"]), pair["first_error"])
        asked = lab.run.questions(lab.run.reward_split)[pair["question_id"]]
        prompt = lab.run.task.refine_prompt(asked.question, marked)
        lines = ["--- The refiner reads", *split_steps(prompt), "--- and learns to write", *split_steps(pair["target"])]
        print("\n".join(textwrap.fill(line, WIDTH) for line in lines))


def one_round(lab: Replication) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return D_0 and the samples of round 1 of one training question: new, duplicate and wrong ones if possible."""
    start, cap = first_student(lab.run), lab.run.params.student.max_kept_per_question
    assert start.data
    before, drawn = start.data.read(), _by(round_samples(lab.run, start, 1).read(), "question_id", TRIED)
    known = {q: before[before["question_id"] == q] for q in drawn}

    def kinds(q: str) -> int:
        new, right = len(merge_solutions(known[q], drawn[q], "", cap)) - len(known[q]), drawn[q]["is_correct"].sum()
        return 2 * (new > 0) + (new < right) + (right < len(drawn[q]))

    chosen = max(drawn, key=kinds)
    return known[chosen], drawn[chosen]


def mixed(samples: pd.DataFrame) -> pd.DataFrame:
    """Return the samples of the first question that has right and wrong ones, in unequal numbers if possible."""
    drawn = _by(samples, "question_id")

    def kinds(q: str) -> int:
        right = drawn[q]["is_correct"]
        return 2 * bool(right.any() and not right.all()) + (2 * right.sum() != len(right))

    return drawn[max(drawn, key=kinds)]


def rolled_out(lab: Replication) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a sample and its rollouts: a wrong one if possible, with labels that the post-processing rules change."""
    rollouts, samples = lab.data.rollouts.read(), lab.data.samples.read()
    raw, consistent, both = (rollout_labels(rollouts, *rule) for rule in ((False, False), (False, True), (True, True)))
    late = first_errors(both)
    wanted = [
        *8 * [set(rollouts["sample_id"])], *4 * [set(samples.loc[~samples["is_correct"], "sample_id"])],
        set(late[late > 1].index), *(set(x.loc[x["label"] != consistent["label"], "sample_id"]) for x in (raw, both)),
    ]  # fmt: skip
    chosen = max(samples["sample_id"], key=lambda s: sum(s in ids for ids in wanted))
    return samples[samples["sample_id"] == chosen], rollouts[rollouts["sample_id"] == chosen]


def one_prefix(sample: pd.DataFrame, rollouts: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """Return the first prefix with a right rollout that is not consistent, or else the first, and its rollouts."""
    drawn = _by(rollouts, "step")
    step = max(drawn, key=lambda i: (drawn[i]["is_correct"] & ~drawn[i]["is_consistent"]).any(), default=0)
    counted = drawn.get(step, rollouts).groupby(["text", "is_correct"], sort=False).size().rename("drawn").reset_index()
    return "".join(prefix_text(split_steps(text), step) for text in sample["text"]), counted


def wrong_draft(evaluated: SplitEvaluation) -> pd.DataFrame:
    """Return a draft of a split: a wrong one if possible, fixed by one refinement, with locators that disagree."""
    drafts, errors = evaluated.drafts.read(), pd.DataFrame(evaluated.first_errors)
    right = evaluated.replication.tables.right(evaluated.drafts, evaluated.refined)
    errors = errors.loc[right.index]
    kinds = 8 * ~right["greedy"] + 4 * (right["local+sorm"] != right["global"])
    kinds += 2 * (errors["sorm"] > 1) + (errors.nunique(axis=1) > 1)
    return drafts[drafts["sample_id"] == kinds.idxmax()]


def scored(answers: Artifact, scores: Artifact) -> pd.DataFrame:
    """Return answers (records ``samples`` or ``refinements``) with the score of each."""
    frame = answers.read()
    return frame.assign(score=frame["sample_id"].map(answer_scores(scores.read())).fillna(0.0))


def candidates(evaluated: SplitEvaluation, draft: pd.DataFrame) -> pd.DataFrame:
    """Return what is reranked for a draft, a row a candidate, with the ORM's score of the whole answer."""
    rows = [of(draft, scored(*both)).assign(candidate=name) for name, both in evaluated.candidates.items()]
    return pd.concat(rows)[["candidate", "text", "is_correct", "score"]]


def _by(frame: pd.DataFrame, column: str, count: int | None = None) -> dict:
    return dict(list(frame.groupby(column, sort=False))[:count])
