"""What a run will take, before it is run: samples, tokens, training steps, memory, disk and hours a stage.

What the parameters fix is counted exactly. The rest (rollouts, which stop early; distinct solutions and pairs, and so
training steps) comes from a simple model of students, all of the same ``accuracy``: each question has its own chance
p that a sample of it is right, a rollout from a right prefix is right with probability p^a, where a is the part of the
difficulty that still lies ahead, and a rollout from a prefix with an error never is. Nothing is run and no weights are
loaded; lengths are those of the data set's own questions and reference solutions.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from scipy import stats
from transformers import AutoConfig, AutoTokenizer

from glore_lib import params
from glore_lib.method import rollouts
from glore_lib.method.replication import KINDS
from glore_lib.method.reward_models import SCORING_TOKENS
from glore_lib.models.loading import MINI_BASE, smollm2_gguf
from glore_lib.params import Params, ParamsError
from glore_lib.pretraining.pretrain import TOKENS_PER_BATCH
from glore_lib.solutions import mark_bad, split_steps
from glore_lib.tasks import Question, Task, checked_task

# Questions' chances are Beta-distributed with a + b = SPREAD: most are nearly always or nearly never solved. Fitted to
# 8 samples of each of 800 questions: 0.70 (mini-hard), 0.65 (mini-easy).
SPREAD = 0.7
# How much of a question's difficulty lies in its first steps (_Planner._ahead; 1: all steps are alike). Fitted to the
# tokens of the rollouts of both mini runs.
EARLY = 1.5
WRONG_STEPS = 0.3  # more than the reference has: 0.32 (mini-hard), 0.31 (mini-easy)
# The chance that one more right, or wrong, sample of a question is not the text of an earlier one. Generated task:
# 0.04 and 0.71 (mini-hard), 0.03 and 0.56 (mini-easy) measured. Natural text: assumed.
NEW_TEXTS = {"arithmetic": (0.03, 0.65)}
NEW_NATURAL_TEXTS = (0.9, 1.0)
# Of the tokens of such a new text, how many come after what it has in common with another one of the question.
NEW_TOKENS, NEW_NATURAL_TOKENS = {"arithmetic": 0.7}, 0.9
# Of the tokens of one more completion of a prompt, how many are decoded for it alone (transformers).
FORKED, NATURAL_FORKED = {"arithmetic": 0.23}, 0.8
# How often a rollout does not write the next step of the sample that it starts from, so that the prefix with that step
# needs one of its own. All of the generated task: measured (mini-hard); of natural text: assumed.
LEAVES, NATURAL_LEAVES = {"arithmetic": 0.2}, 0.8
# Of the local refinements of a draft by one more locator, how many have the mark where none before had it.
NEW_MARKS = 0.4
CHARACTERS_PER_TOKEN = 3.0  # SmolLM2's tokenizer on GSM8K: 3.9 in questions, 2.7 in solutions
NOTEBOOK_SECONDS = 12.0  # a notebook's imports, statistics and figures: 01 and 05 of the mini runs
QUANTISED_BYTES = {"qlora": 4.5 / 8}  # a 4-bit weight and its share of the block's scale


@dataclass(frozen=True)
class Hardware:
    """What a machine reaches, not what its data sheet says: FLOP/s by dtype when training and when reading, bytes/s
    from memory, and the seconds that a layer takes to be started. ``memory`` is in bytes."""

    training: dict[str, float]
    reading: dict[str, float]
    bandwidth: float
    layer_seconds: float
    memory: float
    source: str


def _gpu(name: str, bfloat16: float, float32: float, bandwidth: float, memory: float) -> Hardware:
    """A GPU by its data sheet (dense TFLOP/s, GB/s, GB) and the efficiencies that are assumed of it."""
    peak = {"bfloat16": bfloat16 * 1e12, "float32": float32 * 1e12}
    return Hardware(
        {dtype: 0.35 * flops for dtype, flops in peak.items()}, {dtype: 0.5 * flops for dtype, flops in peak.items()},
        0.7 * bandwidth * 1e9, 0.8e-3, memory * 1e9,
        f"{name}'s data sheet: {bfloat16:g} TFLOP/s bfloat16, {float32:g} float32, {bandwidth:g} GB/s; assumed: "
        "training reaches 35 %, reading 50 %, memory 70 % of these, and starting a layer takes 0.8 ms (transformers)",
    )  # fmt: skip


HARDWARE = {
    "cpu": Hardware(
        {"float32": 80e9, "bfloat16": 155e9}, {"float32": 55e9, "bfloat16": 120e9}, 10e9, 0.9e-3, math.inf,
        "measured on two cores of an AMD EPYC with AVX512-BF16: training 80 GFLOP/s in float32 (the mini runs), 155 in "
        "bfloat16 (SmolLM2-135M), reading 55 and 120; starting a layer 0.9 ms",
    ),
    "a100-80gb": _gpu("A100 80GB SXM", 312, 19.5, 2039, 80),
    "h100-80gb": _gpu("H100 SXM", 989, 67, 3350, 80),
    "rtx-4090": _gpu("RTX 4090", 165, 82.6, 1008, 24),
}  # fmt: skip


@dataclass(frozen=True)
class ModelSize:
    """A Llama-like model's shape; widths are in numbers, not bytes."""

    layers: int
    hidden: int
    feed_forward: int
    queries: int  # all heads together
    keys: int
    vocabulary: int
    tied: bool  # one matrix both embeds and predicts tokens

    @property
    def parameters(self) -> int:
        """How many numbers the model has."""
        layer = 2 * self.hidden * (self.queries + self.keys) + 3 * self.hidden * self.feed_forward + 2 * self.hidden
        return self.layers * layer + (1 if self.tied else 2) * self.vocabulary * self.hidden + self.hidden

    def adapters(self, finetuning: params.Finetuning) -> int:
        """Parameters of LoRA's matrices: rank x (inputs + outputs) for each target of each layer."""
        outputs = {
            "q_proj": self.queries, "k_proj": self.keys, "v_proj": self.keys, "o_proj": self.queries,
            "gate_proj": self.feed_forward, "up_proj": self.feed_forward, "down_proj": self.feed_forward,
        }  # fmt: skip
        widths = sum(self.hidden + outputs.get(target, self.hidden) for target in finetuning.lora_targets)
        return self.layers * finetuning.lora_rank * widths


