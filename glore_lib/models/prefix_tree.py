"""Pack solutions of one question into one row of a reward model's batch, so that shared prefixes are computed once.

A row is a tree of tokens. Each token attends only to its ancestors, so hidden states, losses, gradients and scores
equal those of each solution on its own, up to rounding. Not every architecture allows that
(:mod:`glore_lib.sampling.probe`); solutions in rows of their own need nothing but a causal language model.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

IGNORE = -100  # no label; also pads rows
Row = dict[str, list[Any]]  # integers, but for soft labels


@dataclass(frozen=True)
class Labelled:
    """A prompt and a solution as token ids, the prompt's length, and labels by token index."""

    ids: list[int]
    prompt_length: int
    labels: dict[int, float]


def next_tokens(ids: list[int], start: int) -> Labelled:
    """Label each token with the one after it, from the one at ``start`` on: what a language model learns."""
    return Labelled(ids, len(ids), {i - 1: ids[i] for i in range(start, len(ids))})


@dataclass
class _Tree:
    ids: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    label_at: list[int] = field(default_factory=list)
    labels: list[float] = field(default_factory=list)
    lm_at: list[int] = field(default_factory=list)
    lm_labels: list[int] = field(default_factory=list)
    children: dict[tuple[int, int], int] = field(default_factory=dict)
    solutions: int = 0

    def length_with(self, ids: list[int]) -> int:
        """Return the number of tokens after adding a solution."""
        at, common = -1, 0
        while common < len(ids) and (at, ids[common]) in self.children:
            at, common = self.children[at, ids[common]], common + 1
        return len(self.ids) + len(ids) - common

    def add(self, solution: Labelled) -> None:
        at, path = -1, []
        self.solutions += 1
        for token in solution.ids:
            if (at, token) not in self.children:
                self.children[at, token] = len(self.ids)
                self.ids.append(token)
                self.parents.append(at)
            at = self.children[at, token]
            path.append(at)
        self.label_at += [path[index] for index in solution.labels]
        self.labels += solution.labels.values()
        self.lm_at += path[solution.prompt_length - 1 : -1]
        self.lm_labels += solution.ids[solution.prompt_length :]

    @property
    def row(self) -> Row:
        return {
            "input_ids": self.ids, "parents": self.parents, "label_at": self.label_at, "labels": self.labels,
            "lm_at": self.lm_at, "lm_labels": self.lm_labels,
        }  # fmt: skip


def pack(solutions: Iterable[Labelled], together: int, max_length: int) -> list[Row]:
    """Pack the solutions of one question, in order, into rows of at most ``together`` and ``max_length`` tokens.

    A longer solution gets a row of its own. In each row, ``parents`` is the index of each token's predecessor (-1:
    none); ``label_at`` and ``labels`` have one entry per label, in the order of the solutions; ``lm_at`` and
    ``lm_labels`` have one per token of each solution: the index that predicts it, and the token.
    """
    trees: list[_Tree] = []
    for solution in solutions:
        fits = trees and trees[-1].solutions < together and trees[-1].length_with(solution.ids) <= max_length
        if not fits:
            trees.append(_Tree())
        trees[-1].add(solution)
    return [tree.row for tree in trees]


def collate(rows: list[Row], pad: int) -> dict[str, torch.Tensor]:
    """Build a batch for :class:`glore_lib.models.reward_head.RewardModel`.

    ``input_ids`` are [rows, longest], labels [rows, most]. ``visible`` [rows, longest, longest] is true where the first
    token attends to the second. If no row branches, it is [rows, longest], true where there is a token.
    """
    width = max(len(row["input_ids"]) for row in rows)
    if all(parent == i for row in rows for i, parent in enumerate(row["parents"][1:])):
        visible = np.array([[i < len(row["input_ids"]) for i in range(width)] for row in rows])
    else:
        visible = np.zeros((len(rows), width, width), dtype=bool)
        visible[:] = np.eye(width, dtype=bool)  # padding attends to itself
        for attended, row in zip(visible, rows, strict=True):
            for i, parent in enumerate(row["parents"]):
                if parent >= 0:
                    attended[i] |= attended[parent]
    batch = {"input_ids": _filled(rows, "input_ids", pad), "visible": torch.from_numpy(visible)}
    return batch | {name: _filled(rows, name, IGNORE) for name in ("label_at", "labels", "lm_at", "lm_labels")}


def _filled(rows: list[Row], name: str, fill: int) -> torch.Tensor:
    width = max(len(row[name]) for row in rows)
    return torch.tensor([row[name] + [fill] * (width - len(row[name])) for row in rows])
