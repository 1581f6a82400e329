"""A run to play with: its drafts with their scores, labels, rollouts and refinements, at any threshold; and a draft of
one's own, scored and refined on the spot.

:class:`Explorer` knows everything and nothing of widgets; :class:`Panel` shows it. What a model or a user wrote is
escaped before it becomes HTML.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import pandas as pd
import torch

from glore_lib.artifacts.manifest import stage_record, stage_record_path
from glore_lib.cost.plan import plan
from glore_lib.method.refinement import marked_step
from glore_lib.method.replication import Replication
from glore_lib.method.reward_models import SCORED, labelled_solution
from glore_lib.models.loading import device
from glore_lib.models.prefix_tree import collate, pack
from glore_lib.models.reward_head import RewardModel, load_reward_model
from glore_lib.models.tokens import encode
from glore_lib.params import Params, ParamsError, load_params
from glore_lib.reporting.examples import (
    NAMES,
    SHOW,
    Answer,
    Example,
    Outcomes,
    changed,
    example,
    score_colour,
    text_colour,
)
from glore_lib.run import open_run
from glore_lib.sampling import Request, Sampler
from glore_lib.solutions import join_steps, mark_bad, prefix_text, split_steps
from glore_lib.tasks import Question

LOCATORS = ("orm", "sorm")
STAGE = "explorer"


@contextmanager
def _one_thread() -> Iterator[None]:
    """For one short text: several threads would wait for each other, on a busy machine for a minute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Explorer:
    """The test drafts of a run, or any other, with what the reward models and the refiner say of them.

    Models are loaded when they are first asked for, and once; what the refiner wrote is kept.
    """

    def __init__(self, lab: Replication, split: str = "test"):
        self.lab, self.run = lab, lab.run
        self.outcomes = Outcomes(lab, split)
        self.threshold = lab.run.params.reward_models.threshold
        self._known = {q.question: q for q in lab.run.questions(split).values()}
        self._written: dict[tuple[str, str, int], str] = {}

    @cached_property
    def _refiner(self) -> Sampler:
        return self.run.sampler(self.lab.refiner)

    @cached_property
    def _reward_models(self) -> dict[str, RewardModel]:
        dtype = self.run.params.base_model.dtype
        return {kind: load_reward_model(str(self.lab.reward_models[kind].folder), dtype).eval() for kind in LOCATORS}

    def drafts(self, show: str) -> list[tuple[str, str]]:
        """(title, id) of the drafts that ``show`` of :data:`glore_lib.reporting.examples.SHOW` chooses, in their order."""
        drafts = self.outcomes.drafts
        numbers = {sample_id: i for i, sample_id in enumerate(drafts.index, start=1)}
        titles = []
        for sample_id in self.outcomes.chosen(show):
            draft = drafts.loc[sample_id]
            question = self.run.questions(self.outcomes.split)[draft["question_id"]].question
            verdict = "right" if draft["is_correct"] else "wrong"
            titles.append((f"{numbers[sample_id]} ({verdict}): {question[:60]}", sample_id))
        return titles

    def stored(self, sample_id: str, threshold: float) -> Example:
        """A draft with all that is known of it. Where the threshold moves a first error, the local refinement is made
        anew; where it does not, it is the stored one."""
        shown = example(self.outcomes, sample_id, ["exact", "right", *LOCATORS], [], threshold)
        draft = shown.answers[0].text
        for kind in (*(f"local+{locator}" for locator in LOCATORS), "global"):
            made = self.outcomes.refinements(kind).loc[sample_id]
            self._written.setdefault((shown.question, draft, int(made["first_error"])), made["text"])
        return self._with_refinements(shown)

    def own(self, question: str, draft: str, threshold: float) -> Example:
        """A question and a draft (a step a line) as someone wrote them, scored and refined now. Labels are exact where
        it is one of the run's questions.

        Raises ParamsError where either is empty, or where they are too long for the model.
        """
        question, steps = " ".join(question.split()), split_steps(draft)
        for name, text in (("question", question), ("draft", steps)):
            if not text:
                raise ParamsError(f"Your {name} is empty: write one{', a step a line' if name == 'draft' else ''}.")
        self._check_length(question, steps)
        draft, known = join_steps(steps), self._known.get(question)
        frame = pd.DataFrame({"text": steps}, index=range(1, len(steps) + 1))
        if known and (labels := self.run.task.exact_step_labels(known, draft)):
            frame["exact"] = labels
        for kind, scores in self.score(question, draft).items():
            frame[kind] = scores
        shown = Example(question, known.reference_answer if known else "", frame, threshold, [])
        return self._with_refinements(replace(shown, answers=[self._answer("draft", draft, known)]))

    def unknown_words(self, text: str) -> list[str]:
        """Words that the model reads as one and the same sign, since its vocabulary has not got them."""
        unknown = self.run.tokenizer.unk_token_id
        tokenize = self.run.tokenizer
        words = dict.fromkeys(text.split())
        return [word for word in words if unknown in tokenize(word, add_special_tokens=False).input_ids]

    @torch.inference_mode()
    @_one_thread()
    def score(self, question: str, draft: str) -> dict[str, list[float]]:
        """The score of every step by ORM and SORM, as :func:`glore_lib.method.reward_models.score_steps` makes them."""
        every = dict.fromkeys(range(1, len(split_steps(draft)) + 1), 1)
        solution = labelled_solution(self.run, Question("", "", question, "", ""), draft, every)
        batch = collate(pack([solution], 1, len(solution.ids)), self.run.tokenizer.pad_token_id)
        inputs = {name: batch[name].to(device()) for name in SCORED}
        with torch.autocast(device().type, torch.bfloat16, enabled=self.run.params.finetuning.mixed_precision):
            return {k: m(**inputs)["logits"][0].sigmoid().tolist() for k, m in self._reward_models.items()}

    def refine(self, question: str, draft: str, first_errors: Sequence[int]) -> list[str]:
        """What the refiner greedily makes of a draft with ``[BAD]`` before each of these steps, as
        :func:`glore_lib.method.refinement.refine` asks for it; 0: no error was found, and the parameters say what happens."""
        steps = split_steps(draft)
        new = [error for error in first_errors if (question, draft, error) not in self._written]
        marks = {error: marked_step(error, len(steps), self.run.params.refiner) for error in new}
        self._written |= {(question, draft, error): draft for error in marks}
        asked = {error: at for error, at in marks.items() if steps and at}
        for error, text in zip(asked, self._write(question, steps, list(asked.values())), strict=True):
            self._written[question, draft, error] = text
        return [self._written[question, draft, error] for error in first_errors]

    @_one_thread()
    def _write(self, question: str, steps: list[str], marks: list[int]) -> list[str]:
        if not marks:
            return []
        kept = [steps[: at - 1] if self.run.params.refiner.force_prefix else [] for at in marks]
        prompts = [self.run.task.refine_prompt(question, mark_bad(steps, at)) for at in marks]
        requests = [
            Request(tuple(encode(self.run.tokenizer, prompt, prefix).ids), 1, seed=0)
            for prompt, prefix in zip(prompts, kept, strict=True)
        ]
        with redirect_stderr(io.StringIO()):  # no progress bar for so few
            written = self._refiner.sample(requests, 0.0, self.run.params.sampling.max_new_tokens, "refine")
        return [prefix_text(k, len(k)) + completion.text for k, (completion,) in zip(kept, written, strict=True)]

    def _with_refinements(self, shown: Example) -> Example:
        """With the local refinement for each locator's first error at the threshold, and the global one."""
        (draft,) = shown.answers
        known, errors = self._known.get(shown.question), [shown.first_error(locator) for locator in LOCATORS]
        texts = self.refine(shown.question, draft.text, [*errors, 1])
        kinds = [*(f"local+{locator}" for locator in LOCATORS), "global"]
        made = [self._answer(kind, text, known) for kind, text in zip(kinds, texts, strict=True)]
        return replace(shown, answers=[draft, *made])

    def _answer(self, name: str, text: str, question: Question | None) -> Answer:
        right = self.run.task.is_correct(text, question.reference_answer) if question else None
        return Answer(name, text, self.run.task.final_answer(text), right)

    def _check_length(self, question: str, steps: list[str]) -> None:
        """Room for question, draft and refinement, in the positions that the model knows."""
        limit = getattr(self._reward_models["orm"].backbone[0].config, "max_position_embeddings", None)
        prompt = self.run.task.refine_prompt(question, mark_bad(steps, len(steps)))
        used, room = len(encode(self.run.tokenizer, prompt).ids), self.run.params.sampling.max_new_tokens
        if limit and used + room > limit:
            raise ParamsError(
                f"Your question and draft have {used} tokens: at most {limit - room} leave the model room for a "
                "refinement; shorten the draft."
            )


