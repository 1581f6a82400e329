"""Turn text into token ids, in one way for training, sampling and scoring."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from glore_lib.models.loading import _from_pretrained
from glore_lib.params import ParamsError


@dataclass(frozen=True)
class Encoded:
    """Token ids of a prompt and steps. ``step_ends[i]`` is the index of step i's last token, its newline."""

    ids: list[int]
    prompt_length: int
    step_ends: list[int]


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str, steps: Sequence[str] = ()) -> Encoded:
    """The one way that text becomes tokens, in training, sampling and scoring alike.

    The prompt and every step with its newline are tokenised alone, so that a prefix's tokens are a prefix of the
    solution's tokens whatever the tokenizer merges. Where the tokenizer has a chat template, the prompt is a user's
    message and the steps are the reply.
    """
    if tokenizer.chat_template:
        message = {"role": "user", "content": prompt}
        ids = list(tokenizer.apply_chat_template([message], add_generation_prompt=True, return_dict=False))
    else:
        ids = list(tokenizer(prompt).input_ids)
    prompt_length, ends = len(ids), []
    for step in steps:
        ids += tokenizer(step + "\n", add_special_tokens=False).input_ids
        ends.append(len(ids) - 1)
    return Encoded(ids, prompt_length, ends)


def load_tokenizer(source: str, chat_template: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder or on the hub; without ``chat_template``, with none. Llama-2 has no pad token: its
    end-of-sequence token pads, which is harmless because padding is masked by position, never by token."""
    tokenizer = _from_pretrained(AutoTokenizer, source)
    if not chat_template:
        tokenizer.chat_template = None
    elif not tokenizer.chat_template:
        raise ParamsError(
            f"base_model.chat_template = true: the tokenizer of {source!r} has none; set it to false, or name a chat "
            "model in base_model.source"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
