"""Explore a run interactively: its drafts with scores, labels, rollouts, refinements and the ORM's pick.

A draft at another threshold, and a question and a draft of one's own, are scored and refined on demand.
:class:`Explorer` computes, :class:`Panel` has the widgets.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import replace
from functools import cache, cached_property
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import pandas as pd
import torch

from glore_lib.artifacts.manifest import stage_record, stage_record_path
from glore_lib.artifacts.records import left_out
from glore_lib.cost.plan import plan
from glore_lib.method.refinement import marked_step
from glore_lib.method.replication import Replication
from glore_lib.method.reward_models import SCORED, answer_scores, labelled_solution
from glore_lib.models.loading import device
from glore_lib.models.prefix_tree import collate, pack
from glore_lib.models.reward_head import RewardModel, load_reward_model
from glore_lib.models.tokens import encode
from glore_lib.params import Params, ParamsError, load_params
from glore_lib.reporting.examples import DRAFT_FILTERS, Answer, Example, Outcomes, example, numbered, to_html
from glore_lib.run import open_run
from glore_lib.sampling import Request, Sampler
from glore_lib.solutions import join_steps, mark_bad, prefix_text, split_steps
from glore_lib.tasks import Question

LOCATORS = ("orm", "sorm")
REFINED = (*(f"local+{locator}" for locator in LOCATORS), "global")
RERANKED = ("draft", "global", "local+sorm")  # as SplitEvaluation.candidates; ties go to the first
STAGE = "explorer"


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread: for one short text several would wait for each other, up to a minute on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Explorer:
    """The drafts of a run, or of a user, with what reward models and refiner (loaded on first use) make of them."""

    def __init__(self, lab: Replication, split: str = "test"):
        self.lab, self.run = lab, lab.run
        self.outcomes = Outcomes(lab, split)
        self.threshold = lab.run.params.reward_models.threshold
        self._known = {q.question: q for q in lab.run.questions(split).values()}
        self._written: dict[tuple[str, str, int], str] = {}
        self._scored: dict[tuple[str, str], float] = {}

    @cached_property
    def _refiner(self) -> Sampler:
        return self.run.sampler(self.lab.refiner)

    @cached_property
    def _reward_models(self) -> dict[str, RewardModel]:
        models = {kind: self.run.path(self.lab.reward_models[kind]) for kind in LOCATORS}
        dtype, base = self.run.params.base_model.dtype, self.run.base
        return {kind: load_reward_model(folder, dtype, base).eval() for kind, folder in models.items()}

    @cached_property
    def _stored_scores(self) -> dict[str, pd.Series]:
        """The ORM's stored scores of the answers that are reranked, by kind and ``sample_id``."""
        candidates = self.outcomes.evaluated.candidates.values()
        return {kind: answer_scores(scores.read()) for kind, (_, scores) in zip(RERANKED, candidates, strict=True)}

    def drafts(self, show: str, search: str = "") -> list[tuple[str, str]]:
        """Return (title, id) of the drafts that ``show`` (of ``DRAFT_FILTERS``) selects, in their order.

        ``search`` holds words that question or draft must contain.
        """
        chosen, questions = set(self.outcomes.chosen(show)), self.run.questions(self.outcomes.split)
        found = []
        for i, draft in enumerate(self.outcomes.drafts.itertuples(), start=1):
            question = questions[draft.question_id].question
            text = f"{question} {draft.text}".lower()
            if draft.Index in chosen and all(word in text for word in search.lower().split()):
                found.append((f"{i} ({'right' if draft.is_correct else 'wrong'}): {question[:60]}", draft.Index))
        return found

    def stored(self, sample_id: str, threshold: float) -> Example:
        """Return a stored draft; its local refinement is a new one if the threshold moves the first error."""
        shown = example(self.outcomes, sample_id, ["exact", "right", *LOCATORS], [], threshold)
        draft = shown.answers[0].text
        texts = {"draft": draft}
        for kind in REFINED:
            made: Any = self.outcomes.refinements(kind).loc[sample_id]
            texts[kind] = self._written.setdefault((shown.question, draft, int(made["first_error"])), made["text"])
        for kind, scores in self._stored_scores.items():
            self._scored.setdefault((shown.question, texts[kind]), float(scores.get(sample_id, 0.0)))
        return self._with_refinements(shown)

    def own(self, question: str, draft: str, threshold: float) -> Example:
        """Score and refine a user's question and draft; raise ParamsError if either is empty or too long."""
        question, steps = " ".join(question.split()), split_steps(draft)
        if not question:
            raise ParamsError("Your question is empty: write one.")
        if not steps:
            raise ParamsError("Your draft is empty: write one, one step per line.")
        self._check_length(question, steps)
        draft, known = join_steps(steps), self._known.get(question)
        labels = self.run.task.exact_step_labels(known, draft) if known else None
        frame = numbered(draft).assign(**({"exact": labels} if labels else {}), **self.score(question, draft))
        if any(unknown := [", ".join(self.unknown_words(step)) for step in steps]):
            frame["unknown"] = unknown
        shown = Example(question, known.reference_answer if known else "", frame, threshold, [])
        return self._with_refinements(replace(shown, answers=[self._answer("draft", draft, known)]))

    def unknown_words(self, text: str) -> list[str]:
        """Return the words or characters that are not in the vocabulary: the model reads them as one unknown token."""
        read = self.run.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        spans = zip(read["input_ids"], read["offset_mapping"], strict=True)
        return list(dict.fromkeys(text[a:b] for token, (a, b) in spans if token == self.run.tokenizer.unk_token_id))

    @torch.inference_mode()
    @_one_thread()
    def score(self, question: str, draft: str, kinds: Sequence[str] = LOCATORS) -> dict[str, list[float]]:
        """Return the scores of all steps by ORM and SORM, as ``method.reward_models.score_steps`` does."""
        every = dict.fromkeys(range(1, len(split_steps(draft)) + 1), 1)
        solution = labelled_solution(self.run, Question("", "", question, "", ""), draft, every)
        batch = collate(pack([solution], 1, len(solution.ids)), self.run.tokenizer.pad_token_id)
        inputs = {name: batch[name].to(device()) for name in SCORED}
        with torch.autocast(device().type, torch.bfloat16, enabled=self.run.params.finetuning.mixed_precision):
            return {k: self._reward_models[k](**inputs)["logits"][0].sigmoid().tolist() for k in kinds}

    def refine(self, question: str, draft: str, first_errors: Sequence[int]) -> list[str]:
        """Refine a draft greedily for each of these first errors, as ``method.refinement.refine`` does."""
        steps = split_steps(draft)
        new = [error for error in first_errors if (question, draft, error) not in self._written]
        marks = {error: marked_step(error, len(steps), self.run.params.refiner) if steps else 0 for error in new}
        texts = self._write(question, steps, [at for at in marks.values() if at])
        self._written |= {(question, draft, error): next(texts) if at else draft for error, at in marks.items()}
        return [self._written[question, draft, error] for error in first_errors]

    @_one_thread()
    def _write(self, question: str, steps: list[str], marks: list[int]) -> Iterator[str]:
        """Yield a refinement for each step to mark."""
        kept = [steps[: at - 1] if self.run.params.refiner.force_prefix else [] for at in marks]
        prompts = [self.run.task.refine_prompt(question, mark_bad(steps, at)) for at in marks]
        ids = [encode(self.run.tokenizer, *texts).ids for texts in zip(prompts, kept, strict=True)]
        requests = [Request(tuple(sequence), 1, seed=0) for sequence in ids]
        limit = self.run.params.sampling.max_new_tokens
        with redirect_stderr(io.StringIO()):  # no progress bar
            made = self._refiner.sample(requests, 0.0, limit, "refine") if marks else []
        return iter([prefix_text(k, len(k)) + completion.text for k, (completion,) in zip(kept, made, strict=True)])

    def _with_refinements(self, shown: Example) -> Example:
        """Add the local refinements at the threshold, the global one, and which answer the ORM picks."""
        (draft,) = shown.answers
        known, errors = self._known.get(shown.question), [shown.first_error(locator) for locator in LOCATORS]
        texts = self.refine(shown.question, draft.text, [*errors, 1])
        made = [draft, *(self._answer(kind, text, known) for kind, text in zip(REFINED, texts, strict=True))]
        scores = {a.name: self._answer_score(shown.question, a.text, a.name in RERANKED) for a in made}
        pick = max(RERANKED, key=lambda name: scores[name] or 0.0)
        return replace(shown, answers=[replace(a, score=scores[a.name], is_picked=a.name == pick) for a in made])

    def _answer_score(self, question: str, text: str, is_reranked: bool = True) -> float | None:
        """Return the ORM's score of a whole answer, 0 if it has no step.

        None if it is not reranked and the weights were left out of an archive.
        """
        if (question, text) not in self._scored:
            if not is_reranked and left_out(self.lab.reward_models["orm"].folder):
                return None
            steps = self.score(question, text, ["orm"])["orm"] if split_steps(text) else [0.0]
            self._scored[question, text] = steps[-1]
        return self._scored[question, text]

    def _answer(self, name: str, text: str, question: Question | None) -> Answer:
        right = self.run.task.is_correct(text, question.reference_answer) if question else None
        return Answer(name, text, self.run.task.final_answer(text), right)

    def _check_length(self, question: str, steps: list[str]) -> None:
        """Raise ParamsError if question, draft and refinement may exceed the model's context."""
        backbone: Any = self._reward_models["orm"].backbone[0]
        limit = getattr(backbone.config, "max_position_embeddings", None)
        prompt = self.run.task.refine_prompt(question, mark_bad(steps, len(steps)))
        used, room = len(encode(self.run.tokenizer, prompt).ids), self.run.params.sampling.max_new_tokens
        if limit and used + room > limit:
            raise ParamsError(
                f"Your question and draft have {used} tokens: at most {limit - room} leave the model room for a "
                "refinement; shorten the draft."
            )


