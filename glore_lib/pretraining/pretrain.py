"""How ``assets/mini-base`` was made: ``python -m glore_lib.pretraining.pretrain --out DIR``.

The paper starts from Llama-2, which has read the web: it knows arithmetic, reads language, and has seen worked, graded
and corrected answers. This script gives a model of about one million parameters the analogue of that, on generated
text: arithmetic drills, equations judged right or wrong, word problems solved in several styles, orders and qualities
(right and wrong, with a verdict on the whole answer at its end), and drafts followed by a corrected answer in loose
formats. What people get wrong is much like what a model of their text gets wrong; what a generator spoils at random is
not. So a second part goes on with the model's own answers among those that are judged and corrected. It never sees this
method's ``[BAD]`` mark, a step label, or a question of the train, validation or test splits (a question belongs to one
split by its text's hash; see :data:`glore_lib.tasks.arithmetic.SPLIT_BUCKETS`).
"""

import json
import math
import os
import random
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch.utils.data import DataLoader, IterableDataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from glore_lib.artifacts.records import checksum
from glore_lib.sampling import Request
from glore_lib.sampling.transformers import TransformersSampler
from glore_lib.solutions import ANSWER_MARK, join_steps, split_steps
from glore_lib.tasks import arithmetic as task

WORDS = (
    "has owns had is are there with more fewer than compared , . as many plus short of twice times half a third "
    "quarter "
    "boxes bags each and buys then got together how do does in all ? find the number difference have hold "
    "3 + - * / = : #### [BAD] right wrong yes no true false answer so check it this that again correct grade good bad "
    "draft solution first try not quite instead fixed"
).split()
PAD, BOS, EOS = "<pad>", "<s>", "</s>"
WIDTHS = (64, 96, 128, 160, 192, 256, 320)  # the few padded lengths of a batch, so that compiled graphs are reused
TOKENS_PER_BATCH = 3072  # a process
LEARNING_RATE = 5e-3
# A page has one or two verdicts among a hundred tokens; weighed as any other token, they stayed at chance.
VERDICT_WEIGHT = 8.0
CHANGE_WEIGHT = 4.0  # and so is the first line of a correction that is not the draft's

# From one step to as many as the task has, with relations told from either side as often as there.
DIFFICULTIES = (
    task.Difficulty(1, 2, inverse=0.35, join=0.15, boxes=0.25, distractors=1, shuffle=0.5),
    task.Difficulty(2, 4, inverse=0.3, join=0.15, boxes=0.25, distractors=2, shuffle=0.6),
    task.Difficulty(4, 6, inverse=0.25, join=0.15, boxes=0.25, distractors=2, shuffle=0.6),
)
STYLES = (*["{e}"] * 16, "{s} : {a} {op} {b} = {c}", "{a} {op} {b} = {c}", "{a} {op} {b} = {c} so {s} {v} {c} {i}")
ENDINGS = (*["#### {x}"] * 6, "answer : {x}", "so the answer is {x} .")
# A judgement of a whole answer, on the line after it; most are the bare word.
VERDICTS = (
    *[("right", "wrong")] * 4,
    ("check : right", "check : wrong"),
    ("is this correct ? yes", "is this correct ? no"),
    ("grade : good", "grade : bad"),
    ("that is true .", "that is false ."),
)
# What the model is asked for its own answers: more than it was taught to solve, so that many are wrong.
OWN_DIFFICULTIES = (
    task.Difficulty(2, 4, inverse=0.6, join=0.3, boxes=0.25, distractors=6, shuffle=1.0, related=1),
    task.Difficulty(4, 6, inverse=0.5, join=0.25, boxes=0.25, distractors=5, shuffle=1.0, related=1),
)
CORRECTIONS = (
    "no , not quite . again :",
    "wrong . instead :",
    "first try is bad . fixed solution :",
    "not correct . so",
)
# What a reader puts before the line that is wrong, where a correction says which. Read, never written.
MARKS = ("?", "no", "not", "false", "check this", "- -")
MARKED = 0.8  # the share of corrections that say it
EDITS = ("fixed :", "fixed draft :", "again , fixed :")
STRUCK = "all that is good :"

