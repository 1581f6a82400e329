"""Sample completions of prompts. Each backend has its own module; all return the same records."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from glore_lib.solutions import ANSWER_MARK

if TYPE_CHECKING:  # code that only makes requests need not import transformers
    from transformers import GenerationConfig, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Request:
    """Ask for the completions ``first`` … ``first + n - 1`` of one prompt.

    Completion ``j`` depends only on ``(seed, j)`` and the prompt, not on other requests. Random numbers are indexed by
    the position after the common part. A completion that reproduces the rest of another request's prompt therefore
    continues as that request's completion with the same seed and number (transformers, up to rounding; not vLLM).
    """

    prompt: tuple[int, ...]  # token ids
    n: int
    seed: int
    first: int = 0
    common: int = 0  # leading tokens that other requests may share, so that they are read once; 0: all

    @property
    def shared(self) -> int:
        """Return the length of the part that is read once. The last token is never shared: its logits are needed."""
        return min(self.common or len(self.prompt), len(self.prompt) - 1)

    @property
    def prefix(self) -> tuple[int, ...]:
        """Return the token ids of the part that is read once."""
        return self.prompt[: self.shared]

    @property
    def start(self) -> int:
        """Return the number of prompt tokens after the common part."""
        return len(self.prompt) - self.common if self.common else 0


@dataclass(frozen=True)
class Completion:
    """A model's continuation of a prompt: ``ids`` are its tokens, ``text`` omits special tokens."""

    text: str
    finished: bool  # ended before the token limit
    ids: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Return the number of tokens."""
        return len(self.ids)


Answers = list[list[Completion]]  # the completions of each request


class Sampler(Protocol):
    """The interface of a backend, which holds a model."""

    def sample(self, requests: list[Request], temperature: float, max_new_tokens: int, progress: str) -> Answers:
        """Return ``n`` completions for each request, in order. Temperature 0 decodes greedily.

        A completion ends as :class:`Ends` says, or at ``max_new_tokens``. ``progress`` labels the progress bar.
        """


@dataclass(kw_only=True)
class Growing:
    """A completion while it is generated."""

    tokens: list[int] = field(default_factory=list)
    line: int = 0  # where the last line starts in ``tokens``
    finished: bool = False


class Ends:
    """What ends a completion: an end token, or the end of the line with the final answer (``#### x``).

    ``tokens`` are the ids of :func:`glore_lib.models.tokens.end_tokens`.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", generation_config: "GenerationConfig"):
        from glore_lib.models.tokens import end_tokens

        self.tokenizer, self.tokens = tokenizer, end_tokens(tokenizer, generation_config)
        self.newlines = newline_tokens(tokenizer)

    def append(self, row: Growing, tokens: Sequence[int]) -> None:
        """Append tokens to a completion, up to its end."""
        for token in tokens:
            row.tokens.append(token)
            self.note([row])
            if row.finished:
                return

    def note(self, rows: Sequence[Growing]) -> None:
        """Note which completions end with the last of their ``tokens``, and where their last line starts."""
        for row in rows:
            row.finished = row.tokens[-1] in self.tokens
        rows = [row for row in rows if row.tokens[-1] in self.newlines]
        lines = self.tokenizer.batch_decode([row.tokens[row.line :] for row in rows]) if rows else []
        for row, line in zip(rows, lines, strict=True):
            row.line = len(row.tokens)
            row.finished |= ANSWER_MARK in line


def newline_tokens(tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    """Return the ids of the tokens that contain a newline: only then can the final answer's line have ended.

    They are no table, since a model may have more outputs than the tokenizer has tokens.
    """
    ids = list(tokenizer.get_vocab().values())
    texts = tokenizer.batch_decode([[i] for i in ids])
    return frozenset(i for i, text in zip(ids, texts, strict=True) if "\n" in text)
