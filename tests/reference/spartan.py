"""Spartan as spartan/sparsifier.py of facebookresearch/spartan trains one layer, in float64."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tests.reference.learned import Momentum


def sinkhorn(sizes, k, beta, rounds=400):
    """Shares, by the alternating updates of ``SinkhornTopK`` without its tolerance."""
    if k == len(sizes):
        return np.ones(k)
    z, nu = beta * sizes, np.zeros(len(sizes))
    for _ in range(rounds):
        mu = np.log(k) - np.log(np.exp(z + nu).sum())
        nu = -np.logaddexp(0, z + mu)
    return np.exp(z + mu + nu)


@dataclass
class Spartan:
    """``keep(count)`` and ``beta(count)`` of the forward pass after ``count`` steps."""

    weights: np.ndarray
    keep: object
    beta: object
    freeze: int
    inner: Momentum
    count: int = 0
    mask: np.ndarray = field(init=False)

    def __post_init__(self):
        self._choose()

    def step(self, grad):
        """The gradient of ``w m``, and one step."""
        frozen = self.count >= self.freeze
        grad = np.where(self.mask, grad, 0) if frozen else grad
        m, up = self.share, grad * self.weights
        inside = m * (1 - m)
        c = (up * inside).sum() / inside.sum() if inside.sum() else 0.0
        full = grad * m + self.beta(self.count) * inside * (up - c) * np.sign(self.weights)
        self.weights = self.inner.moved(
            self.weights, np.where(self.mask, full, 0) if frozen else full
        )
        self.count += 1
        self._choose()

    def _choose(self):
        size, k = np.abs(self.weights).ravel(), self.keep(self.count)
        if self.count <= self.freeze:
            best = sorted(range(size.size), key=lambda i: (-size[i], i))[:k]
            self.mask = np.isin(np.arange(size.size), best).reshape(self.weights.shape)
        self.share = sinkhorn(size, k, self.beta(self.count)).reshape(self.weights.shape)
        self.used = np.where(self.mask, self.weights * self.share, 0)
