"""What a run and its plan (:mod:`glore_lib.cost`) both follow. Nothing here imports torch, which takes seconds."""

from glore_lib.params import Params, RewardModels

KINDS = ("orm", "balanced_orm", "sorm", "sorm_raw")  # the reward models
SCORING_TOKENS = 4096  # padded tokens per forward pass: enough for a GPU, few enough for the caches of a CPU


def waves(p: RewardModels) -> list[tuple[int, int]]:
    """Return (first number, count) of each wave in which the K rollouts of a prefix are requested."""
    k, first = p.rollouts_per_step, p.rollouts_at_first
    return [(0, first), (first, k - first)] if p.early_stop and first < k else [(0, k)]


def pool_size(p: Params, split: str) -> int:
    """Return how many solutions the student samples per question of a split, for Bo3 and all that compares samples.

    Bo3 needs three; on the test split an ablation needs five, and ``evaluation.rerank_samples`` may ask for more.
    """
    return max(5, p.evaluation.rerank_samples) if split == "test" else 3
