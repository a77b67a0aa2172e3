"""Thresholds, and the modules that set to zero what does not exceed them."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import nnx

from dst.activations.sites import Sparse
from dst.core.typing import Array, ArrayLike


class Threshold(nnx.Variable):
    """float32, one per layer or one per layer and channel; no parameter, so nothing trains it."""


def zero_small(x: Array, threshold: ArrayLike) -> Array:
    """``x`` where ``|x| > threshold``, else 0; the gradient passes where ``x`` does.

    Args:
      x: float ``[..., channels]``.
      threshold: a number, or ``[channels]``.

    Example:
      >>> zero_small(jnp.array([-2.0, 0.5, 1.0]), 0.5).tolist()
      [-2.0, 0.0, 1.0]
    """
    return jnp.where(jnp.abs(x) <= over(x, threshold), 0, x)  # NaN stays NaN


def over(x: Array, values: ArrayLike) -> Array:
    """Values of the last axes of ``x``, with the axes before as axes of length 1."""
    values = jnp.asarray(values)
    return jnp.expand_dims(values, range(x.ndim - values.ndim))


class WithThreshold(Sparse):
    """What stands in the place of an activation or a layer, with a threshold beside it.

    Args:
      former: the activation or the layer.
      threshold: ``[]`` or ``[channels]``; of stacked blocks with an axis of layers in front.
    """

    def __init__(self, former: Any, threshold: ArrayLike):
        super().__init__(former)
        self.threshold = Threshold(jnp.asarray(threshold, jnp.float32))


class Thresholded(WithThreshold):
    """``zero_small(former(x))``: small outputs of an activation are zero."""

    def __call__(self, x: Array) -> Array:
        return zero_small(self.former(x), self.threshold.get_value())


class ThresholdedInput(WithThreshold):
    """``former(zero_small(x))``: small inputs of a layer are zero."""

    def __call__(self, x: Array) -> Array:
        return self.former(zero_small(x, self.threshold.get_value()))
