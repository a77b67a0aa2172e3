"""Pruning before training in plain loops: rounds in which all layers compete."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tests.reference.exchange import Layer, ranked


@dataclass
class Rounds:
    """``rounds`` updates that prune and do not train; all later ones train at the last mask.

    ``score``: ``snip``, ``force`` or ``grasp``. ``again``: what is pruned may return, with its
    first value. ``draw``: gives random numbers that choose the positions within a layer.
    """

    layers: dict[str, Layer]
    sparsity: float
    rounds: int
    rate: float
    score: str = "snip"
    draw: Callable[[str, int], np.ndarray] | None = None
    count: int = 0
    changed_at: list[int] = field(default_factory=list)
    returned: int = 0

    def __post_init__(self) -> None:
        self.first = {name: x.weights.copy() for name, x in self.layers.items()}

    def step(self, grads: dict[str, np.ndarray]) -> None:
        t, self.count = self.count, self.count + 1
        if t >= self.rounds:
            for name, layer in self.layers.items():
                layer.descend(grads[name], self.rate)
            return
        self.changed_at.append(t)
        size = sum(len(x.mask) for x in self.layers.values())
        # A product of decimals: 0.3 ** 1 leaves exactly what 0.7 takes.
        reached = round(1 - (1 - self.sparsity) ** ((t + 1) / self.rounds), 12)
        stay = self._best(grads, size - math.floor(reached * size + 1e-9))
        for name, layer in self.layers.items():
            chosen = stay[name]
            if self.draw is not None:
                numbers = self.draw(name, t).reshape(-1)
                chosen = ranked(numbers, layer.active)[: len(chosen)]
            for i in range(len(layer.mask)):
                if i in chosen and not layer.mask[i]:
                    layer.weights[i] = self.first[name][i]
                    self.returned += 1
                if i not in chosen:
                    layer.weights[i] = 0.0
                layer.mask[i] = i in chosen

    def _best(self, grads: dict[str, np.ndarray], k: int) -> dict[str, set[int]]:
        """The k best of all layers; the best of each layer is among them."""
        scores, candidates = {}, {}
        for name, layer in self.layers.items():
            weights = self.first[name] if self.score == "force" else layer.weights
            product = weights * grads[name].reshape(-1)
            scores[name] = product if self.score == "grasp" else np.abs(product)
            everyone = list(range(len(layer.mask)))
            candidates[name] = everyone if self.score == "force" else layer.active
        chosen = {name: set(ranked(scores[name], c)[:1]) for name, c in candidates.items()}
        rest = [
            (-float(scores[name][i]), number, i, name)
            for number, (name, places) in enumerate(candidates.items())
            for i in places
            if i not in chosen[name]
        ]
        for *_, i, name in sorted(rest)[: k - len(chosen)]:
            chosen[name].add(i)
        return chosen
