"""The cache that keeps everything."""

from __future__ import annotations

from dataclasses import dataclass

from dst.activations.cache.eviction import Eviction


@dataclass(frozen=True)
class Full:
    """Keeps every entry: the same tokens as without a cache.

    Example:
      >>> Full().rule().slots(100)
      100

    Checked against: generation without a cache, tests/activations/cache/test_generate.py.
    """

    def rule(self) -> Eviction:
        """No budget."""
        return Eviction()
