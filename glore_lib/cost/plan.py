"""Estimate what a run needs before it is started: samples, tokens, training steps, memory, disk and time per stage.

What the parameters fix is counted exactly. The rest (rollouts with early stop, distinct solutions, pairs, and so
training steps) comes from a simple model of students that all have the same ``accuracy``: each question has its own
probability p that a sample is right; a rollout from a right prefix is right with probability p^a, where a is the share
of the difficulty that is still ahead; a rollout from a wrong prefix never is. Nothing is run and no weights are loaded.
Text lengths are those of the data set's questions and reference solutions, or of some generated ones.
"""

import math
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from scipy.special import betaincinv

from glore_lib import params
from glore_lib.cost.hardware import (
    CHARACTERS_PER_TOKEN,
    HARDWARE,
    VLLM_SOURCE,
    Counter,
    Hardware,
    model_size,
    token_counter,
    vllm_rate,
)  # fmt: skip
from glore_lib.method.schedule import KINDS, SCORING_TOKENS, pool_size, waves
from glore_lib.params import Params, ParamsError, check_source
from glore_lib.solutions import mark_bad, split_steps
from glore_lib.tasks import Question, Task, checked_task

# Questions' probabilities are Beta-distributed with a + b = SPREAD: most are nearly always or nearly never solved.
# Fitted to 8 samples of each of 800 questions: 0.70 (mini-hard), 0.65 (mini-easy).
SPREAD = 0.7
# How much of a question's difficulty is in its first steps (_Planner._ahead; 1: all steps are equally hard). Fitted to
# the tokens of the rollouts of both mini runs.
EARLY = 1.5
WRONG_STEPS = 0.3  # steps that a wrong solution has more than the reference: 0.32 (mini-hard), 0.31 (mini-easy)
NEW_MARKS = 0.4  # share of drafts that one more locator marks at a place where no earlier locator did
# Questions of a split to measure. Generating all of the mini runs' takes seconds, and changes times by under 0.2 %.
MEASURED = {"arithmetic": 200}
NOTEBOOK_SECONDS = 12.0  # a notebook's imports, statistics and figures: 01 and 05 of the mini runs
QUANTISED_BYTES = {"qlora": 4.5 / 8}  # a 4-bit weight and its share of the block's scale


@dataclass(frozen=True)
class Repetition:
    """How much the texts of one question repeat each other."""

    new_texts: tuple[float, float]  # probability that one more right, or wrong, sample is not a copy of an earlier one
    new_tokens: float  # share of a new text's tokens after the part that it shares with another text
    forked: float  # share of one more completion's tokens that are decoded for it alone (transformers)
    leaves: float  # probability that a rollout does not write the next step of the sample that it starts from


# Measured: new texts 0.04 and 0.71 (mini-hard), 0.03 and 0.56 (mini-easy); the others on mini-hard.
GENERATED_TEXT = Repetition((0.03, 0.65), 0.7, 0.23, 0.2)
NATURAL_TEXT = Repetition((0.9, 1.0), 0.9, 0.8, 0.8)  # assumed


Pair = tuple[np.ndarray, np.ndarray]  # how many right and wrong answers each question has


class Lengths:
    """Tokens of the texts of a split's questions and reference solutions, one entry per question.

    The ``questions`` given stand for all ``n``. A task without reference solutions is measured by its worked example.
    ``steps`` is [questions, steps], padded with 0; ``count`` has the steps, ``wrong`` a wrong solution, ``refine`` the
    refiner's prompt.
    """

    def __init__(self, task: Task, questions: list[Question], n: int, tokens: Counter):
        _, instead = getattr(task, "example", ("", "#### 0"))
        solutions = [split_steps(q.reference_solution or instead) for q in questions]
        self.count = np.array([len(steps) for steps in solutions])
        self.steps = np.zeros((len(questions), self.count.max()))
        self.steps[np.arange(self.count.max()) < self.count[:, None]] = tokens(
            [f"{step}\n" for steps in solutions for step in steps], False
        )
        self.solution = self.steps.sum(axis=1)
        self.last_step = self.steps[np.arange(len(questions)), self.count - 1]
        self.wrong = self.solution * (1 + WRONG_STEPS / self.count)
        self.prompt = tokens([task.prompt(q.question) for q in questions], True)
        self.one_shot = tokens([task.one_shot_prompt(q.question) for q in questions], True)
        pairs = zip(questions, solutions, strict=True)
        self.refine = tokens([task.refine_prompt(q.question, mark_bad(steps, 1)) for q, steps in pairs], True)
        for name, measured in list(vars(self).items()):
            setattr(self, name, measured[np.arange(n) % len(questions)])


