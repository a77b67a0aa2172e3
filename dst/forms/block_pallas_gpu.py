"""Products of block-sparse matrices as Pallas kernels for GPUs: a program per block of results.

Elsewhere the kernels are interpreted.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from dst.core.typing import Array

_TILE = 128  # columns of x at a time


def forward(x: Array, kernel: Array, index: Array) -> Array:
    """``[outputs, n]`` from ``[inputs, n]``."""
    columns, rows, w = kernel.shape
    slots = index.shape[1]
    h, (x, n) = rows // slots, _padded(x)
    index = _clamped(index, x.shape[0] // h)

    def program(index_ref: Any, x_ref: Any, kernel_ref: Any, y_ref: Any) -> None:
        def add(slot: Array, sum_: Array) -> Array:
            part = x_ref[pl.ds(index_ref[0, slot] * h, h), :]
            weights = kernel_ref[0, pl.ds(slot * h, h), :]
            return sum_ + _dot(weights.T, part)

        zero = jnp.zeros((w, _TILE), jnp.float32)
        y_ref[...] = lax.fori_loop(0, slots, add, zero).astype(y_ref.dtype)

    y = _call(
        program,
        grid=(columns, x.shape[1] // _TILE),
        in_specs=[
            pl.BlockSpec((1, slots), lambda c, t: (c, 0)),
            pl.BlockSpec((x.shape[0], _TILE), lambda c, t: (0, t)),
            pl.BlockSpec((1, rows, w), lambda c, t: (c, 0, 0)),
        ],
        out_specs=pl.BlockSpec((w, _TILE), lambda c, t: (c, t)),
        out_shape=jax.ShapeDtypeStruct((columns * w, x.shape[1]), x.dtype),
    )(index, x, kernel)
    return y[:, :n]


def backward(x: Array, kernel: Array, index: Array, dy: Array) -> tuple[Array, Array]:
    """Gradients of ``x`` and of the kernel."""
    columns, rows, w = kernel.shape
    slots = index.shape[1]
    h, ((x, n), (dy, _)) = rows // slots, (_padded(x), _padded(dy))
    inputs, tiles = x.shape[0] // h, x.shape[1] // _TILE
    order, first = _by_row(index, inputs)
    index = _clamped(index, inputs)

    def of_kernel(index_ref: Any, x_ref: Any, dy_ref: Any, out_ref: Any) -> None:
        row = index_ref[0, 0]

        def add(tile: Array, sum_: Array) -> Array:
            at = pl.ds(tile * _TILE, _TILE)
            return sum_ + _dot(x_ref[pl.ds(row * h, h), at], dy_ref[:, at].T)

        zero = jnp.zeros((h, w), jnp.float32)
        out_ref[0, :, :] = lax.fori_loop(0, tiles, add, zero).astype(out_ref.dtype)

    dkernel = _call(
        of_kernel,
        grid=(columns, slots),
        in_specs=[
            pl.BlockSpec((1, 1), lambda c, s: (c, s)),
            pl.BlockSpec(x.shape, lambda c, s: (0, 0)),
            pl.BlockSpec((w, x.shape[1]), lambda c, s: (c, 0)),
        ],
        out_specs=pl.BlockSpec((1, h, w), lambda c, s: (c, s, 0)),
        out_shape=jax.ShapeDtypeStruct(kernel.shape, kernel.dtype),
    )(index, x, dy)

    def of_inputs(
        order_ref: Any, first_ref: Any, kernel_ref: Any, dy_ref: Any, out_ref: Any
    ) -> None:
        row = pl.program_id(0)

        def add(i: Array, sum_: Array) -> Array:
            block = order_ref[i]
            weights = kernel_ref[pl.ds(block * h, h), :]
            return sum_ + _dot(weights, dy_ref[pl.ds(lax.div(block, slots) * w, w), :])

        zero = jnp.zeros((h, _TILE), jnp.float32)
        sum_ = lax.fori_loop(first_ref[row], first_ref[row + 1], add, zero)
        out_ref[...] = sum_.astype(out_ref.dtype)

    dx = _call(
        of_inputs,
        grid=(inputs, tiles),
        in_specs=[
            pl.BlockSpec(order.shape, lambda r, t: (0,)),
            pl.BlockSpec(first.shape, lambda r, t: (0,)),
            pl.BlockSpec((columns * rows, w), lambda r, t: (0, 0)),
            pl.BlockSpec((columns * w, _TILE), lambda r, t: (0, t)),
        ],
        out_specs=pl.BlockSpec((h, _TILE), lambda r, t: (r, t)),
        out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
    )(order, first, kernel.reshape(-1, w), dy)
    return dx[:, :n], dkernel


def _call(program: Any, **options: Any) -> Any:
    return pl.pallas_call(
        program,
        interpret=jax.default_backend() != "gpu",
        compiler_params=triton.CompilerParams(num_warps=4),
        **options,
    )


def _padded(x: Array) -> tuple[Array, int]:
    """A whole number of tiles, and how many columns of them count."""
    n = x.shape[1]
    return jnp.pad(x, ((0, 0), (0, -n % _TILE))), n


def _clamped(index: Array, inputs: int) -> Array:
    """Places of spare slots, whose weights are zero, inside of the array."""
    return jnp.minimum(index, inputs - 1).astype(jnp.int32)


def _by_row(index: Array, inputs: int) -> tuple[Array, Array]:
    """The blocks in the order of their inputs, and where those of each begin, and end."""
    flat = index.reshape(-1)
    order = jnp.argsort(flat, stable=True).astype(jnp.int32)
    first = jnp.searchsorted(flat[order], jnp.arange(inputs + 1, dtype=flat.dtype))
    return order, first.astype(jnp.int32)


def _dot(a: Array, b: Array) -> Array:
    return jnp.dot(a, b, preferred_element_type=jnp.float32)
