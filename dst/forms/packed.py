"""Packed leaves: the active weights of an array in a row, and their places."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import lax

from dst.core.typing import Array, Bool, Int

_BLOCK = 2**16  # weights that are counted at a time: running sums take several copies of them


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
    flat = mask.reshape(-1)
    block = min(_BLOCK, max(mask.size, 1))
    count = -(-mask.size // block)
    flat = jnp.pad(flat, (0, count * block - mask.size))

    def one(i: Array, so_far: tuple[Array, Array]) -> tuple[Array, Array]:
        index, before = so_far
        part = lax.dynamic_slice_in_dim(flat, i * block, block)
        slots = before + jnp.cumsum(part, dtype=jnp.int32)
        places = i * block + jnp.arange(block, dtype=jnp.int32)
        index = index.at[jnp.where(part, slots - 1, capacity)].set(places, mode="drop")
        return index, slots[-1]

    start = jnp.full(capacity, mask.size, jnp.int32), jnp.int32(0)
    return lax.fori_loop(0, count, one, start)[0]


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
