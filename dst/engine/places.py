"""Where the weights of a packed leaf stand, and what a run knows of them."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from dst.core.typing import Array, Int, PyTree, UInt8
from dst.engine import masks
from dst.forms import blocks, packed


class Slots(NamedTuple):
    """How many values of a leaf can be stored, and in which order.

    Attributes:
      capacity: weights; of blocks, those of a column.
      block, matrix: as in :class:`Places`.
    """

    capacity: int
    block: tuple[int, int] | None = None
    matrix: tuple[int, ...] = ()


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("index", "marks", "explored"),
    meta_fields=("shape", "block", "matrix"),
)
@dataclass(frozen=True)
class Places:
    """What stands in ``state.masks`` for a packed leaf.

    Attributes:
      index: int32 ``[capacity]``: flat places of the active weights, rising; in spare slots the
        size of the leaf. For blocks ``[*layers, columns, slots]``, as in ``dst/forms/blocks.py``.
      marks: uint8 of the shape of the values: bytes as in
        :class:`dst.engine.state.SparsifyState`; zero in spare slots.
      explored: uint8 ``[size / 8]``: a bit for every weight that was ever active.
      shape: of the leaf.
      block: inputs and outputs of a block that is stored as one; None: single weights.
      matrix: the shape ``[*layers, inputs, outputs]`` that blocks divide.
    """

    index: Int[Array, "..."]
    marks: UInt8[Array, "..."]
    explored: UInt8[Array, " bytes"]
    shape: tuple[int, ...]
    block: tuple[int, int] | None = None
    matrix: tuple[int, ...] = ()

    def gather(self, dense: Array) -> Array:
        """The values of an array of the shape of the leaf at the places."""
        if self.block is None:
            return packed.gather(dense, self.index)
        return blocks.gather(dense.reshape(self.matrix), self.index, self.block)

    def scatter(self, values: Array) -> Array:
        """The values at their places in an array of the shape of the leaf; zeros elsewhere."""
        if self.block is None:
            return packed.scatter(values, self.index, self.shape)
        return blocks.scatter(values, self.index, self.matrix).reshape(self.shape)

    def spread(self, numbers: Array) -> Array:
        """Numbers per stacked slice of the leaf, so that they broadcast over the values.

        Args:
          numbers: ``[*stacked]``, the first axes of the leaf.
        """
        if self.block is not None or not numbers.ndim:
            return lax.expand_dims(numbers, range(numbers.ndim, self.marks.ndim))
        # What spare slots get does not matter: their values are zero.
        size = math.prod(self.shape[numbers.ndim :])
        return numbers.reshape(-1).at[self.index // size].get(mode="clip")

    @property
    def slots(self) -> Slots:
        """What :func:`places_of` needs to find places like these."""
        return Slots(self.index.shape[-1], self.block, self.matrix)

    def mask_bytes(self) -> UInt8[Array, "*shape"]:
        """The bytes of all weights. What inactive weights have as age says nothing."""
        size = math.prod(self.shape)
        seen = jnp.unpackbits(self.explored, count=size).reshape(self.shape)
        return self.scatter(self.marks) | (seen * masks.EXPLORED)


def places_of(mask_bytes: UInt8[Array, "*shape"], like: Slots) -> Places:
    """The places of the active weights of a leaf."""
    active = masks.active(mask_bytes)
    if like.block is None:
        index = packed.indices(active, like.capacity)
    else:
        index = blocks.indices(active.reshape(like.matrix), like.block, like.capacity)
    places = Places(
        index=index,
        marks=jnp.zeros(0, jnp.uint8),
        explored=jnp.packbits(masks.explored(mask_bytes).reshape(-1)),
        shape=tuple(mask_bytes.shape),
        block=like.block,
        matrix=like.matrix,
    )
    return replace(places, marks=places.gather(mask_bytes))


def is_places(node: Any) -> bool:
    """Whether a node of a mask tree belongs to a packed leaf."""
    return isinstance(node, Places)


def by_path(masks: PyTree) -> dict[str, Places]:
    """The packed leaves of a mask tree, by leaf path."""
    nodes, _ = jax.tree_util.tree_flatten_with_path(masks, is_leaf=is_places)
    named = [(jax.tree_util.keystr(path, simple=True, separator="/"), node) for path, node in nodes]
    return {name.removesuffix("/value"): node for name, node in named if is_places(node)}


def division(places: Places, leaf: NamedSharding) -> Places:
    """How the arrays of a packed leaf are divided: among the devices that divide the leaf.

    Slots in a row are divided, and columns of blocks, whatever weights they hold: no bound of the
    active weights in one part of a leaf is known. An array that its devices cannot divide into
    equal parts is whole on each of them.

    Args:
      places: arrays or shapes.
      leaf: the sharding of the leaf with its zeros.

    Returns:
      Shardings in the place of the arrays.
    """
    names = tuple(itertools.chain.from_iterable(map(_names, leaf.spec)))
    parts = math.prod(leaf.mesh.shape[name] for name in names)

    def along(x: Any, axis: int) -> NamedSharding:
        even = names and x.shape[axis] % parts == 0
        spec = PartitionSpec(*(None,) * axis, names) if even else PartitionSpec()
        return NamedSharding(leaf.mesh, spec)

    layers = max(len(places.matrix) - 2, 0)  # in front of the columns of blocks
    (index, marks, explored), treedef = jax.tree.flatten(places)
    divided = [along(index, layers), along(marks, layers), along(explored, 0)]
    return jax.tree.unflatten(treedef, divided)


def _names(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The axes of a mesh that divide one axis of an array."""
    return (entry,) if isinstance(entry, str) else tuple(entry or ())


class Move:
    """From the slots of one set of places to those of another; a leaf of no tree.

    Attributes:
      shape: of a packed array.
    """

    def __init__(self, old: Places, new: Places):
        self.old, self.new, self.shape = old, new, new.marks.shape

    def again(self, old: Places, values: Array) -> Array:
        """The values of weights that are active in both; zero in all other slots.

        Args:
          old: equal to the old places.
          values: in their slots.
        """
        return self.new.gather(old.scatter(values))
