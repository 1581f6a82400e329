"""Solutions of one question as one row of a reward model's batch: what several begin with alike is computed once.

A row is a tree of tokens. Each token sees those on the way from the question to it and nothing else, so that the hidden
states, and with them losses, gradients and scores, are those of every solution alone, up to rounding.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch

IGNORE = -100  # no label; also what fills rows up
Row = dict[str, list[int]]


@dataclass(frozen=True)
class Labelled:
    """The token ids of a prompt and a solution, the prompt's length, and labels by the index of their token."""

    ids: list[int]
    prompt_length: int
    labels: dict[int, int]


@dataclass
class _Tree:
    ids: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    label_at: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    lm_at: list[int] = field(default_factory=list)
    lm_labels: list[int] = field(default_factory=list)
    children: dict[tuple[int, int], int] = field(default_factory=dict)
    solutions: int = 0

    def length_with(self, ids: list[int]) -> int:
        """How many tokens there are once a solution is added."""
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
    """The solutions of one question, in their order, in rows of ``together``; of fewer where they would be longer than
    ``max_length`` tokens. A solution that is longer has a row of its own.

    Of each row ``parents`` is the place of the token before each token (-1: none), ``label_at`` and ``labels`` have an
    entry a label, in the order of the solutions; ``lm_at`` and ``lm_labels`` have one a token of each solution: the
    place that predicts it, and it.
    """
    trees: list[_Tree] = []
    for solution in solutions:
        fits = trees and trees[-1].solutions < together and trees[-1].length_with(solution.ids) <= max_length
        if not fits:
            trees.append(_Tree())
        trees[-1].add(solution)
    return [tree.row for tree in trees]


def collate(rows: list[Row], pad: int) -> dict[str, torch.Tensor]:
    """A batch for :class:`glore_lib.models.reward_head.RewardModel`: ``input_ids`` and ``position_ids`` [rows, longest],
    ``visible`` [rows, longest, longest], true where the first token sees the second, and the labels [rows, most]."""
    width = max(len(row["input_ids"]) for row in rows)
    visible = np.zeros((len(rows), width, width), dtype=bool)
    visible[:] = np.eye(width, dtype=bool)  # padding sees itself, for want of others
    for seen, row in zip(visible, rows, strict=True):
        for i, parent in enumerate(row["parents"]):
            if parent >= 0:
                seen[i] |= seen[parent]
    batch = {"input_ids": _filled(rows, "input_ids", pad), "visible": torch.from_numpy(visible)}
    batch["position_ids"] = batch["visible"].sum(2) - 1
    return batch | {name: _filled(rows, name, IGNORE) for name in ("label_at", "labels", "lm_at", "lm_labels")}


def _filled(rows: list[Row], name: str, fill: int) -> torch.Tensor:
    width = max(len(row[name]) for row in rows)
    return torch.tensor([row[name] + [fill] * (width - len(row[name])) for row in rows])
