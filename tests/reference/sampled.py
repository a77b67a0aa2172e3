"""GSE and CHTs in plain loops, with plain gradient descent inside."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tests.reference.exchange import Layer, cosine, exchanged, ranked


@dataclass
class GSE:
    """``draw(name, t)`` are uniform numbers: connections below their chance are looked at."""

    layers: dict[str, Layer]
    subset: float
    drop_fraction: float
    every: int
    stop: int
    rate: float
    draw: Callable[[str, int], np.ndarray]
    count: int = 0
    changed_at: list[int] = field(default_factory=list)
    moved: int = 0

    def step(self, grads: dict[str, np.ndarray]) -> None:
        t, self.count = self.count, self.count + 1
        fresh: dict[str, list[int]] = {}
        if t > 0 and t % self.every == 0 and t < self.stop:
            self.changed_at.append(t)
            fresh = self._change(t, grads)
        for name, layer in self.layers.items():
            layer.descend(grads[name], self.rate, but=fresh.get(name))

    def _change(self, t: int, grads: dict[str, np.ndarray]) -> dict[str, list[int]]:
        smallest, steepest = [], []
        protected = {n: ranked(np.abs(x.weights), x.active)[0] for n, x in self.layers.items()}
        for number, (name, layer) in enumerate(self.layers.items()):
            size, n = len(layer.mask), len(layer.active)
            chance = 1 - (1 - 1 / size) ** math.floor(n * self.subset)
            seen = self.draw(name, t).reshape(-1) < chance
            slope = np.abs(grads[name].reshape(-1))
            for i in range(size):
                if layer.mask[i] and i != protected[name]:
                    smallest.append((float(abs(layer.weights[i])), -number, -i, name))
                if not layer.mask[i] and (seen[i] or 2 * n >= size):
                    steepest.append((-float(slope[i]), number, i, name))
        total = sum(len(x.active) for x in self.layers.values())
        k = min(exchanged(total, cosine(self.drop_fraction, t, self.stop), "floor"), len(steepest))
        before = {name: len(x.active) for name, x in self.layers.items()}
        for *_, i, name in sorted(smallest)[:k]:
            self._switch(self.layers[name], -i, False)
        fresh: dict[str, list[int]] = {name: [] for name in self.layers}
        for *_, i, name in sorted(steepest)[:k]:
            self._switch(self.layers[name], i, True)
            fresh[name].append(i)
        self.moved += any(before[name] != len(x.active) for name, x in self.layers.items())
        return fresh

    @staticmethod
    def _switch(layer: Layer, i: int, on: bool) -> None:
        layer.mask[i], layer.weights[i] = on, 0.0
        layer.explored[i] = layer.explored[i] or on


@dataclass
class CHTs:
    """``draw(name, t)`` decides what grows, ``draw_again(name, t)`` what stays."""

    layers: dict[str, Layer]
    shapes: dict[str, tuple[int, int]]
    drop_fraction: float
    every: int
    stop: int
    rate: float
    draw: Callable[[str, int], np.ndarray]
    draw_again: Callable[[str, int], np.ndarray]
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
                n = len(layer.active)
                kept = n - exchanged(n, self.drop_fraction, "floor")
                chances = np.abs(layer.weights) ** (1 + 2 * t / self.stop)
                drop = race(chances, self.draw_again(name, t))
                stay = ranked(drop, layer.active)[:kept]
                graph = np.zeros(len(layer.mask))
                graph[stay] = 1
                u = self.draw(name, t)
                chances = ch3_l3(graph.reshape(self.shapes[name])).reshape(-1)
                last = np.float32(-1e12) * (np.float32(1) + u.reshape(-1))
                grow = np.where(chances > 0, race(chances, u), last)
                fresh = layer.exchange(kept, n, drop, grow)
            layer.descend(grads[name], self.rate, but=fresh)


def race(chances: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Exponential clocks that run backwards: who is nearest to zero was first."""
    u = np.maximum(u.reshape(-1), 2.0**-24)
    found = np.full(chances.shape, -np.inf)
    found[chances > 0] = np.log(u[chances > 0]) / chances[chances > 0]
    return found.astype(np.float32)


def ch3_l3(graph: np.ndarray) -> np.ndarray:
    """Place by place, from sets of neighbours."""
    rows = [set(np.flatnonzero(r)) for r in graph]
    columns = [set(np.flatnonzero(c)) for c in graph.T]
    scores = np.zeros(graph.shape)
    for r in range(graph.shape[0]):
        for c in range(graph.shape[1]):
            for k in columns[c]:
                if rows[r] & rows[k]:
                    scores[r, c] += 1 / (1 + max(len(rows[k] - rows[r]) - 1, 0))
            for z in rows[r]:
                if columns[c] & columns[z]:
                    scores[r, c] += 1 / (1 + max(len(columns[z] - columns[c]) - 1, 0))
    return scores
