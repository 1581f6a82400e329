"""Sample completions of prompts. Each backend has its own module; all return the same records."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # code that only makes requests need not import transformers
    from transformers import PreTrainedTokenizerBase


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

        A completion ends with the end-of-sequence token, with the line that holds the final answer (``#### x``), or
        at ``max_new_tokens``. ``progress`` labels the progress bar.
        """


def newline_tokens(tokenizer: "PreTrainedTokenizerBase") -> list[bool]:
    """Return for every token whether it contains a newline: only then can the final answer's line have ended."""
    return ["\n" in token for token in tokenizer.batch_decode([[i] for i in range(len(tokenizer))])]
