"""SRigL with neuron ablation in plain loops, with plain gradient descent inside."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from tests.reference.exchange import Layer, columns, cosine, exchanged, ranked


def ablate(
    layer: Layer,
    shape: tuple[int, int],
    fan_in: int,
    fraction: float,
    grad: np.ndarray,
    gamma: float,
    dense: bool,
    spare: bool,
) -> tuple[list[int], list[int]]:
    """Weights per neuron that survive, and that are active afterwards."""
    inputs, outputs = shape
    size, slope = np.abs(layer.weights), np.abs(grad.reshape(-1))
    dropped = exchanged(len(layer.active), fraction, "floor")
    nonzero = sum(size[i] > 0 for i in layer.active)
    kept = min(len(layer.active) - dropped, nonzero)
    dropped = len(layer.active) - kept
    salient = set(ranked(size, layer.active)[:kept])
    salient |= set(ranked(slope, list(range(len(slope))))[:dropped])
    counts = [sum(i % outputs == o for i in salient) for o in range(outputs)]
    threshold = max(1, math.floor(gamma * (inputs if dense else fan_in) + 1e-6))
    least = fan_in * outputs // inputs  # neurons that the budget needs
    threshold = min(threshold, sorted(counts, reverse=True)[min(least, outputs - 1)])
    stays = [spare or gamma == 0 or c >= threshold for c in counts]
    each = min(fan_in * outputs // sum(stays), inputs)
    best = ranked(size, [i for i in layer.active if stays[i % outputs]])[:kept]
    survive = [sum(i % outputs == o for i in best) for o in range(outputs)]
    after = [each if s else 0 for s in stays]
    return [min(a, b) for a, b in zip(survive, after, strict=True)], after


@dataclass
class SRigL:
    """Counts updates from 0; topology changes at ``every, 2 every, ...`` before ``stop``."""

    layers: dict[str, Layer]
    shapes: dict[str, tuple[int, int]]
    gamma: float
    dense: bool
    drop_fraction: float
    every: int
    stop: int
    rate: float
    count: int = 0
    changed_at: list[int] = field(default_factory=list)
    ablated: int = 0

    def __post_init__(self) -> None:
        self.fan_in = {
            name: len(x.active) // self.shapes[name][1] for name, x in self.layers.items()
        }

    def step(self, grads: dict[str, np.ndarray]) -> None:
        t, self.count = self.count, self.count + 1
        changing = t > 0 and t % self.every == 0 and t < self.stop
        if changing:
            self.changed_at.append(t)
        fraction = cosine(self.drop_fraction, t, self.stop)
        output = list(self.layers)[-1]
        for name, layer in self.layers.items():
            fresh: list[int] = []
            if changing:
                shape, grad = self.shapes[name], grads[name]
                kept, total = ablate(
                    layer,
                    shape,
                    self.fan_in[name],
                    fraction,
                    grad,
                    self.gamma,
                    self.dense,
                    spare=name == output,
                )
                self.ablated += total.count(0)
                fresh = layer.exchange(
                    kept,
                    total,
                    drop=np.abs(layer.weights),
                    grow=np.abs(grad.reshape(-1)),
                    groups=columns(shape),
                )
            layer.descend(grads[name], self.rate, but=fresh)
