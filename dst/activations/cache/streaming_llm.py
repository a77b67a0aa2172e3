"""StreamingLLM: attention sinks and a window."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from dst.activations.cache.eviction import Eviction, check_budget
from dst.core import checks
from dst.core.typing import Array


@dataclass(frozen=True)
class StreamingLLM:
    """Keeps the first ``sinks`` tokens and the last ``budget - sinks``.

    Positions are those inside the cache: keys turn by their rank among the entries, and the newest
    token by ``min(time, budget)``. So a text may be longer than the context of the model, while
    the prompt fits into it.

    Args:
      budget: entries per head, > ``sinks``.
      sinks: first tokens that always stay, >= 0.

    Raises:
      ValueError: a budget without an entry for recent tokens.

    Example:
      >>> StreamingLLM(64, sinks=4).rule().slots(1000)
      65

    References: Xiao et al. 2023, "Efficient streaming language models with attention sinks"
      (arXiv 2309.17453).
    Checked against: mit-han-lab/streaming-llm, streaming_llm/kv_cache.py and
      streaming_llm/pos_shift/modify_llama.py at commit d729b3f, by a twin in NumPy:
      tests/activations/cache/test_twins.py.
    """

    budget: int
    sinks: int = 4

    def __post_init__(self) -> None:
        checks.integer("sinks of StreamingLLM", self.sinks, at_least=0)
        check_budget("StreamingLLM", self.budget, self.sinks + 1, "sinks + 1")

    def rule(self) -> Eviction:
        """The oldest goes, but for the sinks."""
        return Eviction(self.budget, self.priority, places=self.places)

    def priority(self, scores: Array, position: Array, time: Array) -> Array:
        """Infinite for sinks, otherwise the position."""
        return jnp.where(position < self.sinks, jnp.inf, position.astype(jnp.float32))

    def places(self, position: Array, time: Array) -> Array:
        """The rank among the entries: tokens after the sinks moved up by what was evicted."""
        gone = jnp.maximum(time - self.budget, 0)
        return jnp.where(position < self.sinks, position, position - gone)