@dataclass
class Work:
    """A part of a stage. Tokens are generated, trained on (in every epoch) or only read. Memory and disk in bytes."""

    stage: str
    name: str
    samples: float = 0
    generated: float = 0
    read: float = 0
    trained: float = 0
    steps: float = 0
    memory: float = 0
    disk: float = 0
    seconds: float = 0


@dataclass
class Plan:
    """The work of one run in its order, and the source of each assumption."""

    run: str
    work: list[Work]
    sources: dict[str, str]

    @property
    def stages(self) -> list[Work]:
        """Return the sums of each stage and of all; ``memory`` is the largest."""
        rows = [_sum(stage, list(part)) for stage, part in groupby(self.work, lambda work: work.stage)]
        for row in rows:
            row.seconds += NOTEBOOK_SECONDS
        return [*rows, _sum("total", rows)]


def _sum(stage: str, parts: list[Work]) -> Work:
    names = ("samples", "generated", "read", "trained", "steps", "disk", "seconds")
    sums = {name: sum(getattr(part, name) for part in parts) for name in names}
    return Work(stage, "", memory=max(part.memory for part in parts), **sums)


def plan(p: Params, accuracy: float = 0.6, hardware: str = "cpu") -> Plan:
    """Plan a run whose students have this ``accuracy``, on one of :data:`HARDWARE`.

    Raises ParamsError if the parameters, the data, the model or the hardware cannot be used.
    """
    if not 0 < accuracy < 1:
        raise ParamsError(f"--accuracy {accuracy}: must be between 0 and 1, both excluded")
    if hardware not in HARDWARE:
        raise ParamsError(f"--hardware {hardware}: must be one of {', '.join(HARDWARE)}")
    planner = _Planner(p, accuracy, HARDWARE[hardware])
    stages = [planner.students, planner.orm, planner.sorm, planner.refiner, planner.evaluation]
    for stage in stages + ([planner.refiner_rl] if p.refiner_rl != params.RefinerRL() else []):
        stage()
    right, wrong = planner.text.new_texts
    made = Plan(p.run, planner.work, {})
    too_large = [row.stage for row in made.stages[:-1] if row.memory > HARDWARE[hardware].memory]
    made.sources |= {
        "accuracy": f"{accuracy:.3g} of the samples of every student and split are right, greedy or not; on training "
        "questions that a student has learned from more are, and fewer rollouts are needed",
        "texts": f"{right:.0%} of further right samples of a question have a new text, {wrong:.0%} of wrong ones",
        "tokens": f"{'reference solutions' if planner.solved else 'the one-shot example'}, {planner.counted_by}",
        "model": f"{planner.size.parameters / 1e6:,.1f} million parameters, {planner.sized_by}",
        "memory": "weights, gradients, Adam's states, activations, keys and values"
        + ", Python and its libraries" * (HARDWARE[hardware].process > 0),
        "time": f"{hardware}: {HARDWARE[hardware].source}",
    }
    if planner.vllm:
        made.sources["time"] += f"; {VLLM_SOURCE}"
    if p.finetuning.processes > 1:
        made.sources["time"] += f"; training by {p.finetuning.processes} processes, without their communication"
        made.sources["memory"] += ", of one process"
    if too_large:
        made.sources["memory"] += f"; more than {hardware} has: {', '.join(too_large)}"
    return made


def _distinct(count: np.ndarray, new: float) -> np.ndarray:
    """Return how many texts samples have: the first is new, each other one with probability ``new``."""
    return np.minimum(count, 1) + new * np.maximum(count - 1, 0)


