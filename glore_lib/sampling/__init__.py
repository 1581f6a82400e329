"""Sampling: prompts in, completions out. One file a backend; every backend gives the same records."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # what only asks for samples need not wait for transformers
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Request:
    """The completions ``first`` … ``first + n - 1`` of one prompt. Completion ``j`` depends on ``(seed, j)`` and the
    prompt alone, whatever else is asked for.

    Random numbers go by the place in the text after the common part. A completion that writes the rest of another
    request's prompt therefore goes on as that one's completion of the same seed and number does, where a backend draws
    them itself (transformers, up to rounding; not vLLM).
    """

    prompt: tuple[int, ...]  # token ids
    n: int
    seed: int
    first: int = 0
    common: int = 0  # how many leading tokens other requests may begin with too, so that they are read once; 0: all

    @property
    def shared(self) -> int:
        """The length of the part that is read once. The last token is always the request's own: it asks."""
        return min(self.common or len(self.prompt), len(self.prompt) - 1)

    @property
    def prefix(self) -> tuple[int, ...]:
        """The token ids of the part that is read once."""
        return self.prompt[: self.shared]

    @property
    def start(self) -> int:
        """How many tokens of the prompt come after the common part."""
        return len(self.prompt) - self.common if self.common else 0


@dataclass(frozen=True)
class Completion:
    """What a model wrote after a prompt: ``ids`` are its tokens, ``text`` is without special ones."""

    text: str
    finished: bool  # ended by itself, before the token limit
    ids: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """How many tokens were written."""
        return len(self.ids)


class Sampler(Protocol):
    """What every backend does with the model that it was built with."""

    def sample(
        self, requests: list[Request], temperature: float, max_new_tokens: int, progress: str
    ) -> list[list[Completion]]:
        """``n`` completions a request, in the order of the requests. Temperature 0 decodes greedily.

        A completion ends with the end-of-sequence token, with the line that holds the final answer (``#### x``), or
        at ``max_new_tokens``. ``progress`` labels the progress bar.
        """


def newline_tokens(tokenizer: "PreTrainedTokenizerBase") -> list[bool]:
    """For every token whether it holds a newline: only then can the line of the final answer have ended."""
    return ["\n" in token for token in tokenizer.batch_decode([[i] for i in range(len(tokenizer))])]
