"""SMET as ``sparselearning/core_dst.py`` of QiaoXiao7282/SMET moves connections, in blocks of one
weight, with a ramp of the updates in place of its optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np


def rate_at(step: int, first: float, steps: int) -> float:
    """``CosineDecay`` from ``first`` to .005 over all steps."""
    return 0.005 + (first - 0.005) / 2 * (1 + math.cos(math.pi * step / steps))


def kept(active: int, rate: float) -> int:
    """``magnitude_prune_block``: at least one stays. Products of decimals stay whole."""
    return max(1, math.floor(active * (1 - rate) + 1e-6))


@dataclass
class SMET:
    """``draw(t)`` are the random scores of a topology step. Weights that were grown take
    ``min(age / ramp, 1)`` of a step."""

    weights: np.ndarray
    mask: np.ndarray
    first_rate: float
    every: int
    steps: int
    rate: float
    ramp: int
    draw: Callable[[int], np.ndarray]
    count: int = 0
    age: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.age = np.full(self.weights.shape, self.ramp)
        self.weights = np.where(self.mask, self.weights, np.float32(0))

    def step(self, grad: np.ndarray) -> None:
        t, self.count = self.count, self.count + 1
        fresh = np.zeros_like(self.mask)
        if t and t % self.every == 0 and t < self.steps:
            fresh = self._exchange(t)
        self.age = np.where(fresh, 0, self.age + 1)
        share = np.minimum(self.age / self.ramp, 1).astype(np.float32)
        moved = self.weights + share * (np.float32(-self.rate) * grad)
        self.weights = np.where(self.mask & ~fresh, moved, np.float32(0))

    def _exchange(self, t: int) -> np.ndarray:
        """Drops the smallest, grows as many at random among those that were inactive."""
        before = np.flatnonzero(self.mask)
        size = np.abs(self.weights).reshape(-1)
        order = sorted(before, key=lambda i: (-size[i], i))
        stay = order[: kept(len(before), rate_at(t, self.first_rate, self.steps))]
        scores = self.draw(t).reshape(-1)
        outside = sorted(set(range(size.size)) - set(before), key=lambda i: (-scores[i], i))
        grown = outside[: len(before) - len(stay)]
        flat, fresh = np.zeros(size.size, bool), np.zeros(size.size, bool)
        flat[[*stay, *grown]] = True
        fresh[grown] = True
        self.mask = flat.reshape(self.mask.shape)
        return fresh.reshape(self.mask.shape)
