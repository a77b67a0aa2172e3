"""Mask and structure decay as abhibambhaniya/progressive_gradient_flow_nm_sparsity does them, with
an epoch of one step: ``timm/sparse_pruning/sparse_functions.py``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.reference.optimizer import Momentum


def largest(weights: np.ndarray, n: int, m: int) -> np.ndarray:
    """The mask of the ``n`` largest of ``m`` consecutive inputs; rows are inputs."""
    mask = np.zeros(weights.shape, bool)
    for column in range(weights.shape[1]):
        for first in range(0, weights.shape[0], m):
            size = np.abs(weights[first : first + m, column])
            order = sorted(range(m), key=lambda i: (-size[i], i))
            mask[[first + i for i in order[:n]], column] = True
    return mask


def frames(n: int, m: int, start: int, stop: int) -> dict[int, int]:
    """First epoch of every pattern of the decay, and its weights per group."""
    many = int(math.log2(m / n)) + 1
    length = (stop - start) / many
    kept = [m - 1, *(int(m / 2**i) for i in range(1, many))]
    return {start + int(i * length): k for i, k in enumerate(kept)}


@dataclass
class Progressive:
    """Dense before epoch ``start``. The mask is binary in epochs after ``stop``.

    ``structure``: the pattern narrows in frames. Otherwise what the mask leaves out has a factor:
    ``fade(t)`` in the epoch ``t`` after ``start``.
    """

    dense: np.ndarray
    n: int
    m: int
    start: int
    stop: int
    inner: Momentum
    structure: bool = False
    fade: Callable[[int], float] = float
    epoch: int = 0

    def step(self, grad: np.ndarray) -> None:
        """The gradient goes to the dense weights as it is."""
        self.dense = self.inner.moved(self.dense, grad)
        self.epoch += 1

    @property
    def used(self) -> np.ndarray:
        """The weights of the forward pass."""
        if self.epoch < self.start:
            return self.dense
        kept, factor = self.n, np.float32(0)
        if self.structure:
            begun = frames(self.n, self.m, self.start, self.stop)
            kept = [k for first, k in begun.items() if first <= self.epoch][-1]
        elif self.epoch <= self.stop:
            factor = np.float32(self.fade(self.epoch - self.start))
        return np.where(largest(self.dense, kept, self.m), self.dense, factor * self.dense)
