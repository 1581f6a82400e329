"""Generated word problems with an exact step checker: the small default task.

A problem is a small graph of quantities ("tom's apples", "ann's apples"), each given in the text or defined from
others; the question asks for one of them, a total or a difference. The graph determines the true label of every step
of any solution (see :meth:`Problem.step_labels`), which no natural data set offers.

Two difficulties stand for the paper's benchmarks: ``hard`` (five steps) for GSM8K and ``easy`` (three steps) for SVAMP.
In both, most relations are worded from the known quantity's side, and there are more irrelevant sentences than in the
base model's training data.
"""

import hashlib
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from glore_lib.solutions import ANSWER_MARK, split_steps
from glore_lib.tasks import Question

HOLDERS = ("tom", "ann", "ben", "sue", "max", "eve", "dan", "kim", "lee", "joy", "sam", "pat")
ITEMS = ("apples", "coins", "pens", "cards", "books", "eggs", "stamps", "shells")
MAX_VALUE = 99
OPERATORS: dict[str, Callable[[int, int], int | None]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a // b if b and a % b == 0 else None,
}
INVERSE = {"+": "-", "-": "+", "*": "/", "/": "*"}

# The hash buckets of each split. A question's text decides its split, so no two splits, nor the base model's
# pre-training text, share a question, whatever the seeds.
SPLIT_BUCKETS = {"pretrain": range(0, 50), "train": range(50, 75), "validation": range(75, 85), "test": range(85, 100)}

_FRACTION = {2: "half", 3: "a third", 4: "a quarter"}
_TIMES = {2: "twice", 3: "3 times", 4: "4 times", 5: "5 times"}
# Each relation is worded from the side of x, who holds (y's amount) op k. x always comes first and y last: a model
# this small would need many times the text to learn phrasings that differ in that.
_RELATIONS = {
    "+": ("{x} has {k} more {item} than {y} .", "{x} owns {k} {item} more than {y} ."),
    "-": ("{x} has {k} fewer {item} than {y} .", "{x} is {k} {item} short of {y} ."),
    "*": ("{x} has {times} as many {item} as {y} .", "{x} owns {times} the {item} of {y} ."),
    "/": ("{x} has {fraction} as many {item} as {y} .", "{x} owns {fraction} as many {item} as {y} ."),
}
_GIVEN = ("{x} has {v} {item} .", "there are {v} {item} with {x} .", "{x} owns {v} {item} .")
_BOXES = ("{x} has {n} boxes of {m} {item} .", "{x} owns {n} bags with {m} {item} each .")
_GIVEN_AND_BOXES = (
    "{x} has {v} {item} and buys {n} boxes of {m} {item} .",
    "{x} had {v} {item} and then got {n} bags with {m} {item} each .",
)
_SUM = ("{x} has as many {item} as {y} and {z} together .", "{x} owns as many {item} as {y} plus {z} .")
_ASK = {
    "one": ("how many {item} does {x} have ?", "find the number of {item} {x} has ."),
    "total": ("how many {item} do {x} and {y} have in all ?", "find how many {item} {x} and {y} have together ."),
    "difference": ("how many more {item} does {x} have than {y} ?",),
}


@dataclass(frozen=True)
class Difficulty:
    """How questions are generated. Probabilities lie in [0, 1]; steps are equations, without the answer line."""

    min_steps: int
    max_steps: int
    inverse: float  # relations worded from the known quantity's side, so that the operation must be inverted
    join: float  # quantities that are the sum of two others
    boxes: float  # nested quantities: "5 boxes of 6"
    distractors: int  # maximum number of sentences that the answer does not need
    shuffle: float  # probability that sentences are not in the order of solving
    related: int = 0  # maximum number of distractors about the item asked for, with further holders
    reversed: float = 0.0  # first relations of a chain that say "fewer" or a fraction from the known quantity's side


DIFFICULTIES = {
    "hard": Difficulty(5, 5, inverse=0.7, join=0.3, boxes=0.8, distractors=5, shuffle=1.0, related=1, reversed=0.4),
    "easy": Difficulty(3, 3, inverse=0.9, join=0.5, boxes=0.3, distractors=8, shuffle=1.0, related=2),
}


@dataclass(frozen=True)
class Equation:
    """One step: ``subject verb a op b = c item``. ``subject`` is a holder, "in all" or "difference"."""

    subject: str
    verb: str
    a: int
    op: str
    b: int
    c: int
    item: str

    def __str__(self) -> str:
        return " ".join(f"{self.subject} {self.verb} {self.a} {self.op} {self.b} = {self.c} {self.item}".split())


