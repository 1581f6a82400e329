"""The generated task: an independent reader solves questions and labels steps from their text; hand-worked cases."""

import hashlib
import random
import re
from dataclasses import replace
from itertools import combinations, islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glore_lib.solutions import split_steps
from glore_lib.tasks.arithmetic import (
    DIFFICULTIES,
    HOLDERS,
    MAX_VALUE,
    Arithmetic,
    Equation,
    Problem,
    Quantity,
    generate,
    problems,
    split_of,
)

OPERATIONS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "/": lambda a, b: a / b}
OPPOSITE = {"+": "-", "-": "+", "*": "/", "/": "*"}
NUMBER_WORDS = {"twice": 2, "half": 2, "a third": 3, "a quarter": 4} | {f"{k} times": k for k in (3, 4, 5)}

GIVEN = (r"(?P<x>\w+) (?:has|owns) (?P<v>\d+) (?P<i>\w+)", r"there are (?P<v>\d+) (?P<i>\w+) with (?P<x>\w+)")
BOXES = (
    r"(?P<x>\w+) has (?P<n>\d+) boxes of (?P<m>\d+) (?P<i>\w+)",
    r"(?P<x>\w+) owns (?P<n>\d+) bags with (?P<m>\d+) (?P<i>\w+) each",
    r"(?P<x>\w+) has (?P<v>\d+) (?P<i>\w+) and buys (?P<n>\d+) boxes of (?P<m>\d+) (?P=i)",
    r"(?P<x>\w+) had (?P<v>\d+) (?P<i>\w+) and then got (?P<n>\d+) bags with (?P<m>\d+) (?P=i) each",
)
SUMS = (
    r"(?P<x>\w+) has as many (?P<i>\w+) as (?P<y>\w+) and (?P<z>\w+) together",
    r"(?P<x>\w+) owns as many (?P<i>\w+) as (?P<y>\w+) plus (?P<z>\w+)",
)
RELATIONS = {  # x has (y's amount) op k
    "+": (r"(?P<x>\w+) has (?P<k>\d+) more (?P<i>\w+) than (?P<y>\w+)",
          r"(?P<x>\w+) owns (?P<k>\d+) (?P<i>\w+) more than (?P<y>\w+)"),
    "-": (r"(?P<x>\w+) has (?P<k>\d+) fewer (?P<i>\w+) than (?P<y>\w+)",
          r"(?P<x>\w+) is (?P<k>\d+) (?P<i>\w+) short of (?P<y>\w+)"),
    "*": (r"(?P<x>\w+) has (?P<k>twice|\d times) as many (?P<i>\w+) as (?P<y>\w+)",
          r"(?P<x>\w+) owns (?P<k>twice|\d times) the (?P<i>\w+) of (?P<y>\w+)"),
    "/": (r"(?P<x>\w+) (?:has|owns) (?P<k>half|a third|a quarter) as many (?P<i>\w+) as (?P<y>\w+)",),
}  # fmt: skip
ASKS = {
    "one": (r"how many (?P<i>\w+) does (?P<x>\w+) have \?", r"find the number of (?P<i>\w+) (?P<x>\w+) has \."),
    "in all": (r"how many (?P<i>\w+) do (?P<x>\w+) and (?P<y>\w+) have in all \?",
               r"find how many (?P<i>\w+) (?P<x>\w+) and (?P<y>\w+) have together \."),
    "difference": (r"how many more (?P<i>\w+) does (?P<x>\w+) have than (?P<y>\w+) \?",),
}  # fmt: skip


def match_any(patterns: tuple[str, ...], text: str) -> dict[str, str] | None:
    return next((m.groupdict() for p in patterns if (m := re.fullmatch(p, text))), None)


def lines_for(subject: str, a: int, op: str, b: int, item: str) -> set[str]:
    """Return a step in the forms the checker must accept: both orders if the operation commutes."""
    orders = {(a, b), (b, a)} if op in "+*" else {(a, b)}
    return {f"{subject} {p} {op} {q} = {int(OPERATIONS[op](a, b))} {item}" for p, q in orders}


