"""What a score sees of the units of one group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import jax
import numpy as np

from dst.core import tree
from dst.core.typing import Batch, Params, PyTree
from dst.oneshot.calibrate import Walk, Where, as_batches, of_piece
from dst.oneshot.stages import Piece, plan
from dst.oneshot.statistics import Statistics
from dst.oneshot.structured.groups import Group, Groups, Member

NEEDS = ("nothing", "inputs", "gradients")


@dataclass(frozen=True)
class Part:
    """The weights that one matrix or one kernel has for each unit; biases and norms are left out.

    Attributes:
      name: the leaf path, with the slice of a stacked leaf.
      weight: float32 ``[units, positions, others]``; the positions are those of the axis of units.
      gradient: of the loss, of the same shape; None unless the score needs gradients.
    """

    name: str
    weight: np.ndarray
    gradient: np.ndarray | None = None


@dataclass(frozen=True)
class Read:
    """What one matrix reads of each unit.

    Attributes:
      name: the leaf path, with the slice of a stacked leaf.
      member: of the group.
      weight: float32 ``[units, inputs, outputs]``.
      mean, variance, norm: float32 ``[units, inputs]``: of each input over the calibration rows;
        the norm is the root of the sum of squares.
    """

    name: str
    member: Member
    weight: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    norm: np.ndarray


@dataclass(frozen=True)
class Units:
    """The units of one group.

    Attributes:
      group: with its members.
      parts: weights by leaf.
      reads: inputs of the matrices that read the units; empty unless the score needs inputs.
    """

    group: Group
    parts: tuple[Part, ...]
    reads: tuple[Read, ...] = ()


@runtime_checkable
class UnitScore(Protocol):
    """By what units are ranked: a frozen dataclass of hyper-parameters.

    Attributes:
      needs: ``nothing``, ``inputs`` (calibration data) or ``gradients`` (of a loss).
    """

    needs: ClassVar[Literal["nothing", "inputs", "gradients"]]

    def scores(self, units: Units) -> np.ndarray:
        """A float per unit, finite; units of the lowest are removed."""


def weights_of(leaf: Any, member: Member) -> np.ndarray:
    """float32 ``[units, positions, others]``: what a leaf has for each unit."""
    array = np.asarray(leaf if member.row is None else leaf[member.row])
    first = np.moveaxis(array, member.axis, 0)
    return first[member.positions].reshape(*member.positions.shape, -1).astype(np.float32)


def parts_of(
    group: Group, leaves: Mapping[str, Any], gradients: Mapping[str, Any] | None
) -> tuple[Part, ...]:
    """The weights of a group, of leaves that are matrices or kernels."""
    found = []
    for x in group.members:
        if np.ndim(leaves[x.path]) - (x.row is not None) >= 2:
            grad = None if gradients is None else weights_of(gradients[x.path], x)
            found.append(Part(x.name, weights_of(leaves[x.path], x), grad))
    return tuple(found)


def mean_gradients(
    loss: Callable[[Params, Batch], Any], params: Params, batches: Sequence[Batch]
) -> dict[str, np.ndarray]:
    """The gradient of a loss by leaf path, the mean over batches; float32."""
    grad = jax.jit(jax.grad(loss, allow_int=True))
    paths, leaves, _ = tree.flatten(params)
    zeros = [np.zeros(np.shape(leaf), np.float32) for leaf in leaves]
    total = dict(zip(paths, zeros, strict=True))
    for batch in batches:
        for path, x in zip(paths, jax.tree.leaves(grad(params, batch)), strict=True):
            if x.dtype != jax.dtypes.float0:
                total[path] += np.asarray(x, np.float32) / len(batches)
    return total


def reads_of(
    forward: Callable[[Params, Batch], PyTree],
    params: Params,
    batches: Iterable[Batch],
    groups: Groups,
    where: Where | None,
) -> dict[str, tuple[Read, ...]]:
    """What matrices read of the units, by the name of the group, from one pass over the batches."""
    data = as_batches(batches)
    chosen = {x.path for group in groups for x in group.members if x.consumes}
    try:
        traced = plan(forward, params, data[0], chosen)
    except ValueError as error:
        raise ValueError(
            f"{error} Here leaves are left out with their groups: name the other groups by "
            "fraction={pattern: share}, or take a score that looks at no inputs."
        ) from error
    walk = Walk(traced, tree.flatten(params)[1], data, "norms", where)
    found: dict[tuple[str, int | None], list[tuple[Piece, np.ndarray, Statistics]]] = {}
    for number, stage in enumerate(traced.stages):
        sources = walk.statistics(number, onward=True)
        for piece in stage.pieces:
            own = found.setdefault((piece.base.path, piece.base.row), [])
            own.append((piece, np.asarray(walk.weights(piece)), of_piece(piece, sources)))
    return {
        group.name: tuple(
            _read(member, *one)
            for member in group.members
            if member.consumes
            for one in found[member.path, member.row]
        )
        for group in groups
    }


def _read(member: Member, piece: Piece, weight: np.ndarray, statistics: Statistics) -> Read:
    shape, numbers = piece.base.shape, piece.place.numbers
    if numbers is None:
        numbers = np.arange(piece.place.size).reshape(piece.place.shape)
    axis = member.axis + (member.row is not None)
    position = np.unravel_index(numbers[:, :, 0].reshape(-1), shape)[axis]
    unit_of = np.full(shape[axis], -1)
    for unit, own in enumerate(member.positions):
        unit_of[own] = unit
    numbered = unit_of[position]
    order = np.argsort(numbered, kind="stable")[np.count_nonzero(numbered < 0) :]
    order = order.reshape(len(member.positions), -1)

    def inputs(x: Any) -> np.ndarray:
        return np.asarray(x, np.float32).reshape(-1)[order]

    rows = np.maximum(np.asarray(statistics.rows), 1)[:, None]
    return Read(
        name=piece.name,
        member=member,
        weight=weight.reshape(-1, weight.shape[2])[order],
        mean=inputs(np.asarray(statistics.sums) / rows),
        variance=inputs(statistics.variance),
        norm=inputs(statistics.norms),
    )
