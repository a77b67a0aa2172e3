"""Thresholds by their target: the k-th smallest value of each chunk of data, exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from dst.activations.calibration import Calibration, Call
from dst.core.selection import top_k_mask
from dst.core.typing import Array

_EXCESS = 0.01  # share of entries beyond the target that ties may make zero


def kth_smallest(values: Array, sparsity: float) -> Array:
    """The k-th smallest of ``n`` values, ``k = floor(sparsity n)``; 0 where ``k`` is 0.

    Found by counting, without a sort.

    Args:
      values: float array of any shape, at least 0.
      sparsity: in [0, 1).

    Example:
      >>> float(kth_smallest(jnp.array([0.5, 0.25, 2.0, 1.0]), 0.5))
      0.5
    """
    k = zeros_of(values.size, sparsity)
    if not k:
        return jnp.float32(0)
    values = values.astype(jnp.float32)
    return jnp.min(jnp.where(top_k_mask(values, values.size - k + 1), values, jnp.inf))


def zeros_of(size: int, sparsity: float) -> int:
    """How many of ``size`` entries are zero: ``floor(sparsity size)``."""
    return math.floor(sparsity * size + 1e-9)


@dataclass(frozen=True)
class Quantile:
    """The k-th smallest of the values of a call, and the share of values up to it: ``[2]``."""

    sparsity: float
    of: Callable[[Call], Array]

    def __call__(self, call: Call) -> Array:
        """Float32 ``[2]``."""
        values = self.of(call)
        found = kth_smallest(values, self.sparsity)
        return jnp.stack([found, jnp.mean(values <= found, dtype=jnp.float32)])


def inputs(call: Call) -> Array:
    """Magnitudes of what enters."""
    return jnp.abs(call.inputs)


def outputs(call: Call) -> Array:
    """Magnitudes of what leaves."""
    return jnp.abs(call.outputs)


def quantiles(
    data: Calibration,
    sparsity: float,
    of: Mapping[str, Callable[[Call], Array]],
    given: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Thresholds ``[layers]``: the mean over batches of each batch's k-th smallest value.

    Args:
      data: on which they are chosen.
      sparsity: share of values up to the threshold, in [0, 1).
      of: which values, by the name of their place.
      given: as for :meth:`Calibration.means`.

    Raises:
      ValueError: a target that cannot be met: zeros are enough already, or too many entries are
        equal.
    """
    statistics = {name: Quantile(sparsity, values) for name, values in of.items()}
    found = data.means(statistics, given, shape=(2,))
    chosen = {name: values[:, 0] for name, values in found.items()}
    if sparsity and not any(values.any() for values in chosen.values()):
        least = min(float(values[:, 1].min()) for values in found.values())
        raise ValueError(
            f"sparsity {sparsity:g} is there without a method: in every layer at least {least:.1%} "
            f"of the values at {' and '.join(found)} are zero. Ask for more."
        )
    for name, (values, reached) in ((n, x.T) for n, x in found.items()):
        excess = np.where(values > 0, reached - sparsity, 0)
        layer = int(excess.argmax())
        if excess[layer] > _EXCESS:
            raise ValueError(
                f"sparsity {sparsity:g} cannot be met at {name} of layer {layer}: "
                f"{reached[layer]:.1%} of the values are at most {values[layer]:.4g}, as many are "
                "equal to it. Use TopK, or weights of a type with more digits."
            )
    return chosen
