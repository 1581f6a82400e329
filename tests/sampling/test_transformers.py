"""The transformers backend against transformers' own decoding, known distributions, and its own promises."""

import copy
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from glore_lib.models.loading import load_model
from glore_lib.models.tokens import encode
from glore_lib.params import ParamsError
from glore_lib.sampling import Completion, Request, attention
from glore_lib.sampling.plain import PlainSampler
from glore_lib.sampling.transformers import READ_TOKENS, SPREAD, TransformersSampler
from glore_lib.tasks.arithmetic import Arithmetic
from tiny import save_random_llama

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
    """Return a model to sample, and the same model with transformers' eager attention."""
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


def told(completions: list[Completion]) -> list[tuple[str, bool, int]]:
    """Return what can be computed by hand of completions."""
    return [(c.text, c.finished, c.tokens) for c in completions]


@contextmanager
def widths_of(model: LlamaForCausalLM) -> Iterator[list[int]]:
    """Collect the number of rows of each forward pass."""
    widths: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda _, __, passed: widths.append(len(passed["input_ids"])), with_kwargs=True
    )
    yield widths
    hook.remove()


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


@pytest.mark.parametrize(("rows", "read"), [(2, 2048), (64, 2048), (64, 30), (3, 1)])
def test_what_is_read_once_and_in_parts_changes_no_sample(model, tokenizer, prompts, rows, read, monkeypatch):
    """The parts differ in the lengths of prefixes and of what follows them; for some nothing follows."""
    requests = [*continued(prompts), Request(prompts[5], 2, seed=8), Request(prompts[4], 2, seed=9)]
    expected = [sample(model, tokenizer, [request])[0] for request in requests]
    monkeypatch.setitem(READ_TOKENS, "cpu", read)
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


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_no_more_rows_than_the_cap_and_no_other_completion(model, tokenizer, prompts, rows):
    """Prompts with questions in common and without, whose completions fork far more often than there are places."""
    requests = [replace(request, n=9) for request in continued(prompts)] + [Request(prompts[0], 40, seed=5)]
    with widths_of(model) as widths:
        expected = sample(model, tokenizer, requests, 500)
    assert max(widths) > 60
    with widths_of(model) as widths:
        assert sample(model, tokenizer, requests, rows) == expected
    assert max(widths) == rows
    every = [c for completions in expected for c in completions]
    assert len({c.text for c in every}) > 60
    assert len({c.tokens for c in every if c.finished}) > 5


def test_completions_that_pass_through_a_longer_prompt_go_on_as_its_completions(model, tokenizer, prompts):
    question, common, n = prompts[2], len(prompts[2]), 20
    (whole,) = sample(model, tokenizer, [Request(question, n, seed=3, common=common)])
    cuts = [(j, cut) for j, c in enumerate(whole) for cut in (1, 2, 5) if cut < c.tokens]
    assert len(cuts) > 30

    def as_before(change: Callable[[Request], Request], rows: int = 64) -> float:
        """Return the share of completions that continue as before, as far as they were written."""
        requests = [change(Request(question + whole[j].ids[:cut], 1, 3, j, common)) for j, cut in cuts]
        alike = 0
        for (j, cut), (c,) in zip(cuts, sample(model, tokenizer, requests, rows), strict=True):
            rest = whole[j].ids[cut:]
            alike += (c.ids if whole[j].finished else c.ids[: len(rest)]) == rest
        return alike / len(cuts)

    assert as_before(lambda r: r) == as_before(lambda r: r, rows=3) == 1
    assert as_before(lambda r: replace(r, seed=4)) < 0.5
    assert as_before(lambda r: replace(r, first=r.first + 1)) < 0.5
    assert as_before(lambda r: replace(r, common=0)) < 0.5  # numbers go by the place after the prompt then


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


@pytest.mark.parametrize("rows", [3, 64])
def test_plain_decoding_draws_the_same_completions(model, tokenizer, prompts, rows):
    requests = [*continued(prompts), Request(prompts[2], 5, seed=7, first=2)]
    for temperature in (0.0, 1.0):
        plain = PlainSampler(model, tokenizer, rows).sample(requests, temperature, 12, "test")
        assert plain == sample(model, tokenizer, requests, rows, temperature)
    assert len({c.ids for completions in plain for c in completions}) > 12
    assert len({c.tokens for completions in plain for c in completions if c.finished}) > 3


def test_plain_decoding_has_no_more_rows_than_the_cap_and_no_padding(model, tokenizer, prompts):
    with widths_of(model) as widths:
        PlainSampler(model, tokenizer, 4).sample([Request(p, 5, seed=1) for p in prompts], 1.0, 3, "test")
    assert widths == [width for _ in prompts for width in (4, 4, 4, 1, 1, 1)]


def test_settings_of_the_model_change_no_plain_completion(tokenizer, prompts):
    model, requests = build(tokenizer, 4, 2, "sdpa"), [Request(prompts[3], 3, seed=2)]
    expected = PlainSampler(model, tokenizer, 8).sample(requests, 0.9, 12, "test")
    model = build(tokenizer, 4, 2, "sdpa")
    model.generation_config.repetition_penalty, model.generation_config.suppress_tokens = 5.0, [expected[0][0].ids[0]]
    assert PlainSampler(model, tokenizer, 8).sample(requests, 0.9, 12, "test") == expected


