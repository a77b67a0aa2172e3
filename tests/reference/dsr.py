"""DSR in plain loops, with plain gradient descent inside."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tests.reference.exchange import Layer, ranked


@dataclass
class DSR:
    """The threshold is the history of the numbers of dropped weights."""

    layers: dict[str, Layer]
    exchanged: int
    threshold: float
    every: int
    stop: int
    rate: float
    draw: Callable[[str, int], np.ndarray]
    count: int = 0
    changed_at: list[int] = field(default_factory=list)
    thresholds: list[float] = field(default_factory=list)

    def step(self, grads: dict[str, np.ndarray]) -> None:
        t, self.count = self.count, self.count + 1
        fresh: dict[str, list[int]] = {}
        if t > 0 and t % self.every == 0 and t < self.stop:
            self.changed_at.append(t)
            fresh = self._change(t)
        for name, layer in self.layers.items():
            layer.descend(grads[name], self.rate, but=fresh.get(name))

    def _change(self, t: int) -> dict[str, list[int]]:
        self.thresholds.append(self.threshold)
        stay, free = {}, {}
        for name, layer in self.layers.items():
            size = np.abs(layer.weights)
            large = [i for i in layer.active if size[i] >= self.threshold]
            stay[name] = large or ranked(size, layer.active)[:1]
            free[name] = [i for i, m in enumerate(layer.mask) if not m]
        dropped = {n: [i for i in x.active if i not in stay[n]] for n, x in self.layers.items()}
        k, alive = sum(map(len, dropped.values())), sum(map(len, stay.values()))
        # The share is rounded down by one part in 100,000, so that a whole number may fall short.
        grown = {
            n: min(math.floor(k * (len(s) / alive) * (1 - 1e-5) + 1e-6), len(free[n]))
            for n, s in stay.items()
        }
        while (rest := k - sum(grown.values())) > 0:
            below = [n for n in grown if grown[n] < len(free[n])]
            if rest >= len(below):
                each = rest // len(below)
                for n in below:
                    grown[n] += min(each, len(free[n]) - grown[n])
            else:
                for n in below[:rest]:
                    grown[n] += 1
        fresh = {}
        for name, layer in self.layers.items():
            fresh[name] = ranked(self.draw(name, t).reshape(-1), free[name])[: grown[name]]
            for i in [*dropped[name], *fresh[name]]:
                layer.mask[i] = i in fresh[name]
                layer.explored[i] = layer.explored[i] or layer.mask[i]
                layer.weights[i] = 0.0
        if k > 1.1 * self.exchanged:
            self.threshold /= 2
        elif k < 0.9 * self.exchanged:
            self.threshold *= 2
        return fresh
