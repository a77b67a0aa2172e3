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


@dataclass
class SoftMovement:
    """huggingface/block_movement_pruning: sigmoid(S) > tau, straight through, L1 on sigmoid(S)."""

    weights: np.ndarray
    risen: object  # of the count
    threshold: float
    penalty: float
    inner: Momentum
    of_scores: Momentum
    count: int = 0

    def __post_init__(self):
        self.scores = np.zeros(self.weights.shape)
        self._choose()

    def step(self, grad):
        """One step of the optimizer."""
        p = sigmoid(self.scores)
        pull = self.penalty * self.risen(self.count) / p.size * p * (1 - p)
        slope = grad * self.weights + pull
        self.weights = self.inner.moved(self.weights, np.where(self.mask, grad, 0))
        self.scores = self.of_scores.moved(self.scores, slope)
        self.count += 1
        self._choose()

    def _choose(self):
        p, least = sigmoid(self.scores), int(0.005 * self.scores.size) + 1
        self.mask = p > self.threshold * self.risen(self.count)
        if self.mask.sum() < least:
            best = np.argsort(-p.ravel(), kind="stable")[:least]
            self.mask = np.isin(np.arange(p.size), best).reshape(p.shape)
        self.used = np.where(self.mask, self.weights, 0)


@dataclass
class TrainableThresholds:
    """junjieliu2910/DynamicSparseTraining, mnist/model/binarization.py, in loops over neurons."""

    weights: np.ndarray  # inputs, outputs
    penalty: float
    inner: Momentum
    of_thresholds: Momentum

    def __post_init__(self):
        self.thresholds = np.zeros(self.weights.shape[1])
        self._choose()

    def step(self, grad):
        """One step of the optimizer."""
        of_weights, of_thresholds = np.zeros(grad.shape), -self.penalty * np.exp(-self.thresholds)
        for i, j in np.ndindex(grad.shape):
            w, x = self.weights[i, j], abs(self.weights[i, j]) - self.thresholds[j]
            slope = 0.0 if abs(x) > 1 else 0.4 if abs(x) > 0.4 else 2 - 4 * abs(x)
            through_mask = grad[i, j] * w * slope
            of_weights[i, j] = grad[i, j] * (x > 0) + through_mask * np.sign(w)
            of_thresholds[j] -= through_mask
        self.weights = self.inner.moved(self.weights, of_weights)
        self.thresholds = self.of_thresholds.moved(self.thresholds, of_thresholds)
        self._choose()

    def _choose(self):
        self.mask = np.abs(self.weights) > self.thresholds
        if self.mask.mean() <= 0.01:
            self.thresholds = np.zeros(self.weights.shape[1])
            self.mask = np.abs(self.weights) > 0
        self.used = np.where(self.mask, self.weights, 0)


@dataclass
class ContinuousSparsification:
    """lolemacs/continuous-sparsification, models/layers.py (``compute_mask``) and main.py."""

    weights: np.ndarray
    start: float
    last_beta: float
    penalty: float
    stop: int
    inner: Momentum
    of_scores: Momentum
    count: int = 0

    def __post_init__(self):
        self.scores = np.full(self.weights.shape, self.start)
        self._choose()

    def step(self, grad):
        """One step of the optimizer."""
        slope = np.zeros(self.scores.shape)
        if self.count < self.stop:
            beta = self.last_beta ** (self.count / self.stop)
            m = sigmoid(beta * self.scores)
            scale = 1 / sigmoid(self.start)
            slope = scale * (grad * self.weights + self.penalty) * beta * m * (1 - m)
        self.weights = self.inner.moved(self.weights, grad * self.factor)
        self.scores = self.of_scores.moved(self.scores, slope)
        self.count += 1
        self._choose()

    def _choose(self):
        scale = 1 / sigmoid(self.start)
        if self.count < self.stop:
            self.mask = np.ones(self.weights.shape, bool)
            beta = self.last_beta ** (self.count / self.stop)
            self.factor = scale * sigmoid(beta * self.scores)
        else:
            if self.count == self.stop:
                self.mask = self.scores > 0
            self.factor = scale * self.mask
        self.used = self.weights * self.factor


@dataclass
class L0:
    """AMLab-Amsterdam/L0_regularization, l0_layers.py; ``u(count)`` gives the uniform numbers."""

    weights: np.ndarray  # inputs, outputs
    log_alpha: np.ndarray
    penalty: float
    temperature: float
    stop: int
    u: object
    inner: Momentum
    of_gates: Momentum
    count: int = 0

    def __post_init__(self):
        self._draw()

    def step(self, grad):
        """One step of the optimizer; gates are as long as the axes that do not share them."""
        s = (self.stretched + 0.1) / 1.2
        hot = self.temperature if self.count < self.stop else 1.0
        inside = (self.stretched > 0) & (self.stretched < 1)
        shared = tuple(a for a, n in enumerate(self.log_alpha.shape) if n == 1)
        pull = (grad * self.weights).sum(shared, keepdims=True)
        p = sigmoid(self.log_alpha - self.temperature * np.log(0.1 / 1.1))
        many = self.weights.size / self.log_alpha.size
        slope = pull * inside * 1.2 * s * (1 - s) / hot + self.penalty * many * p * (1 - p)
        self.weights = self.inner.moved(self.weights, grad * self.z)
        moved = self.of_gates.moved(self.log_alpha, slope)
        self.log_alpha = np.clip(moved, np.log(1e-2), np.log(1e2))
        self.count += 1
        self._draw()

    def _draw(self):
        x = self.log_alpha
        if self.count < self.stop:
            u = np.clip(self.u(self.count), 1e-6, 1 - 1e-6)
            x = (np.log(u) - np.log(1 - u) + x) / self.temperature
        self.stretched = sigmoid(x) * 1.2 - 0.1
        self.z = np.clip(self.stretched, 0, 1)
        self.mask = np.broadcast_to(self.z > 0, self.weights.shape)
        self.used = self.weights * self.z
