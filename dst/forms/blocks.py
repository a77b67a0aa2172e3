"""Block-sparse matrices: as many blocks in every block of outputs, and the products with them.

A matrix ``[inputs, outputs]`` in blocks of ``h`` inputs by ``w`` outputs is stored as ``kernel`` of
shape ``[columns, slots * h, w]`` and ``index``, int32 ``[columns, slots]``. A column is a block of
outputs. ``index`` says which block of inputs each block of the kernel multiplies. The indices of a
column rise. A slot that is not in use holds ``inputs / h`` and zeros.
"""

from __future__ import annotations

import importlib
import math
import time
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dst.core.typing import Array, Bool, Int

BACKENDS = ("xla", "pallas_gpu", "pallas_tpu")
# Those that are tried, by platform.
_CANDIDATES = {"gpu": ("xla", "pallas_gpu"), "tpu": ("xla", "pallas_tpu")}
_REPEATS = 5


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
        kernel must be zero, and so is its derivative.
      features_first: features stand in the first axis of ``x`` and of the result. Layers in a row
        are faster so on a CPU, where whole rows are read.
      backend: ``xla``, ``pallas_gpu`` or ``pallas_tpu``. None: the fastest on this device, which
        is tried once for every shape. A kernel of another platform is interpreted, which is slow.

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
        flat = x.reshape(x.shape[0], -1)
        y = _product(flat, kernel, index, backend or _backend(flat, kernel, index))
        return y.reshape(y.shape[0], *around)
    around = x.shape[:-1]
    flat = x.reshape(-1, x.shape[-1]).T
    y = _product(flat, kernel, index, backend or _backend(flat, kernel, index))
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


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _product(x: Array, kernel: Array, index: Array, backend: str) -> Array:
    """``[outputs, n]`` from ``[inputs, n]``."""
    return _module(backend).forward(x, kernel, index)


def _forward(x: Array, kernel: Array, index: Array, backend: str) -> Any:
    return _product(x, kernel, index, backend), (x, kernel, index)


def _backward(backend: str, saved: Any, dy: Array) -> tuple[Array, Array, Any]:
    x, kernel, index = saved
    dx, dkernel = _module(backend).backward(x, kernel, index, dy)
    h = kernel.shape[1] // index.shape[1]
    used = jnp.repeat(index < len(x) // h, h, axis=1)[..., None]
    return dx, jnp.where(used, dkernel, 0), np.zeros(index.shape, jax.dtypes.float0)


_product.defvjp(_forward, _backward)


def _module(backend: str) -> Any:
    return importlib.import_module(f"dst.forms.block_{backend}")


def _backend(x: Array, kernel: Array, index: Array) -> str:
    """The backend for these shapes on this platform: the fastest one, tried once in a process."""
    candidates = _CANDIDATES.get(jax.default_backend(), ("xla",))
    if len(candidates) == 1:
        return candidates[0]
    return _fastest(candidates, (x.shape, kernel.shape, index.shape), str(x.dtype))


@cache
def _fastest(candidates: tuple[str, ...], shapes: Any, dtype: str) -> str:
    """The candidate whose product and derivatives take least time; the first where none works."""
    seconds = {}
    with jax.ensure_compile_time_eval():
        x, kernel = (jnp.ones(s, dtype) for s in shapes[:2])
        rows = shapes[0][0] * shapes[2][1] // shapes[1][1]
        index = jnp.arange(math.prod(shapes[2]), dtype=jnp.int32).reshape(shapes[2]) % rows
        for backend in candidates:

            def total(x: Array, kernel: Array, backend: str = backend) -> Array:
                return _product(x, kernel, index, backend).sum()

            step = jax.jit(jax.grad(total, (0, 1)))
            try:
                jax.block_until_ready(step(x, kernel))
            except Exception:  # shapes that a kernel cannot take: another one can
                continue
            start = time.perf_counter()
            for _ in range(_REPEATS):
                jax.block_until_ready(step(x, kernel))
            seconds[backend] = time.perf_counter() - start
    return min(seconds, key=seconds.__getitem__, default=candidates[0])


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
