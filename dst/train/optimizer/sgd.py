"""Stochastic gradient descent, plain and with momentum."""

from __future__ import annotations

import optax

from dst.core.registry import named
from dst.rules.fields import BelowOne


@named("sgd")
def sgd(*, learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """Steps along the negative gradient."""
    return optax.sgd(learning_rate)


@named("momentum")
def momentum(
    *, learning_rate: optax.Schedule, momentum: BelowOne = 0.9, nesterov: bool = False
) -> optax.GradientTransformation:
    """Steps along a decaying sum of gradients.

    Args:
      momentum: decay of the sum, in [0, 1).
      nesterov: whether the gradient is taken where momentum leads.
    """
    return optax.sgd(learning_rate, momentum=momentum, nesterov=nesterov)
