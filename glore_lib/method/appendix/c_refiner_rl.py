"""The refiner trained further on its own refinements, by expert iteration and by GRPO (paper, appendix C).

The paper names this comparison and not its settings; docs/concepts/refiner_rl.md says what was decided.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from glore_lib import statistics as st
from glore_lib.artifacts.store import Artifact, Info
from glore_lib.method.appendix.measures import outcome_differences
from glore_lib.method.evaluation import NUMBERS, Outcomes, numbers
from glore_lib.method.refinement import RefinementSpec, locate_first_error, refine, refiner_pairs
from glore_lib.method.replication import Replication
from glore_lib.method.reward_models import answer_scores, score_steps, scores_of
from glore_lib.method.students import sample_solutions
from glore_lib.models.loading import adapt, load_model, save_model
from glore_lib.models.prefix_tree import Labelled
from glore_lib.models.reward_head import load_reward_model
from glore_lib.models.tokens import encode
from glore_lib.models.training import solution_example
from glore_lib.params import ParamsError, Reward, check_grpo, digest
from glore_lib.run import Run
from glore_lib.sampling import Request, Sampler, transformers
from glore_lib.solutions import mark_bad, normalise, prefix_text, split_steps
from glore_lib.statistics import Outcome
from glore_lib.tasks import Question

if TYPE_CHECKING:  # it imports TRL, which is optional
    from glore_lib.models.grpo import Written

JUDGE = {"orm": "orm", "improvement": "orm", "steps": "sorm"}  # the reward model that a reward reads
METRICS = ("fixed_global", "fixed_local", "fixed_union", "fixed_two_global", "broken_global", "accuracy_all_drafts")
MEASURES = ("reward", "correct", "correct_steps")  # of the refinements sampled in GRPO
SPLIT = "train"  # whose drafts are refined
PARTS = 8  # of a GRPO training, whose steps are averaged for the figure


@dataclass(frozen=True)
class Refiner:
    """A refiner, the rounds or passes over drafts, and the tokens and seconds of their sampling and training."""

    model: Artifact
    passes: int = 0
    tokens: int = 0
    seconds: float = 0.0


def with_seed(lab: Replication, seed: int) -> Replication:
    """Return the same run with another seed: other questions and all of its stages, on the same artifacts."""
    return Replication(Run(lab.run.params.model_copy(update={"seed": seed}), lab.run.store, lab.run.task))


# Drafts, and where they are marked


def student_drafts(lab: Replication) -> pd.DataFrame:
    """Return the student's distinct wrong samples of training questions, with first errors as :func:`located` finds.

    With ``task.reward_questions`` the refiner has not seen these questions.
    """
    p = lab.run.params
    n, temperature = p.refiner_rl.draft_samples, p.reward_models.temperature
    samples = sample_solutions(lab.run, lab.student, SPLIT, n, temperature, "refiner-drafts")
    return located(lab, samples, "drafts")


def located(lab: Replication, answers: Artifact, name: str) -> pd.DataFrame:
    """Return the distinct wrong ones of some answers as drafts (question_id, draft, first_error).

    As at test time, the SORM finds the first error; 0 says that it finds none. ``name`` names its scores.
    """
    frame = answers.read()
    wrong = frame[~frame["is_correct"] & frame["text"].map(lambda text: bool(split_steps(text)))]
    wrong = _distinct(wrong[["question_id", "text"]], ["text"])
    wrong["sample_id"] = [f"{question_id}/{i}" for i, question_id in enumerate(wrong["question_id"])]
    scores = score_steps(lab.run, lab.reward_models["sorm"], f"sorm-refiner-{name}", wrong, SPLIT, answers)
    found = locate_first_error(scores.read(), lab.run.params.reward_models.threshold)
    drafts = wrong.rename(columns={"text": "draft"}).assign(first_error=wrong["sample_id"].map(found).astype(int))
    return drafts[["question_id", "draft", "first_error"]]


def _distinct(frame: pd.DataFrame, texts: list[str]) -> pd.DataFrame:
    keys = frame.assign(**{name: frame[name].map(normalise) for name in texts})
    return frame[~keys.duplicated().to_numpy()].reset_index(drop=True)


def marked(drafts: pd.DataFrame) -> pd.DataFrame:
    """Return each place where a draft is marked: at its very start (global), and at a first error after it (local)."""
    later = drafts[drafts["first_error"] > 1].assign(kind="local")
    places = pd.concat([drafts.assign(kind="global", first_error=1), later])
    return places[["question_id", "kind", "draft", "first_error"]].reset_index(drop=True)


def draw(run: Run, number: int, drafts: pd.DataFrame, own: pd.DataFrame | None = None) -> pd.DataFrame:
    """Draw the marked drafts of a round in random order: half of its drafts from ``own``, if there are enough."""
    p, seed = run.params.refiner_rl, run.seed("refiner drafts", number)
    chosen = drafts.iloc[:0] if own is None else own.sample(min(len(own), p.drafts // 2), random_state=seed)
    others = _distinct(pd.concat([chosen, drafts]), ["draft"]).iloc[len(chosen) :]
    rest = others.sample(min(len(others), p.drafts - len(chosen)), random_state=seed)
    return marked(pd.concat([chosen, rest])).sample(frac=1, random_state=seed).reset_index(drop=True)


def prompt_of(run: Run, question: Question, draft: str, first_error: int) -> tuple[tuple[int, ...], str]:
    """Return a refiner's prompt for a marked draft, as token ids, and the prefix that it is forced to keep."""
    steps = split_steps(draft)
    kept = steps[: first_error - 1] if run.params.refiner.force_prefix else []
    prompt = run.task.refine_prompt(question.question, mark_bad(steps, first_error))
    return tuple(encode(run.tokenizer, prompt, kept).ids), prefix_text(kept, len(kept))


