"""The optimizers of the authors' scripts, on one array."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Momentum:
    """SGD with momentum as in PyTorch: ``m = momentum m + g``, ``w - rate m``."""

    rate: float
    momentum: float
    buffer: np.ndarray | None = None

    def moved(self, values: np.ndarray, grad: np.ndarray) -> np.ndarray:
        """The values after one step."""
        old = np.zeros_like(values) if self.buffer is None else self.buffer
        self.buffer = np.float32(self.momentum) * old + grad.astype(np.float32)
        return values - np.float32(self.rate) * self.buffer
