"""Generate the text that the small base model is pre-trained on, and batches of it.

There are four kinds of documents: arithmetic drills, solved word problems in several styles, graded answers with a
verdict at the end, and edited drafts with a correction. In the second part of pre-training, most graded and corrected
answers are the model's own: its real errors differ from the ones a generator inserts. The text never contains the
method's ``[BAD]`` mark, a step label, or a question of the train, validation or test split (a hash of the question's
text chooses its split, see :data:`glore_lib.tasks.arithmetic.SPLIT_BUCKETS`).
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch.utils.data import IterableDataset
from transformers import PreTrainedTokenizerFast

from glore_lib.solutions import ANSWER_MARK, join_steps, split_steps
from glore_lib.tasks import arithmetic as task

WIDTHS = (64, 96, 128, 160, 192, 256, 320)  # the padded lengths of batches; few, so that compiled graphs are reused
TOKENS_PER_BATCH = 3072  # per process
# A document has one or two verdicts among a hundred tokens; with weight 1 the model did not learn to predict them.
VERDICT_WEIGHT = 8.0
CHANGE_WEIGHT = 4.0  # of the first line of a correction that differs from the draft

# From one step to as many as the task has.
DIFFICULTIES = (
    task.Difficulty(1, 2, inverse=0.35, join=0.15, boxes=0.25, distractors=1, shuffle=0.5),
    task.Difficulty(2, 4, inverse=0.3, join=0.15, boxes=0.25, distractors=2, shuffle=0.6),
    task.Difficulty(4, 6, inverse=0.25, join=0.15, boxes=0.25, distractors=2, shuffle=0.6),
)
STYLES = (*["{e}"] * 16, "{s} : {a} {op} {b} = {c}", "{a} {op} {b} = {c}", "{a} {op} {b} = {c} so {s} {v} {c} {i}")
ENDINGS = (*["#### {x}"] * 6, "answer : {x}", "so the answer is {x} .")
# A verdict on a whole answer, on the line after it; most are a single word.
VERDICTS = (
    *[("right", "wrong")] * 4, ("check : right", "check : wrong"), ("is this correct ? yes", "is this correct ? no"),
    ("grade : good", "grade : bad"), ("that is true .", "that is false ."),
)  # fmt: skip
# The questions that the model itself answers: harder than those it learned from, so that many answers are wrong.
OWN_DIFFICULTIES = (
    task.Difficulty(2, 4, inverse=0.6, join=0.3, boxes=0.25, distractors=6, shuffle=1.0, related=1),
    task.Difficulty(4, 6, inverse=0.5, join=0.25, boxes=0.25, distractors=5, shuffle=1.0, related=1),
)
CORRECTIONS = (
    "no , not quite . again :", "wrong . instead :", "first try is bad . fixed solution :", "not correct . so",
)  # fmt: skip
# A mark before the wrong line of a draft. The model reads it but never learns to write it.
MARKS = ("?", "no", "not", "false", "check this", "- -")
MARKED = 0.8  # the share of corrections whose draft has a mark
EDITS = ("fixed :", "fixed draft :", "again , fixed :")
STRUCK = "all that is good :"

Pieces = list[tuple[str, float]]  # texts with the weight of their tokens in the loss
Answers = Mapping[bool, Sequence[tuple[task.Problem, str]]]  # the model's own answers, by whether they are right


def facts() -> list[tuple[int, str, int, int]]:
    """Return every arithmetic fact (a, op, b, c) that the task's questions can ask for."""
    top, functions = task.MAX_VALUE, task.OPERATORS
    pairs = [(a, op, b) for a in range(1, top + 1) for b in range(1, top + 1) for op in "+-"]
    pairs += [(a, "*", b) for a in range(1, 50) for b in range(2, 10) if b <= 5 or a <= 9]
    pairs += [(a, "/", b) for a in range(2, top + 1) for b in (2, 3, 4, 5)]
    results = [(a, op, b, functions[op](a, b)) for a, op, b in pairs]
    return [(a, op, b, c) for a, op, b, c in results if c is not None and 1 <= c <= top]


