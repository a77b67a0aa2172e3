"""SNIP in plain loops, with plain gradient descent inside."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from tests.reference.competition import budget, winners
from tests.reference.exchange import Layer


@dataclass
class SNIP:
    """The first step prunes and does not train; all later ones train at its mask."""

    layers: dict[str, Layer]
    sparsity: Fraction
    rate: float
    per_layer: bool = False
    count: int = 0
    changed_at: list[int] = field(default_factory=list)

    def step(self, grads: dict[str, np.ndarray]) -> None:
        t, self.count = self.count, self.count + 1
        if t > 0:
            for name, layer in self.layers.items():
                layer.descend(grads[name], self.rate)
            return
        self.changed_at.append(t)
        scores = {n: np.abs(x.weights * grads[n].reshape(-1)) for n, x in self.layers.items()}
        sizes = {name: len(x.mask) for name, x in self.layers.items()}
        counts = {name: n - math.floor(self.sparsity * n) for name, n in sizes.items()}
        if not self.per_layer:
            won = winners(self.layers, scores, budget(self.layers, self.sparsity))
            counts = {name: len(places) for name, places in won.items()}
        for name, layer in self.layers.items():
            layer.exchange(counts[name], counts[name], drop=scores[name], grow=None)
