"""RigL in plain loops (spec A5), with plain gradient descent inside."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from tests.reference.exchange import Layer, exchanged


@dataclass
class RigL:
    """Counts updates from 0; topology changes at ``every, 2 every, ...`` before ``stop``."""

    layers: dict[str, Layer]
    drop_fraction: float
    every: int
    stop: int
    rate: float
    rounding: str = "floor"
    regrow: str = "allow"
    regrown: str = "keep"
    update_weights: bool = False
    count: int = 0
    changed_at: list[int] = field(default_factory=list)

    def step(self, grads: dict[str, np.ndarray]) -> None:
        t, self.count = self.count, self.count + 1
        if t == 0 or t % self.every or t >= self.stop:
            for name, layer in self.layers.items():
                layer.descend(grads[name], self.rate)
            return
        self.changed_at.append(t)
        fraction = self.drop_fraction / 2 * (1 + math.cos(math.pi * t / self.stop))
        for name, layer in self.layers.items():
            n = sum(layer.mask)
            fresh = layer.exchange(
                kept=n - exchanged(n, fraction, self.rounding),
                total=n,
                drop=np.abs(layer.weights),
                grow=np.abs(grads[name].reshape(-1)),
                regrow=self.regrow,
                regrown=self.regrown,
            )
            if self.update_weights:
                layer.descend(grads[name], self.rate, but=fresh)