# Behind a licence on the hub, so their configurations often can't be read before they are needed.
LLAMA_2 = {
    "7b": ModelSize(32, 4096, 11008, 4096, 4096, 32000, False),
    "13b": ModelSize(40, 5120, 13824, 5120, 5120, 32000, False),
}


def _place(source: str) -> tuple[str, dict]:
    """Where a base model's configuration and tokenizer are, and how they are to be opened."""
    if source == "smollm2-135m":
        folder, file = smollm2_gguf()
        return folder, {"gguf_file": file}
    return str(MINI_BASE) if source in ("mini-base", "scratch") else source, {"local_files_only": True}


def model_size(source: str) -> tuple[ModelSize, str]:
    """A base model's size and where it was found; raises ParamsError where it is neither on this machine nor known."""
    place, options = _place(source)
    try:
        c = AutoConfig.from_pretrained(place, **options).get_text_config()
    except (OSError, ValueError):
        for name, size in LLAMA_2.items():
            if f"llama-2-{name}" in source.lower():
                return size, "by Llama 2's published shape"
        raise ParamsError(
            f"base_model.source = {source!r}: its size is not known: it is no folder, is not in this machine's hub "
            "cache, and is no Llama 2"
        ) from None
    head = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    kv_heads = getattr(c, "num_key_value_heads", None) or c.num_attention_heads
    feed_forward = getattr(c, "intermediate_size", None) or 4 * c.hidden_size
    size = ModelSize(
        c.num_hidden_layers, c.hidden_size, feed_forward, c.num_attention_heads * head, kv_heads * head, c.vocab_size,
        c.tie_word_embeddings,
    )  # fmt: skip
    return size, "by its configuration"


Counter = Callable[[list[str], bool], np.ndarray]  # the tokens of each text, special ones among them or not


