"""Transposable N:M: masks with ``n`` of every ``m`` weights along both axes of a kernel.

A block of ``m`` inputs by ``m`` outputs has ``n`` active weights in every row and every column.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cache

import jax.numpy as jnp
import numpy as np
from jax import lax

from dst.core.selection import ordered
from dst.core.typing import Array

ENUMERATED = 4  # up to this length of a block there are at most 90 patterns
_BITS = 26  # of scores as integers: the sum of a pattern of 4 x 4 stays below 2^31


@cache
def patterns(n: int, m: int) -> np.ndarray:
    """All blocks with ``n`` of ``m`` in every row and column, bool ``[patterns, m, m]``.

    >>> len(patterns(1, 4)), len(patterns(2, 4)), patterns(1, 2).astype(int).tolist()
    (24, 90, [[[1, 0], [0, 1]], [[0, 1], [1, 0]]])
    """
    rows = [[i in c for i in range(m)] for c in itertools.combinations(range(m), n)]
    blocks = np.array(list(itertools.product(rows, repeat=m)), bool)
    return blocks[(blocks.sum(axis=1) == n).all(axis=1)]


@dataclass(frozen=True)
class BlockPattern:
    """How the best pattern of every block is found.

    Attributes:
      n, m: active weights per row and column, and their length.
      rows, columns: axes that run through the inputs and the outputs of a block.
      exact: whether all patterns are compared; otherwise connections are taken greedily.
    """

    n: int
    m: int
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    exact: bool

    @property
    def block(self) -> tuple[int, ...]:
        """The axes inside a block."""
        return self.rows + self.columns

    def marks(self, scores: Array) -> Array:
        """1.0 where the best pattern of a block is active and 0.0 elsewhere; NaN where a score of
        the block is.

        Args:
          scores: float32; axes outside of ``block`` enumerate blocks.
        """
        units = self._units(scores)
        mask = self._enumerated(units) if self.exact else self._greedy(scores, units)
        broken = jnp.isnan(scores).any(axis=self.block, keepdims=True)
        return jnp.where(broken, jnp.float32(jnp.nan), mask.astype(jnp.float32))

    def _units(self, scores: Array) -> Array:
        """int32 multiples of 2^-26 of the power of two below the largest score of a block: their
        sums do not depend on the order, so not on the mesh."""
        largest = jnp.max(jnp.abs(scores), axis=self.block, keepdims=True)
        exponent = lax.bitcast_convert_type(largest, jnp.uint32) & jnp.uint32(0x7F800000)
        scale = lax.bitcast_convert_type(exponent, jnp.float32)
        usable = jnp.isfinite(largest) & (scale > 0)
        relative = jnp.where(usable, scores, 0.0) / jnp.where(usable, scale, 1.0)
        infinite = jnp.where(jnp.isinf(scores), jnp.sign(scores), 0.0)  # beside them all is zero
        return ((relative + infinite) * jnp.float32(2**_BITS)).astype(jnp.int32)

    def _enumerated(self, units: Array) -> Array:
        """Of equal patterns the first: the one whose first rows have the lowest outputs."""
        axes = self.block
        lengths = [units.shape[a] for a in axes]
        order = sorted(range(len(axes)), key=lambda i: axes[i])
        every = patterns(self.n, self.m).reshape(-1, *lengths).transpose(0, *(i + 1 for i in order))
        shape = [units.shape[a] if a in axes else 1 for a in range(units.ndim)]
        table = jnp.asarray(every.reshape(-1, *shape))

        def better(i: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
            pattern = lax.dynamic_index_in_dim(table, i, keepdims=False)
            best, mask = found
            kept = jnp.where(pattern, units, 0)
            total = jnp.sum(kept, axis=axes, keepdims=True, dtype=jnp.int32)
            return jnp.maximum(best, total), jnp.where(total > best, pattern, mask)

        none = jnp.full_like(jnp.max(units, axis=axes, keepdims=True), jnp.iinfo(jnp.int32).min)
        start = none, jnp.zeros_like(units, bool)
        return lax.fori_loop(0, len(every), better, start)[1]

    def _greedy(self, scores: Array, units: Array) -> Array:
        """The best connection that row and column still take, one after the other, then swaps.

        Greedy choices can leave a row and a column short whose crossing is taken. A swap gives up
        a connection and takes two: its column in the short row, its row in the short column.
        """
        keys = ordered(scores, None)

        def take(_: Array, mask: Array) -> Array:
            free = ~mask & self._short(mask, self.columns) & self._short(mask, self.rows)
            best = jnp.max(jnp.where(free, keys, 0), axis=self.block, keepdims=True)
            return mask | _first(free & (keys == best), self.block)

        def swap(_: Array, mask: Array) -> Array:
            row = _first(self._short(mask, self.columns), self.rows)
            column = _first(self._short(mask, self.rows), self.columns)
            taken = (mask & row).any(axis=self.rows, keepdims=True)
            taken |= (mask & column).any(axis=self.columns, keepdims=True)
            missing = row.any(axis=self.rows, keepdims=True)
            free = mask & ~taken & missing
            gain = _at(row, units, self.rows) + _at(column, units, self.columns) - units
            lowest = jnp.iinfo(jnp.int32).min
            best = jnp.max(jnp.where(free, gain, lowest), axis=self.block, keepdims=True)
            gone = _first(free & (gain == best), self.block)
            come = row & gone.any(axis=self.rows, keepdims=True)
            come |= column & gone.any(axis=self.columns, keepdims=True)
            return (mask & ~gone) | come

        mask = lax.fori_loop(0, self.n * self.m, take, jnp.zeros_like(scores, bool))
        # All crossings of s short rows and s short columns are taken, so at most s (n - s) lack.
        return lax.fori_loop(0, self.n**2 // 4, swap, mask)

    def _short(self, mask: Array, axes: tuple[int, ...]) -> Array:
        return jnp.sum(mask, axis=axes, keepdims=True, dtype=jnp.int32) < self.n


def _first(flags: Array, axes: tuple[int, ...]) -> Array:
    """The first flag along some axes, the last of them running fastest."""
    place = jnp.zeros((1,) * flags.ndim, jnp.int32)
    for axis in axes:
        place = place * flags.shape[axis] + lax.broadcasted_iota(
            jnp.int32, [n if a == axis else 1 for a, n in enumerate(flags.shape)], axis
        )
    last = math.prod(flags.shape[a] for a in axes)
    first = jnp.min(jnp.where(flags, place, last), axis=axes, keepdims=True)
    return flags & (place == first)


def _at(flag: Array, units: Array, axes: tuple[int, ...]) -> Array:
    """The entries at the one place along the axes that is flagged."""
    return jnp.sum(jnp.where(flag, units, 0), axis=axes, keepdims=True, dtype=jnp.int32)