def runs(params_file: str, overrides: dict[str, Any], artifacts: str) -> dict[str, str]:
    """Return name -> params file of the run of ``params_file``, then of those beside it whose artifacts exist."""
    found = {load_params(params_file, overrides).run: params_file}
    for path in sorted(Path(params_file).parent.glob("*.yaml")):
        with suppress(ParamsError):
            if is_made(params := load_params(path, overrides), Path(artifacts)):
                found.setdefault(params.run, str(path))
    return found


def is_made(params: Params, artifacts: Path) -> bool:
    """Return whether all artifacts of a run that the explorer needs exist."""
    used = (stage_record(stage_record_path(artifacts, params, stage)) for stage in ("05_evaluation", STAGE))
    return any(names is not None and all((artifacts / name).is_dir() for name in names) for names in used)


def open_explorer(params_file: str, overrides: dict[str, Any], artifacts: str) -> Explorer:
    """Open the explorer of a run; compute missing artifacts first and print how long that takes."""
    run = open_run(params_file, overrides, artifacts)
    if not is_made(run.params, run.store.root):
        minutes = max(1, round(plan(run.params).stages[-1].seconds / 60))
        print(f"{run.params.run} has not been computed. Computing it now takes about {minutes} min on two cores;")
        print("`glore run` or notebooks 01-05 do the same, and the artifacts are kept. Progress is shown below.")
    explorer = Explorer(Replication(run))
    for show in DRAFT_FILTERS:
        explorer.outcomes.chosen(show)
    run.finish(STAGE)
    return explorer


