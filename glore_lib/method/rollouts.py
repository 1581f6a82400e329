"""Rollouts: K completions of every prefix of a sample (paper, section 4.1, step 2)."""

from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import pandas as pd

from glore_lib.artifacts.records import SCHEMAS
from glore_lib.artifacts.store import Artifact, Info
from glore_lib.method.schedule import waves
from glore_lib.method.students import Student
from glore_lib.models.tokens import Encoded, encode
from glore_lib.params import RewardModels, digest
from glore_lib.run import Run
from glore_lib.sampling import Request
from glore_lib.solutions import is_consistent, join_steps, split_steps
from glore_lib.tasks import Question


def rollouts(
    run: Run, student: Student, samples: pd.DataFrame, split: str, purpose: str, inputs: list[Artifact]
) -> Artifact:
    """Sample up to K completions of every prefix P_i of every sample (record ``rollouts``).

    ``is_correct``: the rollout reaches the correct final answer. ``is_consistent``: it also uses the results that the
    prefix computed. After the answer nothing is left to complete: one row says whether the sample is correct, and its
    last step's label is that alone.

    Samples of a question share the rollouts of their common prefixes. With ``reward_models.samples_verify`` the rest of
    a correct sample is one more rollout of each of its prefixes, with a number from K on.

    With ``reward_models.early_stop`` fewer rollouts are made and the labels stay the same under every post-processing,
    because a rollout depends only on its prefix, its number and the run's seed: a prefix gets no more rollouts once one
    verifies it, and a rollout that writes the sample's next step itself is, from there on, the rollout of the same
    number of the longer prefix. (vLLM draws random numbers by the position in the completion, so there the labels are
    the same in distribution only.)
    """
    p = run.params.reward_models

    def make() -> tuple[pd.DataFrame, Info]:
        prefixes: dict[tuple[str, str], Prefix] = {}
        of_samples = [(s, _prefixes(run, s, split, prefixes)) for s in samples.itertuples()]
        if p.samples_verify:
            for sample, steps in of_samples:
                _add_sample(run, sample, steps)
        counts = _roll_out(run, student, purpose, list(prefixes.values()))
        rows = [
            {"question_id": s.question_id, "sample_id": s.sample_id, "step": i, "rollout": j, "text": r.text,
             "is_correct": r.is_correct, "is_consistent": r.is_consistent}
            for s, steps in of_samples
            for i, prefix in enumerate(steps, start=1)
            for j, r in sorted(prefix.rollouts.items())
        ]  # fmt: skip
        frame = pd.DataFrame(rows, columns=list(SCHEMAS["rollouts"]))
        counts |= {"prefixes": sum(len(p) for _, p in of_samples), "distinct_prefixes": len(prefixes)}
        return frame, counts

    params = {
        "k": p.rollouts_per_step, "samples_verify": p.samples_verify, "waves": waves(p), "early_stop": p.early_stop,
        "per_wave": p.rollouts_per_wave, "temperature": p.rollout_temperature, "sampling": run.params.sampling,
        "purpose": purpose, "samples": digest(samples["sample_id"].tolist()),
    }  # fmt: skip
    return run.frame(f"rollouts-{purpose}", "rollouts", make, params, [student.model, *inputs])  # type: ignore[list-item]


@dataclass(frozen=True)
class Rollout:
    """A completion of a prefix and its grades."""

    text: str
    is_correct: bool
    is_consistent: bool

    @property
    def verifies(self) -> bool:
        """Whether the rollout is correct and uses the prefix's results."""
        return self.is_correct and self.is_consistent


@dataclass
class Prefix:
    """The first steps of some samples of a question, and the rollouts from there by number."""

    question: Question
    text: str
    encoded: Encoded
    rollouts: dict[int, Rollout] = field(default_factory=dict)
    longer: list["Prefix"] = field(default_factory=list)  # by one step each
    ends: bool = False  # with an answer, so that nothing is left to complete
    waves: int = 0  # in which rollouts were requested

    @property
    def steps(self) -> int:
        """The number of steps."""
        return len(self.encoded.step_ends)

    @property
    def verified(self) -> bool:
        """Whether a rollout verifies the prefix, so that more of them cannot change a label."""
        return any(r.verifies for r in self.rollouts.values())


def _prefixes(run: Run, sample: Any, split: str, known: dict[tuple[str, str], Prefix]) -> list[Prefix]:
    """Return P_1, P_2, ... of a sample; add those that are not ``known`` by question and text.

    A prefix that ends with an answer is its own and only rollout, to which the consistency rule does not apply.
    """
    question, steps, found = run.questions(split)[sample.question_id], split_steps(sample.text), []  # type: ignore[var-annotated]
    for i in range(1, len(steps) + 1):
        text = join_steps(steps[:i])
        if (question.question_id, text) not in known:
            new = Prefix(question, text, encode(run.tokenizer, run.task.prompt(question.question), steps[:i]))
            if run.task.final_answer(text):
                new.ends = True
                new.rollouts[0] = Rollout("", run.task.is_correct(text, question.reference_answer), True)
            elif found:
                found[-1].longer.append(new)
            known[question.question_id, text] = new
        found.append(known[question.question_id, text])
    return found


