"""Drop and grow of one layer in plain loops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

# A group is a list of units, a unit the flat indices of its weights.
Groups = list[list[list[int]]]


def ranked(scores: Sequence[float] | np.ndarray, places: list[int]) -> list[int]:
    """Places in falling order of their scores; equal scores in the order of the index."""
    return sorted(places, key=lambda i: (-float(scores[i]), i))


@dataclass
class Layer:
    """One layer: weights and mask, flattened, and what was ever active.

    ``age`` counts the steps of weights that were grown; those of the start have none.
    """

    weights: np.ndarray
    mask: list[bool]
    explored: list[bool]
    age: dict[int, int] = field(default_factory=dict)

    @classmethod
    def start(cls, weights: np.ndarray, mask: np.ndarray) -> Layer:
        flags = [bool(m) for m in mask.reshape(-1)]
        flat = np.where(flags, weights.reshape(-1), np.float32(0))
        return cls(flat.astype(np.float32), flags, list(flags))

    @property
    def active(self) -> list[int]:
        """Where the mask is set."""
        return [i for i, m in enumerate(self.mask) if m]

    def exchange(
        self,
        kept: int | list[int],
        total: int | list[int],
        drop: np.ndarray,
        grow: np.ndarray | None,
        regrow: str = "allow",
        regrow_value: str = "keep",
        groups: Groups | None = None,
    ) -> list[int]:
        """Changes mask and weights; returns the places that start at zero.

        Counts are units per group, scores numbers per weight. Without groups every weight is a
        unit of one group.
        """
        size = len(self.mask)
        groups = [[[i] for i in range(size)]] if groups is None else groups
        after: set[int] = set()
        fresh: set[int] = set()
        for at, units in enumerate(groups):
            stay_n = kept if isinstance(kept, int) else kept[at]
            total_n = total if isinstance(total, int) else total[at]
            before = [u for u, unit in enumerate(units) if self.mask[unit[0]]]
            if grow is not None and regrow == "forbid":  # as many as can grow elsewhere
                stay_n = max(stay_n, total_n - (len(units) - len(before)))
            stay = ranked(pooled(drop, units), before)[:stay_n]
            chosen: list[int] = []
            if grow is not None:
                blocked = set(stay) if regrow == "allow" else set(before)
                free = [u for u in range(len(units)) if u not in blocked]
                chosen = ranked(pooled(grow, units), free)[: total_n - len(stay)]
            new = [u for u in chosen if regrow_value == "zero" or u not in before]
            after |= {i for u in [*stay, *chosen] for i in units[u]}
            fresh |= {i for u in new for i in units[u]}
        for i in range(size):
            self.mask[i] = i in after
            self.explored[i] = self.explored[i] or i in after
            if i not in after or i in fresh:
                self.weights[i] = 0.0
                self.age.pop(i, None)
        self.age.update(dict.fromkeys(fresh, 0))
        return sorted(fresh)

    def descend(
        self,
        grad: np.ndarray,
        rate: float,
        but: list[int] | None = None,
        warm_up: int | None = None,
    ) -> None:
        """Plain gradient descent on active weights, except at the places ``but``; weights that
        were grown take ``min(age / warm_up, 1)`` of a step."""
        skip = set(but or [])
        for i, g in enumerate(grad.reshape(-1).astype(np.float32)):
            if not self.mask[i] or i in skip:
                continue
            step = np.float32(-rate) * g
            if warm_up is not None and i in self.age:
                self.age[i] += 1
                step *= np.float32(min(self.age[i] / warm_up, 1.0))
            self.weights[i] += step


def pooled(scores: np.ndarray, units: list[list[int]]) -> list[float]:
    """One score per unit: the sum over its weights, rounded once."""
    return [float(np.float32(sum(float(scores[i]) for i in unit))) for unit in units]


def per_group(layer: Layer, groups: Groups | None) -> list[int]:
    """Active units of every group."""
    if groups is None:
        return [len(layer.active)]
    return [sum(layer.mask[unit[0]] for unit in units) for units in groups]


def exchanged(active: int, fraction: float, rounding: str) -> int:
    """How many of the active weights are dropped (products of decimals stay whole)."""
    product = active * fraction
    if rounding == "ceil":
        return min(active, math.ceil(product - 1e-6))
    if rounding == "round":
        return math.floor(product + 0.5 + 1e-6)
    return math.floor(product + 1e-6)


def cosine(value: float, t: int, stop: int, floor: float = 0.0) -> float:
    """Drop fraction at step t."""
    return floor + (value - floor) / 2 * (1 + math.cos(math.pi * t / stop))


def blocks(shape: tuple[int, int], h: int, w: int) -> Groups:
    """One group: blocks of h rows and w columns, row by row."""
    rows, columns = shape
    return [
        [
            [(r + i) * columns + c + j for i in range(h) for j in range(w)]
            for r in range(0, rows, h)
            for c in range(0, columns, w)
        ]
    ]


def n_of_m(shape: tuple[int, int], m: int) -> Groups:
    """Groups of m consecutive weights of a column: inputs are rows."""
    rows, columns = shape
    return [
        [[(r + i) * columns + c] for i in range(m)]
        for c in range(columns)
        for r in range(0, rows, m)
    ]


def columns(shape: tuple[int, int]) -> Groups:
    """A group per output: its inputs."""
    return n_of_m(shape, shape[0])
