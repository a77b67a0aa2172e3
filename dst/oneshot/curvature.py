"""Blocks of the empirical Fisher matrix, in passes over the batches that fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from dst.core.typing import Array, Batch
from dst.oneshot.loss import Objective
from dst.oneshot.stages import Piece

_TOGETHER = 16  # gradients whose products are added at once
_REPORTS = 10  # of progress in each pass


def in_blocks(matrices: Array, size: int) -> Array:
    """``[groups, inputs, outputs]`` as ``[blocks, size]``: consecutive inputs of an output.

    The last block is filled up with zeros.
    """
    flat = jnp.swapaxes(matrices, 1, 2).reshape(-1)
    return jnp.pad(flat, (0, -flat.size % size)).reshape(-1, size)


def from_blocks(blocks: Array, shape: tuple[int, int, int]) -> Array:
    """The inverse of :func:`in_blocks`."""
    groups, inputs, outputs = shape
    flat = blocks.reshape(-1)[: groups * inputs * outputs]
    return jnp.swapaxes(flat.reshape(groups, outputs, inputs), 1, 2)


class Curvature(Protocol):
    """The blocks along the diagonal of the curvature of the loss at one matrix."""

    def blocks(self, size: int, memory: float) -> Iterator[tuple[int, Array]]:
        """The number of the first block, and float32 ``[blocks, size, size]``, in order.

        Args:
          size: weights of a block, in the order of :func:`in_blocks`; of a smaller matrix, all.
          memory: GiB that blocks may take at once.
        """
        ...


@dataclass(frozen=True)
class _Slice:
    """Consecutive blocks of one piece."""

    piece: Piece
    size: int
    first: int
    count: int

    def of(self, matrices: Array) -> Array:
        """``[count, size]``."""
        return in_blocks(matrices, self.size)[self.first : self.first + self.count]


class Fisher:
    """``F = mean(g g^T)`` of the gradients ``g`` of the loss, one per batch, in diagonal blocks.

    What is held is the Fisher blocks of one pass and up to 16 gradients of the same weights, never
    all gradients. A pass takes as many weights as fit, so many weights mean several passes.

    Args:
      objective: the loss.
      leaves: of the network, at which gradients are taken.
      batches: one gradient each.
      pieces: matrices whose blocks will be asked for.
      say: called with a line now and then.
    """

    def __init__(
        self,
        objective: Objective,
        leaves: Sequence[Array],
        batches: Sequence[Batch],
        pieces: Sequence[Piece],
        say: Callable[[str], None] | None = None,
    ):
        self._objective, self._leaves = objective, list(leaves)
        self._batches, self._pieces, self._say = batches, pieces, say
        self._plans: dict[tuple[int, float], list[list[_Slice]]] = {}
        self._held: tuple[list[_Slice], list[Array]] = ([], [])
        self._compiled: dict[int, Callable[..., Any]] = {}

    def of(self, piece: Piece) -> Curvature:
        """The curvature of one matrix."""
        return _OfPiece(self, piece)

    def of_slices(self, piece: Piece, size: int, memory: float) -> Iterator[tuple[int, Array]]:
        """See :meth:`Curvature.blocks`."""
        key = size, memory
        if key not in self._plans:
            self._plans[key] = _passes(self._pieces, size, memory, len(self._batches))
        plan = self._plans[key]
        for number, slices in enumerate(plan):
            mine = [i for i, x in enumerate(slices) if x.piece is piece]
            if mine and self._held[0] is not slices:
                self._held = ([], [])  # let go before the next is made
                self._held = slices, self._pass(slices, f"pass {number + 1} of {len(plan)}")
            for i in mine:
                yield slices[i].first, self._held[1][i]

    def _adding(self, slices: Sequence[_Slice]) -> Callable[..., Any]:
        """Adds the products of the gradients of several batches."""
        if id(slices) in self._compiled:  # plans are kept, so an id stays what it is
            return self._compiled[id(slices)]
        numbers = sorted({x.piece.base.leaf for x in slices})
        gradient = self._objective.gradient(numbers)

        @partial(jax.jit, donate_argnums=0)
        def add(sums: list[Array], leaves: Sequence[Array], batches: Any) -> list[Array]:
            def one(batch: Batch) -> list[Array]:
                found = dict(zip(numbers, gradient(leaves, batch), strict=True))
                parts = [x.piece.base.read(found[x.piece.base.leaf]) for x in slices]
                return [
                    x.of(x.piece.place.matrices(part).astype(jnp.float32))
                    for x, part in zip(slices, parts, strict=True)
                ]

            products = [
                jnp.einsum(
                    "knb,knc->nbc",
                    g,
                    g,
                    precision=lax.Precision.HIGHEST,
                    preferred_element_type=jnp.float32,
                )
                for g in lax.map(one, batches)
            ]
            return [s + p for s, p in zip(sums, products, strict=True)]

        self._compiled[id(slices)] = add
        return add

    def _pass(self, slices: Sequence[_Slice], name: str) -> list[Array]:
        add = self._adding(slices)
        sums = [jnp.zeros((x.count, x.size, x.size), jnp.float32) for x in slices]
        total, reported = len(self._batches), 0
        for start in range(0, total, _TOGETHER):
            together = self._batches[start : start + _TOGETHER]
            stacked = jax.tree.map(lambda *x: jnp.stack([jnp.asarray(y) for y in x]), *together)
            sums = add(sums, self._leaves, stacked)
            done = start + len(together)
            if self._say is not None and done * _REPORTS // total > reported:
                reported = done * _REPORTS // total
                self._say(f"gradients, {name}: {done} of {total}")
        for x, s in zip(slices, sums, strict=True):
            if not bool(jnp.isfinite(s).all()):
                raise ValueError(
                    f"loss: expected a finite gradient of {x.piece.name}, found NaN or infinity. "
                    "Check the batches, and divisions in the loss."
                )
        return [s / total for s in sums]


@dataclass(frozen=True)
class _OfPiece:
    """The part of a :class:`Fisher` that belongs to one matrix."""

    fisher: Fisher
    piece: Piece

    def blocks(self, size: int, memory: float) -> Iterator[tuple[int, Array]]:
        return self.fisher.of_slices(self.piece, size, memory)


@dataclass(frozen=True)
class Given:
    """A curvature of the user's own: its diagonal, of the shape ``[groups, inputs, outputs]``."""

    diagonal: Array

    def blocks(self, size: int, memory: float) -> Iterator[tuple[int, Array]]:
        """See :meth:`Curvature.blocks`."""
        rows = in_blocks(self.diagonal.astype(jnp.float32), size)
        yield 0, rows[:, :, None] * jnp.eye(size, dtype=jnp.float32)[None]


