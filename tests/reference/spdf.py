"""SPDF as two runs: sparse training at a mask, then dense training with a new optimizer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tests.reference.optimizer import Momentum


@dataclass
class SPDF:
    """The second run starts with the weights of the first after ``lift`` steps; the step that
    lifts the mask moves nothing."""

    weights: np.ndarray
    mask: np.ndarray
    lift: int
    inner: Momentum
    count: int = 0

    def step(self, grad: np.ndarray) -> None:
        t, self.count = self.count, self.count + 1
        if t < self.lift:
            moved = self.inner.moved(self.weights, np.where(self.mask, grad, np.float32(0)))
            self.weights = np.where(self.mask, moved, np.float32(0))
        elif t == self.lift:
            self.mask = np.ones_like(self.mask)
            self.inner.buffer = None
        else:
            self.weights = self.inner.moved(self.weights, grad)
