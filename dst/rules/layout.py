"""Layout: how a structure reads the axes of one weight.

Axes are split, never merged, so a layout works on sharded arrays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec

from dst.core.reductions import exact_sum, totals
from dst.core.typing import Array
from dst.rules.transposable import BlockPattern


@dataclass(frozen=True)
class Layout:
    """How a structure reads one leaf.

    Attributes:
      shape: of the leaf.
      split: the shape with some axes split in two: the same elements in the same order.
      groups: axes of ``split`` that enumerate groups.
      members: axes of ``split`` that lie inside one unit.
      counts: the shape of an array of counts: the stacked axes, of which every slice may have a
        count of its own. It broadcasts against the group axes.
      pattern: where the choices of several groups depend on each other: it marks the best units
        of all of them. None: every group chooses by itself.

    Raises:
      ValueError: ``split`` has another number of elements than ``shape``.
    """

    shape: tuple[int, ...]
    split: tuple[int, ...]
    groups: tuple[int, ...] = ()
    members: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()
    pattern: BlockPattern | None = None

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

    def weights(self, count: Array) -> Array:
        """int32 active weights per stacked slice from active units per group.

        Args:
          count: of shape ``counts``, equal for all groups of a slice; or one entry per group.
        """
        count = count.astype(jnp.int32)
        if count.ndim == len(self.counts):
            return count * jnp.int32(self.weights_per_count)
        axes = tuple(range(len(self.counts), count.ndim))
        return jnp.sum(count, axis=axes, dtype=jnp.int32) * jnp.int32(self.unit_size)

    def per_group(self, count: Any) -> Array:
        """int32 counts of all groups, from counts per stacked slice or per group."""
        shape = tuple(self.split[a] for a in self.groups)
        count = jnp.asarray(count, jnp.int32)
        return jnp.broadcast_to(lax.expand_dims(count, range(count.ndim, len(shape))), shape)

    @property
    def group_axes(self) -> tuple[int, ...]:
        """The group axes, numbered in the pooled array."""
        kept = [a for a in range(len(self.split)) if a not in self.members]
        return tuple(kept.index(a) for a in self.groups)

    def pool(self, scores: Array) -> Array:
        """One score per unit: the sum over its members, bit-identical on every mesh.

        Where there is a pattern: 1 for the units that it marks, 0 for others.
        """
        split = _reshape(scores, self.split)
        if self.pattern is not None:
            return self.pattern.marks(split)
        return exact_sum(split, self.members) if self.members else split

    def check_counts(self, path: str, counts: np.ndarray) -> None:
        """Raises ValueError where a pattern does not have some of the counts of a leaf."""
        if self.pattern is None:
            return
        known = self.pattern.n, self.units
        if not np.isin(counts, known).all():
            found = sorted({int(n) for n in counts.flat} - set(known))
            raise ValueError(
                f"{path}: a transposable pattern keeps {known[0]} of {known[1]}, or all, but this "
                f"method also asks for {found}. It drops or grows single connections: use "
                "dst.TSRSTE, dst.Static or dst.prune, or structure=dst.NM(n, m)."
            )

    def check_mask(self, path: str, split: np.ndarray) -> None:
        """Raises ValueError where a mask, of shape ``split``, lacks the pattern in some block."""
        if self.pattern is None or split.all():
            return
        n, m = self.pattern.n, self.pattern.m
        for axes in (self.pattern.rows, self.pattern.columns):
            found = split.sum(axis=axes)
            if (found != n).any():
                raise ValueError(
                    f"masks: {path} must keep {n} of {m} along inputs and outputs of every block, "
                    f"got between {found.min()} and {found.max()}."
                )

    def units_of(self, mask: Array) -> Array:
        """One bool per unit, from a mask that is constant within units."""
        # `any` instead of the first member: a slice of a sharded axis moves data, or fails.
        split = _reshape(mask, self.split)
        return jnp.any(split, axis=self.members) if self.members else split

    def spread(self, units: Array, like: Array | None = None) -> Array:
        """The mask of the leaf, from one bool per unit; with the explicit sharding of ``like``."""
        return self._joined(lax.expand_dims(units, self.members), like)

    def largest(self, values: Array) -> Array:
        """For every weight the largest value in its group, of the shape of the leaf."""
        inside = tuple(a for a in range(len(self.split)) if a not in self.groups)
        split = _reshape(values, self.split)
        return self._joined(jnp.max(split, axis=inside, keepdims=True), values)

    def _joined(self, split: Array, like: Array | None) -> Array:
        whole = jnp.broadcast_to(split, self.split)
        if like is None or not _explicit(like):
            return _reshape(whole, self.shape)
        return lax.reshape(whole, self.shape, out_sharding=jax.typeof(like).sharding.spec)

    def count(self, *units: Array) -> list[Array]:
        """int32 active weights of each mask of units, of shape ``counts``."""
        axes = tuple(range(len(self.counts), units[0].ndim))
        return [n * jnp.int32(self.unit_size) for n in totals(units, axes)]


def _explicit(x: Array) -> bool:
    """Whether the type of an array says how it is sharded; otherwise the compiler decides."""
    return any(entry is not None for entry in jax.typeof(x).sharding.spec)


def _reshape(x: Array, shape: tuple[int, ...]) -> Array:
    """``x.reshape(shape)`` for axes that are split or merged, also under explicit sharding.

    The outer part of a split axis carries its sharding. The axis is gathered where that part does
    not divide evenly over the devices: a unit or a group would lie on several.
    """
    if not _explicit(x):
        return x.reshape(shape)
    sharding = jax.typeof(x).sharding
    after: list[Any] = []
    if len(shape) < x.ndim:
        after = [sharding.spec[run[0]] for run in _runs(x.shape, shape)]
    else:
        for entry, run in zip(sharding.spec, _runs(shape, x.shape), strict=True):
            names = () if entry is None else entry if isinstance(entry, tuple) else (entry,)
            devices = math.prod(sharding.mesh.shape[name] for name in names)
            after += [None if shape[run[0]] % devices else entry] + [None] * (len(run) - 1)
    return lax.reshape(x, shape, out_sharding=PartitionSpec(*after))


def _runs(parts: tuple[int, ...], whole: tuple[int, ...]) -> Iterator[range]:
    """For every axis of ``whole`` the axes of ``parts`` that it consists of."""
    axis = 0
    for length in whole:
        first, size = axis, parts[axis]
        axis += 1
        while size < length:
            size *= parts[axis]
            axis += 1
        yield range(first, axis)