def given(diagonal: Mapping[str, Array], piece: Piece) -> Given:
    """The diagonal of one matrix, from those of leaves by path.

    Raises:
      ValueError: no diagonal of the leaf, or one of another shape.
    """
    path, shape = piece.base.path, piece.base.shape
    found = diagonal.get(path)
    if found is None:
        raise ValueError(
            f"diagonal: expected one for {path}, found those of {', '.join(diagonal) or 'none'}."
        )
    found = jnp.asarray(found)
    fits = found.shape == shape if piece.base.row is None else found.shape[1:] == shape[1:]
    if not fits:
        raise ValueError(f"diagonal of {path} must have the shape of the leaf, got {found.shape}.")
    return Given(piece.place.matrices(piece.base.read(found)))


def _passes(pieces: Sequence[Piece], size: int, memory: float, batches: int) -> list[list[_Slice]]:
    """Slices of all pieces, in passes that fit in memory."""
    most = int(memory * 2**30) // (4 * (size + min(_TOGETHER, batches, size)))  # weights of a pass
    passes: list[list[_Slice]] = [[]]
    open_ = most
    for piece in pieces:
        own = min(size, piece.place.size)
        blocks, first = -(-piece.place.size // own), 0
        while first < blocks:
            count = min(blocks - first, open_ // own)
            if count < 1:
                if passes[-1]:
                    passes.append([])
                    open_ = most
                    continue
                count = 1  # one block must fit
            passes[-1].append(_Slice(piece, own, first, count))
            first, open_ = first + count, open_ - count * own
    return passes