class Panel(widgets.VBox):
    """The explorer's widgets. A run is opened when it is first chosen."""

    def __init__(self, files: dict[str, str], overrides: dict[str, Any], artifacts: str):
        self._opened = cache(lambda name: open_explorer(files[name], overrides, artifacts))
        wide, area = {"width": "46em"}, {"width": "46em", "height": "8em"}
        self.run = widgets.Dropdown(options=list(files), description="Run", layout=wide)
        self.show = widgets.Dropdown(options=list(DRAFT_FILTERS), description="Show", layout=wide)
        self.search = widgets.Text(
            description="Search", placeholder="words of question or draft, then Enter", continuous_update=False,
            layout=wide,
        )  # fmt: skip
        self.draft = widgets.Dropdown(description="Draft", layout=wide)
        self.threshold = widgets.FloatSlider(
            min=0, max=1, step=0.01, description="Threshold T", continuous_update=False, layout=wide
        )
        self.count, self.stored = widgets.Label(), widgets.HTML()
        self.question = widgets.Textarea(description="Question", layout=area)
        self.text = widgets.Textarea(description="Your draft", layout=area)
        self.copy = widgets.Button(description="Copy the draft above", layout={"width": "auto"})
        self.button = widgets.Button(description="Score and refine", button_style="primary")
        self.message, self.own = widgets.HTML(), widgets.HTML()
        super().__init__([
            self.run, self.show, self.search, self.draft, self.count, self.threshold, self.stored,
            widgets.HTML("<h3>Your own</h3><p>A question and a draft, one step per line, such as the one above.</p>"),
            self.question, self.text, widgets.HBox([self.copy, self.button]), self.message, self.own,
        ])  # fmt: skip
        for widget, react in ((self.run, self._open), (self.show, self._choose), (self.search, self._choose),
                              (self.draft, self._draw), (self.threshold, self._move)):  # fmt: skip
            widget.observe(lambda _, react=react: react(), "value")
        self.copy.on_click(lambda _: self._copy())
        self.button.on_click(lambda _: self._score())
        self._open()

    @property
    def explorer(self) -> Explorer:
        """The explorer of the chosen run, opened on first use."""
        return self._opened(self.run.value)

    def _open(self) -> None:
        self.draft.options, self.message.value, self.own.value = (), "", ""  # they are of another run
        self.threshold.value = self.explorer.threshold
        self._choose()

    def _move(self) -> None:
        """Show everything at the new threshold."""
        self._draw()
        if self.own.value:
            self._score()

    def _choose(self) -> None:
        drafts = self.explorer.drafts(self.show.value, self.search.value)
        self.count.value = f"{len(drafts)} of {len(self.explorer.outcomes.drafts)} drafts"
        self.draft.options = drafts
        self.draft.index = 0 if drafts else None  # draws it, unless it is already displayed
        self._draw()

    def _draw(self) -> None:
        if self.draft.value is None:
            self.stored.value = "<p>There is no draft of this kind.</p>"
            return
        try:
            self.stored.value = to_html(self.explorer.stored(self.draft.value, self.threshold.value))
        except ParamsError as error:  # another threshold needs the refiner, whose weights may be elsewhere
            self.stored.value = f"<p><b>{escape(str(error))}</b></p>"

    def _copy(self) -> None:
        """Fill the two fields with the draft on display, the only thing that overwrites them."""
        if self.draft.value is not None:
            shown = self.explorer.stored(self.draft.value, self.threshold.value)
            self.question.value, self.text.value = shown.question, join_steps(list(shown.steps["text"]))

    def _score(self) -> None:
        """Score and refine the two fields; show an invalid input as one line."""
        self.own.value, self.message.value = "", "<p>Scoring and refining …</p>"
        try:
            shown = self.explorer.own(self.question.value, self.text.value, self.threshold.value)
        except ParamsError as error:
            self.message.value = f"<p><b>{escape(str(error))}</b></p>"
            return
        unknown = escape(", ".join(self.explorer.unknown_words(f"{self.question.value} {self.text.value}")))
        warning = f"<p>⚠ Not in the model's vocabulary, so that scores and refinements say little: <b>{unknown}</b></p>"
        self.message.value = warning if unknown else ""
        self.own.value = to_html(shown)


def explore(params_file: str, overrides: dict[str, Any], artifacts: str) -> Panel:
    """Return the explorer of a params file's run and of other computed runs."""
    return Panel(runs(params_file, overrides, artifacts), overrides, artifacts)
