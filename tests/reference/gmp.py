"""Gradual magnitude pruning in plain loops (spec C1), with plain gradient descent inside."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from tests.reference.exchange import Layer


@dataclass
class GMP:
    """Prunes at ``start, start + every, ...`` and at ``stop``; uniform over layers."""

    layers: dict[str, Layer]
    sparsity: Fraction
    every: int
    start: int
    stop: int
    rate: float
    count: int = 0
    changed_at: list[int] = field(default_factory=list)

    def step(self, grads: dict[str, np.ndarray]) -> None:
        t, self.count = self.count, self.count + 1
        on_grid = self.start <= t <= self.stop and (t - self.start) % self.every == 0
        if on_grid or t == self.stop:
            self.changed_at.append(t)
            left = 1 - Fraction(t - self.start, self.stop - self.start)
            due = self.sparsity * (1 - left**3)
            for layer in self.layers.values():
                size = len(layer.mask)
                total = size - math.floor(due * size)
                layer.exchange(total, total, drop=np.abs(layer.weights), grow=None)
        for name, layer in self.layers.items():
            layer.descend(grads[name], self.rate)
