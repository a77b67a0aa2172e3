"""Structure: the unit that is switched, and the group in which counts are exact.

A structure splits the axes of a weight and calls each part group, unit or member: scores are
pooled over members, selection is exact within a group, and the mask is spread over members
again. Axes are split, never merged, so the layout works on sharded arrays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from dst.core import checks
from dst.core.reductions import exact_sum, totals
from dst.core.tree import Leaf
from dst.core.typing import Array


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

    def weights(self, count: Array) -> Array:
        """int32 active weights per stacked slice from active units per group.

        Args:
          count: of shape ``counts``, for all groups of a slice, or with one entry per group.
        """
        count = count.astype(jnp.int32)
        if count.ndim == len(self.counts):
            return count * jnp.int32(self.weights_per_count)
        axes = tuple(range(len(self.counts), count.ndim))
        return jnp.sum(count, axis=axes, dtype=jnp.int32) * jnp.int32(self.unit_size)

    def per_group(self, count: Any) -> Array:
        """Counts per stacked slice (or per group already) as an int32 array over all groups."""
        shape = tuple(self.split[a] for a in self.groups)
        count = jnp.asarray(count, jnp.int32)
        return jnp.broadcast_to(lax.expand_dims(count, range(count.ndim, len(shape))), shape)

    @property
    def group_axes(self) -> tuple[int, ...]:
        """The group axes, numbered in the pooled array."""
        kept = [a for a in range(len(self.split)) if a not in self.members]
        return tuple(kept.index(a) for a in self.groups)

    def pool(self, scores: Array) -> Array:
        """One score per unit: the sum over its members, the same on every mesh."""
        split = _reshape(scores, self.split)
        return exact_sum(split, self.members) if self.members else split

    def units_of(self, mask: Array) -> Array:
        """One bool per unit of a mask that is constant within units."""
        # `any`, not the first member: a slice of a sharded axis has to be moved, or is an error.
        split = _reshape(mask, self.split)
        return jnp.any(split, axis=self.members) if self.members else split

    def spread(self, units: Array, like: Array | None = None) -> Array:
        """The mask of the leaf from one bool per unit; with the explicit sharding of ``like``."""
        wide = jnp.broadcast_to(lax.expand_dims(units, self.members), self.split)
        if like is None or not _explicit(like):
            return _reshape(wide, self.shape)
        return lax.reshape(wide, self.shape, out_sharding=jax.typeof(like).sharding.spec)

    def count(self, *units: Array) -> list[Array]:
        """int32 weights of the active units of each mask, of shape ``counts``: one sum per
        stacked slice."""
        axes = tuple(range(len(self.counts), units[0].ndim))
        return [n * jnp.int32(self.unit_size) for n in totals(units, axes)]


def _explicit(x: Array) -> bool:
    """Whether the type of an array says how it is sharded; otherwise the compiler decides."""
    return any(entry is not None for entry in jax.typeof(x).sharding.spec)


def _reshape(x: Array, shape: tuple[int, ...]) -> Array:
    """``x.reshape(shape)`` for axes that are split or merged, also under explicit sharding.

    The outer part of a split axis carries its sharding. Where the parts do not divide evenly over
    the devices (a unit or a group lies on several), that axis is gathered.
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


@runtime_checkable
class Structure(Protocol):
    """What a structure must provide: how it reads a leaf.

    A pattern that admits one sparsity only has it as ``sparsity``.
    """

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


