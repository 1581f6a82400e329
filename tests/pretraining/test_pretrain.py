"""Check the base model that ships with the library and the text that it was trained on."""

import json
import math
import random
import re
from collections import Counter
from itertools import islice
from types import SimpleNamespace

import pytest
import torch

from glore_lib.artifacts.records import checksum
from glore_lib.models.loading import load_model
from glore_lib.models.sources import MINI_BASE
from glore_lib.models.tokens import load_tokenizer
from glore_lib.pretraining import corpus, pretrain
from glore_lib.solutions import ANSWER_MARK, BAD, split_steps
from glore_lib.tasks.arithmetic import DIFFICULTIES, OPERATORS, Arithmetic, Problem, generate, parse_step, split_of


def test_shipped_model_matches_its_card_and_knows_the_arithmetic_facts():
    card = json.loads((MINI_BASE / "card.json").read_text())
    assert checksum(MINI_BASE / "model.safetensors") == card["sha256"]
    model, tokenizer = load_model(str(MINI_BASE), "float32"), load_tokenizer(str(MINI_BASE))
    assert model.num_parameters() == card["parameters"] <= 2_000_000
    assert pretrain.fact_accuracy(model, tokenizer, every=20)["all"] >= 0.995


def test_documents_are_of_the_pretraining_split_without_the_methods_mark():
    rng = random.Random(0)
    for _ in range(200):
        pieces = corpus.document(rng)
        assert BAD not in "".join(text for text, _ in pieces)
        question, weight = pieces[0]
        if question.count("\n") == 1:  # else a page of arithmetic
            assert weight == 0
            assert split_of(question.rstrip("\n")) == "pretrain"


def test_no_question_of_another_split_is_in_the_pretraining_text(own, reliability):
    rng = random.Random(0)
    documents = [corpus.document(rng, answers) for answers in (None, own) for _ in range(1000)]
    read = {line for pieces in documents for text, _ in pieces for line in text.split("\n")}
    for difficulty in DIFFICULTIES:
        for split in ("train", "validation", "test"):
            asked = {q.question for q in Arithmetic(difficulty).questions(split, 600, 0)}
            assert not asked & read
            assert {split_of(question) for question in asked} == {split}
            reliability("pre-training text: questions of train, validation or test", "none found", tried=600)


@pytest.fixture(scope="module")
def own() -> dict[bool, list[tuple[Problem, str]]]:
    """Return answers like a model's: a reference solution, and one whose second step is wrong."""
    rng = random.Random(0)
    answers = {True: [], False: []}
    while len(answers[False]) < 20:
        problem = generate(rng, corpus.OWN_DIFFICULTIES[1], "pretrain")
        steps = split_steps(problem.solution)
        wrong = "\n".join([steps[0], steps[1].rsplit("=", 1)[0] + "= 1 pens", *steps[2:-1], "#### 199"]) + "\n"
        answers[True].append((problem, problem.solution + "\n"))
        answers[False].append((problem, wrong))
    return answers


def test_own_answers_are_graded_unchanged_and_corrected_from_their_first_error_on(own):
    rng, kinds = random.Random(0), Counter()
    for _ in range(400):
        pieces = corpus.document(rng, own)
        (text, weight), *rest = pieces[1:] or [("", 1.0)]
        unmarked, marked = _unmarked(text)
        answer = next((a for a in (False, True) for _, t in own[a] if unmarked.startswith(t)), None)
        if weight or answer is None:
            continue
        problem, draft = next((p, t) for p, t in own[answer] if unmarked.startswith(t))
        if len(rest) == 1 and rest[0][1] == corpus.VERDICT_WEIGHT:
            assert rest[0][0].rstrip("\n") in {v[not answer] for v in corpus.VERDICTS}
            assert not marked
            kinds["judged", answer] += 1
        else:
            assert not answer
            fixed = "".join(t for t, _ in rest)
            assert all(problem.step_labels(fixed))
            assert split_steps(fixed)[0] == split_steps(draft)[0]
            (changed,) = [t for t, w in rest if w == corpus.CHANGE_WEIGHT]
            assert changed == fixed.splitlines(keepends=True)[1]
            assert marked in ([], [1]), "the mark stands where the draft goes wrong, or nowhere"
            kinds["corrected", bool(marked)] += 1
    assert kinds["judged", True] and kinds["judged", False]
    assert kinds["corrected", True] > kinds["corrected", False] > 0


def _unmarked(text: str) -> tuple[str, list[int]]:
    """Return the text without the marks before its lines, and the numbers of the marked lines."""
    lines = [re.sub(rf"^({'|'.join(map(re.escape, corpus.MARKS))}) (?=.* = |####)", "", x) for x in text.split("\n")]
    return "\n".join(lines), [i for i, (a, b) in enumerate(zip(lines, text.split("\n"), strict=True)) if a != b]


def test_a_generated_draft_is_marked_only_where_its_correction_is_written_like_it():
    rng, seen = random.Random(0), Counter()
    for _ in range(3000):
        pieces = corpus.document(rng)
        if not any(weight == corpus.CHANGE_WEIGHT for _, weight in pieces):
            continue
        draft, marked = _unmarked(pieces[1][0])
        fixed = "".join(text for text, _ in pieces[2:])
        same = 0
        for a, b in zip(draft.split("\n"), fixed.split("\n"), strict=False):
            if a != b:
                break
            same += 1
        assert not marked or marked == [same]
        seen[bool(marked)] += 1
    assert seen[True] > 50 and seen[False] > 50


