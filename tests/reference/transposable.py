"""Transposable N:M masks by plain loops, and training with them as huyz2023/2by4-pretrain does."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.reference.optimizer import Momentum


def by_blocks(find: Callable, scores: np.ndarray, n: int, m: int) -> np.ndarray:
    """The mask of a matrix, block by block."""
    mask = np.zeros(scores.shape, bool)
    for i in range(0, scores.shape[0], m):
        for o in range(0, scores.shape[1], m):
            mask[i : i + m, o : o + m] = find(scores[i : i + m, o : o + m], n)
    return mask


def exact(block: np.ndarray, n: int) -> np.ndarray:
    """The pattern of the largest sum; of equal ones, the first."""
    m, best, found = len(block), None, None
    for rows in itertools.product(itertools.combinations(range(m), n), repeat=m):
        if any(sum(o in row for row in rows) != n for o in range(m)):
            continue
        total = sum(float(block[i, o]) for i, row in enumerate(rows) for o in row)
        if best is None or total > best:
            best, found = total, rows
    return np.array([[o in row for o in range(m)] for row in found])


def greedy(block: np.ndarray, n: int, fill: bool = True) -> np.ndarray:
    """Connections in falling order, each where row and column have room; then swaps."""
    m = len(block)
    mask = np.zeros((m, m), bool)
    places = [(i, o) for i in range(m) for o in range(m)]
    for i, o in sorted(places, key=lambda x: -block[x]):  # stable: ties to the lowest index
        if mask[i].sum() < n and mask[:, o].sum() < n:
            mask[i, o] = True
    while fill and not mask.sum() == n * m:
        row = next(i for i in range(m) if mask[i].sum() < n)
        column = next(o for o in range(m) if mask[:, o].sum() < n)
        swaps = [
            (block[row, o] + block[i, column] - block[i, o], -i * m - o)
            for i, o in places
            if mask[i, o] and not mask[row, o] and not mask[i, column]
        ]
        i, o = divmod(-max(swaps)[1], m)
        mask[i, o], mask[row, o], mask[i, column] = False, True, True
    return mask


@dataclass
class TSRSTE:
    """The mask of the dense weights, chosen before the forward passes 0, ``every``, ..."""

    dense: np.ndarray
    n: int
    m: int
    decay: float
    every: int
    inner: Momentum
    count: int = 0

    def __post_init__(self) -> None:
        self._choose()

    def _choose(self) -> None:
        find = exact if self.m <= 4 else greedy
        self.mask = by_blocks(find, np.abs(self.dense), self.n, self.m)

    def step(self, grad: np.ndarray) -> None:
        """The decay enters the gradient, so the momentum."""
        pruned = np.where(self.mask, 0, self.dense)
        self.dense = self.inner.moved(self.dense, grad + np.float32(self.decay) * pruned)
        self.count += 1
        if self.count % self.every == 0:
            self._choose()

    @property
    def used(self) -> np.ndarray:
        """The weights of the forward pass."""
        return np.where(self.mask, self.dense, 0)