Pieces = list[tuple[str, float]]
Answers = Mapping[bool, Sequence[tuple[task.Problem, str]]]  # the model's own, right and wrong ones


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level fast tokenizer: every word, sign and whole number 0-199 is one token, and so is a line's end."""
    words = [PAD, BOS, EOS, "<unk>", "\n", *map(str, range(200)), *WORDS, *task.HOLDERS, *task.ITEMS]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(Regex(" *\n *"), "\n")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Split(" ", "removed")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.WordPiece(prefix="\0", cleanup=False), decoders.Fuse(), decoders.Replace(Regex(" *\n *"), "\n")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, vocabulary[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS, unk_token="<unk>",
        model_max_length=384, clean_up_tokenization_spaces=False, padding_side="right",
    )  # fmt: skip


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A fresh Llama of about one million parameters.

    The number tokens start as cosines and sines of several periods, in which addition is a rotation; the rest of each
    vector stays random. It is only an initialisation: the saved model is an ordinary Llama.
    """
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256, num_hidden_layers=7, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=384, rms_norm_eps=1e-5, tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    ids = torch.tensor([tokenizer.convert_tokens_to_ids(str(n)) for n in range(200)])
    n = torch.arange(200, dtype=torch.float32)
    waves = [f(2 * math.pi * n / p) for p in (2, 3, 4, 5, 9, 10, 20, 50, 100, 200) for f in (torch.cos, torch.sin)]
    features = torch.stack([*waves, n / 100 - 1], dim=1) * 2 * config.initializer_range
    with torch.no_grad():
        model.get_input_embeddings().weight[ids, : features.shape[1]] = features
    return model


def facts() -> list[tuple[int, str, int, int]]:
    """Every arithmetic fact a, op, b, c that the task's questions can ask for."""
    top, functions = task.MAX_VALUE, task.OPERATORS
    pairs = [(a, op, b) for a in range(1, top + 1) for b in range(1, top + 1) for op in "+-"]
    pairs += [(a, "*", b) for a in range(1, 50) for b in range(2, 10) if b <= 5 or a <= 9]
    pairs += [(a, "/", b) for a in range(2, top + 1) for b in (2, 3, 4, 5)]
    results = [(a, op, b, functions[op](a, b)) for a, op, b in pairs]
    return [(a, op, b, c) for a, op, b, c in results if c is not None and 1 <= c <= top]


FACTS = {op: [f for f in facts() if f[1] == op] for op in "+-*/"}


def drill(rng: random.Random) -> str:
    """A page of equations, some of them judged, some of those false."""
    lines = []
    for _ in range(10):
        a, op, b, c = rng.choice(FACTS[rng.choices("+-*/", (4, 4, 2, 1))[0]])
        if rng.random() < 0.7:
            lines.append(f"{a} {op} {b} = {c}")
        else:
            wrong = rng.random() < 0.5
            shown = _other_number(rng, c) if wrong else c
            lines.append(f"{a} {op} {b} = {shown} {'wrong' if wrong else 'right'}")
    return "\n".join(lines) + "\n"


def edited_page(rng: random.Random) -> Pieces:
    """A page of unrelated equations, some of them false, some of those marked, and the page again with only the marked
    ones put right, or left out. What is false without a mark stays, so that nothing but the mark tells what to do: a
    mark that only helps to find an error is not read at all."""
    named = rng.random() < 0.6
    shown, true = [], []
    for _ in range(rng.randint(4, 8)):
        a, op, b, c = rng.choice(FACTS[rng.choices("+-*/", (4, 4, 2, 1))[0]])
        form = f"{rng.choice(task.HOLDERS)} has {{}} {rng.choice(task.ITEMS)}\n" if named else "{}\n"
        true.append(form.format(f"{a} {op} {b} = {c}"))
        shown.append(form.format(f"{a} {op} {b} = {_other_number(rng, c)}") if rng.random() < 0.65 else true[-1])
    return _edited(rng, shown, true, left_out=rng.random() < 0.5)


def edited_steps(rng: random.Random, problem: task.Problem) -> Pieces:
    """The same with the steps of a solution, each spoiled by itself."""
    shown, true = [], []
    for e in problem.steps():
        other = rng.choice(problem.steps())
        wrong = rng.choice(
            (replace(e, op=task.INVERSE[e.op]), replace(e, op=other.op, b=other.b), replace(e, a=other.a))
        )
        c = task.OPERATORS[wrong.op](wrong.a, wrong.b)
        true.append(f"{e}\n")
        spoiled = rng.random() < 0.65 and c is not None and 1 <= c <= task.MAX_VALUE
        shown.append(f"{replace(wrong, c=c)}\n" if spoiled else true[-1])
    return [(problem.question + "\n", 0.0), *_edited(rng, shown, true, left_out=False)]


