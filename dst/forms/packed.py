"""Packed leaves: the active weights of an array in a row, and their places."""

from __future__ import annotations

import math

import jax.numpy as jnp

from dst.core.typing import Array, Bool, Int


def indices(mask: Bool[Array, "*shape"], capacity: int) -> Int[Array, " capacity"]:
    """The flat places of the active weights, rising; where there are fewer than ``capacity``, the
    spare slots at the end hold the size of the mask.

    Args:
      mask: of at most 2^31 - 2 weights; no more of them active than ``capacity``.
      capacity: slots.

    Example:
      >>> indices(jnp.array([[False, True], [True, False]]), 3).tolist()
      [1, 2, 4]
    """
    (found,) = jnp.nonzero(mask.reshape(-1), size=capacity, fill_value=mask.size)
    return found.astype(jnp.int32)


def gather(dense: Array, index: Int[Array, " capacity"]) -> Array:
    """The values at the places of :func:`indices`; zero in spare slots.

    Example:
      >>> gather(jnp.array([[5.0, 6.0], [7.0, 8.0]]), jnp.array([1, 2, 4])).tolist()
      [6.0, 7.0, 0.0]
    """
    return (
        dense.reshape(-1)
        .at[index]
        .get(mode="fill", fill_value=0, indices_are_sorted=True, unique_indices=True)
    )


def scatter(values: Array, index: Int[Array, " capacity"], shape: tuple[int, ...]) -> Array:
    """An array with the values at their places and zeros elsewhere; :func:`gather` undoes it.

    Its derivative with respect to the values is :func:`gather`.

    Example:
      >>> scatter(jnp.array([6.0, 7.0, 0.0]), jnp.array([1, 2, 4]), (2, 2)).tolist()
      [[0.0, 6.0], [7.0, 0.0]]
    """
    flat = jnp.zeros(math.prod(shape), values.dtype)
    # Only spare slots have equal indices, and these are dropped.
    flat = flat.at[index].set(values, mode="drop", indices_are_sorted=True, unique_indices=True)
    return flat.reshape(shape)
