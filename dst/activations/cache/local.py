"""The local window: the most recent tokens."""

from __future__ import annotations

from dataclasses import dataclass

from dst.activations.cache.eviction import Eviction, check_budget


@dataclass(frozen=True)
class Local:
    """Keeps the last ``budget`` tokens, at their positions in the text.

    Args:
      budget: entries per head, >= 1.

    Example:
      >>> Local(64).rule().slots(1000)  # one more, for the newest token
      65

    References: window attention, the baseline of Xiao et al. 2023 (arXiv 2309.17453), and "local"
      of Zhang et al. 2023 (arXiv 2306.14048).
    Checked against: positions counted by hand, tests/activations/cache/test_policies.py.
    """

    budget: int

    def __post_init__(self) -> None:
        check_budget("Local", self.budget)

    def rule(self) -> Eviction:
        """The oldest goes."""
        return Eviction(self.budget)
