"""Adam: steps scaled by moments of the gradients."""

from __future__ import annotations

import optax

from dst.core.registry import named
from dst.core.typing import PyTree
from dst.rules.fields import AboveZero, BelowOne


@named("adam", adaptive=True)
def adam(
    *,
    learning_rate: optax.Schedule,
    b1: BelowOne = 0.9,
    b2: BelowOne = 0.999,
    eps: AboveZero = 1e-8,
) -> optax.GradientTransformation:
    """Adam (arXiv 1412.6980).

    Args:
      b1: decay of the first moment, in [0, 1).
      b2: decay of the second moment, in [0, 1).
      eps: added to the denominator, > 0.
    """
    return optax.adam(learning_rate, b1=b1, b2=b2, eps=eps)


@named("adamw", adaptive=True)
def adamw(
    *,
    learning_rate: optax.Schedule,
    weight_decay: float,
    mask: PyTree,
    b1: BelowOne = 0.9,
    b2: BelowOne = 0.999,
    eps: AboveZero = 1e-8,
) -> optax.GradientTransformation:
    """Adam with decoupled weight decay (arXiv 1711.05101).

    Args:
      b1: decay of the first moment, in [0, 1).
      b2: decay of the second moment, in [0, 1).
      eps: added to the denominator, > 0.
    """
    return optax.adamw(learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, mask=mask)
