"""Drop and grow of one layer in plain loops (spec 0.4)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


def ranked(scores: np.ndarray, places: list[int]) -> list[int]:
    """Places in falling order of their scores; equal scores in the order of the index."""
    return sorted(places, key=lambda i: (-float(scores[i]), i))


@dataclass
class Layer:
    """One layer: weights and mask, flattened, and what was ever active."""

    weights: np.ndarray
    mask: list[bool]
    explored: list[bool]

    @classmethod
    def start(cls, weights: np.ndarray, mask: np.ndarray) -> Layer:
        flags = [bool(m) for m in mask.reshape(-1)]
        flat = np.where(flags, weights.reshape(-1), np.float32(0))
        return cls(flat.astype(np.float32), flags, list(flags))

    def exchange(
        self,
        kept: int,
        total: int,
        drop: np.ndarray,
        grow: np.ndarray | None,
        regrow: str = "allow",
        regrown: str = "keep",
    ) -> list[int]:
        """Changes mask and weights; returns the places that start at zero."""
        size = len(self.mask)
        active = [i for i in range(size) if self.mask[i]]
        stay = ranked(drop, active)[:kept]
        chosen: list[int] = []
        if grow is not None:
            blocked = set(stay) if regrow == "allow" else set(active)
            free = [i for i in range(size) if i not in blocked]
            chosen = ranked(grow, free)[: total - len(stay)]
        fresh = [i for i in chosen if regrown == "zero" or not self.mask[i]]
        after = set(stay) | set(chosen)
        for i in range(size):
            self.mask[i] = i in after
            self.explored[i] = self.explored[i] or i in after
            if i not in after or i in fresh:
                self.weights[i] = 0.0
        return fresh

    def descend(self, grad: np.ndarray, rate: float, but: list[int] | None = None) -> None:
        """Plain gradient descent on active weights, except at the places ``but``."""
        skip = set(but or [])
        for i, g in enumerate(grad.reshape(-1).astype(np.float32)):
            if self.mask[i] and i not in skip:
                self.weights[i] += np.float32(-rate) * g


def exchanged(active: int, fraction: float, rounding: str) -> int:
    """How many of the active weights are dropped (spec 0.6: products of decimals stay whole)."""
    product = active * fraction
    if rounding == "ceil":
        return math.ceil(product - 1e-6)
    if rounding == "round":
        return math.floor(product + 0.5)
    return math.floor(product + 1e-6)
