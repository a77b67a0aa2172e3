"""How many connections every layer has after a topology step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from dst.core.selection import top_k_masks, top_k_masks_together
from dst.core.typing import Array
from dst.rules.allocation import Global, allocator
from dst.rules.layout import Layout
from dst.rules.rule import Counts, HowMany, Rule
from dst.rules.scores import COMPARABLE, Connections, Score

_ONE = 2**31  # the fixed-point number that stands for 1.0


class TopologyInputs(NamedTuple):
    """The inputs of a topology step: all leaves.

    Attributes:
      leaves: the inputs of scores.
      layouts: how the structure reads each leaf.
      paths: leaf paths.
      kept: int32 units per group that the count table lets survive, of shape ``layout.counts``.
      total: the same, active afterwards.
      share: uint32, the drop fraction of this step in units of 2^-31.
      rule: of the method.
    """

    leaves: Sequence[Connections]
    layouts: Sequence[Layout]
    paths: Sequence[str]
    kept: Sequence[Array]
    total: Sequence[Array]
    share: Array
    rule: Rule


def counts(inputs: TopologyInputs) -> list[tuple[Array, Array]]:
    """int32 units per group of every leaf: how many survive dropping, how many are active after."""
    how_many = inputs.rule.how_many
    if how_many.counts is not None:
        return how_many.counts(inputs)
    competition = allocator(how_many.allocation)
    if isinstance(competition, Global):
        units = units_per_slice(compete(competition, inputs), inputs.layouts)
        return [(n - exchanged(n, inputs.share, how_many.rounding), n) for n in units]
    return list(zip(inputs.kept, inputs.total, strict=True))


def competing_score(how_many: HowMany) -> Score | None:
    """The score by which layers compete for their numbers; None where they do not."""
    competition = allocator(how_many.allocation)
    if how_many.counts is not None or not isinstance(competition, Global):
        return None
    return COMPARABLE[competition.score]


def compete(allocation: Global, inputs: TopologyInputs) -> list[Array]:
    """The best units of all layers together, as bool masks of units; active units come first."""
    units = [x.units_of(leaf.active) for x, leaf in zip(inputs.layouts, inputs.leaves, strict=True)]
    scored = [
        jnp.where(active, x.pool(COMPARABLE[allocation.score](leaf)), -jnp.inf)
        for x, leaf, active in zip(inputs.layouts, inputs.leaves, units, strict=True)
    ]
    k = sum(map(jnp.sum, inputs.total))
    return best_of_all(scored, inputs.layouts, k, allocation.min_active)


def compete_again(score: Score, min_active: int) -> Counts:
    """Counts of layers whose inactive units compete as the active ones do: nothing has to stay.

    Args:
      score: by which units of different layers can be compared; as in ``which.grow``.
      min_active: units that every layer keeps.
    """

    def counts(inputs: TopologyInputs) -> list[tuple[Array, Array]]:
        pairs = zip(inputs.layouts, inputs.leaves, strict=True)
        scored = [layout.pool(score(leaf)) for layout, leaf in pairs]
        k = sum(map(jnp.sum, inputs.total))
        units = best_of_all(scored, inputs.layouts, k, min_active)
        return [(jnp.zeros_like(n), n) for n in units_per_slice(units, inputs.layouts)]

    return counts


def best_of_all(
    scored: Sequence[Array],
    layouts: Sequence[Layout],
    k: Array | int,
    min_active: int,
    among: Sequence[Array] | None = None,
) -> list[Array]:
    """bool masks of the ``k`` best units of all leaves.

    The ``min_active`` best units of each slice are always among them, also where these are more
    than ``k``. Units outside of ``among`` are never chosen.
    """
    axes = [x.group_axes for x in layouts]
    wheres: list[Array | None] = list(among) if among else [None] * len(scored)
    safe = top_k_masks(scored, [min_active] * len(scored), wheres, axes)
    reserved = sum(jnp.sum(s, dtype=jnp.int32) for s in safe)
    rest = [~s if w is None else w & ~s for s, w in zip(safe, wheres, strict=True)]
    open_ = top_k_masks_together(scored, jnp.maximum(k - reserved, 0), rest)
    return [s | o for s, o in zip(safe, open_, strict=True)]


def units_per_slice(units: Sequence[Array], layouts: Sequence[Layout]) -> list[Array]:
    """int32 units of each mask, of shape ``layout.counts``."""
    return [
        jnp.sum(u, axis=tuple(range(len(x.counts), u.ndim)), dtype=jnp.int32)
        for u, x in zip(units, layouts, strict=True)
    ]


def fixed_point(fraction: float) -> np.uint32:
    """A fraction in [0, 1] in units of 2^-31."""
    return np.uint32(round(float(fraction) * _ONE))


def exchanged(active: Array, share: Array, rounding: str) -> Array:
    """``active * share`` as an integer, exact on every device: :meth:`dst.Rule.exchanged`, traced.

    Args:
      active: int32, not negative.
      share: uint32 in units of 2^-31.
      rounding: ``floor``, ``ceil`` or ``round``. Products within 1e-6 of a whole number, or within
        the resolution of the share, count as whole.

    Returns:
      int32, of the shape of ``active``.
    """
    n, low_half = active.astype(jnp.uint32), jnp.uint32(0xFFFF)
    n_high, n_low = n >> 16, n & low_half
    p_high, p_low = share >> 16, share & low_half
    middle = n_low * p_high + n_high * p_low
    lowest = n_low * p_low
    low = lowest + (middle << 16)
    high = n_high * p_high + (middle >> 16) + (low < lowest).astype(jnp.uint32)
    whole = (high << 1) | (low >> 31)
    rest = low & jnp.uint32(_ONE - 1)
    near = jnp.uint32(2147) + n // 2
    if rounding == "ceil":
        up = rest > near
    elif rounding == "round":
        up = rest >= jnp.uint32(_ONE // 2) - jnp.minimum(near, jnp.uint32(_ONE // 4))
    else:
        up = rest >= jnp.uint32(_ONE) - near
    return (whole + up.astype(jnp.uint32)).astype(jnp.int32)


def apportion(amount: Array, share: Array, soft: Array, hard: Array) -> Array:
    """Integers that add up to ``amount``, in proportion to ``share`` up to limits.

    What exceeds the soft limits is spread equally over the layers below them. What still
    remains is spread over the layers below the hard limits.

    Args:
      amount: int32, at most the sum of ``hard``.
      share: float32 ``[layers]``, with the sum 1.
      soft, hard: int32 ``[layers]``, limits.

    Returns:
      int32 ``[layers]``.
    """
    scaled = jnp.floor(share * jnp.float32(2.0**31 * (1 - 1e-5))).astype(jnp.uint32)
    counts = jnp.minimum(exchanged(jnp.broadcast_to(amount, soft.shape), scaled, "floor"), soft)
    # Rounding up within the tolerance may yield one too many: the largest count loses it.
    over = jnp.maximum(jnp.sum(counts) - amount, 0)
    counts = jnp.where(jnp.arange(len(counts)) == jnp.argmax(counts), counts - over, counts)

    def spread(limit: Array, counts: Array) -> Array:
        left, free = amount - jnp.sum(counts), limit > counts
        n = jnp.maximum(jnp.sum(free, dtype=jnp.int32), 1)
        each = jnp.where(free, jnp.minimum(left // n, limit - counts), 0)
        counts = counts + each
        left, free = amount - jnp.sum(counts), limit > counts
        first = free & (jnp.cumsum(free) <= left % n)
        return counts + jnp.where(left < n, first, False).astype(jnp.int32)

    for limit in (soft, hard):
        counts = lax.fori_loop(0, len(counts) + 1, lambda _, g, m=limit: spread(m, g), counts)
    return counts
