"""MEST in plain loops, with plain gradient descent inside."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from tests.reference.exchange import Layer


@dataclass
class MEST:
    """At ``every, 2 every, ...`` and where the last stage begins: down to the lower count, then
    up to the higher one at random. ``draw(name, t)`` are the random scores."""

    layers: dict[str, Layer]
    sparsity: Fraction
    extra: tuple[Fraction, ...]
    stages: tuple[int, ...]
    soft_bound: bool
    gradient_weight: float
    every: int
    rate: float
    draw: Callable[[str, int], np.ndarray]
    count: int = 0
    changed_at: list[int] = field(default_factory=list)

    def step(self, grads: dict[str, np.ndarray]) -> None:
        t, self.count = self.count, self.count + 1
        last = self.stages[-1]
        changing = 0 < t <= last and (t % self.every == 0 or t == last)
        if changing:
            self.changed_at.append(t)
        extra = self.extra[sum(t >= begin for begin in self.stages)]
        for name, layer in self.layers.items():
            fresh: list[int] = []
            if changing:
                low = self.sparsity if self.soft_bound else self.sparsity + extra
                high = self.sparsity - extra if self.soft_bound else self.sparsity
                size = len(layer.mask)
                slope = np.abs(grads[name].reshape(-1))
                fresh = layer.exchange(
                    kept=size - math.floor(low * size),
                    total=size - math.floor(high * size),
                    drop=np.abs(layer.weights) + np.float32(self.gradient_weight) * slope,
                    grow=self.draw(name, t).reshape(-1),
                    regrow_value="zero",
                )
            layer.descend(grads[name], self.rate, but=fresh)
