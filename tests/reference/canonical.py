"""The 3 x 4 layer of the steps that are worked by hand."""

from __future__ import annotations

import numpy as np

W = np.array([[0.5, -0.1, 0, 0.8], [0, 0.3, -0.7, 0], [0.2, 0, 0, -0.4]], np.float32)
M = W != 0
G = np.array(
    [[0.01, -0.9, 0.3, -0.02], [-0.6, 0.05, 0.04, 0.1], [0.25, -0.2, 0.7, 0.03]], np.float32
)
U = np.array([[0.1, 0.95, 0.2, 0.3], [0.4, 0.5, 0.6, 0.7], [0.8, 0.15, 0.25, 0.35]], np.float32)
LADDER = np.array(
    [[0.9, -0.05, 0.3, 0.6], [-0.2, 0.8, 0.1, -0.4], [0.7, -0.15, 0.25, 0.5]], np.float32
)