def runs(params_file: str, overrides: dict[str, Any], artifacts: str) -> dict[str, str]:
    """The runs to choose from: name -> params file. That of ``params_file`` first, then those beside it that are made;
    another one would keep its user waiting for minutes, or need a GPU. No data is read."""
    found = {load_params(params_file, overrides).run: params_file}
    for path in sorted(Path(params_file).parent.glob("*.yaml")):
        try:
            params = load_params(path, overrides)
        except ParamsError:
            continue
        if is_made(params, Path(artifacts)):
            found.setdefault(params.run, str(path))
    return found


def is_made(params: Params, artifacts: Path) -> bool:
    """Whether a notebook of this run has gone as far as the explorer needs, and its artifacts are still there."""
    for stage in ("05_evaluation", STAGE):
        used = stage_record(stage_record_path(artifacts, params, stage))
        if used is not None and all((artifacts / name).is_dir() for name in used):
            return True
    return False


def open_explorer(params_file: str, overrides: dict[str, Any], artifacts: str) -> Explorer:
    """The explorer of a run. What is not made yet is made now, as by the other notebooks; it is told how long that
    takes."""
    run = open_run(params_file, overrides, artifacts)
    if not is_made(run.params, run.store.root):
        minutes = max(1, round(plan(run.params).stages[-1].seconds / 60))
        print(f"{run.params.run} is not made yet. Making it now takes about {minutes} min on two cores; `glore run`")
        print("or the notebooks 01-05 make the same, and what is made is kept. Progress is shown below.")
    explorer = Explorer(Replication(run))
    for show in SHOW:
        explorer.outcomes.chosen(show)
    run.finish(STAGE)
    return explorer


