"""H2O: heavy hitters and recent tokens."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from dst.activations.cache.eviction import Eviction, check_budget
from dst.core import checks
from dst.core.typing import Array


@dataclass(frozen=True)
class H2O:
    """Keeps the last ``recent`` tokens, and of the others those that received most attention.

    The score of an entry is the sum of the attention weights that it received so far, over all
    queries of the prompt and of later steps, and over the query heads that share it. Positions are
    those of the text.

    Args:
      budget: entries per head, > ``recent``.
      recent: tokens that always stay; None: half of the budget, as in the paper.

    Raises:
      ValueError: a budget without an entry for heavy hitters.

    Example:
      >>> H2O(64).rule().remembers
      True

    References: Zhang et al. 2023, "H2O: heavy-hitter oracle for efficient generative inference of
      large language models" (arXiv 2306.14048), algorithm 1.
    Checked against: FMInference/H2O, h2o_hf/utils_real_drop/modify_llama.py at commit 0ee6a85, by
      positions and scores worked out by hand: tests/activations/cache/test_policies.py
      ::test_h2o_keeps_heavy_and_recent_entries_as_worked_out_by_hand.
    Differs from its code: scores are those of each sequence, not sums over a batch; heads of
      queries that share a key share its score.
    """

    budget: int
    recent: int | None = None

    def __post_init__(self) -> None:
        if self.recent is not None:
            checks.integer("recent of H2O", self.recent, at_least=0)
        check_budget("H2O", self.budget, (self.recent or 0) + 1, "recent + 1")

    def rule(self) -> Eviction:
        """The lightest goes."""
        return Eviction(self.budget, self.priority, self.scores, remembers=True)

    def scores(self, scores: Array, weights: Array, position: Array, time: Array) -> Array:
        """What an entry had, and what all queries of this step give it."""
        return scores + weights.sum(axis=(2, 3))

    def priority(self, scores: Array, position: Array, time: Array) -> Array:
        """Infinite for recent tokens, otherwise the score."""
        recent = self.budget // 2 if self.recent is None else self.recent
        return jnp.where(position > time - recent, jnp.inf, scores)
