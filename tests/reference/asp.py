"""The masks of apex' ASP: of all patterns of a group the one that keeps most magnitude."""

from __future__ import annotations

from itertools import combinations

import numpy as np


def best_pattern(group: np.ndarray, n: int) -> tuple[int, ...]:
    """The ``n`` places of a group whose magnitudes have the largest sum."""
    sizes = np.abs(group.astype(np.float64))
    return max(combinations(range(len(group)), n), key=lambda places: sum(sizes[list(places)]))


def mask(kernel: np.ndarray, n: int, m: int) -> np.ndarray:
    """Of a kernel ``[*window, inputs, outputs]``; groups are ``m`` consecutive inputs."""
    found = np.zeros(kernel.shape, bool)
    *window, inputs, outputs = kernel.shape
    for at in np.ndindex(*window):
        for output in range(outputs):
            for first in range(0, inputs, m):
                group = kernel[at][first : first + m, output]
                for place in best_pattern(group, n):
                    found[(*at, first + place, output)] = True
    return found