@dataclass(frozen=True)
class NM:
    """``n`` active weights of every ``m`` consecutive ones along the input (reduced) axis.

    Its sparsity is ``1 - n / m`` in every layer: the allocation has no say. Kernels with several
    input axes are read as if those were one, the last running fastest.

    Args:
      n: active per group, at least 1.
      m: size of a group; must divide the input axis.

    References: Zhou et al. 2021, "Learning N:M fine-grained structured sparse neural networks
    from scratch" (arXiv 2102.04010).
    Checked against: a row by hand,
    tests/methods/test_goldens.py::test_asp_keeps_two_of_four_along_the_inputs.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        checks.integer("n of NM(n, m)", self.n, at_least=1)
        checks.integer("m of NM(n, m)", self.m, at_least=self.n + 1)

    @property
    def sparsity(self) -> Fraction:
        """The only one that the pattern has."""
        return 1 - Fraction(self.n, self.m)

    def layout(self, leaf: Leaf) -> Layout:
        """Groups along the input axes; see :class:`Structure`."""
        return _layout(leaf, self, {"i": ("group", self.m, "unit"), "o": "group", "k": "group"})


@dataclass(frozen=True)
class Block:
    """Blocks of ``h`` inputs by ``w`` outputs are switched as one; exact counts of blocks.

    Convolutions have one block per position of their window.

    Args:
      h: inputs; must divide the input axis.
      w: outputs; must divide the output axis.

    References: structured dynamic sparsity in BERT (arXiv 2108.06277).
    Checked against: google-research/jaxpruner at f133ee5, jaxpruner/mask_calculator.py;
    tests/methods/test_goldens.py::test_blocks_are_ranked_by_the_sum_of_their_weights.
    Differs from JaxPruner: pools by sum, which ranks as its average does.
    """

    h: int
    w: int

    def __post_init__(self) -> None:
        checks.integer("h of Block(h, w)", self.h, at_least=1)
        checks.integer("w of Block(h, w)", self.w, at_least=1)

    def layout(self, leaf: Leaf) -> Layout:
        """Units of h x w weights; see :class:`Structure`."""
        h, w = ("unit", self.h, "member"), ("unit", self.w, "member")
        return _layout(leaf, self, {"i": h, "o": w, "k": "unit"})


@dataclass(frozen=True)
class ConstantFanIn:
    """Single weights are switched; every output neuron has the same number of active inputs.

    References: Lasby et al. 2024, "Dynamic sparse training with structured sparsity"
    (arXiv 2305.02299).
    """

    def layout(self, leaf: Leaf) -> Layout:
        """A group per output; see :class:`Structure`."""
        return _layout(leaf, self, {"i": "unit", "o": "group", "k": "unit"})


@dataclass(frozen=True)
class OutputChannel:
    """Whole outputs (columns of a matrix, filters of a convolution) are switched."""

    def layout(self, leaf: Leaf) -> Layout:
        """A unit per output; see :class:`Structure`."""
        return _layout(leaf, self, {"i": "member", "o": "unit", "k": "member"})


@dataclass(frozen=True)
class InputChannel:
    """Whole inputs (rows of a matrix, input channels of a convolution) are switched."""

    def layout(self, leaf: Leaf) -> Layout:
        """A unit per input; see :class:`Structure`."""
        return _layout(leaf, self, {"i": "unit", "o": "member", "k": "member"})


# What a letter of a kernel's axes becomes: one role, or (outer role, chunk, role inside it).
_Role = str | tuple[str, int, str]
_NAMES = {"i": "input", "o": "output"}


def _layout(leaf: Leaf, structure: Structure, roles: dict[str, _Role]) -> Layout:
    parts: list[tuple[int, str]] = [(n, "group") for n in leaf.shape[: leaf.stacked]]
    chunks = {
        letter: _chunks(leaf, structure, letter, role[1])
        for letter, role in roles.items()
        if isinstance(role, tuple)
    }
    for axis, letter in enumerate(leaf.letters):
        role = roles[letter]
        if isinstance(role, str):
            parts.append((leaf.layer_shape[axis], role))
            continue
        inner = chunks[letter][axis]
        outer = leaf.layer_shape[axis] // inner
        parts += [(outer, role[0])] * (outer > 1 or inner == 1)
        parts += [(inner, role[2])] * (inner > 1)
    return Layout(
        shape=leaf.shape,
        split=tuple(n for n, _ in parts),
        groups=tuple(a for a, (_, role) in enumerate(parts) if role == "group"),
        members=tuple(a for a, (_, role) in enumerate(parts) if role == "member"),
        counts=leaf.shape[: leaf.stacked],
    )


def _chunks(leaf: Leaf, structure: Structure, letter: str, size: int) -> dict[int, int]:
    """How much of every axis of a letter lies inside a chunk of ``size`` consecutive positions.

    Axes of the same letter count as one, the last running fastest; none is merged for it.
    """
    inside, rest = {}, size
    for axis in reversed([a for a, name in enumerate(leaf.letters) if name == letter]):
        length = leaf.layer_shape[axis]
        inside[axis] = length if rest % length == 0 else rest
        if length % inside[axis]:
            break
        rest //= inside[axis]
    else:
        if rest == 1:
            return inside
    lengths = [
        f"axis {a + leaf.stacked} of length {leaf.layer_shape[a]}"
        for a, name in enumerate(leaf.letters)
        if name == letter
    ]
    raise ValueError(
        f"{leaf.path} of shape {leaf.shape}: {structure} needs {_NAMES[letter]}s in multiples of "
        f"{size}, found {' and '.join(lengths) or 'no such axis'}. Choose another pattern for it, "
        f"or leave it dense: overrides={{{leaf.path!r}: {{'sparsity': 0}}}}."
    )
