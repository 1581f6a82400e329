"""What a run and its plan (:mod:`glore_lib.cost`) both follow. Nothing here imports torch, which takes seconds."""

from glore_lib.params import RewardModels

KINDS = ("orm", "balanced_orm", "sorm", "sorm_raw")  # the reward models
SCORING_TOKENS = 4096  # padded tokens per forward pass: enough for a GPU, few enough for the caches of a CPU


def waves(p: RewardModels) -> list[tuple[int, int]]:
    """Return (first number, count) of each wave in which the K rollouts of a prefix are requested."""
    k, first = p.rollouts_per_step, p.rollouts_at_first
    return [(0, first), (first, k - first)] if p.early_stop and first < k else [(0, k)]
