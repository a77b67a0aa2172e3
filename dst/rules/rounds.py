"""Pruning before training: one round at every update from the first one on."""

from __future__ import annotations

from dst.rules.ramps import geometric, share_of
from dst.rules.schedule import Schedule, UpdateSchedule


def before_training(sparsity: float, rounds: int) -> tuple[UpdateSchedule, Schedule]:
    """When to prune, and the share of the sparsity that is reached then.

    After round k of n the density is ``(1 - sparsity) ** (k / n)``: every round takes the same
    share of what is left.

    Args:
      sparsity: after the last round, in [0, 1).
      rounds: n, at least 1; round k is the topology step of count ``k - 1``.
    """
    curve = geometric(sparsity, -1, rounds - 1)
    return UpdateSchedule(0, 1, rounds - 1), share_of(curve, sparsity)