@dataclass(frozen=True)
class Quantity:
    """A node of the graph: who holds how many of which item, and how that is known."""

    holder: str
    item: str
    value: int
    sentence: str
    parents: tuple[int, ...] = ()
    equations: tuple[Equation, ...] = ()  # the steps that compute it from its parents; none if it is given


_NUMBER = "[0-9]{1,9}"  # bounded, because int() refuses runaway digits
_STEP = re.compile(
    rf"^(?:(?P<holder>{'|'.join(HOLDERS)}) (?P<verb>has|buys)|(?P<ask>in all|difference)) "
    rf"(?P<a>{_NUMBER}) (?P<op>[-+*/]) (?P<b>{_NUMBER}) = (?P<c>{_NUMBER}) (?P<item>{'|'.join(ITEMS)})$"
)
_ANSWER = re.compile(rf"^{ANSWER_MARK} ({_NUMBER})$")


def parse_step(line: str) -> Equation | None:
    """Return the equation on a solution's line, or None if the line is no equation."""
    match = _STEP.match(line.strip())
    if not match:
        return None
    g = match.groupdict()
    return Equation(g["holder"] or g["ask"], g["verb"] or "", int(g["a"]), g["op"], int(g["b"]), int(g["c"]), g["item"])


@dataclass(frozen=True)
class Problem:
    """A question with its graph of quantities, its answer and its exact checker."""

    question: str
    quantities: tuple[Quantity, ...]
    needed: tuple[int, ...]  # indices of the quantities that the answer depends on, in an order of solving
    ask: tuple[Equation, ...]  # the last step of a total or a difference; empty if one quantity is asked for
    answer: int

    def steps(self) -> list[Equation]:
        """Return the reference solution's equations, in the order of solving."""
        return [e for i in self.needed for e in self.quantities[i].equations] + list(self.ask)

    @property
    def solution(self) -> str:
        """Return the reference solution: one step per line, then ``#### answer``."""
        return "\n".join([*map(str, self.steps()), f"#### {self.answer}"])

    def step_labels(self, solution: str) -> list[int]:
        """Return for each step 1 while the right answer can still be reached, else 0.

        A step breaks a solution if it computes a quantity that the answer needs in any other way than the question
        states (a false equation, a wrong operand or operation), names something that is not in the question, or is
        not a step at all. Steps may come in any order, operands of + and * in either order, and a step about a
        quantity that the answer does not need, right or wrong, breaks nothing. The answer line must hold the answer.
        Labels never rise again. There is one label per step; blank lines are not steps.
        """
        valid: dict[tuple[str, str, str], set[tuple[int, str, int]]] = {}
        for i, quantity in enumerate(self.quantities):
            for e in quantity.equations:
                forms = valid.setdefault((e.subject, e.verb, e.item), set())
                if i in self.needed:
                    forms.add(_canonical(e))
            # A given quantity has no step; restating it is not a valid step.
        for e in self.ask:
            valid.setdefault((e.subject, e.verb, e.item), set()).add(_canonical(e))
        labels, intact = [], 1
        for line in split_steps(solution):
            answer = _ANSWER.match(line)
            if answer:
                intact &= int(int(answer[1]) == self.answer)
            else:
                e = parse_step(line)  # type: ignore[assignment]
                forms = valid.get((e.subject, e.verb, e.item)) if e else None  # type: ignore[assignment]
                if e is None or forms is None:
                    intact = 0
                elif forms:
                    intact &= int(_canonical(e) in forms and OPERATORS[e.op](e.a, e.b) == e.c)
            labels.append(intact)
        return labels


def _canonical(e: Equation) -> tuple[int, str, int]:
    return (min(e.a, e.b), e.op, max(e.a, e.b)) if e.op in "+*" else (e.a, e.op, e.b)