def token_counter(source: str) -> tuple[Counter, str]:
    """Counts tokens, and says how."""
    place, options = _place(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
    except (OSError, ValueError):
        return (
            lambda texts, special: np.array([len(text) for text in texts]) / CHARACTERS_PER_TOKEN,
            f"{CHARACTERS_PER_TOKEN:g} characters a token, for want of the tokenizer",
        )

    def count(texts: list[str], special: bool) -> np.ndarray:
        return np.array([len(ids) for ids in tokenizer(texts, add_special_tokens=special).input_ids])

    return count, "the model's tokenizer"


@dataclass(frozen=True)
class Lengths:
    """Tokens of a split's texts, an entry a question; ``steps`` is [questions, longest solution], 0 after the last."""

    prompt: np.ndarray
    one_shot: np.ndarray
    steps: np.ndarray
    refine: np.ndarray  # the refiner's prompt with a draft as long as the solution

    @property
    def solution(self) -> np.ndarray:
        """Tokens of a whole solution [questions]."""
        return self.steps.sum(axis=1)

    @property
    def wrong(self) -> np.ndarray:
        """A wrong solution."""
        return self.solution * (1 + WRONG_STEPS / self.count)

    @property
    def last_step(self) -> np.ndarray:
        """Tokens of a solution's last step [questions]."""
        return self.steps[np.arange(len(self.steps)), self.count - 1]

    @property
    def count(self) -> np.ndarray:
        """Steps of each solution."""
        return (self.steps > 0).sum(axis=1)


def measure(task: Task, questions: list[Question], count: Counter) -> Lengths:
    """The lengths of questions and of their reference solutions, or of the task's example where there are none."""
    solutions = [split_steps(q.reference_solution or task.example[1]) for q in questions]
    flat = count([f"{step}\n" for steps in solutions for step in steps], False)
    lengths = np.zeros((len(solutions), max(map(len, solutions))))
    lengths[np.arange(lengths.shape[1]) < np.array([[len(steps)] for steps in solutions])] = flat
    prompts = count([task.prompt(q.question) for q in questions], True)
    drafts = [mark_bad(steps, 1) for steps in solutions]
    refine = count([task.refine_prompt(q.question, draft) for q, draft in zip(questions, drafts, strict=True)], True)
    one_shot = count([task.one_shot_prompt(q.question) for q in questions], True)
    return Lengths(prompts, one_shot, lengths, refine)


@dataclass
class Work:
    """One thing that a stage makes; tokens are ``generated``, ``trained`` on (every pass counted) or only ``read``.
    ``memory`` and ``disk`` are in bytes, of tensors and of weights and texts."""

    stage: str
    name: str
    samples: float = 0
    generated: float = 0
    read: float = 0
    trained: float = 0
    steps: int = 0
    memory: float = 0
    disk: float = 0
    seconds: float = 0


@dataclass
class Plan:
    """The work of one run, in its order, and what each assumption rests on."""

    run: str
    work: list[Work]
    sources: dict[str, str]

    @property
    def stages(self) -> list[Work]:
        """A row a stage, and their total: sums, but the largest of ``memory``."""
        rows = [_sum(stage, list(part)) for stage, part in groupby(self.work, lambda work: work.stage)]
        for row in rows:
            row.seconds += NOTEBOOK_SECONDS
        return [*rows, _sum("total", rows)]


def _sum(stage: str, parts: list[Work]) -> Work:
    names = ("samples", "generated", "read", "trained", "steps", "disk", "seconds")
    sums = {name: sum(getattr(part, name) for part in parts) for name in names}
    return Work(stage, "", memory=max(part.memory for part in parts), **sums)


def plan(p: Params, accuracy: float = 0.6, hardware: str = "cpu", helped: bool = True) -> Plan:
    """The plan of a run whose students answer ``accuracy`` of the questions right, on one of :data:`HARDWARE`.

    Where expert iteration has not ``helped``, the student stays the SFT student, and Figure 4 takes its samples and
    rollouts, not further ones.
    Raises ParamsError where the parameters, the data, the model's size or the hardware's name can't be used.
    """
    if not 0 < accuracy < 1:
        raise ParamsError(f"--accuracy {accuracy}: must be between 0 and 1 (0 and 1 excluded)")
    if hardware not in HARDWARE:
        raise ParamsError(f"--hardware {hardware}: must be one of {', '.join(HARDWARE)}")
    task = checked_task(p)
    size, size_source = model_size(p.base_model.source)
    count, count_source = token_counter(p.base_model.source)
    planner = _Planner(p, task, accuracy, HARDWARE[hardware], size, count, helped)
    planner.students()
    planner.orm()
    planner.sorm()
    planner.refiner()
    planner.evaluation()
    right, wrong = planner.new_texts
    made = Plan(p.run, planner.work, {})
    too_large = [row.stage for row in made.stages[:-1] if row.memory > HARDWARE[hardware].memory]
    made.sources |= {
        "accuracy": f"{accuracy:.3g} of the samples of every student and split are right, greedy or not; of training "
        "questions that a student has learnt more are, and fewer rollouts are needed",
        "texts": f"of further right samples of a question {right:.0%} have a new text, of wrong ones {wrong:.0%}",
        "tokens": f"{'reference solutions' if planner.solved else 'the one-shot example'}, {count_source}",
        "model": f"{size.parameters / 1e6:,.1f} million parameters, {size_source}",
        "memory": "weights, gradients, Adam's states, activations, keys and values",
        "hours": f"{hardware}: {HARDWARE[hardware].source}",
    }
    if p.finetuning.processes > 1:
        made.sources["hours"] += (
            f"; training by {p.finetuning.processes} processes, each on one of these, and nothing for what they tell "
            "each other"
        )
        made.sources["memory"] += ", of one process"
    if too_large:
        made.sources["memory"] += f"; more than {hardware} has: {', '.join(too_large)}"
    return made


def _distinct(count: np.ndarray, new: float) -> np.ndarray:
    """How many texts ``count`` samples have: the first is new, each other one with probability ``new``."""
    return np.minimum(count, 1) + new * np.maximum(count - 1, 0)


class _Planner:
    """Collects the work of one run, a method a notebook. Arrays have an entry a question of a split."""

    def __init__(
        self, p: Params, task: Task, accuracy: float, hardware: Hardware, size: ModelSize,
        count: Counter, helped: bool,
    ):  # fmt: skip
        self.p, self.hardware, self.size, self.helped = p, hardware, size, helped
        self.new_texts = NEW_TEXTS.get(p.task.name, NEW_NATURAL_TEXTS)
        self.new_tokens = NEW_TOKENS.get(p.task.name, NEW_NATURAL_TOKENS)
        self.forked = FORKED.get(p.task.name, NATURAL_FORKED) if p.sampling.backend == "transformers" else 1.0
        self.leaves = LEAVES.get(p.task.name, NATURAL_LEAVES)
        self.bytes = {"float32": 4, "bfloat16": 2}[p.base_model.dtype]
        self.rng = np.random.default_rng(p.seed)
        self.work: list[Work] = []
        self.stage = ""
        self.lengths, self.chance, self.greedy_right = {}, {}, {}
        for split, n in p.task.counts.items():
            questions = task.questions(split, n, p.seed)
            self.lengths[split] = measure(task, questions, count)
            # Every quantile once, so that the mean is right for few questions too; in random order, for length says
            # nothing of difficulty here.
            quantiles = self.rng.permutation((np.arange(n) + 0.5) / n)
            self.chance[split] = stats.beta.ppf(quantiles, SPREAD * accuracy, SPREAD * (1 - accuracy))
            self.greedy_right[split] = (quantiles > 1 - accuracy).astype(float)
            if split == "train":
                self.solved = bool(questions[0].reference_solution)
                self.exact = task.exact_step_labels(questions[0], questions[0].reference_solution) is not None

    # The notebooks

    def students(self) -> None:
        p, train = self.p.student, self.lengths["train"]
        self.stage = "01_expert_iteration"
        if self.p.base_model.source == "scratch":
            steps = self.p.base_model.pretrain_steps
            seconds = 6 * self.size.parameters * steps * TOKENS_PER_BATCH / self._flops("training")
            self._add("pre-training", trained=steps * TOKENS_PER_BATCH, steps=steps, seconds=seconds)
        references = np.arange(len(train.prompt)) < (p.sft_questions if self.solved else 0)
        sequences = train.prompt + train.solution + 1
        one_shot = p.start == "one_shot"
        if not one_shot:
            self._train("sft", references, sequences, p.sft)
        self._sample("greedy", "validation", one_shot=one_shot)
        # Solutions of the SFT data are the first of their questions.
        right, before, steps = np.zeros(len(references)), references * (not one_shot), 0
        for i in range(1, p.rounds + 1):
            self._sample(f"round {i}", "train", p.samples_per_question, one_shot=one_shot and i == 1)
            right += self._right("train", p.samples_per_question)
            kept = np.minimum(_distinct(before + right, self.new_texts[0]) - before, i * p.max_kept_per_question)
            steps = self._train(f"ei{i}", before + kept, sequences, p.training)
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
        self._roll_out("train", *self._drafts(self.samples))
        for kind in ("sorm", "sorm_raw"):
            self._train_reward_model(kind, self.samples, p.training)
        self._score("validation", *self._greedy("validation"), times=2)
        # The SFT student's own are those of the student where that is the SFT student.
        if p.figure4 and (self.helped or p.figure4_training != p.training):
            samples = self.samples
            if self.helped:
                samples = self._reward_samples()
                self._roll_out("train", *self._drafts(samples))
            for kind in KINDS:
                self._train_reward_model(kind, samples, p.figure4_training)

    def refiner(self) -> None:
        p, train = self.p.refiner, self.lengths["train"]
        self.stage = "04_refiners"
        right, wrong = self._texts(self.samples)
        drafts = self._drafts(self.samples)[1]
        # A local pair's target is a rollout that verified the step before the first error: one, for rollouts stop
        # there. Where already the first step shows no way to the answer, it is any right sample.
        verified = 1 - (1 - self._step_chance("train")[:, 0]) ** self.p.reward_models.rollouts_per_step
        first = 1 - self._unspoilt("train")[:, 0] * verified
        local = drafts * (first * right + (1 - first))
        pairs = np.minimum(local, p.pairs_per_question) + np.minimum(right * wrong, p.pairs_per_question)
        self._train("refiner", pairs, train.refine + train.solution + 1, p.training)
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
            if self.helped:
                self._sample("greedy of sft", "test")
            self._score("test", *self._texts(self._counts("test", p.rerank_samples)), times=len(KINDS))

    # Their parts

    def _reward_samples(self) -> tuple[np.ndarray, np.ndarray]:
        n = self.p.reward_models.samples_per_question
        self._sample("reward models", "train", n)
        return self._counts("train", n)

    def _train_reward_model(
        self, kind: str, samples: tuple[np.ndarray, np.ndarray], training: params.Training
    ) -> None:  # fmt: skip
        right, wrong = samples
        few = np.minimum(right, wrong)
        labelled = {"orm": (right, wrong), "balanced_orm": (few, few)}.get(kind)
        drafts = labelled or self._drafts(samples)
        count, texts = sum(drafts), sum(self._texts(labelled)) if labelled else sum(drafts)
        train, p = self.lengths["train"], self.p
        # A sequence holds some of a question's solutions: as many as are wanted, or as fit.
        together = np.minimum(count, p.reward_models.solutions_per_row)
        whole = self._packed(train, texts * together / np.maximum(count, 1))
        room = np.maximum(1, p.finetuning.max_length - train.prompt) / np.maximum(whole - train.prompt, 1)
        rows = np.ceil(count / np.maximum(1, np.floor(together * np.minimum(1, room))))
        self._train(kind, rows, self._packed(train, texts / np.maximum(rows, 1)), training)

    def _packed(self, lengths: Lengths, texts: np.ndarray) -> np.ndarray:
        """Tokens of a question and so many distinct solutions, what they begin with alike counted once."""
        return lengths.prompt + lengths.solution * (1 + self.new_tokens * np.maximum(texts - 1, 0))

    def _refine(self, split: str) -> None:
        """Global and local refinements of a split's greedy drafts, the controls, and what the ORM says of them."""
        p, lengths, (right, wrong) = self.p.refiner, self.lengths[split], self._greedy(split)
        # A local refinement writes on from the first error. In a wrong draft that is mostly near its beginning; in a
        # right one none is found, and only the last step is written again, or nothing.
        asked = right + wrong if p.no_error_found == "last_step" else wrong
        rest = np.where(wrong > 0, lengths.solution, lengths.last_step)
        locators = ["orm", "sorm", *(["oracle"] if self.exact else [])]
        local = {f"local+{locator}": p.force_prefix for locator in locators}
        other = {"local+sorm, prefix " + ("free" if p.force_prefix else "forced"): not p.force_prefix}
        self._generate("global", right + wrong, lengths.solution, lengths.refine)
        for i, (name, forced) in enumerate((local | other).items()):
            # Where the mark stands where another had it, and the answer is as free, it is the same refinement.
            new = 1 if forced != p.force_prefix else NEW_MARKS if i else 1 - NEW_MARKS / 2
            self._generate(name, asked * new, rest if forced else lengths.solution, lengths.refine)
        self._sample("no draft", split)
        self._sample("best of 3", split, 3)
        for answers in (self._greedy(split), self._greedy(split), self._texts(self._counts(split, 3))):
            self._score(split, *answers)

    # The model of students

    def _right(self, split: str, n: int) -> np.ndarray:
        """How many of ``n`` samples of each question are right."""
        return self.rng.binomial(n, self.chance[split]).astype(float)

    def _counts(self, split: str, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Right and wrong samples of each question."""
        right = self._right(split, n)
        return right, n - right

    def _greedy(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """The same of one greedy draft a question: it is right where most samples are."""
        right = self.greedy_right[split]
        return right, 1 - right

    def _texts(self, samples: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Distinct right and wrong samples of each question."""
        right, wrong = (_distinct(count, new) for count, new in zip(samples, self.new_texts, strict=True))
        return right, wrong

    def _drafts(self, samples: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Right and wrong samples that get rollouts: wrong and right in turn (step_labels.choose_drafts)."""
        n = self.p.reward_models.sorm_samples_per_question
        right, wrong = self._texts(samples)
        wrong = np.minimum(wrong, np.maximum(math.ceil(n / 2), n - right))
        return np.minimum(right, n - wrong), wrong

    def _step_chance(self, split: str) -> np.ndarray:
        """The chance that a rollout from the first 1, 2, ... steps, all right, is right, [questions, steps]."""
        return self.chance[split][:, None] ** self._ahead(split)

    def _unspoilt(self, split: str) -> np.ndarray:
        """The chance that a wrong sample's first 1, 2, ... steps are right, [questions, steps]."""
        p = np.minimum(self.chance[split], 1 - 1e-9)[:, None]
        return (p ** (1 - self._ahead(split)) - p) / (1 - p)

    def _ahead(self, split: str) -> np.ndarray:
        """The part of a question's difficulty that still lies ahead after 1, 2, ... steps, [questions, steps]."""
        lengths = self.lengths[split]
        done = np.arange(1, lengths.steps.shape[1] + 1) / lengths.count[:, None]
        return np.maximum(1 - done, 0) ** EARLY

    # What each kind of work takes

    def _sample(self, name: str, split: str, n: int = 1, one_shot: bool = False) -> None:
        lengths, p = self.lengths[split], self.chance[split]
        prompt = lengths.one_shot if one_shot else lengths.prompt
        length = p * lengths.solution + (1 - p) * lengths.wrong
        self._generate(f"{name} ({split})", np.full(len(prompt), n), length, prompt)

    def _roll_out(self, split: str, right: np.ndarray, wrong: np.ndarray) -> None:
        """Rollouts of ``right`` and ``wrong`` drafts' prefixes, each distinct one once. With early stop, of a longer
        prefix only those that no rollout of a shorter one has passed through, and none once one has verified it."""
        p, lengths = self.p.reward_models, self.lengths[split]
        waves = rollouts.waves(p)
        chance, good = self._step_chance(split), wrong[:, None] * self._unspoilt(split)
        first = np.arange(lengths.steps.shape[1]) == 0
        leaves = np.where(first, 1.0, self.leaves if p.early_stop else 1.0)
        passed = (1 - leaves) * waves[0][1]
        needed = leaves * sum(count * (1 - chance) ** (start + passed) for start, count in waves)
        if not p.early_stop:
            needed = np.full_like(chance, p.rollouts_per_step)
        count = lengths.count[:, None]
        open_ended = np.arange(1, lengths.steps.shape[1] + 1) < count
        hopeful = _distinct(right[:, None] + good, self.new_texts[0]) * needed * open_ended
        # As long a solution has as many prefixes, but for the last, which holds the answer.
        hopeless = (
            (wrong[:, None] - good) * p.rollouts_per_step * leaves * open_ended
            * (1 + WRONG_STEPS / np.maximum(count - 1, 1))
        )  # fmt: skip
        rest = lengths.solution[:, None] - lengths.steps.cumsum(axis=1)
        spoilt = rest + (lengths.wrong - lengths.solution)[:, None]
        # A wave reads the prompt and, of its drafts, each prefix once.
        read = (lengths.prompt + lengths.solution) * (right + wrong * len(waves))
        samples = hopeful + hopeless
        length = (hopeful * rest + hopeless * spoilt) / np.maximum(samples, 1e-9)
        self._generate(f"rollouts ({split})", samples, length, 0, read.sum())

    def _generate(
        self, name: str, samples: np.ndarray, length: np.ndarray, prompt: np.ndarray | int, read: float = 0
    ) -> None:  # fmt: skip
        """``samples`` completions of ``length`` tokens; ``prompt`` tokens are read once for each that has any."""
        limit, rows = self.p.sampling.max_new_tokens, self.p.sampling.rows
        total, size = samples.sum(), self.size
        generated = (samples * np.minimum(length, limit)).sum()
        read += (np.minimum(samples, 1) * prompt).sum()
        longest = max(lengths.refine.max() for lengths in self.lengths.values()) + limit
        cache = 2 * size.layers * size.keys * self.bytes  # a token's keys and values
        each = max(1.0, total / max(1, (samples > 0).sum()))
        alone = (1 + (each - 1) * self.forked) / each
        together = min(rows, total)
        # A batch ends with its longest row, which is taken to reach the limit.
        decoding = math.ceil(total * alone / rows) * limit
        per_token = 2 * size.parameters / self._flops("reading")
        seconds = decoding * (size.layers * self.hardware.layer_seconds + self._weights / self.hardware.bandwidth)
        seconds += generated * alone * cache * longest / 2 / self.hardware.bandwidth
        self._add(
            name, samples=total, generated=generated, read=read, disk=generated * CHARACTERS_PER_TOKEN,
            memory=self._weights + together * (cache * longest + 12 * size.vocabulary),
            seconds=seconds + (generated * alone + read) * per_token,
        )  # fmt: skip

    def _score(self, split: str, right: np.ndarray, wrong: np.ndarray, times: int = 1) -> None:
        """Step scores of distinct answers, by ``times`` reward models."""
        lengths, size = self.lengths[split], self.size
        read = times * self._packed(lengths, right + wrong).sum()
        activations = SCORING_TOKENS * (6 * size.hidden + 3 * size.feed_forward) * self.bytes
        seconds = read * 2 * size.parameters / self._flops("reading")
        self._add(f"scores ({split})", read=read, memory=self._weights + activations, seconds=seconds)

    def _train(self, name: str, weights: np.ndarray, lengths: np.ndarray, training: params.Training) -> int:
        """Trains on ``weights`` sequences of ``lengths`` tokens a question; the optimiser steps it takes."""
        f, size = self.p.finetuning, self.size
        weights = weights * (lengths <= f.max_length)
        epoch_steps = math.ceil(round(weights.sum()) / f.batch_size)
        if not epoch_steps:
            return 0
        steps = min(training.max_steps, training.epochs * epoch_steps)
        trained = (weights * lengths).sum() * steps / epoch_steps
        full = f.method == "full"
        learned = size.parameters if full else size.adapters(f)
        # AdamW keeps a gradient and two moments beside what it trains; adapters are kept in float32.
        weight_bytes = QUANTISED_BYTES.get(f.method, self.bytes) * size.parameters
        states = 3 * self.bytes * learned if full else 16 * learned
        width = (10 * size.hidden + 2 * size.keys + 4 * size.feed_forward) * size.layers * self.bytes
        tokens = f.micro_batch_size * min(f.max_length, lengths.max())
        activations = tokens * (width + size.vocabulary * (self.bytes + 8))
        passes = steps * f.batch_size // (f.micro_batch_size * f.processes)
        divided = f.processes if f.parallel == "fsdp" else 1
        # Forward 2 FLOP a parameter and token, backward 2 to pass gradients on and 2 for what is trained.
        seconds = trained * (6 if full else 4) * size.parameters / self._flops("training") / f.processes
        self._add(
            f"training {name}", trained=trained, steps=steps, memory=(weight_bytes + states) / divided + activations,
            disk=learned * (self.bytes if full else 4),
            seconds=seconds + 3 * passes * size.layers * self.hardware.layer_seconds,
        )  # fmt: skip
        return steps

    @property
    def _weights(self) -> float:
        """Bytes of a model that is only read."""
        return self.size.parameters * self.bytes

    def _flops(self, use: str) -> float:
        return getattr(self.hardware, use)[self.p.base_model.dtype]

    def _add(self, name: str, **amounts: float) -> None:
        self.work.append(Work(self.stage, name, **amounts))
