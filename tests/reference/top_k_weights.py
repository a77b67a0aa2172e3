"""Weight-sparse training as ``circuit_sparsity/train.py`` of openai/circuit_sparsity does it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from tests.reference.optimizer import Momentum


def sparsity_at(step: int, final: Fraction, stop: int) -> Fraction:
    """Of the linear schedule, from dense at step 0 to ``final`` at ``stop``."""
    return final * (min(Fraction(step, stop), Fraction(1)) if stop else 1)


@dataclass
class TopKWeights:
    """All weights take the optimizer's step; then only the largest of the matrix stay."""

    weights: np.ndarray
    sparsity: Fraction
    stop: int
    inner: Momentum
    count: int = 0

    def step(self, grad: np.ndarray) -> None:
        moved = self.inner.moved(self.weights, grad)
        size = moved.size
        kept = size - int(sparsity_at(self.count, self.sparsity, self.stop) * size)
        order = np.argsort(-np.abs(moved).reshape(-1), kind="stable")
        mask = np.zeros(size, bool)
        mask[order[:kept]] = True
        self.mask = mask.reshape(moved.shape)
        self.weights = np.where(self.mask, moved, np.float32(0))
        self.count += 1