def _add_sample(run: Run, sample: Any, steps: list[Prefix]) -> None:
    """Add the rest of a correct sample to the rollouts of its prefixes, where it is new."""
    if not sample.is_correct:
        return
    for i, prefix in enumerate(steps[:-1], start=1):
        rest = join_steps(split_steps(sample.text)[i:])
        if all(rollout.text != rest for rollout in prefix.rollouts.values()):
            number = run.params.reward_models.rollouts_per_step + len(prefix.rollouts)
            prefix.rollouts[number] = _graded(run, prefix, rest)


def _roll_out(run: Run, student: Student, purpose: str, prefixes: list[Prefix]) -> dict[str, int]:
    """Add rollouts to the prefixes that have none; return the numbers of rollouts and tokens."""
    p = run.params.reward_models
    sampler, made, tokens = run.sampler(student.model), 0, 0
    plan = waves(p)
    open_ended = [prefix for prefix in prefixes if not prefix.ends]
    while open_ended := [x for x in open_ended if x.waves < len(plan) and not (p.early_stop and x.verified)]:
        asked = _next_wave(open_ended, plan, p)
        requests = [
            Request(tuple(prefix.encoded.ids), count, run.seed(purpose, prefix.question.question_id), first,
            prefix.encoded.prompt_length)
            for prefix, first, count in asked
        ]  # fmt: skip
        answers = sampler.sample(requests, p.rollout_temperature, run.params.sampling.max_new_tokens, purpose)
        for (prefix, first, _), completions in zip(asked, answers, strict=True):
            for j, completion in enumerate(completions, start=first):
                prefix.rollouts[j] = _graded(run, prefix, completion.text)
                made, tokens = made + 1, tokens + completion.tokens
                if p.early_stop and completion.finished:  # one cut at the token limit would continue further
                    _pass_on(run, prefix, j, completion.ids)
    return {"rollouts_made": made, "tokens_generated": tokens}


def _next_wave(open_ended: list[Prefix], plan: list[tuple[int, int]], p: RewardModels) -> list[tuple[Prefix, int, int]]:
    """Return the next requests: (prefix, first number, count).

    With ``early_stop`` the shortest prefixes come first, since their rollouts may serve longer ones, and a wave ends
    once it has ``rollouts_per_wave`` rollouts.
    """
    by_turn: dict[tuple[int, int], list[Prefix]] = {}
    for prefix in open_ended:
        by_turn.setdefault((prefix.steps, prefix.waves) if p.early_stop else (0, 0), []).append(prefix)
    asked: list[tuple[Prefix, int, int]] = []
    for turn in sorted(by_turn):
        if sum(count for *_, count in asked) >= p.rollouts_per_wave:
            break
        for prefix in by_turn[turn]:
            asked += [(prefix, *part) for part in _missing(prefix, *plan[prefix.waves])]
            prefix.waves += 1
    return asked


def _missing(prefix: Prefix, first: int, count: int) -> list[tuple[int, int]]:
    """Return (first number, count) of each run of numbers in a wave for which the prefix has no rollout yet."""
    missing = [j for j in range(first, first + count) if j not in prefix.rollouts]
    runs = [list(run) for _, run in groupby(missing, key=lambda j: j - missing.index(j))]
    return [(run[0], len(run)) for run in runs]


def _pass_on(run: Run, prefix: Prefix, j: int, ids: tuple[int, ...]) -> None:
    """Add a rollout to the longer prefixes whose tokens it begins with.

    A rollout that ends where such a prefix ends has an answer mark without an answer and does not count for it.
    """
    whole = (*prefix.encoded.ids, *ids)
    for longer in prefix.longer:
        length = len(longer.encoded.ids)
        rest = whole[length:]
        if rest and j not in longer.rollouts and whole[:length] == tuple(longer.encoded.ids):
            longer.rollouts[j] = _graded(run, longer, run.tokenizer.decode(rest, skip_special_tokens=True))  # type: ignore[arg-type]
            _pass_on(run, longer, j, rest)


def _graded(run: Run, prefix: Prefix, text: str) -> Rollout:
    whole = f"{prefix.text}\n{text}"
    right = run.task.is_correct(whole, prefix.question.reference_answer)
    return Rollout(text, right, is_consistent(prefix.text, text))
