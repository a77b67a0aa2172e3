"""Exact selection of the k best of n by counting: no sort, no gather, ``k`` may be traced.

Scores become integers that keep their order, and the k-th largest integer is built digit by
digit: a candidate is right when at least k integers reach it. A count is a reduction, so an
array that is sharded over devices needs scalar collectives only. Ties are settled by the same
search over the linear index. All arrays of one call share each counting pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec, reshard

from dst.core import checks
from dst.core.reductions import totals
from dst.core.typing import Array, ArrayLike, Bool, Int, Num

_NAN_BITS = 0x7F800000
_SMALL = 32  # up to this size of a group, comparing all pairs beats counting


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
    ks: Sequence[ArrayLike],
    wheres: Sequence[Array | None],
    group_axes: Sequence[tuple[int, ...]],
) -> list[Array]:
    """:func:`top_k_mask` of several arrays at once, sharing every counting pass."""
    return top_k_masks_and_short(scores, ks, wheres, group_axes)[0]


def top_k_masks_and_short(
    scores: Sequence[Array],
    ks: Sequence[ArrayLike],
    wheres: Sequence[Array | None],
    group_axes: Sequence[tuple[int, ...]],
) -> tuple[list[Array], list[Array]]:
    """:func:`top_k_masks`, and for every array which groups have fewer than ``k`` candidates.

    The second list holds bool arrays with counted axes of length 1. NaN is no candidate.
    """
    groups = [_Groups(s, axes) for s, axes in zip(scores, group_axes, strict=True)]
    small = [len(g.counted) == 1 and g.size <= _SMALL and not g.divided for g in groups]
    parts = list(zip(groups, scores, wheres, ks, small, strict=True))
    pools = [_Pool([g], [s], [w]) for g, s, w, _, by_pairs in parts if not by_pairs]
    searched = iter(_chosen(pools, [k for *_, k, by_pairs in parts if not by_pairs]))
    both = [_by_pairs(g, s, w, k) if by_pairs else next(searched) for g, s, w, k, by_pairs in parts]
    return [mask for mask, _ in both], [short for _, short in both]


def _by_pairs(
    group: _Groups, scores: Array, where: Array | None, k: ArrayLike
) -> tuple[Array, Array]:
    """Groups of few positions: the rank of each is how many others come before it."""
    keys, counts = ordered(scores, where), group.counts(k)
    (axis,) = group.counted
    position = lax.broadcasted_iota(jnp.int32, keys.shape, axis)
    rank = jnp.zeros_like(keys, jnp.int32)
    candidates = jnp.zeros_like(counts)
    for i in range(group.size):
        other = lax.slice_in_dim(keys, i, i + 1, axis=axis)
        first = (other > keys) | ((other == keys) & (i < position))
        rank += first.astype(jnp.int32)
        candidates += (other > 0).astype(jnp.int32)
    return (rank < counts) & (keys > 0), candidates < counts


def top_k_masks_together(
    scores: Sequence[Array], k: ArrayLike, wheres: Sequence[Array | None]
) -> list[Array]:
    """Masks of the ``k`` highest scores of all arrays together.

    Exactly ``k`` (where as many are eligible); ties to the earlier array, then the lowest index.
    Arguments as in :func:`top_k_mask`; ``k`` is one integer.

    Raises:
      ValueError: more than 2^31 - 1 scores in all.

    Example:
      >>> import jax.numpy as jnp
      >>> top_k_masks_together([jnp.array([1.0, 4.0]), jnp.array([3.0])], 2, [None, None])
      [Array([False,  True], dtype=bool), Array([ True], dtype=bool)]
    """
    pool = _Pool([_Groups(s, ()) for s in scores], list(scores), list(wheres))
    return [mask for mask, _ in _chosen([pool], [k])]


class _Pool:
    """Arrays that share one count: one array with its groups, or several without groups."""

    def __init__(
        self, groups: list[_Groups], scores: list[Array], wheres: list[Array | None]
    ) -> None:
        self.groups = groups
        self.keys = [ordered(s, w) for s, w in zip(scores, wheres, strict=True)]
        self.size = sum(g.size for g in groups)
        if self.size > checks.LARGEST:
            raise ValueError(
                f"{self.size} scores to be ranked together are beyond the {checks.LARGEST} that "
                "32-bit counts can hold. Rank layers by themselves, or select fewer of them."
            )

    def counts(self, k: ArrayLike) -> Array:
        return self.groups[0].counts(k) if len(self.groups) == 1 else jnp.asarray(k, jnp.int32)

    def totals(self, chosen: Sequence[Sequence[Array]]) -> list[Array]:
        """Counts of several masks; each mask is one array per member."""
        if len(self.groups) == 1:
            (group,) = self.groups
            return [group.expand(n) for n in totals([c[0] for c in chosen], group.counted)]
        parts = [
            totals([c[i] for c in chosen], group.counted) for i, group in enumerate(self.groups)
        ]
        return [sum(counts[1:], counts[0]) for counts in zip(*parts, strict=True)]

    def ranks(self) -> list[Array]:
        """n for the first position of all, 1 for the last: higher is preferred."""
        after, ranks = self.size, []
        for group in self.groups:
            after -= group.size
            ranks.append(group.rank() + jnp.uint32(after))
        return ranks


def _chosen(pools: Sequence[_Pool], ks: Sequence[ArrayLike]) -> list[tuple[Array, Array]]:
    """The mask of every array of every pool, and which groups have fewer than ``k`` candidates."""
    if not pools:
        return []
    counts = [p.counts(k) for p, k in zip(pools, ks, strict=True)]
    keys = [p.keys for p in pools]
    thresholds, reached = _search(keys, counts, pools, passes=16)
    surplus = jnp.any(
        jnp.stack(
            [
                jnp.any((n > k) & (t > 0))
                for n, k, t in zip(reached, counts, thresholds, strict=True)
            ]
        )
    )

    def last_ties() -> list[Array]:
        ranks, missing = [], []
        for pool, k, t in zip(pools, counts, thresholds, strict=True):
            ranks.append(
                [
                    jnp.where((key == t) & (t > 0), rank, jnp.uint32(0))
                    for key, rank in zip(pool.keys, pool.ranks(), strict=True)
                ]
            )
            missing.append(k - pool.totals([[key > t for key in pool.keys]])[0])
        passes = (max(1, *(p.size for p in pools)).bit_length() + 1) // 2
        return _search(ranks, missing, pools, passes)[0]

    # Branches that return thresholds, not masks: large results of a conditional are copied.
    nothing = [jnp.zeros_like(t) for t in thresholds]
    last = lax.cond(surplus, last_ties, lambda: nothing)
    # Key 0 marks what must not be chosen, so a threshold of 0 means "all that is eligible".
    return [
        ((key > t) | ((key == t) & (t > 0) & (rank >= r)), t == 0)
        for pool, t, r in zip(pools, thresholds, last, strict=True)
        for key, rank in zip(pool.keys, pool.ranks(), strict=True)
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
        if self.size > checks.LARGEST:
            raise ValueError(
                f"a group of {self.size} scores (shape {self.shape}) is beyond the "
                f"{checks.LARGEST} that 32-bit counts can hold. Split the array, or name a stacked "
                "axis."
            )

        placed = tuple(jax.typeof(scores).sharding.spec)  # all None where axes are not explicit
        self.divided = any(placed[a] is not None for a in self.counted)
        self.spec = PartitionSpec(*(placed[a] for a in self.group_axes))

    def expand(self, x: Array) -> Array:
        """An array over groups, with the counted axes as axes of length 1."""
        return lax.expand_dims(x, self.counted)

    def counts(self, k: ArrayLike) -> Array:
        groups = tuple(self.shape[a] for a in self.group_axes)
        counts = jnp.broadcast_to(jnp.asarray(k, jnp.int32), groups)
        if any(entry is not None for entry in self.spec):
            counts = reshard(counts, self.spec)  # as the groups are, or loops do not type
        return self.expand(counts)

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


def ordered(scores: Array, where: Array | None) -> Array:
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
    keys: Sequence[Sequence[Array]], counts: list[Array], pools: Sequence[_Pool], passes: int
) -> tuple[list[Array], list[Array]]:
    """Per group a t that at least ``counts`` keys reach, and how many reach it: where exactly as
    many do, any such t, else the largest one.

    Each pass settles two bits of t, from the highest. Bits that no key tells apart any more are
    left at zero.
    """

    def going(state: tuple[Array, list[Array], list[Array]]) -> Array:
        i, prefixes, reached = state
        found = [
            jnp.all((n == k) & (t > 0)) for n, k, t in zip(reached, counts, prefixes, strict=True)
        ]
        return (i < passes) & ~jnp.all(jnp.stack(found))

    def one_pass(state: tuple[Array, list[Array], list[Array]]) -> Any:
        i, *before = state
        shift = jnp.uint32(2 * (passes - 1)) - jnp.uint32(2) * i
        prefixes, reached = [], []
        for members, k, pool, prefix, n in zip(keys, counts, pools, *before, strict=True):
            candidates = [prefix | (jnp.uint32(digit) << shift) for digit in (1, 2, 3)]
            reaching = pool.totals([[key >= c for key in members] for c in candidates])
            for c, m in zip(candidates, reaching, strict=True):
                enough = m >= k
                prefix, n = jnp.where(enough, c, prefix), jnp.where(enough, m, n)
            prefixes.append(prefix)
            reached.append(n)
        return i + jnp.uint32(1), prefixes, reached

    start = [jnp.zeros_like(k, dtype=jnp.uint32) for k in counts]
    everything = [jnp.full_like(k, p.size) for k, p in zip(counts, pools, strict=True)]
    return lax.while_loop(going, one_pass, (jnp.uint32(0), start, everything))[1:]
