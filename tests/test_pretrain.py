"""The base model that ships, and the text that it was made of."""

import json
import random
from itertools import islice

from glore_lib import pretrain
from glore_lib.models import MINI_BASE, load_model, load_tokenizer
from glore_lib.solutions import BAD
from glore_lib.store import checksum
from glore_lib.tasks.arithmetic import OPERATORS, split_of


def test_the_shipped_model_is_the_one_of_its_card_and_knows_its_tables():
    card = json.loads((MINI_BASE / "card.json").read_text())
    assert checksum(MINI_BASE / "model.safetensors") == card["sha256"]
    model, tokenizer = load_model(str(MINI_BASE), "float32"), load_tokenizer(str(MINI_BASE))
    assert model.num_parameters() == card["parameters"] <= 2_000_000
    assert pretrain.fact_accuracy(model, tokenizer, every=20)["all"] >= 0.995


def test_documents_are_of_the_pretraining_split_without_the_methods_mark():
    rng = random.Random(0)
    for _ in range(200):
        pieces = pretrain.document(rng)
        assert BAD not in "".join(text for text, _ in pieces)
        if len(pieces) > 1:
            question, learned = pieces[0]
            assert not learned
            assert split_of(question.rstrip("\n")) == "pretrain"


def test_facts_are_true():
    assert all(OPERATORS[op](a, b) == c for a, op, b, c in pretrain.facts())


def test_batches_learn_what_documents_say_and_no_padding():
    tokenizer = pretrain.build_tokenizer()
    for batch in islice(pretrain.Corpus(tokenizer, "test"), 3):
        learned = batch["labels"] != -100
        assert (batch["labels"][learned] == batch["input_ids"][learned]).all()
        assert not learned[batch["input_ids"] == tokenizer.pad_token_id].any()
        assert batch["input_ids"].numel() <= pretrain.TOKENS_PER_BATCH


def test_text_survives_the_tokenizer():
    tokenizer = pretrain.build_tokenizer()
    text = "tom has 42 + 7 = 49 cards\n#### 49\n"
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text