class Reader:
    """Solves a question from its text alone, sharing no code with the generator.

    ``ways`` maps every quantity that needs a step to the lines that state it right; ``needed`` are those the answer
    depends on.
    """

    def __init__(self, question: str):
        *sentences, self.ask = re.split(r"(?<= \.) ", question)
        self.values: dict[tuple[str, str], int] = {}
        self.ways: dict[tuple[str, str], set[str]] = {}  # (what opens the line, item) -> right lines
        self.sources: dict[tuple[str, str], set[tuple[str, str]]] = {}  # quantity -> quantities it came from
        waiting = [sentence.removesuffix(" .") for sentence in sentences]
        while waiting:
            left = [sentence for sentence in waiting if not self.read(sentence)]
            assert len(left) < len(waiting), f"nothing follows from {left} in: {question}"
            waiting = left
        self.answer_from_ask()

    def learn(self, x: str, item: str, value: float, sources: set, ways: dict[tuple[str, str], set[str]]) -> None:
        assert (x, item) not in self.values, f"{x}'s {item} are told twice"
        assert value == int(value)
        self.values[x, item], self.sources[x, item] = int(value), sources
        self.ways |= ways

    def read(self, sentence: str) -> bool:
        """Read one sentence; return False if what it depends on is not known yet."""
        if g := match_any(GIVEN, sentence):
            self.learn(g["x"], g["i"], int(g["v"]), set(), {})
            return True
        if g := match_any(BOXES, sentence):
            x, item, n, m = g["x"], g["i"], int(g["n"]), int(g["m"])
            if g.get("v"):
                v = int(g["v"])
                ways = {(f"{x} buys", item): lines_for(f"{x} buys", n, "*", m, item),
                        (f"{x} has", item): lines_for(f"{x} has", v, "+", n * m, item)}  # fmt: skip
                self.learn(x, item, v + n * m, set(), ways)
            else:
                self.learn(x, item, n * m, set(), {(f"{x} has", item): lines_for(f"{x} has", n, "*", m, item)})
            return True
        if g := match_any(SUMS, sentence):
            known = [self.values.get((g[h], g["i"])) for h in "yz"]
            if None in known:
                return False
            self.derive(g["x"], g["i"], known[0], "+", known[1], {(g["y"], g["i"]), (g["z"], g["i"])})
            return True
        for op, patterns in RELATIONS.items():
            if g := match_any(patterns, sentence):
                x, y, item = g["x"], g["y"], g["i"]
                k = NUMBER_WORDS.get(g["k"]) or int(g["k"])
                if (y, item) in self.values:
                    self.derive(x, item, self.values[y, item], op, k, {(y, item)})
                elif (x, item) in self.values:
                    self.derive(y, item, self.values[x, item], OPPOSITE[op], k, {(x, item)})
                else:
                    return False
                return True
        raise AssertionError(f"no template reads: {sentence}")

    def derive(self, x: str, item: str, a: int, op: str, b: int, sources: set) -> None:
        ways = {(f"{x} has", item): lines_for(f"{x} has", a, op, b, item)}
        self.learn(x, item, OPERATIONS[op](a, b), sources, ways)

    def answer_from_ask(self) -> None:
        kind, g = next((kind, g) for kind, p in ASKS.items() if (g := match_any(p, self.ask)))
        targets = [(g[h], g["i"]) for h in "xy" if g.get(h)]
        self.item, self.answer = g["i"], self.values[targets[0]]
        needed, waiting = set(), list(targets)
        while waiting:
            quantity = waiting.pop()
            needed.add(quantity)
            waiting += self.sources[quantity] - needed
        self.needed = {(f"{x} {verb}", item) for x, item in needed for verb in ("has", "buys")} & set(self.ways)
        if kind != "one":
            op, (a, b) = {"in all": "+", "difference": "-"}[kind], (self.values[t] for t in targets)
            self.answer = int(OPERATIONS[op](a, b))
            self.ways[kind, self.item] = lines_for(kind, a, op, b, self.item)
            self.needed.add((kind, self.item))

    def labels(self, lines: list[str]) -> list[int]:
        """Compute from the text what the documentation of ``step_labels`` promises."""
        found, intact = [], True
        for line in lines:
            well_formed = re.fullmatch(r"(\w+ (?:has|buys)|in all|difference) \d+ [-+*/] \d+ = \d+ (\w+)", line)
            if line.startswith("####"):
                intact &= line == f"#### {self.answer}"
            elif not well_formed or well_formed.groups() not in self.ways:
                intact = False
            elif well_formed.groups() in self.needed:
                intact &= line in self.ways[well_formed.groups()]
            found.append(int(intact))
        return found


def some_problems(difficulty: str, count: int, seed: int = 0) -> list[Problem]:
    return list(islice(problems(difficulty, "train", seed), count))