@pytest.mark.parametrize("limit", [5, 20])
def test_texts_beyond_a_window_are_decoded_with_it(tokenizer, prompts, limit, reliability):
    """Prompts of 9 and 14 tokens and a window of 19: 5 more are within it, 20 more are not."""

    def windowed(window: int) -> MistralForCausalLM:
        torch.manual_seed(1)
        config = MistralConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=2, initializer_range=0.3, sliding_window=window,
            pad_token_id=tokenizer.pad_token_id, eos_token_id=None, bos_token_id=None,
        )  # fmt: skip
        return MistralForCausalLM(config).eval()

    model, requests = windowed(19), [Request(prompt, 1, 0) for prompt in prompts[1:3]]
    found = [c.ids for (c,) in sample(model, tokenizer, requests, 8, 0.0, limit)]
    assert (model.config._attn_implementation == attention.NAME) == (limit == 5)

    def written(window: int) -> list[tuple[int, ...]]:
        reference = windowed(window)
        ids = [torch.tensor([r.prompt]) for r in requests]
        texts = [reference.generate(i, attention_mask=torch.ones_like(i), max_new_tokens=limit) for i in ids]
        return [tuple(text[0, len(r.prompt) :].tolist()) for text, r in zip(texts, requests, strict=True)]

    assert found == [ids[: len(f)] for ids, f in zip(written(19), found, strict=True)]
    assert (found == [ids[: len(f)] for ids, f in zip(written(100), found, strict=True)]) == (limit == 5)
    reliability("base model: an attention window shorter than a prompt and its answer", "decoded as by `generate`")


def test_nothing_asked_nothing_given(model, tokenizer):
    assert sample(model, tokenizer, []) == []


class Markov:
    """A model whose next token's logits depend only on the last token.

    ``widths`` holds the number of rows of each forward pass.
    """

    device = torch.device("cpu")
    config = LlamaConfig(num_hidden_layers=1)
    generation_config = GenerationConfig()

    def __init__(self, tokenizer, follows: dict[str, dict[str, float]], more_outputs: int = 0):
        size = len(tokenizer) + more_outputs
        self.table, self.widths = torch.full((size, size), -torch.inf), []
        for token, nexts in follows.items():
            for following, logit in nexts.items():
                self.table[tokenizer.convert_tokens_to_ids(token), tokenizer.convert_tokens_to_ids(following)] = logit

    def eval(self) -> "Markov":
        return self

    @property
    def base_model(self) -> "Markov":
        return self

    def set_attn_implementation(self, name: str) -> None:
        pass

    def __call__(self, input_ids: torch.Tensor, **_) -> SimpleNamespace:
        self.widths.append(len(input_ids))
        return SimpleNamespace(logits=self.table[input_ids[:, -1:]], last_hidden_state=None)


def scripted(tokenizer, text: str) -> Markov:
    """Build a model that writes one text, word by word; no word may occur twice."""
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
    assert told(completions) == [(text, finished, tokens)] * 2
    assert completions[0].ids == tuple(tokenizer.convert_tokens_to_ids(writes.split(" ")[:tokens]))


def test_a_mark_in_the_prompt_ends_nothing(tokenizer):
    requests = [Request(prompt_of(tokenizer, "#### 5\ntom"), 1, 0)]
    ((completion,),) = sample(scripted(tokenizer, "has 3 \n </s>"), tokenizer, requests)
    assert told([completion]) == [("has 3\n", True, 4)]


def test_only_the_line_with_the_mark_ends_a_completion(tokenizer):
    """Lines before it don't, and neither does a mark seen in an earlier line once that is over."""
    model = Markov(
        tokenizer, {"tom": {"has": 0.0}, "has": {"\n": 0.0}, "\n": {"3": 0.0}, "3": {"####": 0.0}, "####": {"5": 0.0},
        "5": {"\n": 0.0}},
    )  # fmt: skip
    ((completion,),) = sample(model, tokenizer, [Request(prompt_of(tokenizer, "tom"), 1, 0)], temperature=0.0)
    assert told([completion]) == [("has\n3 #### 5\n", True, 6)]


@pytest.mark.parametrize("end", ["</s>", "<end_of_turn>"])
def test_every_end_token_of_the_model_ends_a_completion(tokenizer, end, reliability):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<end_of_turn>"]})
    model = scripted(tokenizer, f"has 3 {end} 5")
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.convert_tokens_to_ids(["</s>", "<end_of_turn>"]))
    requests = [Request(prompt_of(tokenizer, "ann tom"), 2, 0)]
    (completions,) = sample(model, tokenizer, requests, temperature=0.0)
    assert told(completions) == [("has 3", True, 3)] * 2
    reliability("model with several end tokens", "each ends a text")


