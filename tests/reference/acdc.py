"""AC/DC in plain loops, with plain gradient descent inside."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from tests.reference.competition import budget, winners
from tests.reference.exchange import Layer


@dataclass
class ACDC:
    """``phases``: the step at which each phase begins, and whether it is sparse."""

    layers: dict[str, Layer]
    sparsity: Fraction
    phases: dict[int, bool]
    rate: float
    count: int = 0
    changed_at: list[int] = field(default_factory=list)

    def step(self, grads: dict[str, np.ndarray]) -> None:
        t, self.count = self.count, self.count + 1
        sizes = {name: np.abs(x.weights) for name, x in self.layers.items()}
        stay: dict[str, list[int]] = {}
        if t in self.phases:
            self.changed_at.append(t)
            sparsity = self.sparsity if self.phases[t] else Fraction(0)
            stay = winners(self.layers, sizes, budget(self.layers, sparsity))
        for name, layer in self.layers.items():
            fresh: list[int] = []
            if t in self.phases:
                n = len(stay[name])
                fresh = layer.exchange(n, n, drop=sizes[name], grow=np.zeros_like(sizes[name]))
            # What was pruned comes back at 0, and no weight of its layer moves in this step.
            if not fresh:
                layer.descend(grads[name], self.rate)
