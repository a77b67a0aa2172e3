"""Exact selection of the k best of n by counting: no sort, no gather, ``k`` may be traced.

Scores become integers that keep their order, and the k-th largest integer is found digit by
digit: a candidate is right when at least k integers reach it. A count is a reduction, so an
array that is sharded over devices needs scalar collectives only. Ties are settled by the same
search over the linear index. All arrays of one call share each counting pass.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from dst._typing import Array, Bool, Int, Num

_LIMIT = 2**31 - 1  # counts and linear indices are 32-bit
_PIECE, _MOST_PIECES = 2**18, 16
_NAN_BITS = 0x7F800000


def top_k_mask(
    scores: Num[Array, "*shape"],
    k: Int[Array, "*groups"] | int,
    where: Bool[Array, "*shape"] | None = None,
    *,
    group_axes: Sequence[int] = (),
) -> Bool[Array, "*shape"]:
    """Mask of the ``k`` highest scores of every group; exactly ``k``, ties to the lowest index.

    Args:
      scores: float array of any shape; compared in float32 (bf16 and float16 are exact in it).
        Infinities are ordinary scores. NaN is never chosen.
      k: how many to choose; an integer, or an int32 array that broadcasts against the shape
        of the group axes. May be traced. Where fewer than ``k`` positions are eligible, all
        of those are chosen.
      where: positions that may be chosen; all, when absent.
      group_axes: axes whose positions enumerate groups; selection is exact within each.

    Returns:
      A bool array of the shape of ``scores``.

    Raises:
      TypeError: scores that are no floating-point array.
      ValueError: a group of more than 2^31 - 1 scores.

    Example:
      >>> import jax.numpy as jnp
      >>> top_k_mask(jnp.array([1.0, 3.0, 3.0, 2.0]), 2).tolist()
      [False, True, True, False]
    """
    return top_k_masks([scores], [k], [where], [tuple(group_axes)])[0]


def top_k_masks(
    scores: Sequence[Array],
    ks: Sequence[Any],
    wheres: Sequence[Array | None],
    group_axes: Sequence[tuple[int, ...]],
) -> list[Array]:
    """:func:`top_k_mask` of several arrays at once, sharing every counting pass."""
    groups = [_Groups(s, axes) for s, axes in zip(scores, group_axes, strict=True)]
    counts = [g.counts(k) for g, k in zip(groups, ks, strict=True)]
    keys = [_ordered(s, w) for s, w in zip(scores, wheres, strict=True)]
    thresholds, found = _search(keys, counts, groups, passes=16)
    surplus = jnp.any(
        jnp.stack(
            [jnp.any((n > k) & (t > 0)) for n, k, t in zip(found, counts, thresholds, strict=True)]
        )
    )

    def last_ties() -> list[Array]:
        ties = [(key == t) & (t > 0) for key, t in zip(keys, thresholds, strict=True)]
        ranks = [jnp.where(e, g.rank(), jnp.uint32(0)) for g, e in zip(groups, ties, strict=True)]
        above = [g.total(key > t) for g, key, t in zip(groups, keys, thresholds, strict=True)]
        missing = [k - n for k, n in zip(counts, above, strict=True)]
        passes = (max(1, *(g.size for g in groups)).bit_length() + 1) // 2
        return _search(ranks, missing, groups, passes)[0]

    # Branches that return thresholds, not masks: large results of a conditional are copied.
    nothing = [jnp.zeros_like(t) for t in thresholds]
    last = lax.cond(surplus, last_ties, lambda: nothing)
    # Key 0 marks what must not be chosen, so a threshold of 0 means "all that is eligible".
    return [
        (key > t) | ((key == t) & (t > 0) & (g.rank() >= r))
        for key, t, g, r in zip(keys, thresholds, groups, last, strict=True)
    ]


class _Groups:
    """The axes of one array: which enumerate groups and which are counted over."""

    def __init__(self, scores: Array, group_axes: tuple[int, ...]):
        if not jnp.issubdtype(scores.dtype, jnp.floating):
            raise TypeError(f"scores must be floating-point, got {scores.dtype}. Cast them first.")
        self.like = scores
        self.shape = scores.shape
        self.group_axes = tuple(a % scores.ndim for a in group_axes) if scores.ndim else ()
        self.counted = tuple(a for a in range(scores.ndim) if a not in self.group_axes)
        self.size = 1
        for a in self.counted:
            self.size *= self.shape[a]
        if self.size > _LIMIT:
            raise ValueError(
                f"a group of {self.size} scores (shape {self.shape}) is beyond the "
                f"{_LIMIT} that 32-bit counts can hold. Split the array, or name a stacked axis."
            )

    def expand(self, x: Array) -> Array:
        """An array over groups, with the counted axes as axes of length 1."""
        return lax.expand_dims(x, self.counted)

    def counts(self, k: Any) -> Array:
        groups = tuple(self.shape[a] for a in self.group_axes)
        return self.expand(jnp.broadcast_to(jnp.asarray(k, jnp.int32), groups))

    def total(self, chosen: Array) -> Array:
        return self.expand(totals([chosen], self.counted)[0])

    def rank(self) -> Array:
        """n for the first position of a group, 1 for the last: higher is preferred."""
        index, stride = jnp.zeros((1,) * len(self.shape), jnp.uint32), 1
        for a in reversed(self.counted):
            shape = [1] * len(self.shape)
            shape[a] = self.shape[a]
            steps = jnp.arange(self.shape[a], dtype=jnp.uint32).reshape(shape)
            index = index + steps * jnp.uint32(stride)
            stride *= self.shape[a]
        return jnp.uint32(self.size) - index


def _ordered(scores: Array, where: Array | None) -> Array:
    """uint32 keys in the order of float32 scores; 0 for NaN and for excluded positions.

    Integer arithmetic throughout: comparing floats would flush subnormals on some devices.
    """
    bits = lax.bitcast_convert_type(scores.astype(jnp.float32), jnp.uint32)
    sign = jnp.uint32(0x80000000)
    magnitude = bits & ~sign
    keys = jnp.where(bits >= sign, ~bits, bits | sign)
    keys = jnp.where(magnitude == 0, sign, keys)  # -0.0 equals 0.0
    eligible = magnitude <= jnp.uint32(_NAN_BITS)
    if where is not None:
        eligible &= where
    return jnp.where(eligible, keys, jnp.uint32(0))


def _search(
    keys: list[Array],
    counts: list[Array],
    groups: list[_Groups],
    passes: int,
) -> tuple[list[Array], list[Array]]:
    """Per group the largest t that at least ``counts`` keys reach, and how many reach it.

    Two bits of t are found in each pass, from the highest.
    """

    def one_pass(i: Array, state: tuple[list[Array], list[Array]]):
        shift = jnp.uint32(2 * (passes - 1)) - jnp.uint32(2) * i.astype(jnp.uint32)
        prefixes, reached = [], []
        for key, k, group, prefix, n in zip(keys, counts, groups, *state, strict=True):
            candidates = [prefix | (jnp.uint32(digit) << shift) for digit in (1, 2, 3)]
            reaching = totals([key >= c for c in candidates], group.counted)
            for c, m in zip(candidates, map(group.expand, reaching), strict=True):
                enough = m >= k
                prefix, n = jnp.where(enough, c, prefix), jnp.where(enough, m, n)
            prefixes.append(prefix)
            reached.append(n)
        return prefixes, reached

    start = [jnp.zeros_like(k, dtype=jnp.uint32) for k in counts]
    everything = [jnp.full_like(k, g.size) for k, g in zip(counts, groups, strict=True)]
    return lax.fori_loop(0, passes, one_pass, (start, everything))


def totals(chosen: Sequence[Array], axes: tuple[int, ...]) -> list[Array]:
    """int32 counts of several masks of one shape over the same axes. All ways are exact.

    One variadic reduction reads the array once and is several times faster than separate sums,
    but a partitioned one gathers its partial results array by array. Sums become all-reduces,
    which the compiler merges over all arrays of a pass.
    """
    if jax.device_count() > 1:
        return [jnp.sum(c, axis=axes, dtype=jnp.int32) for c in chosen]
    parts = [_count_part(part, axes) for part in _pieces(chosen, axes)]
    return [sum(counts[1:], counts[0]) for counts in zip(*parts, strict=True)]


def _count_part(chosen: Sequence[Array], axes: tuple[int, ...]) -> list[Array]:
    return lax.reduce(
        [c.astype(jnp.int32) for c in chosen],
        [jnp.int32(0)] * len(chosen),
        lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True)),
        axes,
    )


def _pieces(chosen: Sequence[Array], axes: tuple[int, ...]) -> list[Sequence[Array]]:
    """Large arrays in pieces, on CPUs: there a reduction runs on one core, several side by side."""
    shape = chosen[0].shape
    pieces = chosen[0].size // _PIECE
    if jax.default_backend() != "cpu" or pieces < 2 or not axes:
        return [chosen]
    length = shape[axes[0]]
    n = min(pieces, _MOST_PIECES, length)
    edges = [length * i // n for i in range(n + 1)]
    return [
        [lax.slice_in_dim(c, low, high, axis=axes[0]) for c in chosen]
        for low, high in itertools.pairwise(edges)
    ]
