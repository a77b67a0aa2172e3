"""GraNet in plain loops, with plain gradient descent inside."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from tests.reference.competition import budget, winners
from tests.reference.exchange import Layer, cosine, exchanged


@dataclass
class GraNet:
    """Every ``every`` steps before ``stop``: prunes all layers together, then regenerates each.

    At the k-th step pruning has gone k of the whole intervals until ``prune_stop``.
    """

    layers: dict[str, Layer]
    sparsity: Fraction
    initial_sparsity: Fraction
    drop_fraction: float
    every: int
    prune_stop: int
    stop: int
    rate: float
    count: int = 0
    changed_at: list[int] = field(default_factory=list)

    def step(self, grads: dict[str, np.ndarray]) -> None:
        t, self.count = self.count, self.count + 1
        changing = t > 0 and t % self.every == 0 and t < self.stop
        stay: dict[str, list[int]] = {}
        if changing:
            self.changed_at.append(t)
            gone = Fraction(t // self.every, self.prune_stop // self.every)
            left = 1 - min(gone, Fraction(1))
            sparsity = self.sparsity + (self.initial_sparsity - self.sparsity) * left**3
            scores = {name: np.abs(x.weights) for name, x in self.layers.items()}
            stay = winners(self.layers, scores, budget(self.layers, sparsity))
        fraction = cosine(self.drop_fraction, t, self.stop, 0.005)
        for name, layer in self.layers.items():
            fresh: list[int] = []
            if changing:
                n = len(stay[name])
                size = np.abs(layer.weights)
                layer.exchange(n, n, drop=size, grow=None)
                kept = n - exchanged(n, fraction, "ceil")
                fresh = layer.exchange(kept, n, drop=size, grow=np.abs(grads[name].reshape(-1)))
            layer.descend(grads[name], self.rate, but=fresh)