@dataclass
class _Draft:
    """A problem while it is generated."""

    rng: random.Random
    difficulty: Difficulty
    item: str
    holders: list[str]
    quantities: list[Quantity] = field(default_factory=list)

    def value(self, i: int) -> int:
        return self.quantities[i].value

    def add(
        self, templates: tuple[str, ...], value: int, parents: tuple[int, ...] = (),
        equations: Iterable[Equation] = (), **words: object,
    ) -> int:  # fmt: skip
        holder = self.holders.pop()
        sentence = self.rng.choice(templates).format(**{"x": holder, "item": self.item} | words)
        self.quantities.append(Quantity(holder, self.item, value, sentence, parents, tuple(equations)))
        return len(self.quantities) - 1

    def given(self) -> int:
        v = self.rng.randint(2, 60)
        return self.add(_GIVEN, v, v=v)

    def boxes(self) -> int:
        n, m = self.rng.randint(2, 9), self.rng.randint(2, 9)
        return self.add(_BOXES, n * m, equations=[self.step(n, "*", m)], n=n, m=m)

    def given_and_boxes(self) -> int:
        n, m, v = self.rng.randint(2, 6), self.rng.randint(2, 9), self.rng.randint(2, 40)
        equations = [self.step(n, "*", m, "buys"), self.step(v, "+", n * m)]
        return self.add(_GIVEN_AND_BOXES, v + n * m, equations=equations, v=v, n=n, m=m)

    def step(self, a: int, op: str, b: int, verb: str = "has") -> Equation:
        """Return an equation about the quantity that is added next."""
        return Equation(self.holders[-1], verb, a, op, b, OPERATORS[op](a, b) or 0, self.item)

    def related(self, y: int) -> int:
        """Add a quantity defined from quantity ``y`` by one operation, its value within bounds."""
        base = self.value(y)
        # Worded from y's side, "y has k more than x" states the inverse of the operation that computes x. "Fewer" and
        # fractions make that operation an exclusive-or of the word and the side asked for, which the base model has
        # never seen and a model this small learns slowly: only the first relation of a chain may use them.
        first = self.difficulty.reversed > 0 and not self.quantities[y].parents
        reversed_ = first and self.rng.random() < self.difficulty.reversed
        inverse = reversed_ or (base > 2 and self.rng.random() < self.difficulty.inverse)
        weights = (3, 3, 5, 5) if reversed_ else (0, 3, 3, 5) if inverse else (4, 8, 11, 13)
        while True:
            op = self.rng.choices("+-*/", cum_weights=weights)[0]
            told = INVERSE[op] if inverse else op
            k = self.rng.randint(2, {"*": 5, "/": 4}.get(told, 30))
            if 1 <= (OPERATORS[op](base, k) or 0) <= MAX_VALUE:
                break
        equation = self.step(base, op, k)
        words = {"k": k, "times": _TIMES.get(k), "fraction": _FRACTION.get(k), "y": self.quantities[y].holder}
        if inverse:
            words |= {"x": self.quantities[y].holder, "y": self.holders[-1]}
        return self.add(_RELATIONS[told], equation.c, (y,), [equation], **words)

    def joined(self, y: int, z: int) -> int:
        equation = self.step(self.value(y), "+", self.value(z))
        words = {"y": self.quantities[y].holder, "z": self.quantities[z].holder}
        return self.add(_SUM, equation.c, (y, z), [equation], **words)

    def source(self) -> int:
        """Add a quantity that depends on no other."""
        r = self.rng.random()
        if r < self.difficulty.boxes / 2:
            return self.boxes()
        return self.given_and_boxes() if r < self.difficulty.boxes else self.given()

    def grow(self) -> int:
        """Add a quantity, most often defined from the last one, so that chains get long."""
        rng, n = self.rng, len(self.quantities)
        if rng.random() < 0.15:
            return self.source()
        y = n - 1 if rng.random() < 0.75 else rng.randrange(n)
        if n > 1 and rng.random() < self.difficulty.join:
            return self.joined(y, rng.choice([z for z in range(n) if z != y]))
        return self.related(y)

    def count_steps(self, indices: tuple[int, ...]) -> int:
        return sum(len(self.quantities[i].equations) for i in indices)

    def ancestors(self, targets: tuple[int, ...]) -> tuple[int, ...]:
        """Return the quantities that ``targets`` depend on, parents first."""
        order: list[int] = []

        def visit(i: int) -> None:
            if i not in order:
                for parent in self.quantities[i].parents:
                    visit(parent)
                order.append(i)

        for target in sorted(targets):
            visit(target)
        return tuple(order)


