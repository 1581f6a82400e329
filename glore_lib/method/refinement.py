"""Refiners: local and global pairs, one model for both, first errors, refined drafts (paper, section 4.1, step 3)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from glore_lib.artifacts.store import Artifact, Info, Selection
from glore_lib.method.reward_models import RewardModelData
from glore_lib.method.step_labels import first_errors, rollout_labels
from glore_lib.method.students import Student
from glore_lib.models.prefix_tree import Labelled
from glore_lib.models.tokens import encode
from glore_lib.models.training import solution_example
from glore_lib.params import Refiner
from glore_lib.run import Run
from glore_lib.sampling import Completion, Request
from glore_lib.solutions import join_steps, mark_bad, normalise, prefix_text, split_steps

Shown = Literal["marked", "unmarked", "nothing"]  # of a draft, in the refiner's prompt


def local_pairs(samples: pd.DataFrame, rollouts: pd.DataFrame, monotone: bool, consistent: bool) -> pd.DataFrame:
    """Pair wrong samples, marked at their first error, with verifying traces of the step before (record ``pairs``).

    The target repeats the prefix P_(i-1) and continues with a rollout that verified it. If the first step is the first
    error, P_0 is the question, and any correct sample of it verifies. A trace that repeats the marked step is left out,
    since it corrects nothing: under the consistency rule a rollout may verify P_(i-1) and not P_i.
    """
    wrong = samples[~samples["is_correct"]].set_index("sample_id")
    errors = first_errors(rollout_labels(rollouts, monotone, consistent))
    verifying = rollouts[rollouts["is_correct"] & (rollouts["is_consistent"] | (not consistent))]
    traces = verifying.groupby(["sample_id", "step"])["text"].unique()
    right = samples[samples["is_correct"]].groupby("question_id")["text"].unique()
    rows = []
    for sample_id, i in errors[errors.index.isin(wrong.index)].items():
        draft = wrong.loc[sample_id]  # type: ignore[call-overload]
        steps = split_steps(draft["text"])
        ends = traces.get((sample_id, i - 1), []) if i > 1 else right.get(draft["question_id"], [])
        rows += [
            {"question_id": draft["question_id"], "kind": "local", "draft": draft["text"], "first_error": i,
             "target": prefix_text(steps, i - 1) + end}
            for end in ends
            if split_steps(end)[:1] != [steps[i - 1]]
        ]  # fmt: skip
    return pd.DataFrame(rows, columns=["question_id", "kind", "draft", "first_error", "target"])


def global_pairs(samples: pd.DataFrame) -> pd.DataFrame:
    """Pair wrong samples, marked at the very start, with correct samples of the same question (record ``pairs``)."""
    distinct = samples[samples["text"].map(lambda text: bool(split_steps(text)))].drop_duplicates(
        ["question_id", "text"]
    )
    wrong, right = distinct[~distinct["is_correct"]], distinct[distinct["is_correct"]]
    pairs = wrong.merge(right, on="question_id", suffixes=("", "_right"))
    pairs = pairs.assign(kind="global", first_error=1).rename(columns={"text": "draft", "text_right": "target"})
    return pairs[["question_id", "kind", "draft", "first_error", "target"]]


def refiner_pairs(run: Run, data: RewardModelData) -> pd.DataFrame:
    """Return the refiner's training set: distinct pairs, at most ``pairs_per_question`` per question and kind."""
    p, cap = run.params.reward_models, run.params.refiner.pairs_per_question
    samples = data.samples.read()
    pairs = pd.concat([local_pairs(samples, data.rollouts.read(), p.monotone, p.consistent), global_pairs(samples)])
    keys = pairs.assign(draft=pairs["draft"].map(normalise), target=pairs["target"].map(normalise))
    pairs = pairs[~keys.duplicated().to_numpy()].sample(frac=1, random_state=run.seed("pairs"))
    return pairs[pairs.groupby(["question_id", "kind"]).cumcount() < cap].reset_index(drop=True)


