"""How a product reads its operands: data as rows of inputs, a kernel as matrices of weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn

from dst.core.typing import Array
from dst.flops.products import shape

_CONVOLUTION = "conv_general_dilated"


@dataclass(frozen=True)
class Reading:
    """One product as ``[groups, rows, inputs] x [groups, inputs, outputs]``.

    Attributes:
      matrix: turns the kernel, or an array of its shape, into ``[groups, inputs, outputs]``.
      rows: turns the operands in ``data`` into ``[groups, rows, inputs]``.
      data: numbers of the operands that ``rows`` takes.
      row_shape: the axes of the data that its rows enumerate.
      key: equal for readings that turn equal operands into equal rows.
      members: from the operands in ``data`` bool ``[groups, rows]``: which rows are of which group;
        None: every row is of every group.
    """

    matrix: Callable[[Any], Any]
    rows: Callable[..., Array]
    data: tuple[int, ...]
    row_shape: tuple[int, ...]
    key: str
    members: Callable[..., Array] | None = None


def reading(eqn: JaxprEqn, side: int) -> Reading | None:
    """How a product reads its operands when the kernel is number ``side``; None: not as these.

    Matrix products take the kernel on either side, convolutions and products of ragged groups on
    the right.
    """
    name = eqn.primitive.name
    if name == "dot_general":
        return _matrix_product(eqn, side)
    if name == _CONVOLUTION and side == 1 and eqn.params["batch_group_count"] == 1:
        return _convolution(eqn)
    if name == "ragged_dot_general" and side == 1:
        return _ragged(eqn)
    return None


def _matrix_product(eqn: JaxprEqn, side: int) -> Reading:
    contracted, batched = eqn.params["dimension_numbers"]
    kernel, data = shape(eqn.invars[side]), shape(eqn.invars[1 - side])

    def paired(axes: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
        """Axes of the kernel and of the data that belong together, as the kernel orders them."""
        pairs = sorted(zip(axes[side], axes[1 - side], strict=True))
        return [a for a, _ in pairs], [a for _, a in pairs]

    reduced, data_reduced = paired(contracted)
    groups, data_groups = paired(batched)
    kept = [a for a in range(len(kernel)) if a not in (*reduced, *groups)]
    free = [a for a in range(len(data)) if a not in (*data_reduced, *data_groups)]
    sizes = [math.prod(kernel[a] for a in axes) for axes in (groups, reduced, kept)]
    order = (*data_groups, *free, *data_reduced)
    return Reading(
        matrix=lambda x: x.transpose(*groups, *reduced, *kept).reshape(sizes),
        rows=lambda x: x.transpose(order).reshape(sizes[0], -1, sizes[1]),
        data=(1 - side,),
        row_shape=tuple(data[a] for a in free),
        key=f"{order} {len(data_groups)} {len(free)}",
    )


def _convolution(eqn: JaxprEqn) -> Reading:
    p = eqn.params
    numbers, count = p["dimension_numbers"], p["feature_group_count"]
    out, depth, *window_axes = numbers.rhs_spec
    kernel = shape(eqn.invars[1])
    window = [kernel[a] for a in window_axes]
    features = numbers.out_spec[1]
    places = tuple(n for a, n in enumerate(shape(eqn.outvars[0])) if a != features)

    def matrix(x: Any) -> Any:
        split = x.transpose(out, *window_axes, depth)
        split = split.reshape(count, -1, math.prod(window) * kernel[depth])
        return split.transpose(0, 2, 1)

    def rows(x: Array) -> Array:
        patches = lax.conv_general_dilated_patches(
            x,
            window,
            p["window_strides"],
            p["padding"],
            p["lhs_dilation"],
            p["rhs_dilation"],
            dimension_numbers=numbers,
            precision=lax.Precision.HIGHEST,
        )
        last = jnp.moveaxis(patches, features, -1)  # channels outside, the window inside
        split = last.reshape(-1, count, kernel[depth], math.prod(window))
        return split.transpose(1, 0, 3, 2).reshape(count, split.shape[0], -1)

    settings = {k: v for k, v in p.items() if "precision" not in k and "element_type" not in k}
    return Reading(matrix, rows, (0,), places, f"{settings} {window}")


def _ragged(eqn: JaxprEqn) -> Reading | None:
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    plain = (((1,), (1,)), ((), ()))
    found = tuple(tuple(map(tuple, axes)) for axes in numbers.dot_dimension_numbers)
    if found != plain or eqn.params["group_offset"] is not None:
        return None
    groups = shape(eqn.invars[1])[0]

    def members(x: Array, sizes: Array) -> Array:
        owner = jnp.searchsorted(jnp.cumsum(sizes), jnp.arange(x.shape[0]), side="right")
        return owner[None] == jnp.arange(groups)[:, None]

    def rows(x: Array, sizes: Array) -> Array:
        return jnp.where(members(x, sizes)[:, :, None], x[None], jnp.zeros_like(x)[None])

    every_row = shape(eqn.invars[0])[:1]
    return Reading(lambda x: x, rows, (0, 2), every_row, "ragged", members)