class _Planner:
    """Collects the work of one run, one method per notebook. Arrays have one entry per question of a split."""

    def __init__(self, p: Params, accuracy: float, hardware: Hardware):
        self.p, self.hardware = p, hardware
        task = checked_task(p)
        check_source(p)
        self.vllm = p.sampling.backend == "vllm" and math.isfinite(hardware.memory)  # a GPU
        self.size, self.sized_by = model_size(p.base_model.location)
        count, self.counted_by = token_counter(p.base_model.location)
        self.text = GENERATED_TEXT if p.task.name == "arithmetic" else NATURAL_TEXT
        self.forked = self.text.forked if p.sampling.backend == "transformers" else 1.0
        self.learned = self.size.trained(p.finetuning)
        self.bytes = {"float32": 4, "bfloat16": 2}[p.base_model.dtype]
        self.weights = self.size.parameters * self.bytes  # of a model in inference
        self.output = self.size.hidden * self.size.vocabulary
        self.rng = np.random.default_rng(p.seed)
        self.work: list[Work] = []
        self.stage = ""
        self.lengths, self.chance, self.greedy_right = {}, {}, {}
        self.reward_split = "reward" if p.task.reward_questions else "train"
        for split, n in p.task.counts.items():
            # Further questions of the train split are like its first.
            drawn = "train" if split == "reward" else split
            questions = task.questions(drawn, min(n, MEASURED.get(p.task.name, n)), p.seed)
            self.lengths[split] = Lengths(task, questions, n, count)
            # Every quantile once, so that the mean is right for few questions too; in random order, because difficulty
            # does not depend on length here.
            quantiles = self.rng.permutation((np.arange(n) + 0.5) / n)
            self.chance[split] = betaincinv(SPREAD * accuracy, SPREAD * (1 - accuracy), quantiles)
            self.greedy_right[split] = (quantiles > 1 - accuracy).astype(float)
            if split == "train":
                self.solved = bool(questions[0].reference_solution)
                self.exact = task.exact_step_labels(questions[0], questions[0].reference_solution) is not None

    def students(self) -> None:
        p, train = self.p.student, self.lengths["train"]
        self.stage = "01_expert_iteration"
        if self.p.base_model.source == "scratch":
            from glore_lib.pretraining.corpus import TOKENS_PER_BATCH  # imports torch, which takes seconds

            steps = self.p.base_model.pretrain_steps
            seconds = 6 * self.size.parameters * steps * TOKENS_PER_BATCH / self._flops("training")
            self._add("pre-training", trained=steps * TOKENS_PER_BATCH, steps=steps, seconds=seconds)
        references = np.arange(len(train.prompt)) < (p.sft_questions if self.solved else 0)
        sequences = train.prompt + train.solution + 1
        one_shot = p.start == "one_shot"
        if not one_shot:
            self._train("sft", references, sequences, p.sft)
        self._sample("greedy", "validation", one_shot=one_shot)
        # The SFT data has the first solution of each of its questions.
        right, before, steps = np.zeros(len(references)), references * (not one_shot), 0
        for i in range(1, p.rounds + 1):
            self._sample(f"round {i}", "train", p.samples_per_question, one_shot=one_shot and i == 1)
            right += self._counts("train", p.samples_per_question)[0]
            kept = np.minimum(_distinct(before + right, self.text.new_texts[0]) - before, i * p.max_kept_per_question)
            more = train.solution * self.text.new_tokens
            steps = self._train_together(f"ei{i}", before + kept, sequences, more, p.solutions_per_row, p.training)
            self._sample("greedy", "validation")
        if p.sft_control:
            control = p.training.model_copy(update={"max_steps": max(steps, 1), "epochs": max(steps, 1)})
            self._train("sft-control", references, sequences, control)
            self._sample("greedy", "validation")

    def orm(self) -> None:
        self.stage = "02_orm"
        self.samples = self._reward_samples()
        for kind in ("orm", "balanced_orm"):
            self._train_reward_model(kind, self.samples, self.p.reward_models.training)
        self._roll_out("validation", *self._greedy("validation"))
        self._score("validation", *self._greedy("validation"), times=2)

    def sorm(self) -> None:
        p = self.p.reward_models
        self.stage = "03_sorm"
        self._roll_out(self.reward_split, *self._drafts(self.samples))
        for kind in ("sorm", "sorm_raw"):
            self._train_reward_model(kind, self.samples, p.training)
        self._score("validation", *self._greedy("validation"), times=2)
        if p.figure4 and p.figure4_training:  # of the SFT student
            samples = self._reward_samples()
            self._roll_out(self.reward_split, *self._drafts(samples))
            for kind in KINDS:
                self._train_reward_model(kind, samples, p.figure4_training)

    def refiner(self) -> None:
        p, lengths = self.p.refiner, self.lengths[self.reward_split]
        self.stage = "04_refiners"
        right, wrong = self._texts(self.samples)
        drafts = self._drafts(self.samples)[1]
        # A local pair's target is a rollout that verified the step before the first error: one, because rollouts stop
        # there. If even the first step has no right rollout, it is any right sample.
        verified = 1 - (1 - self._step_chance(self.reward_split)[:, 0]) ** self.p.reward_models.rollouts_per_step
        first = 1 - self._right_start(self.reward_split)[:, 0] * verified
        local = drafts * (first * right + (1 - first))
        pairs = np.minimum(local, p.pairs_per_question) + np.minimum(right * wrong, p.pairs_per_question)
        # Half of the further pairs of a question have a draft of their own.
        alone, more = lengths.refine + lengths.solution + 1, lengths.solution + (lengths.refine - lengths.prompt) / 2
        self.pairs = pairs, alone, more
        self._train_together("refiner", *self.pairs, p.pairs_per_row, p.training)
        self._refine("validation")

    def evaluation(self) -> None:
        p = self.p.evaluation
        self.stage = "05_evaluation"
        self._sample("greedy", "test")
        self._roll_out("test", *self._greedy("test"))
        self._score("test", *self._greedy("test"), times=len(KINDS))
        self._refine("test")
        if self.p.reward_models.figure4:
            self._sample("figure 4", "test", p.rerank_samples)
            self._sample("greedy of sft", "test")
            self._score("test", *self._texts(self._counts("test", p.rerank_samples)), times=len(KINDS))

    def refiner_rl(self) -> None:
        """Add appendix C with one seed, if every round is made."""
        p, lengths = self.p.refiner_rl, self.lengths["train"]
        self.stage = "appendix/c_refiner_rl"
        self._sample("drafts", "train", p.draft_samples)
        right, wrong = self._texts(self._counts("train", p.draft_samples))
        self._score("train", right * 0, wrong)
        chosen = wrong * min(1, p.drafts / max(wrong.sum(), 1))
        # A draft is marked at its start, and at a first error that is later.
        places = chosen * (1 + self._right_start("train")[:, 0])
        completions = places * p.samples_per_draft
        self._refinements("validation", 2)
        for i in range(1, p.rounds + 1):
            self._generate(f"refinements, round {i}", completions, lengths.wrong, lengths.refine)
            self._train_together(f"refiner, round {i}", *self.pairs, self.p.refiner.pairs_per_row, p.training)
            self._refinements("validation", 2)
        # GRPO reads each completion with its prompt, once more for the KL divergence.
        each = params.Training(epochs=1, max_steps=10**9, learning_rate=1.0)
        for reward in p.rewards:
            self._generate(f"grpo {reward}", completions * p.rounds, lengths.wrong, lengths.refine)
            self._train(f"grpo {reward}", completions * p.rounds, lengths.refine + lengths.wrong, each)
            again = (completions * (lengths.refine + lengths.wrong)).sum() * p.rounds * (1 + (reward != "answer"))
            self._add(f"grpo {reward}", read=again, seconds=again * 2 * self.size.body / self._flops("reading"))
        for _ in range(3 + len(p.rewards)):
            self._refinements("test", 3)
            self._score("test", *self._greedy("test"))

    def _refinements(self, split: str, kinds: int) -> None:
        """Refine a split's greedy drafts in some ways, as if each kind wrote every draft again."""
        right, wrong = self._greedy(split)
        for _ in range(kinds):
            self._generate(
                f"refinements ({split})", right + wrong, self.lengths[split].solution, self.lengths[split].refine
            )

    def _reward_samples(self) -> Pair:
        n = self.p.reward_models.samples_per_question
        self._sample("reward models", self.reward_split, n)
        return self._counts(self.reward_split, n)

    def _train_reward_model(self, kind: str, samples: Pair, training: params.Training) -> None:
        right, wrong = samples
        few = np.minimum(right, wrong)
        labelled = {"orm": (right, wrong), "balanced_orm": (few, few)}.get(kind)
        drafts = labelled or self._drafts(samples)
        count, texts = sum(drafts), sum(self._texts(labelled)) if labelled else sum(drafts)
        lengths, p = self.lengths[self.reward_split], self.p
        # A sequence has several solutions of a question: the requested number, or as many as fit.
        together = np.minimum(count, p.reward_models.solutions_per_row)
        whole = self._packed(lengths, texts * together / np.maximum(count, 1))
        room = np.maximum(1, p.finetuning.max_length - lengths.prompt) / np.maximum(whole - lengths.prompt, 1)
        rows = np.ceil(count / np.maximum(1, np.floor(together * np.minimum(1, room))))
        self._train(kind, rows, self._packed(lengths, texts / np.maximum(rows, 1)), training, logits=False)

    def _packed(self, lengths: Lengths, texts: np.ndarray) -> np.ndarray:
        """Return the tokens of a question and ``texts`` distinct solutions, their common beginnings counted once."""
        return lengths.prompt + lengths.solution * (1 + self.text.new_tokens * np.maximum(texts - 1, 0))

    def _refine(self, split: str) -> None:
        """Refine a split's greedy drafts globally and locally, sample the controls, and score them with the ORM."""
        p, lengths, (right, wrong) = self.p.refiner, self.lengths[split], self._greedy(split)
        # A local refinement starts at the first error, which is mostly near the beginning of a wrong draft. In a right
        # draft none is found, and only the last step is written again, or nothing.
        asked = right + wrong if p.no_error_found == "last_step" else wrong
        rest = np.where(wrong > 0, lengths.solution, lengths.last_step)
        locators = ["orm", "balanced_orm", "sorm", *(["oracle"] if self.exact else [])]
        local = {f"local+{locator}": p.force_prefix for locator in locators}
        other = {"local+sorm, prefix " + ("free" if p.force_prefix else "forced"): not p.force_prefix}
        for name in ("global", "global, sampled"):
            self._generate(name, right + wrong, lengths.solution, lengths.refine)
        for i, (name, forced) in enumerate((local | other).items()):
            # With the same mark and the same freedom of the answer, it is the same refinement.
            new = 1 if forced != p.force_prefix else NEW_MARKS if i else 1 - NEW_MARKS / 2
            self._generate(name, asked * new, rest if forced else lengths.solution, lengths.refine)
        self._sample("no draft", split)
        pool = pool_size(self.p, split)
        self._sample("pool", split, pool)
        for answers in (self._greedy(split), self._greedy(split), self._texts(self._counts(split, pool))):
            self._score(split, *answers)

    def _counts(self, split: str, n: int) -> Pair:
        """Draw how many of ``n`` samples of each question are right and wrong."""
        right = self.rng.binomial(n, self.chance[split]).astype(float)
        return right, n - right

    def _greedy(self, split: str) -> Pair:
        """Return the right and wrong greedy drafts, one per question: right if most samples are."""
        right = self.greedy_right[split]
        return right, 1 - right

    def _texts(self, samples: Pair) -> Pair:
        """Return the distinct right and wrong samples of each question."""
        right, wrong = (_distinct(count, new) for count, new in zip(samples, self.text.new_texts, strict=True))
        return right, wrong

    def _drafts(self, samples: Pair) -> Pair:
        """Return the samples that get rollouts: the first distinct ones (step_labels.choose_drafts)."""
        right, wrong = self._texts(samples)
        if self.p.reward_models.drop_unsolved:
            wrong = wrong * (right > 0)
        share = np.minimum(1, self.p.reward_models.sorm_samples_per_question / np.maximum(right + wrong, 1))
        return right * share, wrong * share

    def _step_chance(self, split: str) -> np.ndarray:
        """Return the probability that a rollout from the first 1, 2, ... right steps is right, [questions, steps]."""
        return self.chance[split][:, None] ** self._ahead(split)

    def _right_start(self, split: str) -> np.ndarray:
        """Return the probability that a wrong sample's first 1, 2, ... steps are right, [questions, steps]."""
        p = np.minimum(self.chance[split], 1 - 1e-9)[:, None]
        return (p ** (1 - self._ahead(split)) - p) / (1 - p)

    def _ahead(self, split: str) -> np.ndarray:
        """Return the share of a question's difficulty that is ahead after 1, 2, ... steps, [questions, steps]."""
        lengths = self.lengths[split]
        done = np.arange(1, lengths.steps.shape[1] + 1) / lengths.count[:, None]
        return np.maximum(1 - done, 0) ** EARLY

    def _sample(self, name: str, split: str, n: int = 1, one_shot: bool = False) -> None:
        lengths, p = self.lengths[split], self.chance[split]
        prompt = lengths.one_shot if one_shot else lengths.prompt
        length = p * lengths.solution + (1 - p) * lengths.wrong
        self._generate(f"{name} ({split})", np.full(len(prompt), n), length, prompt)

    def _roll_out(self, split: str, right: np.ndarray, wrong: np.ndarray) -> None:
        """Add the rollouts of the distinct prefixes of ``right`` and ``wrong`` drafts.

        With early stop a prefix has none that a shorter prefix's rollouts replace, and no more once one verified it.
        """
        p, lengths = self.p.reward_models, self.lengths[split]
        parts = waves(p)
        chance, good = self._step_chance(split), wrong[:, None] * self._right_start(split)
        first = np.arange(lengths.steps.shape[1]) == 0
        leaves = np.where(first, 1.0, self.text.leaves if p.early_stop else 1.0)
        passed = (1 - leaves) * parts[0][1]
        needed = leaves * sum(count * (1 - chance) ** (start + passed) for start, count in parts)
        if not p.early_stop:
            needed = np.full_like(chance, p.rollouts_per_step)
        count = lengths.count[:, None]
        open_ended = np.arange(1, lengths.steps.shape[1] + 1) < count
        hopeful = _distinct(right[:, None] + good, self.text.new_texts[0])
        if p.samples_verify and p.early_stop:  # the prefixes of right samples need none
            hopeful = hopeful - _distinct(right, self.text.new_texts[0])[:, None]
        hopeful = hopeful * needed * open_ended
        # A solution has a prefix for each step except the last, which has the answer.
        hopeless = (wrong[:, None] - good) * p.rollouts_per_step * leaves * open_ended
        hopeless *= 1 + WRONG_STEPS / np.maximum(count - 1, 1)
        rest = lengths.solution[:, None] - lengths.steps.cumsum(axis=1)
        wrong_rest = rest + (lengths.wrong - lengths.solution)[:, None]
        # A wave reads the prompt and each prefix of its drafts once.
        read = (lengths.prompt + lengths.solution) * (right + wrong * len(parts))
        samples = hopeful + hopeless
        length = (hopeful * rest + hopeless * wrong_rest) / np.maximum(samples, 1e-9)
        self._generate(f"rollouts ({split})", samples, length, 0, read.sum())

    def _generate(self, name: str, samples: np.ndarray, length: np.ndarray, prompt: Any, read: float = 0) -> None:
        """Add completions of ``length`` tokens; the prompt is read once for each question with samples."""
        limit, rows = self.p.sampling.max_new_tokens, self.p.sampling.rows
        total, size = samples.sum(), self.size
        generated = (samples * np.minimum(length, limit)).sum()
        read += (np.minimum(samples, 1) * prompt).sum()
        longest = max(lengths.refine.max() for lengths in self.lengths.values()) + limit
        cache = 2 * size.layers * size.keys * self.bytes  # a token's keys and values
        each = max(1.0, total / max(1, (samples > 0).sum()))
        alone = (1 + (each - 1) * self.forked) / each
        together = min(rows, total)
        # A batch ends with its longest row, which is assumed to reach the limit.
        decoding = math.ceil(total * alone / rows) * limit
        read_token = 2 * size.body / self._flops("reading")  # without logits
        new_token = read_token + 2 * self.output / self._flops("reading")
        if self.vllm:
            seconds = generated / vllm_rate(size, self.hardware)
        else:
            seconds = decoding * (size.layers * self.hardware.layer_seconds + self.weights / self.hardware.bandwidth)
            seconds += generated * alone * (cache * longest / 2 / self.hardware.bandwidth + new_token)
        self._add(
            name, samples=total, generated=generated, read=read, disk=generated * CHARACTERS_PER_TOKEN,
            memory=self.weights + together * (cache * longest + 12 * size.vocabulary),
            seconds=seconds + read * read_token,
        )  # fmt: skip

    def _score(self, split: str, right: np.ndarray, wrong: np.ndarray, times: int = 1) -> None:
        """Add the scores of distinct answers' steps by ``times`` reward models."""
        lengths, size = self.lengths[split], self.size
        read = times * self._packed(lengths, right + wrong).sum()
        activations = SCORING_TOKENS * (6 * size.hidden + 3 * size.feed_forward) * self.bytes
        seconds = read * 2 * size.body / self._flops("reading")
        self._add(f"scores ({split})", read=read, memory=self.weights + activations, seconds=seconds)

    def _train_together(
        self, name: str, count: np.ndarray, alone: np.ndarray, more: np.ndarray, together: int,
        training: params.Training,
    ) -> int:  # fmt: skip
        """Add a training on ``count`` examples per question, ``together`` a sequence or as many as fit.

        The first of a sequence has ``alone`` tokens, and each of the others ``more``.
        """
        fit = np.clip(1 + (self.p.finetuning.max_length - alone) // np.maximum(more, 1), 1, together)
        rows = np.maximum(count / fit, np.minimum(count, 1))
        each = np.maximum(count / np.maximum(rows, 1e-9) - 1, 0)
        return self._train(name, rows, alone + more * each, training)

    def _train(
        self, name: str, weights: np.ndarray, lengths: np.ndarray, training: params.Training, logits: bool = True
    ) -> int:
        """Add a training on ``weights`` sequences of ``lengths`` tokens per question; return its optimizer steps."""
        f, size = self.p.finetuning, self.size
        weights = weights * (lengths <= f.max_length)
        epoch_steps = math.ceil(round(weights.sum()) / f.batch_size)
        if not epoch_steps:
            return 0
        steps = min(training.max_steps, training.epochs * epoch_steps)
        trained = (weights * lengths).sum() * steps / epoch_steps
        full = f.method == "full"
        # AdamW has a gradient and two moments for each trained parameter; adapters are in float32.
        weight_bytes = QUANTISED_BYTES.get(f.method, self.bytes) * size.parameters
        states = 3 * self.bytes * self.learned if full else 16 * self.learned
        width = (10 * size.hidden + 2 * size.keys + 4 * size.feed_forward) * size.layers * self.bytes
        tokens = f.micro_batch_size * min(f.max_length, lengths.max())
        activations = tokens * (width + size.vocabulary * (self.bytes + 8))
        passes = steps * f.batch_size // (f.micro_batch_size * f.processes)
        divided = f.processes if f.parallel == "fsdp" else 1
        # FLOP per parameter and token: 2 forward, 2 for the activations' gradients, 2 for those of trained parameters.
        multiplied = size.body + logits * self.output
        seconds = trained * (6 if full else 4) * multiplied / self._flops("training") / f.processes
        self._add(
            f"training {name}", trained=trained, steps=steps, memory=(weight_bytes + states) / divided + activations,
            disk=self.learned * (self.bytes if full else 4),
            seconds=seconds + 3 * passes * size.layers * self.hardware.layer_seconds,
        )  # fmt: skip
        return steps

    def _flops(self, use: str) -> float:
        return getattr(self.hardware, use)[self.p.base_model.dtype]

    def _add(self, name: str, memory: float = 0, **amounts: float) -> None:
        self.work.append(Work(self.stage, name, memory=self.hardware.process + memory, **amounts))
