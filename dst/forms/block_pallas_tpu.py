"""Products of block-sparse matrices as Pallas kernels for TPUs: the index steers what is copied.

Programs run one after another, so results that follow each other add up in place. Elsewhere the
kernels are interpreted.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from dst.core.typing import Array

_TILE = 128  # columns of x at a time


def forward(x: Array, kernel: Array, index: Array) -> Array:
    """``[outputs, n]`` from ``[inputs, n]``."""
    columns, rows, w = kernel.shape
    slots = index.shape[1]
    h, (x, n) = rows // slots, _padded(x)

    def program(index_ref: Any, x_ref: Any, kernel_ref: Any, y_ref: Any) -> None:
        @pl.when(pl.program_id(2) == 0)
        def _() -> None:
            y_ref[...] = jnp.zeros_like(y_ref)

        y_ref[...] += _dot(kernel_ref[0], x_ref[...], 0, 0)

    y = _call(
        program,
        grid=(columns, x.shape[1] // _TILE, slots),
        inputs=[
            pl.BlockSpec((h, _TILE), lambda c, t, s, index: (index[c, s], t)),
            pl.BlockSpec((1, h, w), lambda c, t, s, index: (c, s, 0)),
        ],
        output=pl.BlockSpec((w, _TILE), lambda c, t, s, index: (c, t)),
        shape=(columns * w, x.shape[1]),
        prefetch=1,
    )(_clamped(index, x.shape[0] // h), x, kernel)
    return y[:, :n].astype(x.dtype)


def backward(x: Array, kernel: Array, index: Array, dy: Array) -> tuple[Array, Array]:
    """Gradients of ``x`` and of the kernel."""
    columns, rows, w = kernel.shape
    slots = index.shape[1]
    h, ((x, n), (dy, _)) = rows // slots, (_padded(x), _padded(dy))
    inputs, tiles = x.shape[0] // h, x.shape[1] // _TILE
    at = _clamped(index, inputs)

    def of_kernel(index_ref: Any, x_ref: Any, dy_ref: Any, out_ref: Any) -> None:
        @pl.when(pl.program_id(2) == 0)
        def _() -> None:
            out_ref[...] = jnp.zeros_like(out_ref)

        out_ref[...] += _dot(x_ref[...], dy_ref[...], 1, 1)[None]

    dkernel = _call(
        of_kernel,
        grid=(columns, slots, tiles),
        inputs=[
            pl.BlockSpec((h, _TILE), lambda c, s, t, index: (index[c, s], t)),
            pl.BlockSpec((w, _TILE), lambda c, s, t, index: (c, t)),
        ],
        output=pl.BlockSpec((1, h, w), lambda c, s, t, index: (c, s, 0)),
        shape=kernel.shape,
        prefetch=1,
    )(at, x, dy)

    # In the order of their inputs, blocks that add to the same rows follow each other.
    order = jnp.argsort(at.reshape(-1), stable=True).astype(jnp.int32)
    place = at.reshape(-1)[order]

    def of_inputs(
        place_ref: Any, order_ref: Any, kernel_ref: Any, dy_ref: Any, out_ref: Any
    ) -> None:
        i = pl.program_id(1)

        @pl.when((i == 0) | (place_ref[i] != place_ref[jnp.maximum(i - 1, 0)]))
        def _() -> None:
            out_ref[...] = jnp.zeros_like(out_ref)

        out_ref[...] += _dot(kernel_ref[...], dy_ref[...], 1, 0)

    dx = _call(
        of_inputs,
        grid=(tiles, order.size),
        inputs=[
            pl.BlockSpec((h, w), lambda t, i, place, order: (order[i], 0)),
            pl.BlockSpec((w, _TILE), lambda t, i, place, order: (lax.div(order[i], slots), t)),
        ],
        output=pl.BlockSpec((h, _TILE), lambda t, i, place, order: (place[i], t)),
        shape=x.shape,
        prefetch=2,
    )(place, order, kernel.reshape(-1, w), dy)
    read = jnp.zeros(inputs, bool).at[place].set(True)  # nothing is written for other inputs
    dx = jnp.where(jnp.repeat(read, h)[:, None], dx, 0)
    return dx[:, :n].astype(x.dtype), dkernel.astype(kernel.dtype)


def _call(
    program: Any, *, grid: Any, inputs: Any, output: Any, shape: tuple[int, ...], prefetch: int
) -> Any:
    spec = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=prefetch, grid=grid, in_specs=inputs, out_specs=output
    )
    return pl.pallas_call(
        program,
        grid_spec=spec,
        out_shape=jax.ShapeDtypeStruct(shape, jnp.float32),
        interpret=jax.default_backend() != "tpu",
    )


def _padded(x: Array) -> tuple[Array, int]:
    """A whole number of tiles, and how many columns of them count."""
    n = x.shape[1]
    return jnp.pad(x, ((0, 0), (0, -n % _TILE))), n


def _clamped(index: Array, inputs: int) -> Array:
    """Places of spare slots, whose weights are zero, inside of the array."""
    return jnp.minimum(index, inputs - 1).astype(jnp.int32)


def _dot(a: Array, b: Array, axis_a: int, axis_b: int) -> Array:
    dimensions = (((axis_a,), (axis_b,)), ((), ()))
    return lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)