FACTS = {op: [f for f in facts() if f[1] == op] for op in "+-*/"}


def drill(rng: random.Random) -> str:
    """Write ten equations; three in ten are graded, and half of the graded ones are false."""
    lines = []
    for _ in range(10):
        a, op, b, c = rng.choice(FACTS[rng.choices("+-*/", (4, 4, 2, 1))[0]])
        if rng.random() < 0.7:
            lines.append(f"{a} {op} {b} = {c}")
        elif rng.random() < 0.5:
            lines.append(f"{a} {op} {b} = {_other_number(rng, c)} wrong")
        else:
            lines.append(f"{a} {op} {b} = {c} right")
    return "\n".join(lines) + "\n"


def edited_page(rng: random.Random) -> Pieces:
    """Write unrelated equations, and then the same ones with the marked ones fixed or left out.

    False equations without a mark stay: if the errors alone said what to change, the model would ignore the marks.
    """
    named = rng.random() < 0.6
    shown, true = [], []
    for _ in range(rng.randint(4, 8)):
        a, op, b, c = rng.choice(FACTS[rng.choices("+-*/", (4, 4, 2, 1))[0]])
        form = f"{rng.choice(task.HOLDERS)} has {{}} {rng.choice(task.ITEMS)}\n" if named else "{}\n"
        true.append(form.format(f"{a} {op} {b} = {c}"))
        shown.append(form.format(f"{a} {op} {b} = {_other_number(rng, c)}") if rng.random() < 0.65 else true[-1])
    return _edited(rng, shown, true, left_out=rng.random() < 0.5)


def edited_steps(rng: random.Random, problem: task.Problem) -> Pieces:
    """Write an edited page of a solution's steps, each spoiled independently."""
    shown, true = [], []
    for e in problem.steps():
        other = rng.choice(problem.steps())
        changes = {"op": task.INVERSE[e.op]}, {"op": other.op, "b": other.b}, {"a": other.a}
        wrong = replace(e, **rng.choice(changes))
        c = task.OPERATORS[wrong.op](wrong.a, wrong.b)
        true.append(f"{e}\n")
        spoiled = rng.random() < 0.65 and c is not None and 1 <= c <= task.MAX_VALUE
        shown.append(f"{replace(wrong, c=c or 0)}\n" if spoiled else true[-1])
    return [(problem.question + "\n", 0.0), *_edited(rng, shown, true, left_out=False)]


def _edited(rng: random.Random, shown: list[str], true: list[str], left_out: bool) -> Pieces:
    """Return ``shown`` with half of its false lines marked, a heading, and the edited lines."""
    marked = [a != b and rng.random() < 0.5 for a, b in zip(shown, true, strict=True)]
    before = [f"{rng.choice(MARKS)} {line}" if m else line for line, m in zip(shown, marked, strict=True)]
    after = [b if m else a for a, b, m in zip(shown, true, marked, strict=True) if not (m and left_out)]
    heading = STRUCK if left_out else rng.choice(EDITS)
    return [("".join(before) + heading + "\n", 0.0), ("".join(after), 1.0)]


def _other_number(rng: random.Random, c: int) -> int:
    near = [x for x in (c - 10, c - 2, c - 1, c + 1, c + 2, c + 10, rng.randint(1, 99)) if 1 <= x <= 99 and x != c]
    return rng.choice(near)


def _order(rng: random.Random, problem: task.Problem) -> list[int]:
    """Return a random valid order of solving."""
    todo, order = list(problem.needed), []
    while todo:
        ready = [i for i in todo if all(p in order for p in problem.quantities[i].parents)]
        order.append(rng.choice(ready))
        todo.remove(order[-1])
    return order


