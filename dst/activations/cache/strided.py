"""Strided: a window, and of the tokens before it every so many."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from dst.activations.cache.eviction import Eviction, check_budget
from dst.core import checks
from dst.core.typing import Array


@dataclass(frozen=True)
class Strided:
    """Keeps the last ``recent`` tokens, and the latest of the earlier ones whose position is
    ``stride - 1`` modulo ``stride``.

    If there are too few of these, the latest of the others stay, too. Positions are those of the
    text.

    Args:
      budget: entries per head, >= 2.
      stride: between the positions that stay, >= 1.
      recent: tokens that always stay; None: half of the budget.

    Raises:
      ValueError: a budget that is no larger than ``recent``.

    Example:
      >>> Strided(64, stride=8).rule().budget
      64

    References: Child et al. 2019, the fixed pattern (arXiv 1904.10509), which Zhang et al. 2023
      (arXiv 2306.14048) compare with.
    Checked against: positions counted by hand, tests/activations/cache/test_policies.py.
    Differs from the paper: the pattern there has no budget; the oldest strided token goes here.
    """

    budget: int
    stride: int = 8
    recent: int | None = None

    def __post_init__(self) -> None:
        checks.integer("stride of Strided", self.stride, at_least=1)
        if self.recent is not None:
            checks.integer("recent of Strided", self.recent, at_least=1)
        check_budget("Strided", self.budget, (self.recent or 1) + 1, "recent + 1")

    def rule(self) -> Eviction:
        """Window first, then the stride."""
        return Eviction(self.budget, self.priority)

    def priority(self, scores: Array, position: Array, time: Array) -> Array:
        """Infinite within the window; a strided token above all others, the later the higher."""
        recent = self.budget // 2 if self.recent is None else self.recent
        on = position % self.stride == self.stride - 1
        rank = jnp.where(on, position, position - time - 1).astype(jnp.float32)
        return jnp.where(position > time - recent, jnp.inf, rank)
