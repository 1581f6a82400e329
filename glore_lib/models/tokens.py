"""Turn text into token ids, the same way in training, sampling and scoring."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from glore_lib.models.loading import from_pretrained
from glore_lib.params import ParamsError

TEMPLATE_DATE = datetime(2024, 7, 26)  # today's date for chat templates that insert it, so that prompts never change


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
        message = {"role": "user", "content": prompt}
        date = {"date_string": f"{TEMPLATE_DATE:%d %b %Y}", "strftime_now": TEMPLATE_DATE.strftime}
        ids = list(tokenizer.apply_chat_template([message], add_generation_prompt=True, return_dict=False, **date))  # type: ignore[arg-type]
    else:
        ids = list(tokenizer(prompt).input_ids)
    prompt_length, ends = len(ids), []
    for step in steps:
        ids += tokenizer(step + "\n", add_special_tokens=False).input_ids
        ends.append(len(ids) - 1)
    return Encoded(ids, prompt_length, ends)


def load_tokenizer(source: str, chat_template: bool = False) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a folder or the hub, without its chat template unless ``chat_template`` is true.

    Where there is no pad token (Llama-2), the end-of-sequence token pads. That is harmless: padding is masked by
    position, never by token. Raises ParamsError if there is no such tokenizer, or no chat template.
    """
    tokenizer = from_pretrained(AutoTokenizer, source)
    if not chat_template:
        tokenizer.chat_template = None
    elif not tokenizer.chat_template:
        raise ParamsError(
            f"base_model.chat_template = true: the tokenizer of {source!r} has no chat template; set it to false, or "
            "name a chat model in base_model.source"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
