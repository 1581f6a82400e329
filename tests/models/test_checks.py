"""Any tokenizer and chat template: used correctly, or refused in one line when the run opens."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import GenerationConfig, GPT2Config, LlamaConfig, PreTrainedTokenizerFast

from glore_lib.models.checks import check_tokenizer
from glore_lib.models.tokens import encode, end_tokens, generation_config, load_tokenizer
from glore_lib.params import ParamsError
from glore_lib.tasks import Question
from glore_lib.tasks.arithmetic import Arithmetic
from tiny import open_tiny

END, START, SEPARATOR, OTHER = "</s>", "<s>", "<sep>", "<other>"
QUESTION, STEPS = "Tom has\n", ["1 + 1 = 2", "#### 2"]
Change = Callable[[Tokenizer], None]


def byte_level(change: Change = lambda tokenizer: None, **options: str | None) -> PreTrainedTokenizerFast:
    """Build a tokenizer whose tokens are bytes; ``options`` are named tokens and settings."""
    tokens = [START, END, SEPARATOR, OTHER, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, []))
    tokenizer.add_special_tokens([START, END, SEPARATOR])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    change(tokenizer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{"eos_token": END} | options)


def save(folder: Path, tokenizer: PreTrainedTokenizerFast, **config: object) -> Path:
    """Save a tokenizer beside the config of a model; that no weights are there shows that none are read."""
    LlamaConfig(**{"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id} | config).save_pretrained(
        folder
    )  # type: ignore[arg-type]
    tokenizer.save_pretrained(folder)
    return folder


def refusal(folder: Path, **overrides: object) -> str:
    """Return why a run on this base is not opened, and check that nothing was made."""
    with pytest.raises(ParamsError) as error:
        open_tiny(folder, folder / "artifacts", **overrides)
    assert str(error.value).isprintable(), "one line"
    assert not (folder / "artifacts").exists()
    return str(error.value)


def normalised(*steps: normalizers.Normalizer) -> Change:
    return lambda tokenizer: setattr(tokenizer, "normalizer", normalizers.Sequence(list(steps)))


def processed(single: str) -> Change:
    tokens = [(token, i) for i, token in enumerate([START, END, SEPARATOR, OTHER])]
    processor = processors.TemplateProcessing(single=single, special_tokens=tokens)
    return lambda tokenizer: setattr(tokenizer, "post_processor", processor)


def bert_like(tokenizer: Tokenizer) -> None:
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(), tokenizer.pre_tokenizer])


def spaced_digits(tokenizer: Tokenizer) -> None:
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("1", "1 ")])


REFUSED = {
    "drops newlines": (byte_level(normalised(normalizers.Replace("\n", " "))), "drops or moves the newline"),
    "strips the ends of texts": (byte_level(normalised(normalizers.Strip())), "drops or moves the newline"),
    "BERT-like": (byte_level(bert_like), "drops or moves the newline"),
    "ends texts with a newline": (byte_level(eos_token="Ċ"), "writes a solution with a token that ends it"),
    "ends texts with a part of the mark": (byte_level(eos_token="#"), "writes a solution with a token that ends it"),
    "drops the answer's mark": (byte_level(normalised(normalizers.Replace("#", ""))), "texts, such as '#### "),
    "drops digits": (byte_level(normalised(normalizers.Replace("1", ""))), "texts, such as "),
    "separates digits": (byte_level(spaced_digits), "texts, such as "),
    "drops brackets": (byte_level(normalised(normalizers.Replace("[", ""))), "texts, such as "),
    "puts a token after each text": (byte_level(processed(f"$A {OTHER}")), "texts, such as "),
    "has no end-of-sequence token": (byte_level(eos_token=None), "has no end-of-sequence token"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_a_tokenizer_that_loses_text_is_refused_when_the_run_opens(kind, tmp_path, reliability):
    tokenizer, why = REFUSED[kind]
    message = refusal(save(tmp_path, tokenizer))
    assert message.startswith("base_model.source = '")
    assert f"{tmp_path.name}': its tokenizer " in message
    assert why in message
    reliability(f"tokenizer that {kind}" if kind != "BERT-like" else "BERT-like tokenizer", "rejected in one line")


ACCEPTED = {
    "plain": byte_level(),
    "lowercases": byte_level(normalised(normalizers.Lowercase())),
    "puts a space before each text": byte_level(normalised(normalizers.Prepend(" "))),
    "ends each text with the end": byte_level(processed(f"{START} $A {END}"), bos_token=START),
    "ends each text with a separator": byte_level(processed(f"$A {SEPARATOR}"), sep_token=SEPARATOR),
    "cleans up spaces": byte_level(clean_up_tokenization_spaces=True),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("kind", ACCEPTED)
def test_a_prompt_ends_with_its_text_and_a_step_with_its_newline(kind, tmp_path, reliability):
    tokenizer = open_tiny(save(tmp_path, ACCEPTED[kind]), tmp_path / "artifacts").tokenizer
    encoded = encode(tokenizer, QUESTION, STEPS)
    newline = tokenizer.convert_tokens_to_ids("Ċ")
    assert encoded.ids[encoded.prompt_length - 1] == newline
    assert [encoded.ids[end] for end in encoded.step_ends] == [newline] * 2
    assert encoded.ids.count(newline) == 3
    assert tokenizer.eos_token_id not in encoded.ids
    assert encoded.ids.count(tokenizer.convert_tokens_to_ids(START)) == (tokenizer.bos_token == START)
    reliability(
        "tokenizer that ends, lowercases or shifts texts", "the solution follows the prompt, steps end in newlines"
    )


def test_a_text_is_decoded_as_it_was_sampled(tmp_path):
    """Where the tokenizer cleans up, "3 . 5" would be graded as 3.5."""
    words = ["3", ".", "5", "</s>"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="3"))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", clean_up_tokenization_spaces=True)
    assert fast.decode([0, 1, 2]) == "3. 5"
    assert load_tokenizer(str(save(tmp_path, fast))).decode([0, 1, 2]) == "3 . 5"


def test_a_limit_or_padding_stored_with_the_tokenizer_does_not_apply(tmp_path):
    def limited(tokenizer: Tokenizer) -> None:
        tokenizer.enable_truncation(4)
        tokenizer.enable_padding(length=900)

    tokenizer = byte_level(limited, model_max_length=4)  # type: ignore[arg-type]
    save(tmp_path, tokenizer)
    assert json.loads((tmp_path / "tokenizer.json").read_text())["truncation"]["max_length"] == 4
    text = "x" * 500 + "\n"
    assert len(encode(load_tokenizer(str(tmp_path)), text, [text[:-1]]).ids) == 2 * len(text)


def test_a_tokenizer_of_another_model_is_refused(tmp_path, reliability):
    tokenizer = byte_level()
    message = refusal(save(tmp_path, tokenizer, vocab_size=len(tokenizer) - 1))
    assert f"has {len(tokenizer)} tokens, and the model embeds {len(tokenizer) - 1}" in message
    reliability("tokenizer with more tokens than the model embeds", "rejected in one line")


@pytest.mark.parametrize("token", ["<pad>", "<image>"])
def test_a_token_that_was_only_added_need_not_be_embedded(token, tmp_path, reliability):
    tokenizer = byte_level()
    size = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": token} if token == "<pad>" else {"extra_special_tokens": [token]})
    opened = open_tiny(save(tmp_path, tokenizer, vocab_size=size), tmp_path / "artifacts").tokenizer
    assert opened.convert_tokens_to_ids(token) == size
    assert opened.pad_token_id == opened.eos_token_id
    reliability("pad or image token that the model does not embed", "never read: the end token pads")


def test_a_pad_token_that_is_embedded_pads(tmp_path):
    assert load_tokenizer(str(save(tmp_path, byte_level(pad_token=OTHER)))).pad_token == OTHER


def test_end_tokens_are_those_of_tokenizer_and_generation_config(tmp_path):
    tokenizer = byte_level()
    tokenizer.add_tokens(["<|im_end|>"])  # not special: it would stay in decoded texts
    turn, word = tokenizer.convert_tokens_to_ids(["<|im_end|>", "a"])
    save(tmp_path, tokenizer, eos_token_id=word)
    assert end_tokens(load_tokenizer(str(tmp_path)), generation_config(str(tmp_path))) == {tokenizer.eos_token_id}
    GenerationConfig(eos_token_id=[turn, word]).save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    assert end_tokens(loaded, generation_config(str(tmp_path))) == {tokenizer.eos_token_id, turn}
    assert loaded.decode([word, turn], skip_special_tokens=True) == "a"
    assert len(loaded) == len(tokenizer)


@pytest.mark.parametrize(("rare", "refused"), [(2, False), (3, True)])
def test_a_sign_that_the_tokenizer_drops_is_accepted_in_a_tenth_of_the_questions(rare, refused, tmp_path):
    folder = str(save(tmp_path, byte_level(normalised(normalizers.Replace("€", "?")))))
    questions = [Question(f"{i}", "train", "one " + "€" * (i < rare), "1", "1 = 1\n#### 1") for i in range(20)]
    expected = pytest.raises(ParamsError, match="changes 3 of 20 texts") if refused else nullcontext()
    with expected:
        check_tokenizer(load_tokenizer(folder), folder, folder, Arithmetic("easy"), questions)


# --- chat templates -----------------------------------------------------------------------------------------------

TEXT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
PARTS = "{% for m in messages %}<{{ m.role }}>{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}<bot>"
PARTS_BY_INDEX = "\n<{{ messages[0].role }}>{{ messages[0]['content'][0]['text'] }}<bot>"


def chat(folder: Path, template: str | dict[str, str]) -> Path:
    tokenizer = byte_level()
    tokenizer.chat_template = template
    return save(folder, tokenizer)


@pytest.mark.parametrize(
    ("template", "rendered"),
    [
        (TEXT, f"<user>{QUESTION}<bot>"),
        ({"default": TEXT, "tool_use": ""}, f"<user>{QUESTION}<bot>"),
        (PARTS, f"<user>{QUESTION}<bot>"),
        (PARTS_BY_INDEX, f"\n<user>{QUESTION}<bot>"),
        ("{{ messages[0].content | trim }}" + END, f"Tom has{END}"),  # its own end of the question stays
    ],
    ids=["text", "several templates", "parts", "parts by index", "ends with the end"],
)
def test_a_chat_template_renders_the_question_in_the_form_it_expects(template, rendered, tmp_path, reliability):
    run = open_tiny(chat(tmp_path, template), tmp_path / "artifacts", base_model__chat_template=True)
    encoded = encode(run.tokenizer, QUESTION, STEPS)
    assert run.tokenizer.decode(encoded.ids[: encoded.prompt_length]) == rendered
    assert run.tokenizer.decode(encoded.ids[encoded.prompt_length :]) == "1 + 1 = 2\n#### 2\n"
    reliability("chat template that expects a text or a list of parts", "the prompt contains the question")


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("<user><bot>", "base_model.chat_template = true: the chat template drops the text of a user message; "),
        (
            "{{ raise_exception('no\nuser') }}",
            "the chat template fails for a user message (no user); ",
        ),
        ("{{ messages[0].content + 1 }}", "the chat template fails for a user message (can only concatenate str"),
        ("{% for %}", "the chat template fails for a user message ("),
        ("{{ messages[0].content[:15] }}", "texts, such as "),
        ({"tool_use": TEXT}, "has no chat template"),
    ],
    ids=["drops", "raises", "type error", "no template", "cuts", "no default"],
)
def test_a_chat_template_that_drops_the_question_or_raises_is_refused(template, why, tmp_path, reliability):
    message = refusal(chat(tmp_path, template), base_model__chat_template=True)
    assert why in message
    reliability("chat template that drops or rejects the question", "rejected in one line")


# --- context ------------------------------------------------------------------------------------------------------


def gpt2(folder: Path, positions: int) -> Path:
    tokenizer = byte_level()
    GPT2Config(vocab_size=len(tokenizer), n_positions=positions).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("force_prefix", "answers"), [(False, 2), (True, 3)])
def test_the_longest_refinement_prompt_and_its_answers_must_fit(force_prefix, answers, tmp_path, reliability):
    settings = {"refiner__force_prefix": force_prefix, "finetuning__max_length": 100}
    run = open_tiny(gpt2(tmp_path / "long", 5000), tmp_path / "artifacts", **settings)
    questions = [q.question for q in run.questions("train").values()]
    longest = max(len(run.task.refine_prompt(q, "[BAD] 1").encode()) for q in questions)  # a token is a byte
    new = run.params.sampling.max_new_tokens
    others = max(len(run.task.one_shot_prompt(q).encode()) for q in questions)
    assert others + new < longest + answers * 200
    settings["sampling__max_new_tokens"] = 200
    open_tiny(gpt2(tmp_path / "enough", longest + answers * 200), tmp_path / "artifacts", **settings)
    message = refusal(gpt2(tmp_path / "short", longest + answers * 200 - 1), **settings)
    assert message.startswith(
        f"sampling.max_new_tokens = 200: a prompt of {longest} tokens and {answers} times as many "
    )
    assert message.endswith("must be at most 199")
    reliability("prompt, draft and answer beyond the model's context", "rejected in one line")


def test_the_one_shot_prompt_and_its_answer_must_fit(tmp_path):
    run = open_tiny(gpt2(tmp_path / "long", 5000), tmp_path / "artifacts", finetuning__max_length=100)
    questions = [q.question for q in run.questions("train").values()]
    longest = max(len(run.task.one_shot_prompt(q).encode()) for q in questions)
    settings = {"finetuning__max_length": 100, "sampling__max_new_tokens": 1}
    open_tiny(gpt2(tmp_path / "enough", longest + 1), tmp_path / "artifacts", **settings)
    message = refusal(gpt2(tmp_path / "short", longest), **settings)
    assert message.endswith("name a model with a longer context")


def test_training_sequences_must_fit(tmp_path):
    message = refusal(gpt2(tmp_path, 5000), finetuning__max_length=5001)
    assert message.startswith("finetuning.max_length = 5001: exceeds the context of base_model.source = ")
    assert message.endswith("; must be at most 5000")


def test_a_model_to_be_pre_trained_is_checked_before_that(tmp_path):
    with pytest.raises(ParamsError, match=r"^finetuning\.max_length = 385: .* must be at most 384$"):
        open_tiny(Path("scratch"), tmp_path / "artifacts", finetuning__max_length=385)
    assert not (tmp_path / "artifacts").exists()
