"""Gradual magnitude pruning in plain loops, with plain gradient descent inside."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from tests.reference.competition import budget, lamp, winners
from tests.reference.exchange import Layer


@dataclass
class GMP:
    """Prunes at ``start, start + every, ...`` and at ``stop``; uniform over layers, or by a
    competition of their magnitudes or LAMP scores."""

    layers: dict[str, Layer]
    sparsity: Fraction
    every: int
    start: int
    stop: int
    rate: float
    allocation: str = "uniform"
    count: int = 0
    changed_at: list[int] = field(default_factory=list)

    def step(self, grads: dict[str, np.ndarray]) -> None:
        t, self.count = self.count, self.count + 1
        on_grid = self.start <= t <= self.stop and (t - self.start) % self.every == 0
        if on_grid or t == self.stop:
            self.changed_at.append(t)
            left = 1 - Fraction(t - self.start, self.stop - self.start)
            for name, total in self._counts(self.sparsity * (1 - left**3)).items():
                layer = self.layers[name]
                layer.exchange(total, total, drop=np.abs(layer.weights), grow=None)
        for name, layer in self.layers.items():
            layer.descend(grads[name], self.rate)

    def _counts(self, sparsity: Fraction) -> dict[str, int]:
        if self.allocation == "uniform":
            return {
                n: len(x.mask) - math.floor(sparsity * len(x.mask)) for n, x in self.layers.items()
            }
        score = lamp if self.allocation == "lamp" else np.abs
        scores = {name: score(x.weights) for name, x in self.layers.items()}
        won = winners(self.layers, scores, budget(self.layers, sparsity))
        return {name: len(places) for name, places in won.items()}
