"""Where the weights of a leaf stand in the kernel of a product.

A view is followed with numbers in place of weights: each weight of a leaf gets a number, and the
numbers that arrive in the kernel say which weight is where. So weights and masks travel in both
directions as exact copies, whatever the view transposes, reshapes, casts, cuts or joins.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn, Var

from dst.core import jaxprs
from dst.core.typing import Array
from dst.flops.products import shape
from dst.oneshot.flatten import WEIGHTS
from dst.oneshot.graph import Graph, Use

_CASTS = ("convert_element_type", "reduce_precision")


@dataclass(frozen=True)
class Base:
    """A leaf, or one slice of its leading axis.

    Attributes:
      leaf: its number.
      path: its path.
      row: of the leading axis; None for the whole leaf.
      shape: of the part.
    """

    leaf: int
    path: str
    row: int | None
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """The leaf path, and the slice: ``blocks/kernel[3]``."""
        return self.path if self.row is None else f"{self.path}[{self.row}]"

    @property
    def size(self) -> int:
        """Weights."""
        return math.prod(self.shape)

    def read(self, leaf: Array) -> Array:
        """The part of an array."""
        return leaf if self.row is None else _row(leaf, self.row)

    def write(self, leaf: Array, part: Array) -> Array:
        """The array with another part; where that is a row, the array is used up."""
        return part if self.row is None else _with_row(leaf, part, self.row)


# The row is traced: slices of all layers compile once.
@jax.jit
def _row(leaf: Array, row: Array) -> Array:
    return lax.dynamic_slice_in_dim(leaf, row, 1)


@partial(jax.jit, donate_argnums=0)
def _with_row(leaf: Array, part: Array, row: Array) -> Array:
    return lax.dynamic_update_slice_in_dim(leaf, part, row, 0)


@dataclass(frozen=True)
class Place:
    """A rectangle of weights of a leaf, or of a row of it, in the kernel of a product.

    Attributes:
      shape: ``(groups, inputs, outputs)``.
      numbers: int32 of that shape: the flat index in the leaf of each weight; None: all in order.
      groups, inputs: which of the product's the rectangle has; None: all.
      key: equal for equal numbers.
    """

    shape: tuple[int, ...]
    numbers: np.ndarray | None
    groups: np.ndarray | None
    inputs: np.ndarray | None
    key: str

    @property
    def size(self) -> int:
        """Weights."""
        return math.prod(self.shape)

    def matrices(self, part: Array) -> Array:
        """``[groups, inputs, outputs]`` from an array of the shape of the leaf or row."""
        if self.numbers is None:
            return part.reshape(self.shape)
        return part.reshape(-1)[self.numbers]

    def spread(self, part: Array, matrices: Array) -> Array:
        """An array of the shape of the leaf or row, with other values in the rectangle."""
        matrices = matrices.astype(part.dtype)
        if self.numbers is None:
            return matrices.reshape(part.shape)
        flat = part.reshape(-1).at[self.numbers].set(matrices, unique_indices=True)
        return flat.reshape(part.shape)


def bases(graph: Graph, steps: Sequence[int], targets: Sequence[Var]) -> dict[Var, Base]:
    """The variables that hold a leaf or a row of it, from which everything else is computed.

    Args:
      graph: of the forward pass.
      steps: the equations that are needed.
      targets: the variables that are needed.
    """
    readers: dict[Var, list[JaxprEqn]] = {var: [] for var in graph.leaf_vars}
    for at in steps:
        for var in graph.operands(graph.eqns[at]):
            if var in readers:
                readers[var].append(graph.eqns[at])
    found = {}
    for i, var in enumerate(graph.leaf_vars):
        rows = [row_of(eqn) for eqn in readers[var]]
        if var in targets or not rows or None in rows:
            found[var] = Base(i, graph.paths[i], None, shape(var))
            continue
        for eqn, row in zip(readers[var], rows, strict=True):
            found[eqn.outvars[0]] = Base(i, graph.paths[i], row, shape(eqn.outvars[0]))
    return found


def row_of(eqn: JaxprEqn) -> int | None:
    """The number of the one row of its operand that a slice takes; None for other equations."""
    if eqn.primitive.name != "slice":
        return None
    whole = shape(eqn.invars[0])
    start, stop = eqn.params["start_indices"], eqn.params["limit_indices"]
    others = all(a == 0 and b == n for a, b, n in zip(start[1:], stop[1:], whole[1:], strict=True))
    return int(start[0]) if others and stop[0] == start[0] + 1 and whole[0] > 1 else None


def places(
    graph: Graph, use: Use, found: Mapping[Var, Base], known: dict[str, list[Place | None]]
) -> list[tuple[Base, Place]]:
    """The rectangles of chosen weights in the kernel of one product.

    Args:
      graph: of the forward pass.
      use: the product.
      found: of :func:`bases`.
      known: places by the text of the view, added to: those of equal layers are found once.

    Raises:
      ValueError: weights that are repeated in a kernel, or that are no rectangle of it.
    """
    sources = graph.inputs(graph.steps([use.kernel], found.keys()), [use.kernel])
    own = [x for x in sources if x in found and found[x].leaf in use.leaves]
    view = graph.part(sources, [use.kernel])
    key = f"{view.jaxpr} {[sources.index(x) for x in own]} {use.reading.key} {use.reading.data}"
    if key not in known:
        starts = np.cumsum([0, *(found[x].size for x in own)])
        numbers = np.asarray(use.reading.matrix(_numbers(graph, view, sources, own, starts)))
        known[key] = [
            _place(found[x], numbers, int(low), int(high))
            for x, low, high in zip(own, starts[:-1], starts[1:], strict=True)
        ]
    pairs = zip(own, known[key], strict=True)
    return [(found[x], place) for x, place in pairs if place is not None]


def _numbers(
    graph: Graph, view: Any, sources: Sequence[Var], own: Sequence[Var], starts: np.ndarray
) -> Array:
    """The kernel with the numbers of weights, from 1; 0 where there are others."""
    values: list[Any] = []
    for var in sources:
        if var in own:
            first = int(starts[list(own).index(var)]) + 1
            count = math.prod(shape(var))
            values.append(jnp.arange(first, first + count, dtype=jnp.int32).reshape(shape(var)))
        elif var in graph.constants:
            values.append(graph.constants[var])
        else:
            aval: Any = var.aval
            values.append(jnp.zeros(aval.shape, aval.dtype))

    def equation(eqn: JaxprEqn, operands: list[Any]) -> list[Any]:
        if graph.kind[eqn.outvars[0]] != WEIGHTS:
            return jaxprs.bind(eqn, operands)
        operands = [_no_weights(x) for x in operands]
        return operands[:1] if eqn.primitive.name in _CASTS else jaxprs.bind(eqn, operands)

    return jaxprs.interpret(view, values, equation)[0]


def _no_weights(x: Any) -> Any:
    if jnp.issubdtype(jnp.asarray(x).dtype, jnp.integer):
        return x
    return jnp.zeros(jnp.shape(x), jnp.int32)


def _place(base: Base, numbers: np.ndarray, low: int, high: int) -> Place | None:
    inside = (numbers > low) & (numbers <= high)
    if not inside.any():
        return None
    axes = [np.flatnonzero(inside.any(axis=(1, 2))), np.flatnonzero(inside.any(axis=(0, 2)))]
    axes.append(np.flatnonzero(inside.any(axis=(0, 1))))
    block = numbers[np.ix_(*axes)] - (low + 1)
    if not inside[np.ix_(*axes)].all() or np.unique(block).size != block.size:
        raise ValueError(
            f"{base.name}: expected each of its weights once in the kernel of a product, as whole "
            f"inputs and outputs, found them repeated or scattered. Leave the leaf out: "
            f"select=['!{base.path}']."
        )
    groups, inputs = (
        None if len(found) == n else found
        for found, n in zip(axes[:2], numbers.shape[:2], strict=True)
    )
    flat = block.reshape(-1)
    plain = flat.size == base.size and bool((flat == np.arange(flat.size)).all())
    digest = hashlib.sha256(block.tobytes()).hexdigest()
    return Place(
        shape=block.shape,
        numbers=None if plain else block.astype(np.int32),
        groups=groups,
        inputs=inputs,
        key=f"{block.shape} {digest}",
    )