# What is shown


def view(shown: Example) -> str:
    """An example as HTML: its steps, their scores on their colours, and below them the answers side by side."""
    columns = [name for name in shown.steps if name != "text"]
    heads = ["", "step", *({"exact": "exact", "right": "rollouts right"}.get(c, NAMES.get(c, c)) for c in columns)]
    framed = {column: shown.first_error(column) for column in columns if column != "right"}
    rows = []
    for step, row in shown.steps.iterrows():
        cells = "".join(_cell(column, row[column], framed.get(column) == step) for column in columns)
        rows.append(f"<tr><td>{step}</td><td style='{MONO}'>{escape(row['text'])}</td>{cells}</tr>")
    first = ", ".join(f"{NAMES[k]}: {_at(shown.first_error(k))}" for k in shown.scored)
    exact = f" Exact: {_at(shown.first_error('exact'))}." if "exact" in columns else ""
    answer = f" <b>Right answer:</b> {escape(shown.reference_answer)}" if shown.reference_answer else ""
    answers = "".join(_answer_view(shown.answers[0].text, made) for made in shown.answers)
    return (
        f"<p style='{MONO}'>{escape(shown.question)}</p><p>{answer}</p>"
        f"<table><tr>{''.join(f'<th>{escape(head)}</th>' for head in heads)}</tr>{''.join(rows)}</table>"
        f"<p>First error at T = {shown.threshold:g} (framed): {escape(first)}.{exact}</p>"
        f"<div style='display:flex;flex-wrap:wrap;gap:16px'>{answers}</div>"
    )


MONO = "font-family:monospace;white-space:pre-wrap;text-align:left;line-height:1.5"


def _at(step: int) -> str:
    return f"step {step}" if step else "none"


def _cell(column: str, value: Any, framed: bool) -> str:
    style = "padding:2px 10px;text-align:center;" + ("outline:2px solid black;font-weight:bold;" if framed else "")
    if column in ("exact", "right"):
        text = value if column == "right" else "right" if value else "wrong"
        return f"<td style='{style}'>{escape(text)}</td>"
    style += f"background:{score_colour(value)};color:{text_colour(value)};"
    return f"<td style='{style}'>{value:.2f}</td>"