def _edited(rng: random.Random, shown: list[str], true: list[str], left_out: bool) -> Pieces:
    """The lines ``shown``, half of those that are not ``true`` marked, and after a heading the lines again."""
    marked = [a != b and rng.random() < 0.5 for a, b in zip(shown, true, strict=True)]
    before = [f"{rng.choice(MARKS)} {line}" if m else line for line, m in zip(shown, marked, strict=True)]
    after = [b if m else a for a, b, m in zip(shown, true, marked, strict=True) if not (m and left_out)]
    heading = STRUCK if left_out else rng.choice(EDITS)
    return [("".join(before) + heading + "\n", 0.0), ("".join(after), 1.0)]


def _other_number(rng: random.Random, c: int) -> int:
    near = [x for x in (c - 10, c - 2, c - 1, c + 1, c + 2, c + 10, rng.randint(1, 99)) if 1 <= x <= 99 and x != c]
    return rng.choice(near)


def _order(rng: random.Random, problem: task.Problem) -> list[int]:
    """A random valid order of solving."""
    todo, done, order = list(problem.needed), set(), []
    while todo:
        ready = [i for i in todo if all(p in done for p in problem.quantities[i].parents)]
        i = rng.choice(ready)
        todo.remove(i)
        done.add(i)
        order.append(i)
    return order


def write_solution(
    rng: random.Random, problem: task.Problem, wrong: bool, plain: bool = False, like: random.Random | None = None
) -> str:
    """A solution in a random order and style, or in the task's own style where ``plain``; where ``wrong``, one step is
    misread or miscalculated and the rest follows it. Two calls whose ``like`` are in the same state choose the same
    order and style."""
    like = like or rng
    order = problem.needed if like.random() < 0.9 else _order(like, problem)
    style, ending = (STYLES[0], ENDINGS[0]) if plain else (like.choice(STYLES), like.choice(ENDINGS))
    steps = [e for i in order for e in problem.quantities[i].equations] + list(problem.ask)
    answer = problem.answer
    if wrong:
        steps, answer = _spoil(rng, problem, steps)
    lines = [
        style.format(e=e, a=e.a, op=e.op, b=e.b, c=e.c, s=e.subject, v=e.verb, i=e.item)
        if style != STYLES[-1] or e.verb else str(e)
        for e in steps
    ]  # fmt: skip
    return "\n".join([*lines, ending.format(x=answer)]) + "\n"


def _spoil(rng: random.Random, problem: task.Problem, steps: list[task.Equation]) -> tuple[list[task.Equation], int]:
    """The steps with one error that changes the answer, carried through the later steps: a step misread or
    miscalculated, taken from another sentence, left out, or the question not answered to its end."""
    relations = [(e.op, e.b) for q in problem.quantities if q.parents for e in q.equations]
    told = [int(word) for word in problem.question.split() if word.isdigit()]
    while True:
        at = rng.randrange(len(steps))
        kind = rng.choices(("sentence", "operand", "operator", "result", "skipped", "early"), (4, 3, 3, 1, 1, 1))[0]
        changed: dict[int, int] = {}
        spoiled: list[task.Equation] = []
        for i, e in enumerate(steps[: max(1, at)] if kind == "early" else steps):
            a, op, b, noise = changed.get(e.a, e.a), e.op, changed.get(e.b, e.b), 0
            if i == at and kind == "skipped":
                changed[e.c] = a
                continue
            if i == at and kind == "sentence":
                op, b = rng.choice(relations or [(op, b)])
            elif i == at and kind == "operand":
                other = rng.choice(told + [s.c for s in spoiled])
                a, b = (other, b) if rng.random() < 0.5 else (a, other)
            elif i == at and kind == "operator":
                op = task.INVERSE[op]
            elif i == at and kind == "result":
                noise = _other_number(rng, e.c) - e.c
            c = task.OPERATORS[op](a, b)
            if c is None or not 1 <= c + noise <= task.MAX_VALUE:
                break
            if c + noise != e.c:
                changed[e.c] = c + noise
            spoiled.append(replace(e, a=a, op=op, b=b, c=c + noise))
        else:
            if spoiled and spoiled[-1].c != problem.answer:
                return spoiled, spoiled[-1].c


