"""Muon: momentum whose matrices are made orthogonal."""

from __future__ import annotations

import optax

from dst.core.registry import named
from dst.core.typing import PyTree


@named("muon")
def muon(
    *, learning_rate: optax.Schedule, weight_decay: float, mask: PyTree
) -> optax.GradientTransformation:
    """Muon (kellerjordan.github.io/posts/muon) for matrices, Adam for other leaves."""
    return optax.contrib.muon(learning_rate, weight_decay=weight_decay, weight_decay_mask=mask)
