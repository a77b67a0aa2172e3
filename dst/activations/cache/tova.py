"""TOVA: the entry goes to which the newest token attends least."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from dst.activations.cache.eviction import Eviction, check_budget
from dst.core.typing import Array


@dataclass(frozen=True)
class TOVA:
    """Keeps the ``budget`` entries to which the newest token attends most.

    Weights are means over all query heads of a layer, so all heads of a layer keep the same tokens.
    No token is protected. Positions are those of the text.

    Args:
      budget: entries per head, >= 1.

    Example:
      >>> TOVA(64).rule().remembers
      False

    References: Oren et al. 2024, "Transformers are multi-state RNNs" (arXiv 2401.06104).
    Checked against: schwartz-lab-NLP/TOVA, src/tova_cache.py at commit 275cf5f, by a table worked
      out by hand: tests/activations/cache/test_policies.py.
    """

    budget: int

    def __post_init__(self) -> None:
        check_budget("TOVA", self.budget)

    def rule(self) -> Eviction:
        """The entry of least attention goes."""
        return Eviction(self.budget, self.priority, self.scores)

    def scores(self, scores: Array, weights: Array, position: Array, time: Array) -> Array:
        """Weights of the last query, the same for all heads."""
        mean = weights[:, :, :, -1].mean(axis=(1, 2))
        return jnp.broadcast_to(mean[:, None], scores.shape)

    def priority(self, scores: Array, position: Array, time: Array) -> Array:
        """The weight."""
        return scores