def _answer_view(draft: str, made: Answer) -> str:
    steps = [(step, False) for step in split_steps(draft)] if made.name == "draft" else changed(draft, made.text)
    lines = "<br>".join(f"<b>▸ {escape(step)}</b>" if new else f"&nbsp; {escape(step)}" for step, new in steps)
    return f"<div><b>{escape(NAMES[made.name])}: {escape(made.verdict)}</b><div style='{MONO}'>{lines}</div></div>"


class Panel(widgets.VBox):
    """The explorer's widgets; ``explorers`` are opened by their run's name when they are first chosen."""

    def __init__(self, files: dict[str, str], overrides: dict[str, Any], artifacts: str):
        self._files, self._overrides, self._artifacts = files, overrides, artifacts
        self._explorers: dict[str, Explorer] = {}
        wide, area = {"width": "46em"}, {"width": "46em", "height": "8em"}
        self.run = widgets.Dropdown(options=list(files), description="Run", layout=wide)
        self.show = widgets.Dropdown(options=list(SHOW), description="Show", layout=wide)
        self.draft = widgets.Dropdown(description="Draft", layout=wide)
        self.threshold = widgets.FloatSlider(
            min=0, max=1, step=0.01, description="Threshold T", continuous_update=False, layout=wide
        )
        self.count, self.stored = widgets.Label(), widgets.HTML()
        self.question = widgets.Textarea(description="Question", layout=area)
        self.text = widgets.Textarea(description="Your draft", layout=area)
        self.button = widgets.Button(description="Score and refine", button_style="primary")
        self.message, self.own = widgets.HTML(), widgets.HTML()
        super().__init__([
            self.run, self.show, self.draft, self.count, self.threshold, self.stored,
            widgets.HTML("<h3>Your own</h3><p>A question and a draft, a step a line; the one above is a start.</p>"),
            self.question, self.text, self.button, self.message, self.own,
        ])  # fmt: skip
        self.run.observe(lambda _: self._open(), "value")
        self.show.observe(lambda _: self._choose(), "value")
        self.draft.observe(lambda _: self._draw(), "value")
        self.threshold.observe(lambda _: self._draw(), "value")
        self.button.on_click(lambda _: self._score())
        self._open()

    @property
    def explorer(self) -> Explorer:
        """That of the chosen run, opened when it is first chosen."""
        name = self.run.value
        if name not in self._explorers:
            self._explorers[name] = open_explorer(self._files[name], self._overrides, self._artifacts)
        return self._explorers[name]

    def _open(self) -> None:
        self.threshold.value = self.explorer.threshold
        self._choose()

    def _choose(self) -> None:
        drafts = self.explorer.drafts(self.show.value)
        self.count.value = f"{len(drafts)} of {len(self.explorer.outcomes.drafts)} drafts"
        self.draft.options = drafts
        self.draft.index = 0 if drafts else None  # which draws it, unless it is the one that is shown
        self._draw()

    def _draw(self) -> None:
        if self.draft.value is None:
            self.stored.value = "<p>There is no draft of this kind.</p>"
            return
        shown = self.explorer.stored(self.draft.value, self.threshold.value)
        self.stored.value = view(shown)
        self.question.value, self.text.value = shown.question, join_steps(list(shown.steps["text"]))

    def _score(self) -> None:
        """Scores and refines what stands in the two fields; a mistake is told in one line."""
        self.own.value, self.message.value = "", "<p>Scoring and refining …</p>"
        try:
            shown = self.explorer.own(self.question.value, self.text.value, self.threshold.value)
        except ParamsError as error:
            self.message.value = f"<p><b>{escape(str(error))}</b></p>"
            return
        self.message.value = ""
        unknown = self.explorer.unknown_words(f"{self.question.value} {self.text.value}")
        if unknown:
            self.message.value = f"<p>Not in the model's vocabulary: <b>{escape(', '.join(unknown))}</b></p>"
        self.own.value = view(shown)


def explore(params_file: str, overrides: dict[str, Any], artifacts: str) -> Panel:
    """The explorer of a params file's run, and of the other runs that are made."""
    return Panel(runs(params_file, overrides, artifacts), overrides, artifacts)
