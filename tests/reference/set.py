"""SET in plain loops (spec A1), with plain gradient descent inside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tests.reference.exchange import Layer, exchanged, ranked


@dataclass
class SET:
    """Counts updates from 0; topology changes at ``every, 2 every, ...`` before ``stop``.

    ``draw(name, t)`` are the random scores of the inactive connections.
    """

    layers: dict[str, Layer]
    drop_fraction: float
    every: int
    stop: int
    rate: float
    draw: Callable[[str, int], np.ndarray]
    signed: bool = False
    count: int = 0
    changed_at: list[int] = field(default_factory=list)

    def step(self, grads: dict[str, np.ndarray]) -> None:
        t, self.count = self.count, self.count + 1
        changing = t > 0 and t % self.every == 0 and t < self.stop
        if changing:
            self.changed_at.append(t)
        for name, layer in self.layers.items():
            fresh: list[int] = []
            if changing:
                n = sum(layer.mask)
                drop, kept = np.abs(layer.weights), n - exchanged(n, self.drop_fraction, "floor")
                if self.signed:
                    drop, kept = self._by_sign(layer)
                fresh = layer.exchange(kept, n, drop, self.draw(name, t).reshape(-1))
            layer.descend(grads[name], self.rate, but=fresh)

    def _by_sign(self, layer: Layer) -> tuple[np.ndarray, int]:
        """Scores that keep the paper's choice: of each sign all but those closest to zero."""
        active = [i for i, m in enumerate(layer.mask) if m]
        scores = np.zeros(len(layer.mask))
        kept = 0
        for side in (
            [i for i in active if layer.weights[i] >= 0],
            [i for i in active if layer.weights[i] < 0],
        ):
            stay = len(side) - exchanged(len(side), self.drop_fraction, "floor")
            for i in ranked(np.abs(layer.weights), side)[:stay]:
                scores[i] = 1.0
            kept += stay
        return scores, kept