@pytest.fixture(scope="module", params=["hard", "easy"])
def generated(request: pytest.FixtureRequest) -> tuple[str, list[Problem]]:
    return request.param, some_problems(request.param, 400)


# --- generated problems -------------------------------------------------------------------------------------------


def test_an_independent_reader_of_the_text_finds_the_answer_and_every_reference_step(generated):
    for problem in generated[1]:
        reader = Reader(problem.question)
        *steps, last = problem.solution.split("\n")
        assert last == f"#### {reader.answer}"
        right = {line for key in reader.needed for line in reader.ways[key]}
        assert set(steps) <= right and len(steps) == len(reader.needed), problem.question


def test_reference_equations_hold_and_use_only_numbers_told_or_computed_before(generated):
    for problem in generated[1]:
        known = set(re.findall(r"\d+", problem.question)) | {str(k) for k in NUMBER_WORDS.values()}
        for line in problem.solution.split("\n")[:-1]:
            a, op, b, c = re.search(r"(\d+) ([-+*/]) (\d+) = (\d+)", line).groups()
            assert OPERATIONS[op](int(a), int(b)) == int(c)
            assert {a, b} <= known, f"{line} in: {problem.question}"
            known.add(c)
        assert c == problem.solution.split("#### ")[1]


def test_reference_solutions_are_labelled_right_throughout_and_graded_right(generated):
    task = Arithmetic(generated[0])
    for problem in generated[1]:
        assert problem.step_labels(problem.solution) == [1] * (len(problem.steps()) + 1)
        assert task.is_correct(problem.solution, str(problem.answer))


def test_steps_and_values_lie_within_the_difficultys_bounds_and_all_of_them_occur(generated):
    bounds = DIFFICULTIES[generated[0]]
    counts = {len(problem.steps()) for problem in generated[1]}
    assert counts == set(range(bounds.min_steps, bounds.max_steps + 1))
    assert counts == ({5} if generated[0] == "hard" else {3})
    for problem in generated[1]:
        assert all(1 <= e.c <= MAX_VALUE for e in problem.steps())
        assert 0 <= len(problem.quantities) - len(problem.needed) <= bounds.distractors


def test_every_kind_of_question_and_every_operation_occurs(generated):
    text = "\n".join(problem.question for problem in generated[1])
    wordings = (
        "in all ?", "together .", "how many more", "find the number", "boxes of", "bags with", "more than", "plus",
        "short of", "a quarter as", "a third as", "half as", "5 times as", "times the", "and buys", "then got",
        "there are", "owns",
    )  # fmt: skip
    assert [words for words in wordings if words not in text] == []
    assert {e.op for problem in generated[1] for e in problem.steps()} == set("+-*/")


def test_fewer_and_fractions_are_told_from_the_other_side_only_in_first_relations(generated):
    """Told to find y, "x has 5 fewer than y" makes the operation an exclusive-or of the word and of the side."""
    turned, first = [], []
    for problem in generated[1]:
        for q in problem.quantities:
            if len(q.parents) == 1:
                is_turned, op = not q.sentence.startswith(q.holder), q.equations[0].op
                (turned if problem.quantities[q.parents[0]].parents else first).append(op if is_turned else "")
    assert set(turned) == {"-", "/", ""}
    bounds = DIFFICULTIES[generated[0]]
    others = turned + [op for op in first if op not in ("+", "*")]
    assert sum(map(bool, others)) / len(others) == pytest.approx(bounds.inverse, abs=0.05)
    # Fewer than were drawn: sums and products are more often above the largest value.
    assert sum(op in ("+", "*") for op in first) / len(first) == pytest.approx(bounds.reversed, abs=0.1)
    assert {"+", "*"} <= set(first) or not bounds.reversed


def test_the_same_seed_gives_the_same_stream_and_another_seed_another():
    first = [p.question for p in some_problems("hard", 50, seed=3)]
    assert first == [p.question for p in some_problems("hard", 50, seed=3)]
    assert first[:20] == [p.question for p in some_problems("hard", 20, seed=3)]
    assert not set(first) & {p.question for p in some_problems("hard", 50, seed=4)}