def train_refiner(run: Run, student: Student, data: RewardModelData, shown: Shown = "marked") -> Artifact:
    """Train one model for local and global refinements; ``shown`` is what it sees of a draft.

    The run's own refiner sees the marked draft. Controls, with as many steps on the same targets: one that sees the
    draft without a mark, and the student trained further on the targets alone.
    """
    p = run.params.refiner
    start = student.model if p.start == "student" or shown == "nothing" else None
    rm = run.params.reward_models
    switches = {"pairs_per_question": p.pairs_per_question, "monotone": rm.monotone, "consistent": rm.consistent}
    pairs = run.frame(
        "refiner-pairs", "pairs", lambda: refiner_pairs(run, data), switches, [data.samples, data.rollouts]
    )
    name = "refiner" if shown == "marked" else f"refiner-{shown}"

    def make(folder: Path) -> Info:
        questions = run.questions(run.reward_split)
        examples: dict[str, list[Labelled]] = {}
        # Of a row, pairs with the same draft share it, and those with the same start of the target share that.
        for pair in pairs.read().sort_values(["question_id", "draft", "first_error", "target"]).itertuples():
            question, steps = questions[pair.question_id].question, split_steps(pair.draft)
            draft = mark_bad(steps, pair.first_error) if shown == "marked" else join_steps(steps)
            prompt = run.task.prompt(question) if shown == "nothing" else run.task.refine_prompt(question, draft)
            skipped = (p.force_prefix or not p.learn_prefix) and shown == "marked"
            learn_from = pair.first_error if skipped else 1
            example = solution_example(run.tokenizer, prompt, split_steps(pair.target), learn_from)
            examples.setdefault(pair.question_id, []).append(example)
        return run.fit(start, name, run.packed(examples.values(), p.pairs_per_row), p.training, folder)

    params = {"refiner": p, "base": run.base_key, "finetuning": run.params.finetuning, "shown": shown}
    return run.folder(name, make, params, [pairs, *([start] if start else [])])


def locate_first_error(step_scores: pd.DataFrame, threshold: float) -> pd.Series:
    """Return the first step of every sample that is scored at most ``threshold``; 0 if there is none."""
    below = step_scores[step_scores["score"] <= threshold].groupby("sample_id")["step"].min()
    return below.reindex(step_scores["sample_id"].unique(), fill_value=0)


def marked_step(first_error: int, steps: int, refiner: Refiner) -> int:
    """Return the step before which a draft gets ``[BAD]``; 0 if the draft is kept.

    That is its first error or, where none was found (0), what ``refiner.no_error_found`` says.
    """
    return first_error or (steps if refiner.no_error_found == "last_step" else 0)


@dataclass(frozen=True)
class RefinementSpec:
    """Where one kind of refinement begins.

    ``errors`` gives each draft's first error for local refinement (index ``sample_id``; 0: none was found); None means
    global. With ``force_prefix`` the refiner continues after the steps before the error instead of repeating them; None
    takes the parameter of that name. ``sampled`` draws at ``evaluation.temperature`` instead of decoding greedily. If
    not ``marked``, the refiner sees the drafts without ``[BAD]``.
    """

    errors: pd.Series | None = None
    force_prefix: bool | None = None
    sampled: bool = False
    marked: bool = True


