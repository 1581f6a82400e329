"""Solutions that share a row against the same solutions alone, and what a row looks like by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from glore_lib.models.language_model import LanguageModel
from glore_lib.models.loading import load_model
from glore_lib.models.prefix_tree import IGNORE, Labelled, collate, next_tokens, pack
from glore_lib.models.reward_head import RewardModel

FIRST = Labelled([1, 2, 3, 4], 2, {2: 1, 3: 0})
SECOND = Labelled([1, 2, 3, 5, 6], 2, {2: 0, 4: 1})


def test_a_row_by_hand():
    (row,) = pack([FIRST, SECOND, FIRST], 3, 10)
    assert row == {
        "input_ids": [1, 2, 3, 4, 5, 6],
        "parents": [-1, 0, 1, 2, 2, 4],
        "label_at": [2, 3, 2, 5, 2, 3],
        "labels": [1, 0, 0, 1, 1, 0],
        "lm_at": [1, 2, 1, 2, 4, 1, 2],
        "lm_labels": [3, 4, 3, 5, 6, 3, 4],
    }


def test_a_batch_by_hand():
    batch = {
        name: tensor.tolist()
        for name, tensor in collate([*pack([FIRST, SECOND], 2, 10), *pack([FIRST], 1, 9)], 0).items()
    }
    assert batch["input_ids"] == [[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 0, 0]]
    seen = [[j for j, sees in enumerate(row) if sees] for row in batch["visible"][0]]
    assert seen == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 4], [0, 1, 2, 4, 5]]
    assert batch["visible"][1][4] == [False] * 4 + [True, False]
    assert batch["labels"] == [[1, 0, 0, 1], [1, 0, IGNORE, IGNORE]]


def test_rows_that_do_not_branch_need_a_plain_mask_only():
    batch = collate([*pack([FIRST, FIRST], 2, 10), *pack([SECOND], 1, 9)], 0)
    assert batch["visible"].tolist() == [[True] * 4 + [False], [True] * 5]


@pytest.mark.parametrize(
    ("together", "max_length", "lengths"),
    [
        (9, 100, [7]), (1, 100, [4, 5, 4, 6]), (2, 100, [6, 7]), (9, 6, [6, 6]), (9, 3, [4, 5, 4, 6]),
    ],
)  # fmt: skip
def test_a_row_has_no_more_solutions_and_tokens_than_it_may(together, max_length, lengths):
    rows = pack([FIRST, SECOND, FIRST, Labelled([1, 2, 3, 5, 6, 7], 2, {})], together, max_length)
    assert [len(row["input_ids"]) for row in rows] == lengths
    assert sum(len(row["lm_at"]) for row in rows) == 2 + 3 + 2 + 4


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def model(request, tiny_base) -> RewardModel:
    language_model = load_model(str(tiny_base), "float32")
    language_model.set_attn_implementation(request.param)
    model = RewardModel(language_model, 0.3)
    torch.manual_seed(2)
    torch.nn.init.normal_(model.head.weight)
    return model


WORDS = st.lists(st.integers(4, 7), min_size=1, max_size=6)  # few, so that solutions begin alike


@st.composite
def questions(draw) -> list[Labelled]:
    prompt = draw(st.lists(st.integers(4, 30), min_size=1, max_size=5))
    solutions = []
    for words in draw(st.lists(WORDS, min_size=1, max_size=5)):
        places = draw(st.sets(st.integers(len(prompt), len(prompt) + len(words) - 1)))
        solutions.append(Labelled(prompt + words, len(prompt), {p: draw(st.integers(0, 1)) for p in sorted(places)}))
    return solutions


@settings(deadline=None, max_examples=30)
@given(batch=st.lists(questions(), min_size=1, max_size=3), together=st.integers(1, 5))
def test_solutions_that_share_a_row_learn_as_each_alone(model, batch, together):
    rows = [row for solutions in batch for row in pack(solutions, together, 1000)]
    logits, losses, word_losses, labels = [], [], [], []
    backbone = model.model.model
    for solution in (s for solutions in batch for s in solutions):
        hidden = backbone(input_ids=torch.tensor([solution.ids])).last_hidden_state[0]
        scores = model.head(hidden)[:, 0]
        logits += [scores[place] for place in solution.labels]
        labels += solution.labels.values()
        words = torch.tensor(solution.ids[solution.prompt_length :])
        predicted = model.model.lm_head(hidden[solution.prompt_length - 1 : -1])
        word_losses.append(cross_entropy(predicted, words, reduction="none"))
    output = model(**collate(rows, 0))
    got = [logit for row, found in zip(rows, output["logits"], strict=True) for logit in found[: len(row["labels"])]]
    assert [x.item() for x in got] == pytest.approx([x.item() for x in logits], abs=1e-4)
    if not labels:
        return
    losses = binary_cross_entropy_with_logits(torch.stack(logits), torch.tensor(labels).float())
    expected = losses + 0.3 * torch.cat(word_losses).mean()
    assert output["loss"].item() == pytest.approx(expected.item(), abs=1e-4)
    gradients = [torch.autograd.grad(loss, backbone.embed_tokens.weight)[0] for loss in (output["loss"], expected)]
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-3)


@settings(deadline=None, max_examples=30)
@given(batch=st.lists(questions(), min_size=1, max_size=3), together=st.integers(1, 5), learned=st.integers(1, 3))
def test_a_language_model_learns_solutions_that_share_a_row_as_each_alone(model, batch, together, learned):
    """The last tokens of each solution are learned. The expected loss is transformers' own, of padded sequences."""
    of_questions = [[next_tokens(s.ids, max(1, len(s.ids) - learned)) for s in solutions] for solutions in batch]
    rows = [row for solutions in of_questions for row in pack(solutions, together, 1000)]
    sequences = [s.ids for solutions in of_questions for s in solutions]
    width = max(map(len, sequences))
    ids = torch.tensor([s + [0] * (width - len(s)) for s in sequences])
    text = torch.tensor([[1] * len(s) + [0] * (width - len(s)) for s in sequences])
    firsts = torch.tensor([[max(1, len(s) - learned)] for s in sequences])
    labels = ids.masked_fill((torch.arange(width) < firsts) | (text == 0), IGNORE)
    expected = model.model(input_ids=ids, attention_mask=text, labels=labels).loss
    loss = LanguageModel(model.model)(**collate(rows, 0))["loss"]
    assert loss.item() == pytest.approx(expected.item(), abs=1e-4)
    embeddings = model.model.model.embed_tokens.weight
    gradients = [torch.autograd.grad(each, embeddings)[0] for each in (loss, expected)]
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-3)