def write_solution(
    rng: random.Random, problem: task.Problem, wrong: bool, plain: bool = False, like: random.Random | None = None
) -> str:
    """Write a solution in a random order and style, or in the task's own style if ``plain``.

    If ``wrong``, it has one error that the later steps follow. Calls with ``like`` in the same state choose the same
    order and style.
    """
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
    """Return the steps and the answer with one error that changes the answer, carried through the later steps.

    A step is misread, miscalculated, taken from another sentence or left out, or the solution stops early.
    """
    relations = [(e.op, e.b) for q in problem.quantities if q.parents for e in q.equations]
    given = [int(word) for word in problem.question.split() if word.isdigit()]
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
                other = rng.choice(given + [s.c for s in spoiled])
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
    """Write one document. Questions and wrong answers have weight 0, so the model does not learn to write them.

    With ``own`` answers, three in four graded or corrected answers are the model's own, and the others are in the
    task's own style, like those.
    """
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
    """Write a graded or a corrected answer of the model itself; half of the graded ones are right."""
    right = kind == "graded" and rng.random() < 0.5
    problem, text = rng.choice(own[right])
    question = (problem.question + "\n", 0.0)
    if kind == "graded":
        return [question, (text, 0.0), (rng.choice(VERDICTS)[not right] + "\n", VERDICT_WEIGHT)]
    return [question, *_correction(rng, text, corrected(problem, text), True)]


def corrected(problem: task.Problem, draft: str) -> str:
    """Return a right solution that begins with the right steps of ``draft``."""
    steps = split_steps(draft)
    kept = [step for step, label in zip(steps, problem.step_labels(draft), strict=True) if label]
    done = {(e.subject, e.verb, e.item) for e in map(task.parse_step, kept) if e}
    rest = [str(e) for e in problem.steps() if (e.subject, e.verb, e.item) not in done]
    return join_steps([*kept, *rest, f"{ANSWER_MARK} {problem.answer}"]) + "\n"


def _correction(rng: random.Random, draft: str, fixed: str, alike: bool) -> Pieces:
    """Write a draft and the corrected answer, whose first line that differs from the draft has a higher weight.

    If both are written ``alike``, that line is where the draft goes wrong, and most drafts have a mark there.
    """
    old, new = draft.splitlines(keepends=True), fixed.splitlines(keepends=True)
    at = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)) - 1)
    if alike and rng.random() < MARKED:
        old[at] = f"{rng.choice(MARKS)} {old[at]}"
    pieces = [("".join(old) + rng.choice(CORRECTIONS) + "\n", 0.0)]
    pieces += [("".join(new[:at]), 1.0), (new[at], CHANGE_WEIGHT), ("".join(new[at + 1 :]), 1.0)]
    return [piece for piece in pieces if piece[0]]


def own_problem(stream: str, i: int) -> task.Problem:
    """Return the ``i``-th problem that the model itself answers."""
    return task.generate(random.Random(f"own/{stream}/{i}"), OWN_DIFFICULTIES[i % len(OWN_DIFFICULTIES)], "pretrain")


def complete_answer(text: str) -> str:
    """Return the text up to its answer line, or "" if it has none or an earlier line is not a step."""
    lines = text.splitlines(keepends=True)
    end = next((i for i, line in enumerate(lines) if not task.parse_step(line)), None)
    if end is None or not lines[end].startswith(ANSWER_MARK) or not lines[end].endswith("\n"):
        return ""
    return "".join(lines[: end + 1])


def is_right(problem: task.Problem, text: str) -> bool:
    """Return whether the last number of an answer is the right one."""
    return re.findall(r"\d+", text)[-1:] == [str(problem.answer)]


class Corpus(IterableDataset):
    """An endless stream of padded batches; equal ``stream`` names give equal batches."""

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
            padding = width - len(ids)
            rows[width].append((ids + [self.tokenizer.pad_token_id] * padding, weights + [0.0] * padding))
            if len(rows[width]) == TOKENS_PER_BATCH // width:
                batch, rows[width] = rows[width], []
                yield dict(zip(("input_ids", "weights"), map(torch.tensor, zip(*batch, strict=True)), strict=True))

    def encode(self, pieces: Pieces) -> tuple[list[int], list[float]]:
        """Return the token ids and the weight of each in the loss."""
        ids, weights = [self.tokenizer.bos_token_id], [0.0]
        for text, weight in pieces:
            piece = self.tokenizer(text, add_special_tokens=False).input_ids
            ids += piece
            weights += [weight] * len(piece)
        return [*ids, self.tokenizer.eos_token_id], [*weights, 1.0]
