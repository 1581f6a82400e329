"""Turn text into token ids, the same way in training, sampling and scoring."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from transformers import AutoTokenizer, GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase

from glore_lib.models.loading import from_pretrained, load_config
from glore_lib.models.sources import locate
from glore_lib.params import ParamsError

TEMPLATE_DATE = datetime(2024, 7, 26)  # today's date for chat templates that insert it, so that prompts never change
# Put before a chat template, it turns texts as content into lists of one part.
TEXT_TO_PARTS = (
    "{%- set parts = namespace(messages=[]) %}{%- for message in messages %}{%- set parts.messages = parts.messages + "
    "[{'role': message.role, 'content': [{'type': 'text', 'text': message.content}]}] %}{%- endfor %}"
    "{%- set messages = parts.messages %}{{- '' }}"
)


@dataclass(frozen=True)
class Encoded:
    """A prompt and steps as token ids. ``step_ends[i]`` is the index of step i's last token, its newline."""

    ids: list[int]
    prompt_length: int
    step_ends: list[int]


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str, steps: Sequence[str] = ()) -> Encoded:
    """Tokenise a prompt and the steps after it; training, sampling and scoring all use this function.

    The prompt and every step with its newline are tokenised separately, so that the tokens of a prefix are a prefix of
    the solution's tokens whatever the tokenizer merges. If the tokenizer has a chat template, the prompt is a user
    message and the steps are the reply. The template sees :data:`TEMPLATE_DATE` as today's date.
    """
    if tokenizer.chat_template:
        ids = tokenizer(_rendered(tokenizer, prompt), add_special_tokens=False).input_ids
    else:
        ids = tokenizer(prompt).input_ids
        # Some tokenizers end every text, and the solution follows. An empty text may begin with the same token.
        if prompt and ids[-1] in (tokenizer.eos_token_id, tokenizer.sep_token_id):
            ids = ids[:-1]
    ids = list(ids)
    prompt_length, ends = len(ids), []
    for step in steps:
        ids += tokenizer(step + "\n", add_special_tokens=False).input_ids
        ends.append(len(ids) - 1)
    return Encoded(ids, prompt_length, ends)


def _rendered(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """Return the text of a prompt as a user message; raise ParamsError if the chat template raises."""
    date = {"date_string": f"{TEMPLATE_DATE:%d %b %Y}", "strftime_now": TEMPLATE_DATE.strftime}
    message = {"role": "user", "content": prompt}
    try:
        return tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True, **date)  # type: ignore[arg-type, return-value]
    except Exception as error:  # a template can raise anything
        reason = " ".join(str(error).split())
        raise ParamsError(
            f"base_model.chat_template = true: the chat template fails for a user message ({reason}); set it to false, "
            "or name another chat model in base_model.source"
        ) from None


def load_tokenizer(source: str, chat_template: bool = False) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a folder or the hub, without its chat template unless ``chat_template`` is true.

    Every token that ends a text is marked as special, so that decoded texts omit it. Where there is no pad token
    (Llama-2), or the model does not embed it, the end-of-sequence token pads. That is harmless: padding is masked by
    position, never by token. Raises ParamsError if there is no such tokenizer, no end-of-sequence token, or no chat
    template that renders a user message.
    """
    tokenizer = from_pretrained(AutoTokenizer, source)
    if tokenizer.eos_token_id is None:
        raise ParamsError(
            f"base_model.source = {source!r}: its tokenizer has no end-of-sequence token, so no solution would end; "
            "set eos_token in its tokenizer_config.json"
        )
    ends = end_tokens(tokenizer, generation_config(source)) - {*tokenizer.all_special_ids}
    texts = tokenizer.convert_ids_to_tokens(sorted(ends))
    if texts:
        tokenizer.add_special_tokens({"extra_special_tokens": texts}, replace_extra_special_tokens=False)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= model_config(source).vocab_size:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.clean_up_tokenization_spaces = False  # it would decode "3 . 5" as "3.5"
    template = tokenizer.chat_template if chat_template else None
    template = template.get("default") if isinstance(template, dict) else template
    if chat_template and not template:
        raise ParamsError(
            f"base_model.chat_template = true: the tokenizer of {source!r} has no chat template; set it to false, or "
            "name a chat model in base_model.source"
        )
    tokenizer.chat_template = _with_text(tokenizer, template) if template else None
    return tokenizer


def _with_text(tokenizer: PreTrainedTokenizerBase, template: str) -> str:
    """Return a chat template that renders a message whose content is a text; the template may expect a list of parts.

    Raises ParamsError if it drops or rejects both.
    """
    question, failure = "How many?", None
    for start in ("", TEXT_TO_PARTS):
        tokenizer.chat_template = start + template
        try:
            if question in _rendered(tokenizer, question):
                return start + template
        except ParamsError as error:
            failure = failure or error
    raise failure or ParamsError(
        "base_model.chat_template = true: the chat template drops the text of a user message; set it to false, or name "
        "another chat model in base_model.source"
    )


def model_config(source: str) -> PretrainedConfig:
    """Load the config of a language model; of a multimodal model, that of its text part."""
    return load_config(source).get_text_config()


def end_tokens(tokenizer: PreTrainedTokenizerBase, generation: GenerationConfig) -> frozenset[int]:
    """Return the ids of the tokens that end a text: the tokenizer's end of sequence, and what the model declares.

    Chat models declare several in their generation config, and end a turn with another one than a text. Some model
    classes declare a token by default that is an ordinary word in another tokenizer; such a token ends nothing.
    """
    declared = generation.eos_token_id
    declared = declared if isinstance(declared, list) else [declared]
    return frozenset({tokenizer.eos_token_id, *(i for i in declared if i in tokenizer.added_tokens_decoder)})


def generation_config(source: str) -> GenerationConfig:
    """Load the generation config of a model, or make it from the model's config where there is none."""
    name, revision = locate(source)
    try:
        return GenerationConfig.from_pretrained(name, **revision)  # type: ignore[arg-type]
    except OSError:
        return GenerationConfig.from_model_config(model_config(source))