def document(rng: random.Random, own: Answers | None = None) -> Pieces:
    """One document as (text, its tokens' weight in the loss) pieces: questions and wrong answers are read, with weight
    0, never imitated. With ``own`` answers, most of those that are judged or corrected are such, and all else is in the
    task's own style, as they are: the student's first habit."""
    mixture = (0.03, 0.12, 0.15, 0.25, 0.45) if own else (0.03, 0.07, 0.25, 0.53, 0.12)
    kind = rng.choices(("drill", "page", "solved", "graded", "edited"), mixture)[0]
    if kind == "drill":
        return [(drill(rng), 1.0)]
    if kind == "page" and rng.random() < 0.4:
        return edited_page(rng)
    if own and kind in ("graded", "edited") and rng.random() < 0.75:
        return _own_document(rng, kind, own)
    weights, plain = (4, 3, 3) if kind == "graded" else (1, 3, 5), bool(own)
    problem = task.generate(rng, rng.choices(DIFFICULTIES, weights)[0], "pretrain")
    if kind == "page":
        return edited_steps(rng, problem)
    pieces = [(problem.question + "\n", 0.0)]
    if kind == "solved":
        return [*pieces, (write_solution(rng, problem, False, plain), 1.0)]
    if kind == "graded":
        verdicts = rng.choice(VERDICTS)
        for _ in range(rng.randint(1, 2)):
            wrong = rng.random() < 0.5
            pieces.append((write_solution(rng, problem, wrong, plain), float(not wrong)))
            pieces.append((verdicts[wrong] + "\n", VERDICT_WEIGHT))
        return pieces
    seed = rng.random()
    draft = write_solution(rng, problem, True, plain, random.Random(seed))
    same = rng.random() < 0.7
    fixed = write_solution(rng, problem, False, plain, random.Random(seed) if same else rng)
    return [*pieces, *_correction(rng, draft, fixed, same)]


def _own_document(rng: random.Random, kind: str, own: Answers) -> Pieces:
    """A judged or a corrected answer of the model itself; as many right as wrong ones are judged."""
    right = kind == "graded" and rng.random() < 0.5
    problem, text = rng.choice(own[right])
    question = (problem.question + "\n", 0.0)
    if kind == "graded":
        return [question, (text, 0.0), (rng.choice(VERDICTS)[not right] + "\n", VERDICT_WEIGHT)]
    return [question, *_correction(rng, text, corrected(problem, text), True)]


def corrected(problem: task.Problem, draft: str) -> str:
    """A right solution that begins with what is right in ``draft``."""
    steps = split_steps(draft)
    kept = [step for step, label in zip(steps, problem.step_labels(draft), strict=True) if label]
    told = {(e.subject, e.verb, e.item) for e in map(task.parse_step, kept) if e}
    rest = [str(e) for e in problem.steps() if (e.subject, e.verb, e.item) not in told]
    return join_steps([*kept, *rest, f"{ANSWER_MARK} {problem.answer}"]) + "\n"


def _correction(rng: random.Random, draft: str, fixed: str, alike: bool) -> Pieces:
    """A draft and the corrected answer after it, whose first line that is not the draft's weighs more than the others.
    Where both are written ``alike``, that line is where the draft goes wrong, and mostly marked there."""
    old, new = draft.splitlines(keepends=True), fixed.splitlines(keepends=True)
    at = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)) - 1)
    if alike and rng.random() < MARKED:
        old[at] = f"{rng.choice(MARKS)} {old[at]}"
    pieces = [("".join(old) + rng.choice(CORRECTIONS) + "\n", 0.0)]
    pieces += [("".join(new[:at]), 1.0), (new[at], CHANGE_WEIGHT), ("".join(new[at + 1 :]), 1.0)]
    return [piece for piece in pieces if piece[0]]


def own_answers(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, questions: int, stream: str
) -> list[tuple[int, str]]:
    """The model's answers to ``questions`` of the pre-training split, as (number of the question, text): the likeliest
    and three samples at temperature 0.8 of each; :func:`own_problem` gives the question."""
    sampler = TransformersSampler(model, tokenizer, rows=256)
    prompts = [tuple(tokenizer(own_problem(stream, i).question + "\n").input_ids) for i in range(questions)]
    found: dict[tuple[int, str], None] = {}
    for temperature, n in ((0.0, 1), (0.8, 3)):
        requests = [Request(prompt, n, i) for i, prompt in enumerate(prompts)]
        for i, completions in enumerate(sampler.sample(requests, temperature, 90, "own answers")):
            # A model that has read verdicts goes on with one.
            found |= dict.fromkeys((i, text) for text in (_to_its_end(c.text) for c in completions) if text)
    return list(found)


