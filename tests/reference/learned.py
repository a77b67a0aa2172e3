"""Methods that learn thresholds or masks, as their authors' code trains one layer.

Each twin has ``step(grad)``, with the gradient with respect to the weights in use, and ``used`` and
``mask`` for the next forward pass. Numbers are float64.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


def sigmoid(x):
    """1 / (1 + exp(-x))."""
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


@dataclass
class Momentum:
    """``m = momentum m + g``, ``w - rate m``, in float64."""

    rate: float
    momentum: float
    buffer: np.ndarray | float = 0.0

    def moved(self, values, grad):
        """The values after one step."""
        self.buffer = self.momentum * self.buffer + grad
        return values - self.rate * self.buffer


@dataclass
class STR:
    """RAIVNLab/STR, utils/conv_type.py; what autodiff makes of ``sparseFunction``, in loops."""

    weights: np.ndarray
    s: float
    decay: float
    inner: Momentum
    of_s: Momentum
    mask: np.ndarray = field(init=False)

    def __post_init__(self):
        self._shrink()

    def step(self, grad):
        """One step of the optimizer."""
        g, of_weights, of_s = sigmoid(self.s), np.zeros(grad.shape), self.decay * self.s
        for at in np.ndindex(grad.shape):
            if abs(self.weights[at]) > g:
                of_weights[at] = grad[at]
                of_s -= g * (1 - g) * grad[at] * np.sign(self.weights[at])
        self.weights = self.inner.moved(self.weights, of_weights)
        self.s = self.of_s.moved(self.s, of_s)
        self._shrink()

    def _shrink(self):
        rest = np.abs(self.weights) - sigmoid(self.s)
        self.mask = rest > 0
        self.used = np.sign(self.weights) * np.maximum(rest, 0)
