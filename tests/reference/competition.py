"""Layers that compete for one budget, by sorting everything."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from tests.reference.exchange import Layer, ranked


def budget(layers: dict[str, Layer], sparsity: Fraction) -> int:
    """Weights that stay active in all layers together."""
    size = sum(len(x.mask) for x in layers.values())
    return size - math.floor(sparsity * size)


def winners(
    layers: dict[str, Layer], scores: dict[str, np.ndarray], k: int, floor: int = 1
) -> dict[str, list[int]]:
    """The ``k`` best of all, the ``floor`` best of each layer among them; active ones first,
    then earlier layers, then lower indices."""
    values = {
        name: [float(s) if m else -1.0 for s, m in zip(scores[name], x.mask, strict=True)]
        for name, x in layers.items()
    }
    chosen = {name: ranked(v, list(range(len(v))))[:floor] for name, v in values.items()}
    rest = [
        (-v[i], number, i, name)
        for number, (name, v) in enumerate(values.items())
        for i in range(len(v))
        if i not in chosen[name]
    ]
    for *_, i, name in sorted(rest)[: max(0, k - sum(map(len, chosen.values())))]:
        chosen[name].append(i)
    return chosen


def lamp(weights: np.ndarray) -> np.ndarray:
    """Each square over the sum of all that come after it in rising order, itself included."""
    squares = np.float32(weights) ** 2
    order = sorted(range(len(squares)), key=lambda i: (squares[i], i))
    scores = np.zeros(len(squares), np.float32)
    for place, i in enumerate(order):
        later = np.float32(sum(float(squares[j]) for j in order[place:]))
        scores[i] = squares[i] / later if squares[i] > 0 else 0.0
    return scores
