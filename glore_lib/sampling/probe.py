"""Find out by trial what an architecture allows: shared prefixes in sampling, packed rows in reward models.

Attention classes may ignore arguments that they do not know, masks or positions, and then compute something else
without an error. :func:`probe` compares a model's outputs with those of each text alone, in the dtype of the run.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from glore_lib.models.prefix_tree import Labelled, collate, pack
from glore_lib.models.reward_head import RewardModel
from glore_lib.params import ParamsError
from glore_lib.sampling import Request, attention, newline_tokens
from glore_lib.sampling.plain import PlainSampler
from glore_lib.sampling.rows import RowSampler
from glore_lib.sampling.transformers import TransformersSampler

# Largest error of outputs, as a share of what other tokens at the beginning of the text change.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.3}
FLOOR = 1e-3  # that change is at least this share of the outputs, for models that hardly depend on it
LOWEST = -1e4  # smaller logits, such as -inf, mean the same
WRITTEN = 4  # tokens of each completion

Ids = tuple[int, ...]
Compared = tuple[Ids, int, torch.Tensor]  # a text, and the outputs from a place on


@dataclass(frozen=True)
class Support:
    """What an architecture allows besides reading texts one by one."""

    shared_prefix: bool  # a sampler that reads a common prefix once
    packed_rows: bool  # several solutions in one row of a reward model
    window: int | None  # tokens that the narrowest attention window sees, which packed rows ignore

    def packs(self, tokens: int) -> bool:
        """Return whether solutions of at most this many tokens may share a row."""
        return self.packed_rows and (self.window is None or tokens <= self.window)

    def cost(self, shares: bool) -> str:
        """Return what a run pays for what is missing, "" if nothing is. ``shares``: another backend samples."""
        slower = []
        if not (self.shared_prefix or shares):
            slower.append("samples with model.generate, which reads the question again for every completion")
        if not self.packed_rows:
            slower.append("reward models read each solution in a row of its own (reward_models.solutions_per_row = 1)")
        return f"its architecture {'; '.join(slower)}: correct, but slower" if slower else ""


def probe(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: str) -> Support:
    """Try a base model; raise ParamsError if even texts without shared parts are sampled or scored wrongly."""
    trial = Trial(model.eval(), tokenizer)
    for problem, what in ((trial.of_rows(1), "scored by a reward model"), (trial.of_sampler(PlainSampler), "sampled")):
        if problem:
            raise ParamsError(
                f"base_model.source = {source!r}: {model.config.model_type} cannot be {what} ({problem}); name a "
                "causal language model"
            )
    packed = not trial.of_rows(2)
    window = attention.window(model.config) if packed else None
    return Support(not trial.of_sampler(TransformersSampler), packed, window)


class Trial:
    """Texts of random tokens, and the model's outputs for each of them alone."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase):
        self.model, self.tokenizer = model, tokenizer
        left_out = newline_tokens(tokenizer) | {*tokenizer.all_special_ids}
        embedded = model.get_input_embeddings().weight.shape[0]  # type: ignore[index]
        self._ordinary = sorted(i for i in tokenizer.get_vocab().values() if i < embedded and i not in left_out)
        self._rng = np.random.default_rng(0)
        self.tolerance = TOLERANCE[model.dtype]

    def of_sampler(self, kind: type[RowSampler]) -> str | None:
        """Return what is wrong with the logits that a sampler chooses from, None if nothing is.

        Prompts share beginnings, or differ in length, and completions fork.
        """
        first, second, rest = self._draw(11), self._draw(6), self._draw(8)
        requests = [
            Request(first + rest[:4], 3, 0, common=len(first)), Request(first + rest, 2, 0, common=len(first)),
            Request(second + rest[:5], 2, 0, common=len(second)), Request(second, 2, 0),
        ]  # fmt: skip
        begun = self._draw(WRITTEN // 2)
        prompts = [r.prompt for r in requests for _ in range(r.n)]
        written = [begun + self._draw(WRITTEN - len(begun)) for _ in prompts]
        seen: dict[Ids, torch.Tensor] = {}

        class Recorder(kind):  # type: ignore[misc, valid-type]
            def _choose(self, logits: torch.Tensor, rows: list, *_: Any) -> list[list[int]]:
                seen.update({row.text: row_logits for row, row_logits in zip(rows, logits, strict=True)})
                return [[written[c][len(row.tokens)] for c in row.completions] for row in rows]

        def compare() -> Iterable[Compared]:
            Recorder(self.model, self.tokenizer, 64).sample(requests, 1.0, WRITTEN, "probe")
            for prompt, tokens in zip(prompts, written, strict=True):
                text, start = prompt + tokens[:-1], len(prompt)
                yield text, start - 1, torch.stack([seen[text[:n]] for n in range(start, len(text) + 1)])

        return self._problem(compare, lambda ids: self.model(input_ids=ids).logits)

    def of_rows(self, together: int) -> str | None:
        """Return what is wrong with a reward model's states if this many solutions share a row, None if nothing is."""
        prompt, rest = self._draw(9), self._draw(5)
        texts = [prompt + rest + self._draw(6), prompt + rest + self._draw(4), self._draw(33)]
        start = len(prompt)
        solutions = [Labelled(list(text), start, dict.fromkeys(range(start, len(text)), 0)) for text in texts]
        rows = [*pack(solutions[:2], together, 100), *pack(solutions[2:], 1, 100)]

        def compare() -> Iterable[Compared]:
            reward_model = RewardModel(self.model)
            batch = {name: tensor.to(self.model.device) for name, tensor in collate(rows, 0).items()}
            states = reward_model.hidden(batch["input_ids"], batch["visible"])
            found = iter([s[i] for s, row in zip(states, rows, strict=True) for i in row["label_at"]])
            for text in texts:
                yield text, start, torch.stack([next(found) for _ in text[start:]])

        return self._problem(compare, lambda ids: self.model.base_model(input_ids=ids).last_hidden_state)

    def _draw(self, n: int) -> Ids:
        return tuple(self._rng.choice(self._ordinary, n).tolist())

    @torch.inference_mode()
    def _problem(self, compare: Callable[[], Iterable[Compared]], forward: Callable[..., torch.Tensor]) -> str | None:
        """Compare a text's outputs from a place on with those of a forward pass of the text alone."""
        own = self.model.config._attn_implementation

        def alone(text: Ids) -> torch.Tensor:
            return forward(torch.tensor([text], device=self.model.device))[0].float().clamp(min=LOWEST)

        try:
            compared = list(compare())
            self.model.set_attn_implementation(own)
            for text, start, found in compared:
                expected = alone(text)[start:]
                changed = alone(self._draw(start // 2) + text[start // 2 :])[start:]
                size = (changed - expected).norm() + FLOOR * (expected - expected.mean()).norm()
                error = float((found.float().clamp(min=LOWEST) - expected).norm() / size)
                if not error <= self.tolerance:  # NaN too
                    return f"outputs differ from those of the text alone, by {error:.2g} of what its beginning changes"
        except ParamsError:
            raise
        except Exception as error:  # whatever an architecture does with arguments that it does not expect
            return " ".join(f"{type(error).__name__}: {error}".split())
        finally:
            self.model.set_attn_implementation(own)
        return None
