"""Structure: the unit that is switched, and the group in which counts are exact.

A structure splits the axes of a weight and calls each part group, unit or member: scores are
pooled over members, selection is exact within a group, and the mask is spread over members
again. Axes are split, never merged, so the layout works on sharded arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jax import lax

from dst._typing import Array
from dst.selection import totals
from dst.tree import Leaf


@dataclass(frozen=True)
class Layout:
    """How one leaf is read by a structure.

    Attributes:
      shape: of the leaf.
      split: the shape with some axes split in two; as many elements, in the same order.
      groups: axes of ``split`` that enumerate groups.
      members: axes of ``split`` that lie inside one unit.
      counts: the shape of a count per group: stacked axes, where every slice may differ;
        it broadcasts against the group axes.
    """

    shape: tuple[int, ...]
    split: tuple[int, ...]
    groups: tuple[int, ...] = ()
    members: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        size = split = 1
        for n in self.shape:
            size *= n
        for n in self.split:
            split *= n
        if size != split:
            raise ValueError(f"cannot split {self.shape} into {self.split}: {size} != {split}.")

    @property
    def unit_size(self) -> int:
        """Weights in one unit."""
        size = 1
        for a in self.members:
            size *= self.split[a]
        return size

    @property
    def units(self) -> int:
        """Units in one group."""
        units = 1
        for a, n in enumerate(self.split):
            if a not in self.groups and a not in self.members:
                units *= n
        return units

    @property
    def weights_per_count(self) -> int:
        """Active weights of a stacked slice for each active unit of one of its groups."""
        groups = 1
        for a in self.groups[len(self.counts) :]:
            groups *= self.split[a]
        return groups * self.unit_size

    @property
    def group_axes(self) -> tuple[int, ...]:
        """The group axes, numbered in the pooled array."""
        kept = [a for a in range(len(self.split)) if a not in self.members]
        return tuple(kept.index(a) for a in self.groups)

    def pool(self, scores: Array) -> Array:
        """One score per unit: the sum over its members."""
        if not self.members:
            return scores.reshape(self.split)
        return jnp.sum(scores.reshape(self.split), axis=self.members)

    def units_of(self, mask: Array) -> Array:
        """One bool per unit of a mask that is constant within units."""
        split = mask.reshape(self.split)
        for a in sorted(self.members, reverse=True):
            split = lax.index_in_dim(split, 0, axis=a, keepdims=False)
        return split

    def spread(self, units: Array) -> Array:
        """The mask of the leaf from one bool per unit."""
        wide = lax.expand_dims(units, self.members)
        return jnp.broadcast_to(wide, self.split).reshape(self.shape)

    def count(self, *units: Array) -> list[Array]:
        """int32 weights of the active units of each mask, of shape ``counts``: one sum per
        stacked slice."""
        axes = tuple(range(len(self.counts), units[0].ndim))
        return [n * jnp.int32(self.unit_size) for n in totals(units, axes)]


@runtime_checkable
class Structure(Protocol):
    """What a structure must provide: how it reads a leaf."""

    def layout(self, leaf: Leaf) -> Layout:
        """The layout of a leaf. Raises ValueError where the leaf does not fit."""
        ...


@dataclass(frozen=True)
class Unstructured:
    """Single weights are switched; counts are exact in every layer.

    Every slice of a stacked axis is a layer of its own.
    """

    def layout(self, leaf: Leaf) -> Layout:
        stacked = tuple(range(leaf.stacked))
        return Layout(
            shape=leaf.shape,
            split=leaf.shape,
            groups=stacked,
            counts=leaf.shape[: leaf.stacked],
        )