def refine(
    run: Run, refiner: Artifact, drafts: Artifact, split: str, specs: Mapping[str, RefinementSpec]
) -> dict[str, Artifact]:  # fmt: skip
    """Refine all drafts, for each kind in ``specs`` (records ``refinements``).

    Where several kinds see the error of a draft in the same place, the refiner writes one refinement for all, or one
    for all that are sampled. Samples have a seed for each question.
    """
    p, temperature = run.params.refiner, run.params.evaluation.temperature
    forced = {kind: p.force_prefix if g.force_prefix is None else g.force_prefix for kind, g in specs.items()}
    questions = run.questions(split)

    def make() -> tuple[pd.DataFrame, Info]:
        rows, asked = [], []
        for kind, spec in specs.items():
            for draft in drafts.read().itertuples():
                steps = split_steps(draft.text)
                found = 0 if not steps else 1 if spec.errors is None else int(spec.errors[draft.sample_id])
                row = {
                    "question_id": draft.question_id, "sample_id": draft.sample_id, "kind": kind, "first_error": found,
                    "text": draft.text,
                }  # fmt: skip
                rows.append(row)
                at = marked_step(found, len(steps), p)
                if steps and at:
                    kept = steps[: at - 1] if forced[kind] else []
                    shown = mark_bad(steps, at) if spec.marked else join_steps(steps)
                    prompt = run.task.refine_prompt(questions[draft.question_id].question, shown)
                    ids = tuple(encode(run.tokenizer, prompt, kept).ids)
                    seed = run.seed("refinements", draft.question_id) if spec.sampled else 0  # greedy: not used
                    asked.append((row, prefix_text(kept, len(kept)), (spec.sampled, Request(ids, 1, seed))))
        written: dict[tuple[bool, Request], Completion] = {}
        for sampled in sorted({sampled for *_, (sampled, _) in asked}):
            requests = list(dict.fromkeys(request for *_, (its, request) in asked if its == sampled))
            answers = run.sampler(refiner).sample(
                requests, temperature if sampled else 0.0, run.params.sampling.max_new_tokens, "refinements"
            )
            written |= {(sampled, r): completion for r, (completion,) in zip(requests, answers, strict=True)}
        for row, prefix, request in asked:
            row["text"] = prefix + written[request].text
        for row in rows:
            row["final_answer"] = run.task.final_answer(row["text"])
            row["is_correct"] = run.task.is_correct(row["text"], questions[row["question_id"]].reference_answer)
        return pd.DataFrame(rows), {"tokens_generated": sum(completion.tokens for completion in written.values())}

    params = {
        "specs": {
            kind: [
                None if g.errors is None else g.errors.sort_index().astype(int).tolist(), forced[kind],
                temperature if g.sampled else 0.0, g.marked,
            ]
            for kind, g in specs.items()
        },
        "no_error_found": p.no_error_found, "sampling": run.params.sampling,
    }  # fmt: skip
    every = run.frame(f"refined-{split}", "refinements", make, params, [refiner, drafts])
    return {kind: Selection(every.folder, "kind", kind) for kind in specs}


def solve_without_draft(
    run: Run, model: Artifact, drafts: Artifact, split: str, temperature: float = 0.0
) -> Artifact:  # fmt: skip
    """Let a refiner, or another model, answer the question alone, as a control (record ``refinements``)."""
    questions = run.questions(split)

    def make() -> tuple[pd.DataFrame, Info]:
        frame = drafts.read()[["question_id", "sample_id"]].copy()
        requests = [
            Request(tuple(encode(run.tokenizer, run.task.prompt(questions[q].question)).ids), 1,
            run.seed("no-draft", q))
            for q in frame["question_id"]
        ]  # fmt: skip
        answers = run.sampler(model).sample(requests, temperature, run.params.sampling.max_new_tokens, "no draft")
        frame["text"] = [completion.text for (completion,) in answers]
        frame["final_answer"] = frame["text"].map(run.task.final_answer)
        frame["is_correct"] = [
            run.task.is_correct(text, questions[q].reference_answer)
            for q, text in zip(frame["question_id"], frame["text"], strict=True)
        ]
        tokens = sum(completion.tokens for (completion,) in answers)
        return frame.assign(kind="refiner_no_draft", first_error=0), {"tokens_generated": tokens}

    params = {"sampling": run.params.sampling, "temperature": temperature}
    return run.frame(f"no-draft-{split}", "refinements", make, params, [model, drafts])