def test_the_language_is_the_one_that_the_base_model_was_pre_trained_on(monkeypatch):
    """The shipped base model has read this generator's text: changed draws or templates need a new base model."""
    monkeypatch.setitem(DIFFICULTIES, "hard", replace(DIFFICULTIES["hard"], boxes=0.3, reversed=0.0))
    text = "\n".join(f"{p.question}\n{p.solution}" for d in ("hard", "easy") for p in some_problems(d, 100))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "4fa630dab1b2a0a6"


def test_splits_share_no_text_whatever_the_seeds():
    texts = {
        split: {p.question for seed in (0, 1) for d in ("hard", "easy") for p in islice(problems(d, split, seed), 150)}
        for split in ("pretrain", "train", "validation", "test")
    }
    assert all(len(found) >= 590 for found in texts.values())
    for a, b in combinations(texts, 2):
        assert not texts[a] & texts[b]
    assert all(split_of(text) == split for split, found in texts.items() for text in found)


# --- step labels: hand-worked -------------------------------------------------------------------------------------


def hand_made() -> Problem:
    """tom 3 * 4 = 12, buys and has; ann 12 + 5 = 17; ben (not needed) 12 * 2 = 24; sue is given; 17 - 8 = 9."""

    def step(subject: str, a: int, op: str, b: int, c: int, verb: str = "has") -> Equation:
        return Equation(subject, verb, a, op, b, c, "pens")

    quantities = (
        Quantity("tom", "pens", 18, "tom has 6 pens and buys 3 boxes of 4 pens .", (),
                 (step("tom", 3, "*", 4, 12, "buys"), step("tom", 6, "+", 12, 18))),
        Quantity("ann", "pens", 13, "ann has 5 fewer pens than tom .", (0,), (step("ann", 18, "-", 5, 13),)),
        Quantity("ben", "pens", 26, "ben has twice as many pens as ann .", (1,), (step("ben", 13, "*", 2, 26),)),
        Quantity("sue", "pens", 4, "sue has 4 pens ."),
    )  # fmt: skip
    ask = (step("difference", 13, "-", 4, 9, verb=""),)
    text = " ".join([q.sentence for q in quantities] + ["how many more pens does ann have than sue ?"])
    return Problem(text, quantities, needed=(0, 1, 3), ask=ask, answer=9)


BUYS, HAS, ANN, LAST, ANSWER = (
    "tom buys 3 * 4 = 12 pens", "tom has 6 + 12 = 18 pens", "ann has 18 - 5 = 13 pens",
    "difference 13 - 4 = 9 pens", "#### 9",
)  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "labels"),
    [
        pytest.param([BUYS, HAS, ANN, LAST, ANSWER], [1, 1, 1, 1, 1], id="reference"),
        pytest.param([LAST, ANN, HAS, BUYS, ANSWER], [1, 1, 1, 1, 1], id="another order"),
        pytest.param([HAS, BUYS, ANN, LAST, ANSWER], [1, 1, 1, 1, 1], id="sum before product"),
        pytest.param(["tom buys 4 * 3 = 12 pens", "tom has 12 + 6 = 18 pens"], [1, 1], id="+ and * swapped"),
        pytest.param([BUYS, HAS, "ann has 5 - 18 = 13 pens", LAST], [1, 1, 0, 0], id="- swapped"),
        pytest.param([BUYS, "tom has 6 + 4 = 10 pens", ANN, LAST, ANSWER], [1, 0, 0, 0, 0], id="a wrong operand"),
        pytest.param([BUYS, HAS, "ann has 18 + 5 = 23 pens", LAST], [1, 1, 0, 0], id="wrong operation"),
        pytest.param([BUYS, "tom has 6 + 12 = 19 pens", ANN], [1, 0, 0], id="arithmetic slip"),
        pytest.param(["tom buys 3 + 4 = 7 pens", HAS], [0, 0], id="first step wrong, never rises"),
        pytest.param(["tom buys 3 * 4 = 12 coins", HAS], [0, 0], id="an item that nobody has"),
        pytest.param(["tom has 3 * 4 = 12 pens", HAS], [0, 0], id="has for buys"),
        pytest.param([BUYS, "tom buys 6 + 12 = 18 pens"], [1, 0], id="buys for has"),
        pytest.param(["max has 3 * 4 = 12 pens"], [0], id="a holder that the question does not name"),
        pytest.param([BUYS, "in all 13 + 4 = 17 pens", ANSWER], [1, 0, 0], id="a total where a difference is asked"),
        pytest.param([BUYS, "difference 4 - 13 = 9 pens", ANSWER], [1, 0, 0], id="difference turned round"),
        pytest.param([BUYS, "ben has 13 * 2 = 26 pens", HAS, ANN, LAST, ANSWER], [1] * 6, id="a needless step, right"),
        pytest.param([BUYS, "ben has 13 + 2 = 99 pens", HAS, ANN, LAST, ANSWER], [1] * 6, id="a needless step, wrong"),
        pytest.param(["sue has 4 + 0 = 4 pens", BUYS], [0, 0], id="a step for a given quantity"),
        pytest.param([BUYS, BUYS, HAS, HAS, ANN, LAST, ANSWER, ANSWER], [1] * 8, id="repeated"),
        pytest.param([BUYS, "so it goes", HAS], [1, 0, 0], id="no step at all"),
        pytest.param([BUYS, "tom has 6 + 12 = 18", HAS], [1, 0, 0], id="a step without its item"),
        pytest.param([BUYS, HAS, ANN, LAST, "#### 8"], [1, 1, 1, 1, 0], id="wrong answer line"),
        pytest.param([BUYS, HAS, ANN, LAST, "#### 9 pens"], [1, 1, 1, 1, 0], id="answer line with a unit"),
        pytest.param(["#### 9"], [1], id="the bare answer"),
        pytest.param(["#### 8", BUYS, HAS, ANN, LAST, ANSWER], [0] * 6, id="a wrong answer is never mended"),
        pytest.param([BUYS, "tom has 6 / 0 = 18 pens"], [1, 0], id="division by nought"),
        pytest.param([f"tom buys 3 * 4 = {'9' * 5000} pens", BUYS], [0, 0], id="runaway digits"),
        pytest.param(["tom buys ٣ * 4 = 12 pens"], [0], id="digits of another script"),
    ],
)
def test_hand_worked_labels(lines: list[str], labels: list[int]):
    assert hand_made().step_labels("\n".join(lines)) == labels


