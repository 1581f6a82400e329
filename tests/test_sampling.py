"""The transformers backend against transformers' own decoding, known distributions, and its own promises."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import LlamaConfig, LlamaForCausalLM

from glore_lib.models import encode
from glore_lib.params import ParamsError
from glore_lib.sampling import Completion, Request
from glore_lib.sampling.transformers import TransformersSampler
from glore_lib.tasks.arithmetic import Arithmetic

QUESTIONS = Arithmetic("easy").questions("train", 6, 0)


class FewWords(LlamaForCausalLM):
    """Knows few words, the end among them, so that its samples end, each at its own time."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits[..., 60:] = -torch.inf
        output.logits[..., self.config.eos_token_id] += 1.0
        return output


def build(tokenizer, heads: int, kv_heads: int, attention: str, of: type = LlamaForCausalLM) -> LlamaForCausalLM:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=heads,
        num_key_value_heads=kv_heads, initializer_range=0.2, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, tie_word_embeddings=False,
        attn_implementation=attention,
    )  # fmt: skip
    return of(config).eval()


@pytest.fixture(
    scope="module", params=[(2, 2), (4, 2), (4, 1)], ids=["every head its own keys", "grouped", "one for all"]
)
def models(request, tokenizer) -> tuple[LlamaForCausalLM, LlamaForCausalLM]:
    """A model to sample, and the same one with the attention that transformers writes out."""
    return build(tokenizer, *request.param, "sdpa"), build(tokenizer, *request.param, "eager")


@pytest.fixture(scope="module")
def model(tokenizer) -> LlamaForCausalLM:
    return build(tokenizer, 4, 2, "sdpa", FewWords)


@pytest.fixture(scope="module")
def prompts(tokenizer) -> list[tuple[int, ...]]:
    """Prompts of six lengths, from 3 tokens on."""
    questions = [tuple(encode(tokenizer, q.question + "\n").ids) for q in QUESTIONS]
    return [prompt[:end] for prompt, end in zip(questions, (3, 9, 14, 17, 21, None), strict=True)]


def sample(model, tokenizer, requests, rows=64, temperature=1.0, limit=12) -> list[list[Completion]]:
    return TransformersSampler(model, tokenizer, rows).sample(requests, temperature, limit, "test")


def continued(prompts) -> list[Request]:
    """As rollouts are asked for: three questions, each with nothing, one and two pieces of text after it."""
    return [
        Request(question + rest, n, seed=i, common=len(question))
        for i, (question, rest, n) in enumerate(
            (question, prompts[5][:end], n) for question in prompts[1:4] for end, n in ((0, 2), (2, 1), (7, 3))
        )
    ]


@pytest.mark.parametrize("rows", [1, 4, 64])
def test_greedy_is_transformers_generate(models, tokenizer, prompts, rows):
    model, reference = models
    requests = [Request(p, 2, seed=i) for i, p in enumerate(prompts)] + continued(prompts)
    got = sample(model, tokenizer, requests, rows, 0.0, 20)
    for request, completions in zip(requests, got, strict=True):
        ids = torch.tensor([request.prompt])
        expected = reference.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20)
        text = tokenizer.decode(expected[0, len(request.prompt) :], skip_special_tokens=True)
        assert [c.text for c in completions] == [text] * request.n
    assert len({completions[0].text for completions in got}) > 8


@pytest.mark.parametrize("rows", [2, 64])
def test_what_is_read_once_changes_no_sample(model, tokenizer, prompts, rows):
    requests = continued(prompts)
    expected = [sample(model, tokenizer, [request])[0] for request in requests]
    assert sample(model, tokenizer, requests, rows) == expected
    every = [c for completions in expected for c in completions]
    assert len({c.text for c in every}) > 12
    assert len({c.tokens for c in every if c.finished}) > 3


def test_where_the_end_pads_a_sample_does_not_depend_on_what_is_asked_beside_it(llama2_tokenizer):
    prompts = [tuple(encode(llama2_tokenizer, q.question[: 9 * i] + "\n").ids) for i, q in enumerate(QUESTIONS)]
    requests = [Request(prompt, 3, seed=i) for i, prompt in enumerate(prompts)]
    model = build(llama2_tokenizer, 4, 2, "sdpa", FewWords)
    together = sample(model, llama2_tokenizer, requests)
    assert [sample(model, llama2_tokenizer, [request])[0] for request in requests] == together
    assert len({c.tokens for completions in together for c in completions if c.finished}) > 2


