"""Pruning before training: one round at every update from the first one on."""

from __future__ import annotations

from dst.core import checks
from dst.rules.ramps import geometric, share_of
from dst.rules.schedule import MANY, Schedule, UpdateSchedule


def before_training(sparsity: float, rounds: int) -> tuple[UpdateSchedule, Schedule]:
    """When to prune, and the share of the sparsity that is reached then.

    After round k of n the density is ``(1 - sparsity) ** (k / n)``: every round takes the same
    share of what is left.

    Args:
      sparsity: after the last round, in [0, 1).
      rounds: n, from 1 to 100,000; round k is the topology step of count ``k - 1``.

    Raises:
      ValueError: more rounds.
    """
    checks.integer("rounds", rounds, at_least=1, at_most=MANY)
    curve = geometric(sparsity, -1, rounds - 1)
    return UpdateSchedule(0, 1, rounds - 1), share_of(curve, sparsity)
