"""SnapKV: the last tokens of a prompt choose which of its entries stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp

from dst.activations.cache.eviction import Eviction, check_budget
from dst.core import checks
from dst.core.typing import Array

_NEVER_CHOSEN = -1.0  # below every vote


@dataclass(frozen=True)
class SnapKV:
    """Keeps the last ``window`` tokens, and the entries for which the end of the prompt voted.

    The vote for an entry is the attention that it receives from the last ``window`` tokens of the
    prompt, pooled over ``kernel`` neighbouring positions, with zeros beyond the ends. The entries
    with most votes stay for good. Later tokens are entries while they are in the window. Positions
    are those of the text.

    Args:
      budget: entries per head, > ``window``.
      window: tokens that vote, and recent tokens that stay, >= 1.
      kernel: positions that are pooled, an odd number.
      pool: the mean or the largest of them.

    Raises:
      ValueError: a budget without an entry to choose, an even kernel.

    Example:
      >>> SnapKV(64, window=16).rule().shortest  # tokens of a prompt
      17

    References: Li et al. 2024, "SnapKV: LLM knows what you are looking for before generation"
      (arXiv 2404.14469).
    Checked against: FasterDecoding/SnapKV, snapkv/monkeypatch/snapkv_utils.py at commit 395b54d, by
      a table worked out by hand: tests/activations/cache/test_policies.py.
    Differs from its code: there, all tokens after the prompt stay, so the cache grows; here a
      token goes when it leaves the window. Query heads that share a key vote together.
    """

    budget: int
    window: int = 32
    kernel: int = 5
    pool: Literal["mean", "max"] = "mean"

    def __post_init__(self) -> None:
        checks.integer("window of SnapKV", self.window, at_least=1)
        checks.integer("kernel of SnapKV", self.kernel, at_least=1)
        checks.one_of("pool of SnapKV", self.pool, ("mean", "max"))
        if self.kernel % 2 == 0:
            raise ValueError(
                f"kernel of SnapKV must be an odd number, got {self.kernel}: an entry is in the "
                "middle of those that are pooled."
            )
        check_budget("SnapKV", self.budget, self.window + 1, "window + 1")

    def rule(self) -> Eviction:
        """The chosen ones and the window stay."""
        return Eviction(
            self.budget, self.priority, self.scores, remembers=True, shortest=self.window + 1
        )

    def scores(self, scores: Array, weights: Array, position: Array, time: Array) -> Array:
        """Votes; a later token has none."""
        queries = weights.shape[3]
        if queries == 1:
            return jnp.where(position == time, _NEVER_CHOSEN, scores)
        votes = weights[:, :, :, -self.window :].sum(axis=(2, 3))
        before = position <= time - self.window
        pooled = self._pooled(jnp.where(before, votes, 0.0))
        return jnp.where(before, pooled, _NEVER_CHOSEN)

    def priority(self, scores: Array, position: Array, time: Array) -> Array:
        """Infinite in the window, otherwise the vote."""
        return jnp.where(position > time - self.window, jnp.inf, scores)

    def _pooled(self, votes: Array) -> Array:
        entries, wing = votes.shape[-1], self.kernel // 2
        wide = jnp.pad(votes, [(0, 0), (0, 0), (wing, wing)])
        shifted = jnp.stack([wide[..., i : i + entries] for i in range(self.kernel)])
        return shifted.mean(axis=0) if self.pool == "mean" else shifted.max(axis=0)
