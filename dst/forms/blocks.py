"""Block-sparse matrices: as many blocks in every block of outputs, and the products with them.

A matrix ``[inputs, outputs]`` in blocks of ``h`` inputs by ``w`` outputs is stored as ``kernel`` of
shape ``[columns, slots * h, w]`` and ``index``, int32 ``[columns, slots]``. A column is a block of
outputs. ``index`` says which block of inputs each block of the kernel multiplies. The indices of a
column rise. A slot that is not in use holds ``inputs / h`` and zeros.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dst.core.typing import Array, Bool, Int

BACKENDS = ("xla",)


def block_matmul(
    x: Array,
    kernel: Array,
    index: Int[Array, "columns slots"],
    *,
    features_first: bool = False,
    backend: str | None = None,
) -> Array:
    """The product of activations with a block-sparse matrix; differentiable in both.

    Its work and its memory follow the stored blocks. ``index`` is data: another topology needs no
    compilation.

    Args:
      x: ``[..., inputs]``, or ``[inputs, ...]`` with ``features_first``.
      kernel: ``[columns, slots * h, w]``.
      index: int32 ``[columns, slots]``, each in ``[0, inputs / h]``; where it is ``inputs / h`` the
        kernel must be zero.
      features_first: features stand in the first axis of ``x`` and of the result. Layers in a row
        are faster so on a CPU, where whole rows are read.
      backend: one of ``dst.forms.blocks.BACKENDS``; None: the one for this platform.

    Returns:
      ``[..., columns * w]`` or ``[columns * w, ...]``, in the common type of ``x`` and ``kernel``.

    Raises:
      ValueError: shapes that do not fit; an unknown backend.

    Example:
      >>> x, kernel = jnp.ones((2, 6)), jnp.ones((4, 2, 2))  # 8 outputs, one block of 2 x 2 each
      >>> block_matmul(x, kernel, jnp.array([[0], [2], [1], [0]])).tolist()[0]
      [2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]

    References: Gray et al. 2017, "GPU kernels for block-sparse weights" (OpenAI).
    Checked against: the dense product of the same matrix, tests/forms/test_blocks.py.
    """
    _check(x.shape[0 if features_first else -1] if x.ndim else 0, kernel, index, backend)
    dtype = jnp.promote_types(x.dtype, kernel.dtype)
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    if features_first:
        around = x.shape[1:]
        y = _product(x.reshape(x.shape[0], -1), kernel, index)
        return y.reshape(y.shape[0], *around)
    around = x.shape[:-1]
    y = _product(x.reshape(-1, x.shape[-1]).T, kernel, index)
    return y.T.reshape(*around, y.shape[0])


def _check(inputs: int, kernel: Array, index: Array, backend: str | None) -> None:
    if backend is not None and backend not in BACKENDS:
        raise ValueError(f"backend must be one of {BACKENDS} or None, got {backend!r}.")
    if kernel.ndim != 3 or index.ndim != 2 or not jnp.issubdtype(index.dtype, jnp.integer):
        raise ValueError(
            "expected a kernel [columns, slots * h, w] and integers [columns, slots], got shapes "
            f"{kernel.shape} and {index.shape} of {index.dtype}."
        )
    columns, rows, _ = kernel.shape
    h = rows // max(index.shape[1], 1)
    if columns != index.shape[0] or not h or rows != h * index.shape[1] or not inputs or inputs % h:
        raise ValueError(
            f"x has {inputs} features, the kernel shape {kernel.shape}, the index {index.shape}: "
            f"expected a kernel [columns, slots * h, w] and features in multiples of h."
        )


@jax.custom_vjp
def _product(x: Array, kernel: Array, index: Array) -> Array:
    """``[outputs, n]`` from ``[inputs, n]``."""
    blocks = _blocks(x, kernel, index)

    def column(_: None, inputs: tuple[Array, Array]) -> tuple[None, Array]:
        weights, at = inputs
        return None, _dot(weights, _rows(blocks, at), 0, 0)

    _, y = lax.scan(column, None, (kernel, index))
    return y.reshape(-1, x.shape[-1])


def _forward(x: Array, kernel: Array, index: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    return _product(x, kernel, index), (x, kernel, index)


def _backward(saved: tuple[Array, Array, Array], dy: Array) -> tuple[Array, Array, Any]:
    x, kernel, index = saved
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
    return dx.reshape(x.shape).astype(x.dtype), dkernel, np.zeros(index.shape, jax.dtypes.float0)


_product.defvjp(_forward, _backward)


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


def indices(
    mask: Bool[Array, "*layers inputs outputs"], block: tuple[int, int], slots: int
) -> Int[Array, "*layers columns slots"]:
    """The index of the blocks of a mask.

    Args:
      mask: constant within blocks, with at most ``slots`` of them per column.
      block: inputs and outputs of a block.
      slots: blocks per column.

    Example:
      >>> indices(jnp.array([[True, False], [False, False], [True, True]]), (1, 1), 2).tolist()
      [[0, 2], [2, 3]]
    """
    units = mask[..., :: block[0], :: block[1]].swapaxes(-1, -2)
    rows = units.shape[-1]
    places = jnp.where(units, jnp.arange(rows, dtype=jnp.int32), jnp.int32(rows))
    return jnp.sort(places, axis=-1)[..., :slots]


def gather(dense: Array, index: Array, block: tuple[int, int]) -> Array:
    """The blocks ``[*layers, columns, slots * h, w]`` of ``[*layers, inputs, outputs]``; zeros in
    unused slots."""
    *layers, inputs, outputs = dense.shape
    (h, w), (columns, slots) = block, index.shape[-2:]
    split = dense.reshape(-1, inputs // h, h, outputs // w, w).transpose(0, 3, 1, 2, 4)

    def column(blocks: Array, at: Array) -> Array:
        return blocks.at[at].get(mode="fill", fill_value=0)

    picked = jax.vmap(jax.vmap(column))(split, index.reshape(-1, columns, slots))
    return picked.reshape(*layers, columns, slots * h, w)


def scatter(kernel: Array, index: Array, shape: tuple[int, ...]) -> Array:
    """The dense array ``[*layers, inputs, outputs]`` of blocks; :func:`gather` undoes it.

    Its derivative with respect to the kernel is :func:`gather`.
    """
    inputs, (columns, slots) = shape[-2], index.shape[-2:]
    h, w = kernel.shape[-2] // slots, kernel.shape[-1]
    blocks = kernel.reshape(-1, columns, slots, h, w)

    def column(blocks: Array, at: Array) -> Array:
        return jnp.zeros((inputs // h, h, w), kernel.dtype).at[at].set(blocks, mode="drop")

    dense = jax.vmap(jax.vmap(column))(blocks, index.reshape(-1, columns, slots))
    return dense.transpose(0, 2, 3, 1, 4).reshape(shape)