def own_problem(stream: str, i: int) -> task.Problem:
    """The ``i``-th problem whose answers by the model itself are read in pre-training."""
    return task.generate(random.Random(f"own/{stream}/{i}"), OWN_DIFFICULTIES[i % len(OWN_DIFFICULTIES)], "pretrain")


def _to_its_end(text: str) -> str:
    """The answer up to its closing line; empty where there is none, or a line before it is no step."""
    lines = text.splitlines(keepends=True)
    end = next((i for i, line in enumerate(lines) if not task.parse_step(line)), None)
    closed = end is not None and lines[end].startswith(ANSWER_MARK) and lines[end].endswith("\n")
    return "".join(lines[: end + 1]) if closed else ""


def _is_right(problem: task.Problem, text: str) -> bool:
    return re.findall(r"\d+", text)[-1:] == [str(problem.answer)]


class Corpus(IterableDataset):
    """An endless stream of padded batches; the same ``stream`` is always the same batches."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, stream: str, own: Answers | None = None):
        self.tokenizer, self.stream, self.own = tokenizer, stream, own

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        rng = random.Random(f"pretrain/{self.stream}")
        rows: dict[int, list[tuple[list[int], list[float]]]] = {width: [] for width in WIDTHS}
        while True:
            ids, weights = self.encode(document(rng, self.own))
            width = next((w for w in WIDTHS if w >= len(ids)), None)
            if width is None:
                continue
            rows[width].append((ids, weights))
            if len(rows[width]) == TOKENS_PER_BATCH // width:
                yield self._batch(rows[width], width)
                rows[width] = []

    def encode(self, pieces: list[tuple[str, float]]) -> tuple[list[int], list[float]]:
        """Token ids, and the weight of each in the loss."""
        ids, weights = [self.tokenizer.bos_token_id], [0.0]
        for text, weight in pieces:
            piece = self.tokenizer(text, add_special_tokens=False).input_ids
            ids += piece
            weights += [weight] * len(piece)
        return [*ids, self.tokenizer.eos_token_id], [*weights, 1.0]

    def _batch(self, rows: list[tuple[list[int], list[float]]], width: int) -> dict[str, torch.Tensor]:
        ids = torch.full((len(rows), width), self.tokenizer.pad_token_id)
        weights = torch.zeros(len(rows), width)
        for i, (row, row_weights) in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            weights[i, : len(row)] = torch.tensor(row_weights)
        return {"input_ids": ids, "weights": weights}


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for the weight matrices, AdamW for embeddings and norms, behind one optimizer's interface.

    Measured on this corpus with the same tokens (1.2 M): loss 1.53 with it, 1.71 with AdamW alone.
    """

    def __init__(self, model: LlamaForCausalLM, learning_rate: float):
        named = list(model.named_parameters())
        matrices = [p for n, p in named if p.ndim == 2 and "embed" not in n]
        others = [p for n, p in named if not (p.ndim == 2 and "embed" not in n)]
        self.parts = (
            torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=0.6 * learning_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        )
        super().__init__([*matrices, *others], {})
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self, closure: None = None) -> None:
        """One step of both optimizers."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict:
        """The states of both optimizers."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict) -> None:
        """Sets the states of both optimizers."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


class PretrainingTrainer(Trainer):
    """Takes the batches as the corpus makes them: to shard one stream, every process would have to write it whole."""

    def get_train_dataloader(self) -> DataLoader:
        """The corpus's own batches, one after the other."""
        return DataLoader(self.train_dataset, batch_size=None)

    def compute_loss(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], **_: Any) -> torch.Tensor:
        """Cross-entropy of the next token, averaged with the tokens' weights."""
        logits, weights = model(input_ids=inputs["input_ids"]).logits[:, :-1], inputs["weights"][:, 1:].flatten()
        losses = F.cross_entropy(logits.flatten(0, 1).float(), inputs["input_ids"][:, 1:].flatten(), reduction="none")
        return (losses * weights).sum() / weights.sum()


@torch.inference_mode()
def fact_accuracy(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, every: int = 1) -> dict[str, float]:
    """The fraction of arithmetic facts whose result is the model's first choice, by operation and over all."""
    right: dict[str, list[float]] = {op: [] for op in FACTS}
    model.eval()
    for op, all_facts in FACTS.items():
        subset = all_facts[::every]
        for start in range(0, len(subset), 1024):
            batch = subset[start : start + 1024]
            ids = torch.tensor(tokenizer([f"{a} {op} {b} =" for a, _, b, _ in batch]).input_ids)
            guesses = model(ids).logits[:, -1].argmax(-1).tolist()
            answers = [tokenizer.convert_tokens_to_ids(str(c)) for *_, c in batch]
            right[op] += [float(g == t) for g, t in zip(guesses, answers, strict=True)]
    everything = [x for values in right.values() for x in values]
    return {op: sum(v) / len(v) for op, v in right.items()} | {"all": sum(everything) / len(everything)}