# Expert iteration


def attempt(lab: Replication, refiner: Artifact, number: int, places: pd.DataFrame) -> Artifact:
    """Sample refinements of the marked drafts of a round (record ``attempts``)."""
    run, p = lab.run, lab.run.params.refiner_rl

    def make() -> tuple[pd.DataFrame, Info]:
        questions = run.questions(SPLIT)
        prompts = [prompt_of(run, questions[d.question_id], d.draft, d.first_error) for d in places.itertuples()]
        seeds = (run.seed("attempts", number, d.question_id, d.draft, int(d.first_error)) for d in places.itertuples())
        requests = [Request(ids, p.samples_per_draft, seed) for (ids, _), seed in zip(prompts, seeds, strict=True)]
        answers = run.sampler(refiner).sample(
            requests, p.temperature, run.params.sampling.max_new_tokens, f"refinements, round {number}"
        )
        rows = [
            d._asdict() | {"text": text, "is_correct": run.task.is_correct(text, question.reference_answer)}
            for d, (_, prefix), completions in zip(places.itertuples(index=False), prompts, answers, strict=True)
            for question in [questions[d.question_id]]
            for text in [prefix + completion.text for completion in completions]
        ]
        return pd.DataFrame(rows), {"tokens_generated": sum(c.tokens for answer in answers for c in answer)}

    params = {
        "n": p.samples_per_draft, "temperature": p.temperature, "sampling": run.params.sampling, "round": number,
        "force_prefix": run.params.refiner.force_prefix,
        "drafts": _hash(places),
    }  # fmt: skip
    return run.frame(f"refiner-attempts{number}", "attempts", make, params, [refiner])


def _hash(frame: pd.DataFrame) -> str:
    return digest(pd.util.hash_pandas_object(frame, index=False).tolist())


def solved_pairs(attempts: pd.DataFrame, cap: int) -> pd.DataFrame:
    """Return correct refinements as pairs: distinct, the first ``cap`` per question and kind (record ``pairs``).

    A local one counts if it repeats the steps before the mark and then differs from the draft's step.
    """
    correct = _distinct(attempts[attempts["is_correct"]], ["draft", "text"])
    pairs = correct.rename(columns={"text": "target"})[["question_id", "kind", "draft", "first_error", "target"]]
    usable = [p.kind == "global" or _corrects(p.draft, p.target, p.first_error) for p in pairs.itertuples()]
    pairs = pairs[np.array(usable, dtype=bool)]
    return pairs[pairs.groupby(["question_id", "kind"]).cumcount() < cap].reset_index(drop=True)


def _corrects(draft: str, target: str, first_error: int) -> bool:
    """Return whether a target repeats the steps of a draft before its first error, and not that step."""
    before, after = split_steps(draft)[:first_error], split_steps(target)[:first_error]
    return len(after) == first_error and after[:-1] == before[:-1] and after[-1] != before[-1]


