"""Gradual pruning as ``MaxText/train.py`` of tjingrant/sparse-llm-code does it."""

from __future__ import annotations

import numpy as np


def kept_share(step: int, start: int, end: int, every: int, sparsity: float) -> float:
    """Of all weights, after the pruning at ``step``: each takes the same share of the rest, and the
    one at ``start`` is the first. ``start`` and ``end`` lie on the grid of ``every``."""
    if step < start:
        return 1.0
    times = (end - start) // every + 1
    share = 1 - (1 - sparsity) ** (1 / times)
    return (1 - share) ** ((min(step, end) - start) // every + 1)


def pruned(weights: list[np.ndarray], masks: list[np.ndarray], keep: int) -> list[np.ndarray]:
    """Masks of the ``keep`` largest weights of all arrays together; none comes back."""
    pairs = zip(weights, masks, strict=True)
    size = np.concatenate([np.where(m, abs(w), -1).reshape(-1) for w, m in pairs])
    order = np.argsort(-size, kind="stable")
    flat = np.zeros(size.size, bool)
    flat[order[:keep]] = True
    found, at = [], 0
    for mask in masks:
        found.append(flat[at : at + mask.size].reshape(mask.shape) & mask)
        at += mask.size
    return found