def _attempt(rng: random.Random, difficulty: Difficulty) -> Problem | None:
    """Draw a problem; return None if it is not within the bounds."""
    steps = rng.randint(difficulty.min_steps, difficulty.max_steps)
    item, other_item = rng.sample(ITEMS, 2)
    draft = _Draft(rng, difficulty, item, rng.sample(HOLDERS, len(HOLDERS)))
    kind = rng.choices(("one", "total", "difference"), (6, 3, 1))[0]
    targets: tuple[int, ...] = (draft.source(),)
    needed = draft.ancestors(targets)
    while draft.count_steps(needed) + (kind != "one") != steps or len(targets) < 1 + (kind != "one"):
        if len(draft.quantities) > steps + 2:
            return None
        last = draft.grow()
        if draft.value(last) > MAX_VALUE:
            return None
        targets = (last,) if kind == "one" else (last, rng.randrange(last))
        needed = draft.ancestors(targets)
    ask: tuple[Equation, ...] = ()
    if kind != "one":
        targets = tuple(sorted(targets, key=draft.value, reverse=True))
        op, name = ("+", "in all") if kind == "total" else ("-", "difference")
        a, b = map(draft.value, targets)
        answer = a + b if kind == "total" else a - b
        if not 1 <= answer <= MAX_VALUE:
            return None
        ask = (Equation(name, "", a, op, b, answer, item),)
    spare = difficulty.distractors - (len(draft.quantities) - len(needed))
    if spare < 0:
        return None
    for _ in range(rng.randint(0, min(spare, difficulty.related)) if difficulty.related else 0):
        spare -= 1
        if draft.value(draft.grow()) > MAX_VALUE:
            return None
    sentences = [q.sentence for q in draft.quantities]
    for holder in rng.sample([q.holder for q in draft.quantities], min(rng.randint(0, spare), len(draft.quantities))):
        sentences.append(rng.choice(_GIVEN).format(x=holder, v=rng.randint(2, 60), item=other_item))
    if rng.random() < difficulty.shuffle:
        rng.shuffle(sentences)
    answer = ask[0].c if ask else draft.value(targets[0])
    holders = [draft.quantities[t].holder for t in targets]
    question = rng.choice(_ASK[kind]).format(x=holders[0], y=holders[-1], item=item)
    return Problem(" ".join([*sentences, question]), tuple(draft.quantities), needed, ask, answer)


def generate(rng: random.Random, difficulty: Difficulty, split: str) -> Problem:
    """Draw a problem of ``difficulty`` whose text belongs to ``split``."""
    while True:
        problem = _attempt(rng, difficulty)
        if problem and split_of(problem.question) == split:
            return problem


def split_of(question: str) -> str:
    """Return the split that a question's text belongs to."""
    bucket = int.from_bytes(hashlib.sha256(question.encode()).digest()[:4], "big") % 100
    return next(name for name, buckets in SPLIT_BUCKETS.items() if bucket in buckets)


def problems(difficulty: str, split: str, seed: int) -> Iterator[Problem]:
    """Yield distinct problems without end, the same for the same arguments."""
    seen: set[str] = set()
    rng = random.Random(f"{difficulty}/{split}/{seed}")
    while True:
        problem = generate(rng, DIFFICULTIES[difficulty], split)
        if problem.question not in seen:
            seen.add(problem.question)
            yield problem


# A worked example, written by hand; its question belongs to neither the validation nor the test split.
_EXAMPLE = """\
tom has 3 boxes of 4 pens . ann has 5 more pens than tom . how many pens do ann and tom have in all ?
tom has 3 * 4 = 12 pens
ann has 12 + 5 = 17 pens
in all 17 + 12 = 29 pens
#### 29"""


class Arithmetic:
    """The generated task, a :class:`glore_lib.tasks.Task`."""

    def __init__(self, difficulty: str):
        self.difficulty = difficulty
        bounds = DIFFICULTIES[difficulty]
        steps = " or ".join(map(str, sorted({bounds.min_steps, bounds.max_steps})))
        self.caption = f"generated word problems, {difficulty} ({steps} steps)"
        self._problems: dict[str, Problem] = {}

    def check_data(self, counts: Mapping[str, int]) -> None:
        """Do nothing: questions are generated."""

    def questions(self, split: str, count: int, seed: int) -> list[Question]:
        """Return the first ``count`` problems of a split and seed."""
        found = []
        for i, problem in zip(range(count), problems(self.difficulty, split, seed), strict=False):
            self._problems[problem.question] = problem
            question_id = f"{self.difficulty}-{split}-{seed}-{i:06d}"
            found.append(Question(question_id, split, problem.question, str(problem.answer), problem.solution))
        return found

    def prompt(self, question: str) -> str:
        """Return the question and a newline."""
        return f"{question}\n"

    def one_shot_prompt(self, question: str) -> str:
        """Return the prompt after a worked example and a blank line."""
        return f"{_EXAMPLE}\n\n{self.prompt(question)}"

    def refine_prompt(self, question: str, marked_draft: str) -> str:
        """Return the question, the marked draft and a line that asks for a solution."""
        return f"{question}\n{marked_draft}\nsolution :\n"

    def final_answer(self, solution: str) -> str:
        """Return the whole number on the last line if that is ``#### number``, else ""."""
        match = _ANSWER.match(solution.strip().rsplit("\n", 1)[-1].strip())
        return str(int(match[1])) if match else ""

    def is_correct(self, solution: str, reference_answer: str) -> bool:
        """Return whether the final answer equals the reference."""
        return self.final_answer(solution) == reference_answer

    def exact_step_labels(self, question: Question, solution: str) -> list[int]:
        """Return the true label of every step of a question from this object's :meth:`questions`."""
        return self._problems[question.question].step_labels(solution)
