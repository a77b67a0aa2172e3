"""Sparse momentum in plain loops, with plain gradient descent inside."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from tests.reference.exchange import Layer, cosine, exchanged


def apportion(amount: int, share: list[float], soft: list[int], hard: list[int]) -> list[int]:
    """Whole numbers that add up to ``amount``, each just below its share.

    The rest goes equally to the layers below the soft limits, then to those below the hard ones.
    """
    counts = [
        min(math.floor(amount * s * (1 - 1e-5)), limit)
        for s, limit in zip(share, soft, strict=True)
    ]
    for limits in (soft, hard):
        while (left := amount - sum(counts)) > 0:
            below = [i for i, limit in enumerate(limits) if counts[i] < limit]
            if not below:
                break
            each = left // len(below)
            for i in below if each else below[:left]:
                counts[i] += min(max(each, 1), limits[i] - counts[i])
    return counts


@dataclass
class SNFS:
    """Counts updates from 0; topology changes at ``every, 2 every, ...`` before ``stop``."""

    layers: dict[str, Layer]
    drop_fraction: float
    every: int
    stop: int
    rate: float
    beta: float
    b2: float | None = None  # of Adam's second moment
    redistribute: bool = True
    momentum: dict[str, np.ndarray] = field(default_factory=dict)
    squares: dict[str, np.ndarray] = field(default_factory=dict)
    count: int = 0
    changed_at: list[int] = field(default_factory=list)

    def step(self, grads: dict[str, np.ndarray]) -> None:
        t, self.count = self.count, self.count + 1
        for name, g in grads.items():
            self._remember(name, g.reshape(-1))
        changing = t > 0 and t % self.every == 0 and t < self.stop
        counts: dict[str, tuple[int, int]] = {}
        if changing:
            self.changed_at.append(t)
            counts = self._counts(cosine(self.drop_fraction, t, self.stop, 0.005))
        for name, layer in self.layers.items():
            fresh: list[int] = []
            if changing:
                kept, total = counts[name]
                fresh = layer.exchange(
                    kept,
                    total,
                    drop=np.abs(layer.weights),
                    grow=self._size(name),
                )
            layer.descend(grads[name], self.rate, but=fresh)

    def _remember(self, name: str, g: np.ndarray) -> None:
        zeros, beta = np.zeros(g.size, np.float32), np.float32(self.beta)
        fresh = g if self.b2 is None else (1 - beta) * g
        self.momentum[name] = beta * self.momentum.get(name, zeros) + fresh
        if self.b2 is not None:
            b2 = np.float32(self.b2)
            self.squares[name] = b2 * self.squares.get(name, zeros) + (1 - b2) * (g * g)

    def _size(self, name: str) -> np.ndarray:
        """By this the layer's share is measured, and its weights are grown."""
        size = np.abs(self.momentum[name])
        if self.b2 is not None:
            size = size / (np.sqrt(self.squares[name]) + np.float32(1e-8))
        return size

    def _counts(self, fraction: float) -> dict[str, tuple[int, int]]:
        active = {name: len(x.active) for name, x in self.layers.items()}
        dropped = {name: exchanged(n, fraction, "ceil") for name, n in active.items()}
        if not self.redistribute:
            return {name: (n - dropped[name], n) for name, n in active.items()}
        means = {
            name: sum(float(self._size(name)[i]) for i in x.active) / max(active[name], 1)
            for name, x in self.layers.items()
        }
        whole = sum(means.values())
        share = {name: mean / whole if whole else 0.0 for name, mean in means.items()}
        soft, hard = [], []
        for name, x in self.layers.items():
            size = len(x.mask)
            zeros = size - active[name]
            if zeros < 0.2 * size and share[name] > 1 / len(self.layers):
                dropped[name] = min(dropped[name], zeros * active[name] // size)
            hard.append(zeros + dropped[name])
            soft.append(math.floor(hard[-1] * 99 / 100))
        grown = apportion(sum(dropped.values()), list(share.values()), soft, hard)
        return {
            name: (active[name] - dropped[name], active[name] - dropped[name] + more)
            for name, more in zip(active, grown, strict=True)
        }
