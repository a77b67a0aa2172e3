"""Edge-popup as ``simple_mnist_example.py`` of allenai/hidden-networks trains one layer."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tests.reference.optimizer import Momentum


@dataclass
class EdgePopup:
    """Weights never change. Scores learn by the gradient that autodiff sends through ``|score|``,
    straight through the choice; the ``zeros`` lowest are off."""

    weights: np.ndarray
    scores: np.ndarray
    zeros: int
    inner: Momentum
    mask: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self._choose()

    def step(self, grad: np.ndarray) -> None:
        """``grad``: with respect to the weights in use."""
        self.scores = self.inner.moved(self.scores, grad * self.weights * np.sign(self.scores))
        self._choose()

    @property
    def used(self) -> np.ndarray:
        """The weights of the forward pass."""
        return np.where(self.mask, self.weights, np.float32(0))

    def _choose(self) -> None:
        size = np.abs(self.scores).reshape(-1)
        # From the lowest; of equal scores the later index goes first.
        order = sorted(range(size.size), key=lambda i: (size[i], -i))
        flat = np.ones(size.size, bool)
        flat[order[: self.zeros]] = False
        self.mask = flat.reshape(self.scores.shape)