def train_round(lab: Replication, number: int, attempts: Sequence[Artifact]) -> Artifact:
    """Train a refiner on the supervised pairs and on the correct refinements of all rounds so far."""
    run, p, rm = lab.run, lab.run.params.refiner, lab.run.params.reward_models
    start = lab.student.model if p.start == "student" else None
    name = f"refiner-round{number}"

    def make(folder: Path) -> Info:
        supervised = refiner_pairs(run, lab.data)
        new = [solved_pairs(a.read(), p.pairs_per_question) for a in attempts]
        pairs = _distinct(pd.concat([supervised, *new]), ["draft", "target"])
        pairs = pairs.sort_values(["question_id", "draft", "first_error", "target"])
        questions, skips = run.questions(run.reward_split) | run.questions(SPLIT), p.force_prefix or not p.learn_prefix
        examples: dict[str, list[Labelled]] = {}
        for pair in pairs.itertuples():
            prompt = run.task.refine_prompt(
                questions[pair.question_id].question, mark_bad(split_steps(pair.draft), pair.first_error)
            )
            learn_from = pair.first_error if skips else 1
            example = solution_example(run.tokenizer, prompt, split_steps(pair.target), learn_from)
            examples.setdefault(pair.question_id, []).append(example)
        rows = run.packed(examples.values(), p.pairs_per_row)
        info = run.fit(start, name, rows, run.params.refiner_rl.training, folder)
        return info | {"supervised_pairs": len(supervised), "own_pairs": len(pairs) - len(supervised)}

    params = {
        "refiner": p.model_dump(exclude={"training"}), "training": run.params.refiner_rl.training, "base": run.base_key,
        "finetuning": run.params.finetuning, "monotone": rm.monotone, "consistent": rm.consistent,
    }  # fmt: skip
    inputs = [lab.data.samples, lab.data.rollouts, *attempts, *([start] if start else [])]
    return run.folder(name, make, params, inputs)


def validation_share(lab: Replication, refiner: Artifact) -> float:
    """Return the share of the wrong validation drafts that a refiner fixes, globally or locally with the SORM."""
    split = lab.validation
    specs = {"global": RefinementSpec(), "local+sorm": RefinementSpec(split.first_errors["sorm"])}
    right = lab.tables.right(split.drafts, refine(lab.run, refiner, split.drafts, "validation", specs))
    wrong = right[~right["greedy"]]
    return float((wrong["global"] | wrong["local+sorm"]).mean()) if len(wrong) else nan


class Trainings:
    """The refiners of one seed: supervised, after each round of expert iteration, and of each GRPO training."""

    def __init__(self, lab: Replication):
        self.lab = lab

    @cached_property
    def drafts(self) -> pd.DataFrame:
        """The student's wrong drafts (:func:`student_drafts`). Raises ParamsError if there are none."""
        drafts = student_drafts(self.lab)
        if not len(drafts):
            n = self.lab.run.params.refiner_rl.draft_samples
            raise ParamsError(
                f"refiner_rl.draft_samples = {n}: none of the student's samples of training questions is wrong: "
                "there is nothing to refine; raise it or task.train_questions"
            )
        return drafts

    @cached_property
    def rounds(self) -> tuple[pd.DataFrame, list[Refiner]]:
        """Expert iteration: a row per round with its validation share, and the refiners; the first is supervised.

        Each round samples refinements from the last refiner, adds the correct ones to the pairs, and trains anew.
        Rounds end with the first that fixes no more of the wrong validation drafts, or after ``refiner_rl.rounds``.
        """
        lab, p = self.lab, self.lab.run.params.refiner_rl
        refiners = [Refiner(lab.refiner)]
        attempts: list[Artifact] = []
        rows = [{"round": 0, "attempts": 0, "correct": nan, "fixed_validation": validation_share(lab, lab.refiner)}]
        for number in range(1, p.rounds + 1):
            own = located(lab, attempts[-1], f"attempts{number - 1}") if p.own_drafts and attempts else None
            last = refiners[-1]
            made = attempt(lab, last.model, number, draw(lab.run, number, self.drafts, own))
            attempts.append(made)
            tokens = last.tokens + made.record["info"]["tokens_generated"]
            refiner = Refiner(last.model, number, tokens, last.seconds + made.record["seconds"])
            correct = made.read()["is_correct"]
            if correct.any():  # else there is nothing new to learn
                model = train_round(lab, number, attempts)
                refiner = replace(refiner, model=model, seconds=refiner.seconds + model.record["seconds"])
            refiners.append(refiner)
            share = validation_share(lab, refiner.model)
            rows.append(
                {"round": number, "attempts": len(correct), "correct": correct.mean(), "fixed_validation": share}
            )
            if not share > rows[-2]["fixed_validation"]:
                break
        return pd.DataFrame(rows).assign(seed=lab.run.params.seed), refiners

    @property
    def chosen(self) -> Refiner:
        """The refiner that fixes most wrong validation drafts, at the cost of all rounds."""
        rows, refiners = self.rounds
        best = refiners[int(rows["fixed_validation"].fillna(0).to_numpy().argmax())]
        return replace(refiners[-1], model=best.model)

    def _grpo(self, reward: Reward) -> Refiner:
        """Train the supervised refiner by GRPO, on as many passes over drafts as expert iteration made rounds."""
        passes = self.rounds[1][-1].passes
        drawn = [draw(self.lab.run, number, self.drafts) for number in range(1, passes + 1)]
        model = train_grpo(self.lab, reward, pd.concat(drawn, ignore_index=True))
        info = model.record["info"]
        return Refiner(model, passes, info["tokens_generated"], model.record["seconds"])

    @cached_property
    def refiners(self) -> dict[str, Refiner]:
        """All refiners by the name of their training."""
        first, *after = self.rounds[1]
        found = {"supervised": first, "round_1": after[0], "rounds": self.chosen}
        return found | {f"grpo_{reward}": self._grpo(reward) for reward in self.lab.run.params.refiner_rl.rewards}