def test_too_little_memory_is_told_in_one_line(model, tokenizer, prompts, monkeypatch):
    def forward(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation")

    monkeypatch.setattr(model, "forward", forward)
    message = r"^sampling\.rows = 64: out of memory \(CUDA out of memory. Tried to allocate 2.00 GiB.\); lower it$"
    with pytest.raises(ParamsError, match=message):
        sample(model, tokenizer, [Request(prompts[0], 1, seed=0)])


def test_a_sample_does_not_depend_on_what_is_asked_beside_it(model, tokenizer, prompts):
    requests = [Request(p, n, seed=7 + i) for i, (p, n) in enumerate(zip(prompts, (1, 5, 2, 3, 1, 4), strict=True))]
    together = sample(model, tokenizer, requests)
    assert [len(completions) for completions in together] == [1, 5, 2, 3, 1, 4]
    for rows in (1, 3, 7):
        assert sample(model, tokenizer, requests, rows) == together
    assert [sample(model, tokenizer, [request])[0] for request in requests] == together
    order = random.Random(0).sample(range(6), 6)
    assert sample(model, tokenizer, [requests[i] for i in order], 5) == [together[i] for i in order]
    every = [c for completions in together for c in completions]
    assert len({c.text for c in every}) > 10
    assert len({c.tokens for c in every if c.finished}) > 3


def test_the_tail_of_a_larger_request_is_the_request_that_begins_there(model, tokenizer, prompts):
    (whole,) = sample(model, tokenizer, [Request(prompts[2], 8, seed=3)])
    for first, n in ((0, 1), (1, 1), (2, 2), (4, 4)):
        (part,) = sample(model, tokenizer, [Request(prompts[2], n, seed=3, first=first)])
        assert part == whole[first : first + n]


def test_the_seed_makes_the_sample(model, tokenizer, prompts):
    def of(seed: int) -> list[Completion]:
        return sample(model, tokenizer, [Request(prompts[1], 3, seed)])[0]

    assert of(1) == of(1)
    assert of(1) != of(2)


@pytest.mark.parametrize("setting", [{"sliding_window": 8}, {"attn_logit_softcapping": 30.0}])
def test_attention_that_is_not_plain_is_refused(tokenizer, prompts, setting):
    model = build(tokenizer, 2, 2, "sdpa")
    for name, value in setting.items():
        setattr(model.config, name, value)
    with pytest.raises(ParamsError, match=r"^base_model\.source: llama .* can't sample it$"):
        sample(model, tokenizer, continued(prompts))


def test_nothing_asked_nothing_given(model, tokenizer):
    assert sample(model, tokenizer, []) == []


class Markov:
    """A model of known behaviour: the next token's logits depend on the last token alone. ``widths`` keeps how many
    rows each forward pass had."""

    device = torch.device("cpu")
    config = LlamaConfig(num_hidden_layers=1)

    def __init__(self, tokenizer, follows: dict[str, dict[str, float]]):
        size = len(tokenizer)
        self.table, self.widths = torch.full((size, size), -torch.inf), []
        for token, nexts in follows.items():
            for following, logit in nexts.items():
                self.table[tokenizer.convert_tokens_to_ids(token), tokenizer.convert_tokens_to_ids(following)] = logit

    def eval(self) -> "Markov":
        return self

    def set_attn_implementation(self, name: str) -> None:
        pass

    def __call__(self, input_ids: torch.Tensor, **_) -> SimpleNamespace:
        self.widths.append(len(input_ids))
        return SimpleNamespace(logits=self.table[input_ids[:, -1:]])


def scripted(tokenizer, text: str) -> Markov:
    """A model that writes one text, word by word; no word may come twice."""
    words = text.split(" ")
    assert len(set(words)) == len(words)
    return Markov(tokenizer, {a: {b: 0.0} for a, b in zip(["tom", *words], words, strict=False)})


def prompt_of(tokenizer, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text).input_ids)


