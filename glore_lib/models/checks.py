"""Check when a run opens that the base model can read and write the run's texts. No weights are loaded."""

import re
from collections.abc import Sequence
from itertools import pairwise
from textwrap import shorten
from typing import Any

from transformers import PreTrainedTokenizerBase

from glore_lib.models.tokens import encode, end_tokens, generation_config, model_config
from glore_lib.params import Params, ParamsError
from glore_lib.solutions import ANSWER_MARK, BAD, mark_bad, split_steps
from glore_lib.tasks import Question, Task

CHANGED = 0.1  # share of the questions that may have a text which decoding does not restore
_NUMBER = re.compile(r"\d(?:[\d.,]*\d)?")


def check_tokenizer(
    tokenizer: PreTrainedTokenizerBase, folder: str, source: str, task: Task, questions: Sequence[Question]
) -> None:
    """Raise ParamsError unless the model in ``folder`` embeds the texts of these questions and decoding restores them.

    ``source`` is what the error names. Newlines separate steps, so each step's last token must be one. Other changes
    than of case and white space are accepted for at most :data:`CHANGED` of the questions, since a rare sign that the
    tokenizer does not know does little harm.
    """

    def refused(why: str, remedy: str = "name a model with another tokenizer") -> ParamsError:
        return ParamsError(f"base_model.source = {source!r}: its tokenizer {why}; {remedy}")

    own, embedded = "put the model's own tokenizer beside it", model_config(folder).vocab_size
    # Tokens that were only added occur in no text, and some models do not embed them (Gemma 3 that of images).
    used = {*tokenizer.get_vocab().values()} - {*tokenizer.added_tokens_decoder} | {tokenizer.eos_token_id}
    if max(used) >= embedded:
        raise refused(f"has {max(used) + 1} tokens, and the model embeds {embedded}", own)
    ends, changed = end_tokens(tokenizer, generation_config(folder)), []
    for q in questions:
        steps = split_steps(q.reference_solution or f"{q.question}\n{ANSWER_MARK} {q.reference_answer}")
        prompts = [task.prompt(q.question), task.refine_prompt(q.question, mark_bad(steps, 1))]
        encoded = [encode(tokenizer, prompt, steps) for prompt in prompts]
        if max(max(e.ids) for e in encoded) >= embedded:
            raise refused(f"writes a part of {_short(prompts[0])} as a token that the model does not embed", own)
        starts = [encoded[0].prompt_length, *(end + 1 for end in encoded[0].step_ends)]
        written = [encoded[0].ids[start:end] for start, end in pairwise(starts)]
        read, last = tokenizer.batch_decode(written), tokenizer.batch_decode([ids[-1:] for ids in written])
        if not all(newline.endswith("\n") for newline in last) or any(split_steps(t) != [t.strip()] for t in read):
            raise refused("drops or moves the newline after a step, and newlines separate steps")
        if not ends.isdisjoint(encoded[0].ids[starts[0] :]):
            raise refused("writes a solution with a token that ends it")
        pairs = [pair for pair in zip(steps, read, strict=True) if _content(pair[0]) != _content(pair[1])]
        shown_prompts = tokenizer.batch_decode([e.ids[: e.prompt_length] for e in encoded])
        for prompt, shown in zip(prompts, shown_prompts, strict=True):
            kept = _bare(q.question) in _bare(shown) and (BAD.lower() in _bare(shown)) == (BAD in prompt)
            if not kept or not (tokenizer.chat_template or shown.endswith(prompt[-1])):
                pairs.append((prompt, shown))
        changed += pairs[:1]
    if len(changed) > CHANGED * len(questions):
        before, after = map(_short, changed[0])
        raise refused(f"changes {len(changed)} of {len(questions)} texts, such as {before} to {after}")


def check_context(
    tokenizer: PreTrainedTokenizerBase, folder: str, params: Params, task: Task, questions: Sequence[str]
) -> None:
    """Raise ParamsError if the longest prompt, draft and answer may exceed the context of the model in ``folder``.

    Learned positions end there, and beyond it the others degrade without an error.
    """
    context: Any = getattr(model_config(folder), "max_position_embeddings", None)
    if not context or context < 0:  # no positions, or relative ones
        return
    source, length, new = params.base_model.source, params.finetuning.max_length, params.sampling.max_new_tokens
    if length > context:
        raise ParamsError(
            f"finetuning.max_length = {length}: exceeds the context of base_model.source = {source!r}; must be at most "
            f"{context}"
        )
    # The refiner reads a draft, then perhaps its first steps again, and writes an answer.
    refined = 3 if params.refiner.force_prefix else 2
    for answers, prompts in (
        (1, [task.one_shot_prompt(question) for question in questions]),
        (refined, [task.refine_prompt(question, mark_bad(["1"], 1)) for question in questions]),
    ):
        longest = _longest(tokenizer, prompts, context - answers * new)
        if longest + answers * new > context:
            most = (context - longest) // answers
            raise ParamsError(
                f"sampling.max_new_tokens = {new}: a prompt of {longest} tokens and {answers} times as many exceed the "
                f"context of base_model.source = {source!r}, {context}; "
                + (f"must be at most {most}" if most > 0 else "name a model with a longer context")
            )


def _longest(tokenizer: PreTrainedTokenizerBase, prompts: list[str], room: int) -> int:
    """Return the number of tokens of the longest prompt; 0 if none can exceed ``room``.

    A text has at most as many tokens as bytes, so that most prompts need not be tokenised.
    """
    around = len(encode(tokenizer, prompts[0]).ids)  # more than special tokens and the chat template
    long = [prompt for prompt in prompts if around + len(prompt.encode()) > room]
    if not long or tokenizer.chat_template:
        return max((len(encode(tokenizer, prompt).ids) for prompt in long), default=0)
    return max(map(len, tokenizer(long).input_ids))  # in one call, which is faster


def _content(text: str) -> tuple[str, bool, list[str]]:
    """Return what decoding must restore of a step: its text, the mark of the final answer, and whole numbers."""
    return _bare(text), ANSWER_MARK in text, _NUMBER.findall(text)


def _bare(text: str) -> str:
    return "".join(text.lower().split())


def _short(text: str) -> str:
    return repr(shorten(text, 60, placeholder=" ..."))