def test_a_word_that_the_models_class_declares_as_its_end_ends_nothing(tokenizer):
    model = scripted(tokenizer, "has 3 5 </s>")
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.convert_tokens_to_ids("3"))
    ((completion,),) = sample(model, tokenizer, [Request(prompt_of(tokenizer, "tom"), 1, 0)], temperature=0.0)
    assert told([completion]) == [("has 3 5", True, 4)]


@pytest.mark.parametrize("kind", [TransformersSampler, PlainSampler])
def test_a_model_with_many_more_outputs_than_tokens_draws_outputs_without_a_token(kind, tokenizer, prompts, tmp_path):
    model = load_model(str(save_random_llama(tokenizer, tmp_path / "model", more_outputs=300)), "float32")
    ((first, second),) = kind(model, tokenizer, 8).sample([Request(prompts[2], 2, 0)], 1.0, 30, "test")
    assert sum(i >= len(tokenizer) for i in first.ids + second.ids) > 10
    known = [[i for i in c.ids if i < len(tokenizer)] for c in (first, second)]
    assert [first.text, second.text] == tokenizer.batch_decode(known, skip_special_tokens=True)


def test_an_output_without_a_token_is_sampled_and_decoded_to_nothing(tokenizer, reliability):
    size = len(tokenizer)
    tom, three, end = tokenizer.convert_tokens_to_ids(["tom", "3", "</s>"])
    model = Markov(tokenizer, {"3": {"</s>": 0.0}}, more_outputs=20)
    model.table[tom, size + 19] = model.table[size + 19, three] = 0.0
    (completions,) = sample(model, tokenizer, [Request(prompt_of(tokenizer, "tom"), 2, 0)])
    assert [(c.text, c.finished, c.ids) for c in completions] == [("3", True, (size + 19, three, end))] * 2
    reliability("model with more outputs than the tokenizer has tokens", "sampled; such outputs are empty text")


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
    # What both prompts begin with, once; their last tokens, a row each for four completions; then only ann's row.
    assert model.widths == [1, 2, 1, 1, 1, 1]
    assert told(tom) == [("", True, 1)] * 4
    assert told(ann) == [("has has has has has", False, 5)] * 4


def test_completions_are_one_row_until_they_fork(tokenizer):
    follows = {"tom": {"has": 0.0}, "has": {"3": 0.0, "4": 0.0, "5": 0.0}, "5": {"</s>": 0.0}}
    model = Markov(tokenizer, follows | {"3": {"is": 0.0}, "4": {"is": 0.0}, "is": {"is": 0.0}})
    (completions,) = sample(model, tokenizer, [Request(prompt_of(tokenizer, "ann tom"), 30, seed=0)], rows=30, limit=5)
    kinds = Counter(told(completions))
    assert set(kinds) == {("has 3 is is is", False, 5), ("has 4 is is is", False, 5), ("has 5", True, 3)}
    assert min(kinds.values()) > 1
    # The prompt; what draws "has" and what draws the number, in one row; then three, of which one is over at once. Two
    # that write the same again stay two.
    assert model.widths == [1, 1, 1, 3, 2, 2]


def test_rows_that_end_make_place_for_forks(tokenizer):
    """Of three that draw at once, the first ends, and what forks off the others takes its place."""
    follows = {"tom": {"has": 0.0, "had": 0.0, "owns": 0.0}, "owns": {"</s>": 0.0}}
    follows |= {"has": {"3": 0.0, "4": 0.0, "</s>": 0.0}, "had": {"5": 0.0, "6": 0.0, "</s>": 0.0}}
    model = Markov(tokenizer, follows | {number: {number: 0.0} for number in "3456"})
    requests = [Request(prompt_of(tokenizer, "tom"), 60, seed=0)]
    (completions,) = sample(model, tokenizer, requests, 4, limit=4)
    ends = {("owns", True, 2), ("has", True, 2), ("had", True, 2)}
    assert set(told(completions)) == ends | {
        (" ".join([verb, number, number, number]), False, 4)
        for verb, numbers in (("has", "34"), ("had", "56"))
        for number in numbers
    }
    assert model.widths == [1, 1, 3, 4, 4]


def test_greedy_completions_are_one_row_however_many(tokenizer):
    model = scripted(tokenizer, "has 3 5 </s>")
    requests = [Request(prompt_of(tokenizer, text), 50, 0) for text in ("ann tom", "ben tom")]
    answers = sample(model, tokenizer, requests, rows=2, temperature=0.0)
    assert model.widths == [2] * 5  # the prompts, and four tokens
    assert [told(completions) for completions in answers] == [[("has 3 5", True, 4)] * 50] * 2


@pytest.mark.parametrize(("each", "widths"), [(SPREAD, [2, 2, 2, 1, 1, 1]), (SPREAD + 1, [1, 1, 1] * 3)])
def test_as_many_completions_as_may_fork_are_begun_at_a_time(tokenizer, each, widths):
    model = scripted(tokenizer, "has </s>")
    requests = [Request(prompt_of(tokenizer, f"{name} tom"), each, 0) for name in ("ann", "ben", "sue")]
    answers = sample(model, tokenizer, requests, rows=2)
    assert model.widths == widths
    assert [told(completions) for completions in answers] == [[("has", True, 2)] * each] * 3


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