@pytest.mark.parametrize(
    ("writes", "limit", "text", "finished", "tokens"),
    [
        pytest.param("has 3 \n #### 5 </s>", 20, "has 3\n#### 5", True, 6, id="end of sequence"),
        pytest.param("</s> has", 20, "", True, 1, id="end of sequence at once"),
        pytest.param("#### 5 \n has 3", 20, "#### 5\n", True, 3, id="the answer's line ends it"),
        pytest.param("has #### 5 \n 3", 20, "has #### 5\n", True, 4, id="wherever the mark stands in it"),
        pytest.param("has 3 = 4 5", 3, "has 3 =", False, 3, id="token limit"),
        pytest.param("has 3 \n #### 5 6", 5, "has 3\n#### 5", False, 5, id="limit before the answer's line has ended"),
        pytest.param("has 3 </s> 5", 3, "has 3", True, 3, id="ends with the last token allowed"),
        pytest.param("#### 5 \n 6", 3, "#### 5\n", True, 3, id="the line ends with the last token allowed"),
    ],
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_how_completions_end(tokenizer, writes, limit, text, finished, tokens, temperature):
    requests = [Request(prompt_of(tokenizer, "ann tom"), 2, 0)]
    (completions,) = sample(scripted(tokenizer, writes), tokenizer, requests, 8, temperature, limit)
    assert completions == [written(tokenizer, text, finished, tokens)] * 2


def test_a_mark_in_the_prompt_ends_nothing(tokenizer):
    requests = [Request(prompt_of(tokenizer, "#### 5\ntom"), 1, 0)]
    ((completion,),) = sample(scripted(tokenizer, "has 3 \n </s>"), tokenizer, requests)
    assert completion == Completion("has 3\n", True, 4)


def test_only_the_line_with_the_mark_ends_a_completion(tokenizer):
    """Lines before it don't, and neither does a mark seen in an earlier line once that is over."""
    model = Markov(
        tokenizer, {"tom": {"has": 0.0}, "has": {"\n": 0.0}, "\n": {"3": 0.0}, "3": {"####": 0.0}, "####": {"5": 0.0},
        "5": {"\n": 0.0}},
    )  # fmt: skip
    ((completion,),) = sample(model, tokenizer, [Request(prompt_of(tokenizer, "tom"), 1, 0)], temperature=0.0)
    assert completion == Completion("has\n3 #### 5\n", True, 6)


def test_prompts_that_extend_each_other_are_read_as_one(tokenizer):
    model = scripted(tokenizer, "has 3 5 </s>")
    texts = ["ann tom", "ann tom has", "ann tom has 3", "ann tom 4 3"]
    requests = [Request(prompt_of(tokenizer, text), 1, 0, common=2) for text in texts]
    answers = sample(model, tokenizer, requests)
    # What all begin with; "tom has" and "tom 4"; four rows until the first two of them end.
    assert model.widths[:4] == [1, 2, 4, 4]
    assert [c.text for (c,) in answers] == ["has 3 5", "3 5", "5", "5"]


def test_finished_rows_leave_the_batch(tokenizer):
    follows = {"tom": {"</s>": 0.0}, "ann": {"has": 0.0}, "has": {"has": 0.0}}
    model = Markov(tokenizer, follows)
    requests = [Request(prompt_of(tokenizer, name), 4, 0) for name in ("tom", "ann")]
    tom, ann = sample(model, tokenizer, requests, rows=8, limit=5)
    # What both prompts begin with, once; their last tokens, in every row; then only ann's four rows.
    assert model.widths == [1, 8, 4, 4, 4, 4]
    assert tom == [Completion("", True, 1)] * 4
    assert ann == [Completion("has has has has has", False, 5)] * 4


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_sampled_frequencies_are_the_softmax(tokenizer, temperature):
    logits = {"has": 2.0, "had": 1.0, "owns": 0.0, "is": -1.0, "are": -0.5, "there": 0.25}
    follows = {"tom": logits, "has": {"3": 0.0, "4": 1.0}} | {
        w: {"</s>": 0.0} for w in [*logits, "3", "4"] if w != "has"
    }
    n = 4000
    request = Request(prompt_of(tokenizer, "tom"), n, seed=5)
    (completions,) = sample(Markov(tokenizer, follows), tokenizer, [request], n, temperature, 3)
    words = [c.text.split() for c in completions]
    weights = np.exp(np.array(list(logits.values())) / temperature)
    observed = [sum(w[0] == word for w in words) for word in logits]
    assert chisquare(observed, n * weights / weights.sum()).pvalue > 0.001
    seconds = [w[1] for w in words if w[0] == "has"]  # drawn anew: not from the first token's random number
    four = np.exp(1 / temperature) / (1 + np.exp(1 / temperature))
    expected = np.array([1 - four, four]) * len(seconds)
    assert chisquare([seconds.count("3"), seconds.count("4")], expected).pvalue > 0.001


def test_requests_of_the_same_prompt_with_other_seeds_are_independent(tokenizer):
    model = Markov(tokenizer, {"tom": {"has": 0.0, "had": 0.0}})
    requests = [Request(prompt_of(tokenizer, "tom"), 1, seed) for seed in range(2000)]
    texts = [c.text for (c,) in sample(model, tokenizer, requests, 2000, 1.0, 1)]
    assert chisquare([texts.count("has"), texts.count("had")]).pvalue > 0.001
    pairs = [a + b for a, b in zip(texts[::2], texts[1::2], strict=True)]
    assert chisquare([pairs.count(a + b) for a in ("has", "had") for b in ("has", "had")]).pvalue > 0.001