# GRPO


def improvement(after: float, before: float) -> float:
    """Return by how much the ORM prefers a refinement to its draft, and 0 if it does not: reranking keeps the draft.

    Without this bound the draft's score would cancel, since GRPO subtracts the mean of refinements of the same draft.
    """
    return max(0.0, after - before)


def step_of_token(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[int]:
    """Return for each token of a completion the number of its step, counted from 0; a newline ends its step."""
    steps, begun, found = 0, False, []
    for piece in tokenizer.batch_decode([[i] for i in ids], skip_special_tokens=True):
        for line in piece.splitlines(keepends=True):
            steps += bool(line.strip()) and not begun
            begun = (begun or bool(line.strip())) and not line.endswith("\n")
        found.append(max(steps - 1, 0))
    return found


class _Writer:
    """Samples refinements of marked drafts from the model in training, and rewards them."""

    def __init__(self, lab: Replication, reward: Reward, places: pd.DataFrame):
        self.run, self.reward, self.places = lab.run, reward, list(places.itertuples(index=False))
        self.of_split = lab.run.questions(SPLIT)
        prompts = [prompt_of(self.run, self.of_split[d.question_id], d.draft, d.first_error) for d in self.places]
        self.prompts, self.prefixes = [ids for ids, _ in prompts], [prefix for _, prefix in prompts]
        self.sampler: Sampler | None = None
        if reward in JUDGE:
            judge = self.run.path(lab.reward_models[JUDGE[reward]])
            self.judge = load_reward_model(judge, self.run.params.base_model.dtype, self.run.base).eval()
        if reward == "improvement":
            drafts = [(self.of_split[d.question_id], d.draft) for d in self.places]
            self.before = [scores[-1] for scores in scores_of(self.run, self.judge, drafts)]

    def __call__(self, policy: PreTrainedModel, asked: list[int], step: int) -> "Written":
        from glore_lib.models.grpo import Written

        run, p = self.run, self.run.params
        samples, groups = p.refiner_rl.samples_per_draft, asked[:: p.refiner_rl.samples_per_draft]
        if not self.sampler:
            self.sampler = transformers.build(policy, run.tokenizer, p.sampling.rows, run.support.shared_prefix)
        policy.eval()
        requests = [Request(self.prompts[i], samples, run.seed("grpo", i)) for i in groups]
        answers = self.sampler.sample(requests, p.refiner_rl.temperature, p.sampling.max_new_tokens, f"step {step + 1}")
        completions = [completion for answer in answers for completion in answer]
        texts = [self.prefixes[i] + completion.text for i, completion in zip(asked, completions, strict=True)]
        questions = [self.of_split[self.places[i].question_id] for i in asked]
        right = [float(run.task.is_correct(text, q.reference_answer)) for text, q in zip(texts, questions, strict=True)]
        exact = [run.task.exact_step_labels(q, text) for q, text in zip(questions, texts, strict=True)]
        measures = {"correct": float(np.mean(right)), "tokens": float(sum(c.tokens for c in completions))}
        if None not in exact:
            measures["correct_steps"] = float(np.mean([label for labels in exact for label in labels or []] or [0]))
        ids = [list(completion.ids) for completion in completions]
        if self.reward == "answer":
            return Written(ids, right, measures)
        scores = scores_of(run, self.judge, list(zip(questions, texts, strict=True)))
        if self.reward == "steps":
            kept = [len(split_steps(self.prefixes[i])) for i in asked]
            own = [found[k:] for found, k in zip(scores, kept, strict=True)]
            mean = [float(np.mean(found)) if found else 0.0 for found in own]
            return Written(ids, mean, measures, own, [step_of_token(run.tokenizer, some) for some in ids])
        after = [found[-1] if found else 0.0 for found in scores]
        if self.reward == "improvement":
            after = [improvement(score, self.before[i]) for score, i in zip(after, asked, strict=True)]
        return Written(ids, after, measures)


def train_grpo(lab: Replication, reward: Reward, places: pd.DataFrame) -> Artifact:
    """Train the supervised refiner by GRPO on marked drafts, a group each, rewarded as ``reward`` says."""
    run, p = lab.run, lab.run.params.refiner_rl
    name = f"refiner-grpo-{reward}"

    def make(folder: Path) -> Info:
        from glore_lib.models import grpo

        run.free()
        groups = min(p.groups_per_step, len(places))
        schedule = grpo.Schedule(
            len(places) // groups, groups, p.samples_per_draft, p.temperature, run.params.sampling.max_new_tokens,
            p.learning_rate, p.kl_weight,
        )  # fmt: skip
        source, finetuning, seed = run.path(lab.refiner), run.params.finetuning, run.seed(name)
        model = adapt(load_model(source, run.params.base_model.dtype, base=run.base), finetuning, seed)
        writer = _Writer(lab, reward, places)
        info = grpo.train(model, run.tokenizer, writer.prompts, finetuning, schedule, writer, seed, folder)
        save_model(model, run.tokenizer, source, folder)
        return info

    params = {
        "reward": reward, "drafts": _hash(places), "samples_per_draft": p.samples_per_draft,
        "temperature": p.temperature, "groups_per_step": p.groups_per_step, "learning_rate": p.learning_rate,
        "kl_weight": p.kl_weight, "sampling": run.params.sampling, "finetuning": run.params.finetuning,
        "force_prefix": run.params.refiner.force_prefix,
    }  # fmt: skip
    judges = [lab.reward_models[JUDGE[reward]]] if reward in JUDGE else []
    return run.folder(name, make, params, [lab.refiner, *judges])


# The comparison


def rounds(trainings: Sequence[Trainings]) -> pd.DataFrame:
    """Return the rounds of expert iteration of all seeds (:attr:`Trainings.rounds`)."""
    return pd.concat([t.rounds[0] for t in _each(trainings)]).set_index(["seed", "round"]).round(3)


def _each(trainings: Sequence[Trainings]) -> Iterator[Trainings]:
    """Yield the trainings of each seed, and free the GPU for the next."""
    for of_seed in trainings:
        yield of_seed
        of_seed.lab.run.free()


def outcomes(lab: Replication, refiner: Artifact) -> dict[str, Outcome]:
    """Measure a refiner on the test drafts, by metric.

    Shares of the wrong drafts fixed globally, locally with the SORM, by either, and by two global refinements (one
    greedy, one sampled); of the correct drafts that a global one makes wrong; accuracy if all are refined globally; and
    of the global refinements of wrong drafts, the ORM's mean score and the share of steps that are correct.
    """
    test = lab.test
    specs = {
        "global": RefinementSpec(), "two": RefinementSpec(sampled=True),
        "local": RefinementSpec(test.first_errors["sorm"]),
    }  # fmt: skip
    refined = refine(lab.run, refiner, test.drafts, "test", specs)
    right = lab.tables.right(test.drafts, refined)
    wrong, questions = ~right["greedy"], test.drafts.read()["question_id"]
    found = {
        "fixed_global": Outcome.of(right["global"], questions, wrong),
        "fixed_local": Outcome.of(right["local"], questions, wrong),
        "fixed_union": Outcome.of(right["global"] | right["local"], questions, wrong),
        "fixed_two_global": Outcome.of(right["global"] | right["two"], questions, wrong),
        "broken_global": Outcome.of(~right["global"], questions, ~wrong),
        "accuracy_all_drafts": Outcome.of(right["global"], questions),
    }
    answers = refined["global"].read()
    of_wrong = answers["sample_id"].map(wrong).to_numpy(dtype=bool)
    scores = answer_scores(test.score("orm", refined["global"], f"-{refiner.record['name']}").read())
    scores = scores.reindex(answers["sample_id"], fill_value=0.0)
    found["orm_score"] = Outcome.of(scores, answers["question_id"], of_wrong)
    every = lab.run.questions("test")
    labels = [lab.run.task.exact_step_labels(every[a.question_id], a.text) for a in answers[of_wrong].itertuples()]
    if None not in labels:
        steps = [(q, y) for q, ys in zip(answers[of_wrong]["question_id"], labels, strict=True) for y in ys or []]
        found["correct_steps"] = Outcome.of([y for _, y in steps], [q for q, _ in steps])
    return found


def compare(trainings: Sequence[Trainings]) -> pd.DataFrame:
    """Measure all refinements of all seeds on the test split; and compare with supervised, and GRPO with the rounds."""
    by_seed: list[Outcomes] = [
        {(name, metric): o for name, r in t.refiners.items() for metric, o in outcomes(t.lab, r.model).items()}
        for t in _each(trainings)
    ]
    lab, names = trainings[0].lab, list(trainings[0].refiners)
    pairs = [(name, "supervised") for name in names[1:]] + [(name, "rounds") for name in names[3:]]
    measured = numbers(lab.run.params.run, lab.run.params.base_model.source, None, by_seed)
    compared = outcome_differences(lab.tables, by_seed, pairs, METRICS).assign(seed=None)
    return pd.concat([measured, compared], ignore_index=True).astype({"seed": "Int64"})


def costs(trainings: Sequence[Trainings]) -> pd.DataFrame:
    """Return what each training took beyond the supervised refiner, and GRPO's last KL divergence: seeds' means."""
    rows = [
        {
            "refiner": name, "rounds or passes": r.passes, "sampled tokens": r.tokens, "seconds": r.seconds,
            "KL divergence": (r.model.record["info"].get("log") or [{}])[-1].get("kl"),
        }
        for t in _each(trainings) for name, r in t.refiners.items()
    ]  # fmt: skip
    return pd.DataFrame(rows).groupby("refiner", sort=False).mean().round(3)


def curves(trainings: Sequence[Trainings]) -> pd.DataFrame:
    """Return reward, accuracy and share of correct steps of the refinements sampled in GRPO, as numbers.

    Methods are the measures; metrics are ``<reward>@<part>``, of :data:`PARTS` equal parts of the steps of each seed.
    """
    p = trainings[0].lab.run.params
    by_seed = [t.refiners for t in _each(trainings)]
    rows = []
    for reward in p.refiner_rl.rewards:
        infos = [refiners[f"grpo_{reward}"].model.record["info"] for refiners in by_seed]
        together = infos[0]["completions"] // infos[0]["steps"]
        steps = pd.concat([pd.DataFrame(info["log"]).assign(last=info["steps"]) for info in infos])
        for part, of_part in steps.groupby(-(-steps["step"] * PARTS // steps["last"])):
            for measure in (m for m in MEASURES if m in of_part):
                mean = st.Estimate(float(of_part[measure].mean()), nan, nan, together * len(of_part))
                rows.append(st.row(p.run, p.base_model.source, f"sampled_{measure}", f"{reward}@{part}", mean))
    return pd.DataFrame(rows).assign(seed=None)[NUMBERS].astype({"seed": "Int64"})


def made(lab: Replication, seeds: Iterable[int]) -> list[Trainings]:
    """Return the trainings of each seed; they are made as they are used. Raises ParamsError if TRL is not installed."""
    check_grpo(lab.run.params)
    return [Trainings(lab if seed == lab.run.params.seed else with_seed(lab, seed)) for seed in seeds]
