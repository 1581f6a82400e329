"""Decode with ``model.generate``, for models whose attention cannot share prefixes.

Every completion is a row of its own and reads its whole prompt. The prompts of a batch have the same length, so that
nothing is padded: recurrent models would read padding too.
"""

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from glore_lib.sampling import Answers, Request
from glore_lib.sampling.rows import Row, RowSampler, Uniforms


class PlainSampler(RowSampler):
    """A :class:`glore_lib.sampling.Sampler` with the same completions as ``TransformersSampler``, up to rounding."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: int):
        super().__init__(model, tokenizer, rows)
        # A model's own settings, such as a penalty of repetitions, would change the distribution.
        self.model.generation_config = GenerationConfig()

    def sample(self, requests: list[Request], temperature: float, max_new_tokens: int, progress: str) -> Answers:
        """See :meth:`RowSampler.sample`."""
        self.model.set_attn_implementation(self.attention)
        return super().sample(requests, temperature, max_new_tokens, progress)

    def _waiting(self, requests: list[Request], temperature: float) -> list[Row]:
        """Make a row for each completion, or if decoding is greedy for each prompt; longest prompts first."""
        rows = super()._waiting(requests, temperature)
        if temperature:
            rows = [Row(row.request, [completion]) for row in rows for completion in row.completions]
        return sorted(rows, key=lambda row: -len(row.request.prompt))

    def _decode_some(
        self, waiting: list[Row], uniforms: Uniforms, temperature: float, limit: int
    ) -> tuple[list[Row], list[Row]]:
        length = len(waiting[0].request.prompt)
        rows = [row for row in waiting[: self.rows] if len(row.request.prompt) == length]

        def choose(_: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
            """Leave generate one token for each row to choose from."""
            growing = [k for k, row in enumerate(rows) if not row.ended(limit)]
            grown = [rows[k] for k in growing]
            left = torch.full_like(logits, -torch.inf)
            chosen = self._choose(logits[growing].float(), grown, uniforms, temperature)
            for k, row, tokens in zip(growing, grown, chosen, strict=True):
                row.tokens.append(tokens[0])  # of several completions, greedily the same
                left[k, tokens[0]] = 0.0
            self.ends.note(grown)
            return left

        def ended(ids: torch.Tensor, _: object) -> torch.Tensor:
            return torch.tensor([row.ended(limit) for row in rows], device=ids.device)

        ids = torch.tensor([row.request.prompt for row in rows], device=self.model.device)
        self.model.generate(
            ids, attention_mask=torch.ones_like(ids), generation_config=GenerationConfig(max_new_tokens=limit),
            logits_processor=[choose], stopping_criteria=[ended],
        )  # fmt: skip
        return rows, waiting[len(rows) :]
