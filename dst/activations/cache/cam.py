"""CaM: the value of an entry that goes is merged into those that follow it."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from dst.activations.cache.eviction import Eviction, check_budget
from dst.activations.cache.streaming_llm import StreamingLLM
from dst.core import checks
from dst.core.typing import Array


@dataclass(frozen=True)
class CaM:
    """Evicts as :class:`StreamingLLM`, and merges the value of the evicted entry into others.

    ``s`` is the attention that an entry received so far, ``i`` the evicted entry and ``M`` the
    ``merged`` entries that follow it. With probability ``min(s_i / mean of s_j, j in M, 1)``, every
    ``v_j`` becomes ``v_j + v_i / merged``. Otherwise ``v_i`` is lost, and its key always is.
    Positions are those inside the cache. Entries that leave at the end of a prompt are not merged.

    Args:
      budget: entries per head, at least ``sinks + merged``.
      sinks: first tokens that always stay, >= 0.
      merged: entries that share the value, >= 1.
      seed: of the draws, which also depend on layer, head, sequence and position.

    Raises:
      ValueError: a budget that is too small.

    Example:
      >>> CaM(64).rule().remembers
      True

    References: Zhang et al. 2024, "CaM: cache merging for memory-efficient LLMs inference"
      (ICML 2024, PMLR 235:58840-58850).
    Checked against: zyxxmu/cam, generate_task/streaming_llm/kv_cache_cam.py at commit d8eb099, by a
      twin in NumPy: tests/activations/cache/test_twins.py. Other files there divide by the largest
      score, or merge into 32 entries.
    Differs from its code: query heads that share a key share its score.
    """

    budget: int
    sinks: int = 4
    merged: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        checks.integer("sinks of CaM", self.sinks, at_least=0)
        checks.integer("merged of CaM", self.merged, at_least=1)
        checks.integer("seed of CaM", self.seed, at_least=0)
        check_budget("CaM", self.budget, self.sinks + self.merged, "sinks + merged")

    def rule(self) -> Eviction:
        """StreamingLLM's, with scores and merging."""
        base = StreamingLLM(self.budget, self.sinks)
        return Eviction(
            self.budget,
            base.priority,
            self.scores,
            remembers=True,
            places=base.places,
            merge=self.merge,
        )

    def scores(self, scores: Array, weights: Array, position: Array, time: Array) -> Array:
        """What an entry had, and what all queries of this step give it."""
        return scores + weights.sum(axis=(2, 3))

    def merge(
        self,
        value: Array,
        scores: Array,
        position: Array,
        evicted: Array,
        time: Array,
        layer: Array,
    ) -> Array:
        """The values, some of them with a part of the evicted one."""
        first = jnp.max(jnp.where(evicted, position, -1), axis=-1, keepdims=True)
        follow = (position > first) & (position <= first + self.merged)
        score = jnp.sum(jnp.where(evicted, scores, 0.0), axis=-1)
        mean = jnp.sum(jnp.where(follow, scores, 0.0), axis=-1) / self.merged
        merges = self.uniform(score.shape, time, layer) * mean < score
        share = jnp.sum(jnp.where(evicted[..., None], value, 0), axis=2, keepdims=True)
        into = follow & merges[..., None]
        return value + jnp.where(into[..., None], share / self.merged, 0).astype(value.dtype)

    def uniform(self, shape: tuple[int, ...], time: Array, layer: Array) -> Array:
        """The draws of a step in [0, 1): one per sequence and head."""
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(self.seed), layer), time)
        return jax.random.uniform(key, shape)
