"""Calibration (Guo et al. 2017): whether a network is as sure as it is right."""

from __future__ import annotations

import jax.numpy as jnp

from dst.core import checks
from dst.core.typing import Array, ArrayLike, Float


def calibration_error(chances: ArrayLike, labels: ArrayLike, bins: int = 15) -> Float[Array, ""]:
    """Expected calibration error: ``sum over bins of n_bin / n |accuracy - confidence|``.

    The confidence is the largest probability. Bins are of equal width in it.

    Args:
      chances: float32 ``[n, classes]``, probabilities in [0, 1].
      labels: int ``[n]``, the right classes.
      bins: how many, >= 1.

    Example:
      >>> chances = jnp.array([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.4, 0.6]])
      >>> round(float(calibration_error(chances, jnp.array([0, 1, 1, 1]))), 3)
      0.375

    References:
      Guo et al. 2017, "On Calibration of Modern Neural Networks" (arXiv 1706.04599).

    Checked against: a table by hand, tests/eval/robustness/test_robustness.py.
    """
    checks.integer("bins", bins, at_least=1)
    chances, labels = jnp.asarray(chances), jnp.asarray(labels)
    confidence, right = jnp.max(chances, -1), jnp.argmax(chances, -1) == labels
    of_bin = jnp.clip((confidence * bins).astype(int), 0, bins - 1)
    member = of_bin[:, None] == jnp.arange(bins)[None]
    gaps = jnp.where(member, (right - confidence)[:, None], 0.0).sum(0)
    return jnp.abs(gaps).sum() / len(labels)