def test_the_hand_made_problem_is_what_its_text_says():
    problem = hand_made()
    reader = Reader(problem.question)
    assert (reader.answer, problem.solution.split("\n")) == (9, [BUYS, HAS, ANN, LAST, ANSWER])


def test_labels_are_one_a_step_and_blank_lines_are_no_steps():
    text = f"\n{BUYS}\n\n  {HAS} \n{ANN}\n{LAST}\n{ANSWER}\n\n"
    assert hand_made().step_labels(text) == [1] * len(split_steps(text)) == [1] * 5
    assert hand_made().step_labels("") == []


# --- step labels: against the reader ------------------------------------------------------------------------------


def test_one_changed_number_breaks_a_reference_solution_from_its_step_on(generated):
    """A false equation can't be an equivalent step, so the labels are 1 before the change and 0 from it on."""
    rng = random.Random(0)
    for problem in generated[1][:150]:
        lines = problem.solution.split("\n")
        for i, line in enumerate(lines):
            for number in re.finditer(r"\d+", line):
                other = rng.choice([n for n in range(1, MAX_VALUE + 1) if n != int(number[0])])
                changed = f"{line[: number.start()]}{other}{line[number.end() :]}"
                labels = problem.step_labels("\n".join([*lines[:i], changed, *lines[i + 1 :]]))
                assert labels == [1] * i + [0] * (len(lines) - i), f"{changed} in: {problem.question}"


def test_a_true_equation_with_other_operands_breaks_too(generated):
    rng = random.Random(1)
    for problem in generated[1][:150]:
        lines = problem.solution.split("\n")
        i = rng.randrange(len(lines) - 1)
        e = problem.steps()[i]
        a, b = rng.choice([(a, e.c - a) for a in range(1, e.c) if {a, e.c - a} != {e.a, e.b}] or [(e.c, 0)])
        changed = " ".join(f"{e.subject} {e.verb} {a} + {b} = {e.c} {e.item}".split())
        assert problem.step_labels("\n".join([*lines[:i], changed, *lines[i + 1 :]]))[i:] == [0] * (len(lines) - i)


