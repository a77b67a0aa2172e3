"""S-STE as thu-ml/2by4-pretrain-acc-examples trains, v2/nanoGPT/sparse_ops.py, for any n and m."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tests.reference.optimizer import Momentum


def shrunk(weights: np.ndarray, n: int, m: int) -> np.ndarray:
    """Every group of ``m`` inputs less the size of its weight ``n + 1``; rows are inputs."""
    result = np.zeros_like(weights)
    for column in range(weights.shape[1]):
        for first in range(0, weights.shape[0], m):
            group = weights[first : first + m, column]
            threshold = sorted(np.abs(group), reverse=True)[n]
            for i, w in enumerate(group):
                if abs(w) > threshold:
                    result[first + i, column] = w - threshold if w > 0 else w + threshold
    return result


@dataclass
class SSTE:
    """The scale is that of the first weights."""

    dense: np.ndarray
    n: int
    m: int
    inner: Momentum

    def __post_init__(self) -> None:
        sparse = shrunk(self.dense, self.n, self.m).astype(np.float64)
        own = (sparse * sparse).sum()
        self.scale = (self.dense * sparse).sum() / own if own else 1.0

    def step(self, grad: np.ndarray) -> None:
        """The gradient goes to the dense weights as it is."""
        self.dense = self.inner.moved(self.dense, grad)

    @property
    def used(self) -> np.ndarray:
        """The weights of the forward pass."""
        return np.float32(self.scale) * shrunk(self.dense, self.n, self.m)