def test_edited_page_changes_exactly_the_marked_lines_and_marks_only_false_ones():
    rng, seen = random.Random(0), Counter()
    for _ in range(200):
        (before, read), (after, learned) = corpus.edited_page(rng)
        assert (read, learned) == (0, 1)
        *lines, heading = before.splitlines()
        text, marked = _unmarked("\n".join(lines))
        expected = []
        for i, line in enumerate(text.split("\n")):
            a, op, b, c = re.search(r"(\d+) (.) (\d+) = (\d+)", line).groups()
            true = OPERATORS[op](int(a), int(b))
            seen[i in marked, int(c) == true] += 1
            if i not in marked:
                expected.append(line)
            elif heading != corpus.STRUCK:
                expected.append(line.replace(f"= {c}", f"= {true}"))
        assert after.splitlines() == expected
    assert seen[True, True] == 0
    assert min(seen[True, False], seen[False, True], seen[False, False]) > 100


def test_edited_steps_change_exactly_the_marked_lines_and_mark_only_wrong_ones():
    rng, seen = random.Random(0), Counter()
    for _ in range(200):
        problem = generate(rng, corpus.DIFFICULTIES[2], "pretrain")
        (question, _), (before, _), (after, learned) = corpus.edited_steps(rng, problem)
        assert (question, learned) == (problem.question + "\n", 1)
        text, marked = _unmarked("\n".join(before.splitlines()[:-1]))
        true = [str(e) for e in problem.steps()]
        for i, (old, new) in enumerate(zip(text.split("\n"), after.splitlines(), strict=True)):
            assert new == (true[i] if i in marked else old)
            seen[i in marked, old == true[i]] += 1
    assert seen[True, True] == 0
    assert min(seen[True, False], seen[False, True], seen[False, False]) > 100


def test_documents_with_own_answers_are_in_the_tasks_own_style(own):
    rng = random.Random(0)
    for _ in range(400):
        pieces = corpus.document(rng, own)
        if pieces[0][0].count("\n") > 1:
            continue  # a page of arithmetic
        for line in split_steps("".join(text for text, weight in pieces[1:] if weight <= corpus.CHANGE_WEIGHT)):
            words = _unmarked(line)[0]
            loose = (*corpus.CORRECTIONS, *corpus.EDITS, "1 pens", ANSWER_MARK)
            assert parse_step(words) or any(form in words for form in loose), line


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("tom has 1 + 1 = 2 pens\n#### 2\nright\n", "tom has 1 + 1 = 2 pens\n#### 2\n"),
        ("tom has 1 + 1 = 2 pens\n#### 2", ""),  # cut off
        ("tom : 1 + 1 = 2\n#### 2\n", ""),
        ("tom has 1 + 1 = 2 pens\nanswer : 2\n", ""),
        ("tom has 1 + 1 = 2 pens\n", ""),
        ("", ""),
    ],
)
def test_own_answers_are_complete_and_in_the_tasks_style(text, kept):
    assert corpus.complete_answer(text) == kept


def test_a_correction_keeps_what_is_right_in_any_order():
    problem = generate(random.Random(3), corpus.OWN_DIFFICULTIES[1], "pretrain")
    steps = split_steps(problem.solution)
    for kept in range(len(steps)):
        draft = "\n".join([*steps[:kept], "what is this", "#### 1"])
        assert corpus.corrected(problem, draft) == problem.solution + "\n"


def test_pretraining_in_two_parts(tmp_path):
    """Take a few real steps. An untrained model completes no answer, so the second part is like the first."""
    card = pretrain.pretrain(tmp_path, steps=3, compile=False)
    assert (card["steps"], card["own_answers"]) == (1, 0)
    assert json.loads((tmp_path / "first" / "card.json").read_text())["steps"] == 2
    assert checksum(tmp_path / "model.safetensors") == card["sha256"]
    assert load_model(str(tmp_path), "float32").num_parameters() == card["parameters"]


def test_facts_are_true():
    assert all(OPERATORS[op](a, b) == c for a, op, b, c in corpus.facts())


def test_right_solutions_end_with_the_answer_and_wrong_ones_do_not():
    rng = random.Random(0)
    for i in range(300):
        problem = generate(rng, corpus.DIFFICULTIES[i % 3], "pretrain")
        for wrong in (False, True):
            text = corpus.write_solution(rng, problem, wrong)
            assert (int(re.findall(r"\d+", text)[-1]) != problem.answer) == wrong, f"{problem.question}\n{text}"


def test_the_loss_is_the_weighted_mean_over_tokens():
    logits = torch.tensor([[[0.0, 1.0], [2.0, 0.0], [0.0, 0.0]]])  # the last one predicts nothing

    def model(input_ids):
        return SimpleNamespace(logits=logits)

    inputs = {"input_ids": torch.tensor([[0, 1, 0]]), "weights": torch.tensor([[5.0, 1.0, 3.0]])}
    loss = pretrain.PretrainingTrainer.compute_loss(None, model, inputs)
    first, second = math.log(1 + math.exp(-1)), math.log(1 + math.exp(-2))
    assert loss.item() == pytest.approx((1 * first + 3 * second) / 4)


def test_batches_learn_what_documents_say_and_no_padding():
    tokenizer = pretrain.build_tokenizer()
    for batch in islice(corpus.Corpus(tokenizer, "test"), 3):
        weights = batch["weights"]
        assert set(weights.unique().tolist()) <= {0.0, 1.0, corpus.CHANGE_WEIGHT, corpus.VERDICT_WEIGHT}
        assert not weights[batch["input_ids"] == tokenizer.pad_token_id].any()
        assert (weights[batch["input_ids"] == tokenizer.eos_token_id] == 1).all()
        assert batch["input_ids"].numel() <= corpus.TOKENS_PER_BATCH


def test_text_survives_the_tokenizer():
    tokenizer = pretrain.build_tokenizer()
    text = "tom has 42 + 7 = 49 cards\n#### 49\n"
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text