def wild_line(rng: random.Random, problem: Problem, reader: Reader) -> str:
    """Draw a line that a model might write: mostly right, or right for something else, or slightly wrong."""
    right = [line for ways in reader.ways.values() for line in ways]
    needed = [line for key in reader.needed for line in reader.ways[key]]
    line = rng.choice(rng.choices((needed, right), (4, 1))[0])
    draw = rng.random()
    if draw < 0.08:
        numbers = list(re.finditer(r"\d+", line))
        spot = rng.choice(numbers)
        return f"{line[: spot.start()]}{int(spot[0]) + rng.choice((-1, 1))}{line[spot.end() :]}"
    if draw < 0.12:
        return line.replace(line.split()[0], rng.choice(HOLDERS), 1)
    if draw < 0.15:
        return re.sub(r" [-+*/] ", lambda _: f" {rng.choice('+-*/')} ", line)
    if draw < 0.17:
        return f"{rng.choice(problem.quantities).holder} has {rng.randint(1, 9)} + 0 = 5 {reader.item}"
    if draw < 0.19:
        return rng.choice(["so", "####", "tom has pens", line + " .", line.rsplit(" ", 1)[0]])
    if draw < 0.25:
        return f"#### {reader.answer + rng.choice((0, 0, 1))}"
    return line


@given(st.integers(0, 2**32), st.sampled_from(["hard", "easy"]))
def test_labels_of_any_solution_agree_with_the_reader(seed: int, difficulty: str):
    rng = random.Random(seed)
    problem = generate(rng, DIFFICULTIES[difficulty], "train")
    reader = Reader(problem.question)
    for _ in range(20):
        lines = [wild_line(rng, problem, reader) for _ in range(rng.randint(1, 9))]
        labels = problem.step_labels("\n".join(lines))
        assert labels == reader.labels(lines), (problem.question, lines)
        assert labels == sorted(labels, reverse=True)


@given(st.integers(0, 2**32), st.text())
def test_no_text_makes_the_checker_raise(seed: int, text: str):
    problem = generate(random.Random(seed), DIFFICULTIES["easy"], "train")
    assert len(problem.step_labels(text)) == len(split_steps(text))


# --- the task as the stages see it --------------------------------------------------------------------------------


def test_questions_are_distinct_graded_and_labelled():
    task = Arithmetic("easy")
    task.check_data({})
    questions = task.questions("validation", 60, seed=5)
    assert len({q.question for q in questions}) == len({q.question_id for q in questions}) == 60
    assert [q.question_id for q in questions[:2]] == ["easy-validation-5-000000", "easy-validation-5-000001"]
    assert questions[:10] == Arithmetic("easy").questions("validation", 10, seed=5)
    for q in questions:
        assert q.split == "validation" and task.is_correct(q.reference_solution, q.reference_answer)
        assert task.exact_step_labels(q, q.reference_solution) == [1] * len(split_steps(q.reference_solution))
        assert task.exact_step_labels(q, "nonsense") == [0]


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (f"{BUYS}\n#### 12", "12"), ("#### 007", "7"), ("#### 12\n", "12"), (" #### 12 ", "12"), ("#### 0", "0"),
        ("", ""), (BUYS, ""), ("####", ""), ("#### twelve", ""), ("#### 12 pens", ""), ("#### 12\nmore", ""),
        ("#### -3", ""), (f"#### {'9' * 5000}", ""), ("#### ٣", ""), ("#### ²", ""),
    ],
)  # fmt: skip
def test_final_answers(solution: str, answer: str):
    task = Arithmetic("hard")
    assert task.final_answer(solution) == answer
    assert task.is_correct(solution, "12") is (answer == "12")


@given(st.text())
def test_grading_never_raises(text: str):
    for solution in (text, f"#### {text}"):
        assert Arithmetic("hard").is_correct(solution, "-1") is False


def test_prompts_end_with_a_newline_and_the_example_is_a_right_one_in_the_tasks_language():
    task = Arithmetic("hard")
    question = task.questions("train", 1, seed=0)[0].question
    assert task.prompt(question) == f"{question}\n"
    prompt = task.one_shot_prompt(question)
    assert prompt.endswith(f"\n{task.prompt(question)}")
    example, solution = prompt.removesuffix(f"\n\n{task.prompt(question)}").split("\n", 1)
    reader = Reader(example)
    assert reader.labels(solution.split("\n")) == [1] * 4 and len(reader.needed) == 3
    assert split_of(example) in ("pretrain", "train")
    words = {word for p in some_problems("hard", 300) for word in f"{p.question} {p.solution}".split()}
    assert set(example.split()) | set(solution.split()) <= words
    assert task.refine_prompt(question, f"[BAD] {BUYS}").endswith("\n")
    assert f"[BAD] {BUYS}\n" in task.refine_prompt(question, f"[BAD] {BUYS}")
