"""Adafactor: second moments by row and column."""

from __future__ import annotations

import optax

from dst.core.registry import named
from dst.core.typing import PyTree


@named("adafactor", adaptive=True)
def adafactor(
    *, learning_rate: optax.Schedule, weight_decay: float, mask: PyTree
) -> optax.GradientTransformation:
    """Adafactor (arXiv 1804.04235), with decoupled weight decay."""
    return optax.adafactor(
        learning_rate, weight_decay_rate=weight_decay or None, weight_decay_mask=mask
    )
