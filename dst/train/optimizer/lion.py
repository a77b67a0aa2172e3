"""Lion: steps of equal size along the sign of a mean of gradients."""

from __future__ import annotations

import optax

from dst.core.registry import named
from dst.core.typing import PyTree
from dst.rules.fields import BelowOne


@named("lion", adaptive=True)
def lion(
    *,
    learning_rate: optax.Schedule,
    weight_decay: float,
    mask: PyTree,
    b1: BelowOne = 0.9,
    b2: BelowOne = 0.99,
) -> optax.GradientTransformation:
    """Lion (arXiv 2302.06675), with decoupled weight decay.

    Args:
      b1: share of the mean in the direction of a step, in [0, 1).
      b2: decay of the mean, in [0, 1).
    """
    return optax.lion(learning_rate, b1=b1, b2=b2, weight_decay=weight_decay, mask=mask)