def pretrain(
    out: Annotated[Path, typer.Option(help="Folder of the model, its tokenizer and card.json.")],
    steps: Annotated[int, typer.Option(min=2, help="Optimiser steps of 3,072 tokens a process.")] = 14000,
    seed: int = 0,
    compile: Annotated[bool, typer.Option(help="torch.compile: faster, needs a C++ compiler.")] = True,
) -> dict[str, Any]:
    """Pre-train the small base model, going on from what an interrupted run left in OUT; returns its card.

    The last two steps in seven are the second part, with the model's own answers.

    With several processes (``torchrun --nproc_per_node=2 -m glore_lib.pretraining.pretrain …``) each has its own stream of text.
    """
    tokenizer, first = build_tokenizer(), out / "first"
    own_steps = max(1, steps * 2 // 7)
    if not (first / "card.json").exists():
        _train(build_model(tokenizer, seed), tokenizer, first, steps - own_steps, f"{seed}", None, compile)
    process = os.environ.get("RANK", "0")  # torchrun's
    answers, stream = out / f"own-answers-{process}.json", f"{seed}/{process}"
    if not answers.exists():
        model = LlamaForCausalLM.from_pretrained(first, dtype=torch.float32)
        answers.write_text(json.dumps(own_answers(model, tokenizer, 2 * own_steps, stream)))
    own: dict[bool, list[tuple[task.Problem, str]]] = {True: [], False: []}
    for i, text in json.loads(answers.read_text()):
        problem = own_problem(stream, i)
        own[_is_right(problem, text)].append((problem, text))
    model = LlamaForCausalLM.from_pretrained(first, dtype=torch.float32)
    return _train(model, tokenizer, out, own_steps, f"{seed}/own", own if all(own.values()) else None, compile)


def _train(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path, steps: int, stream: str,
    own: Answers | None, compile: bool,
) -> dict[str, Any]:  # fmt: skip
    """One part: trains, and leaves model, tokenizer and card in ``out``; resumes from OUT/checkpoints."""
    started = time.monotonic()
    arguments = TrainingArguments(
        output_dir=str(out / "checkpoints"), max_steps=steps, per_device_train_batch_size=1,
        learning_rate=LEARNING_RATE, lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": max(1, steps // 3)}, warmup_steps=min(100, steps // 10),
        max_grad_norm=1.0, logging_steps=50, save_steps=250, save_total_limit=3, report_to="none",
        use_cpu=not torch.cuda.is_available(), torch_compile=compile, disable_tqdm=True,
        ignore_data_skip=True, remove_unused_columns=False,
    )  # fmt: skip
    resume = get_last_checkpoint(str(out / "checkpoints")) if (out / "checkpoints").exists() else None
    # Every process, and every start after an interruption, has a stream of its own.
    corpus = Corpus(tokenizer, f"{stream}/{arguments.process_index}/{Path(resume or 'start').name}", own)
    trainer = PretrainingTrainer(
        model, arguments, train_dataset=corpus, processing_class=tokenizer,
        optimizers=(MuonWithAdamW(model, LEARNING_RATE), None),
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    losses = [[log["step"], log["loss"]] for log in trainer.state.log_history if "loss" in log][::5]
    card = {
        "parameters": model.num_parameters(), "steps": steps,
        "tokens": steps * TOKENS_PER_BATCH * arguments.world_size, "processes": arguments.world_size,
        "own_answers": sum(map(len, own.values())) if own else 0, "losses": losses,
        "seconds": round(time.monotonic() - started), "resumed_from": Path(resume).name if resume else None,
    }  # fmt: skip
    if trainer.is_world_process_zero():
        model.to(torch.bfloat16).save_pretrained(out)
        tokenizer.save_pretrained(out)
        card["fact_accuracy"] = fact_accuracy(model.float(), tokenizer)
        card["sha256"] = checksum(out / "model.safetensors")
        (out / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    trainer.accelerator.wait_for_everyone()
    return card


if __name__ == "__main__":
    typer.run(pretrain)
