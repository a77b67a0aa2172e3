"""Products of block-sparse matrices in XLA: a loop over columns of blocks."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from dst.core.typing import Array


def forward(x: Array, kernel: Array, index: Array) -> Array:
    """``[outputs, n]`` from ``[inputs, n]``."""
    blocks = _blocks(x, kernel, index)

    def column(_: None, inputs: tuple[Array, Array]) -> tuple[None, Array]:
        weights, at = inputs
        return None, _dot(weights, _rows(blocks, at), 0, 0)

    _, y = lax.scan(column, None, (kernel, index))
    return y.reshape(-1, x.shape[-1])


def backward(x: Array, kernel: Array, index: Array, dy: Array) -> tuple[Array, Array]:
    """Gradients of ``x`` and of the kernel."""
    blocks = _blocks(x, kernel, index)

    def column(dx: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        weights, at, d = inputs
        parts = _dot(weights, d, 1, 0).reshape(len(at), *dx.shape[1:]).astype(dx.dtype)

        # A loop of slices, as scattering whole blocks is slower on a CPU.
        def add(slot: Array, dx: Array) -> Array:
            part = lax.dynamic_index_in_dim(parts, slot, keepdims=False)
            there = lax.dynamic_index_in_dim(dx, at[slot], keepdims=False)
            return lax.dynamic_update_index_in_dim(dx, there + part, at[slot], 0)

        dx = lax.fori_loop(0, len(at), add, dx)
        return dx, _dot(_rows(blocks, at), d, 1, 1)

    start = jnp.zeros(blocks.shape, jnp.promote_types(x.dtype, jnp.float32))
    dx, dkernel = lax.scan(column, start, (kernel, index, dy.reshape(len(index), -1, x.shape[-1])))
    return dx.reshape(x.shape).astype(x.dtype), dkernel


def _blocks(x: Array, kernel: Array, index: Array) -> Array:
    return x.reshape(-1, kernel.shape[1] // index.shape[1], x.shape[-1])


def _rows(blocks: Array, at: Array) -> Array:
    """The rows of the blocks of inputs that a column reads; the last ones for unused slots."""
    picked = blocks.at[at].get(mode="clip")
    return picked.reshape(-1, blocks.shape[-1])


def _dot(a: Array, b: Array, axis_a: int, axis_b: int) -> Array:
    dtype = jnp.promote_types(a.dtype, jnp.float32)
    dimensions = (((axis_a,), (axis_b,)), ((), ()))
    return lax.dot_general(a, b, dimensions, preferred_element_type=dtype).astype(a.dtype)
