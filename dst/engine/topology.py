"""One drop-and-grow of many leaves: pure arrays, no optimizer."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from dst.core.reductions import totals
from dst.core.selection import top_k_masks
from dst.core.typing import Array, Bool, Int
from dst.rules.counts import Due
from dst.rules.counts import counts as counts_due
from dst.rules.structure import Layout


class Change(NamedTuple):
    """What a topology step did to one leaf.

    Attributes:
      active: the new mask.
      reset: weights that start at zero with zero moments: new connections and, where regrown
        ones are zeroed, those too.
      dropped: connections that were active and are not, per stacked slice.
      grown: connections that were not active and are, per stacked slice.
      unscored: NaN scores among the candidates of the leaf; they are never chosen.
      scheduled: active weights that the counts ask for, per stacked slice.
    """

    active: Bool[Array, "*shape"]
    reset: Bool[Array, "*shape"]
    dropped: Int[Array, "*counts"]
    grown: Int[Array, "*counts"]
    unscored: Int[Array, ""]
    scheduled: Int[Array, "*counts"]


def drop_and_grow(due: Due) -> list[Change]:
    """One topology step of all leaves.

    Source: RigL (arXiv 1911.11134, algorithm 1; google-research/rigl at d39fc7d,
    rigl/sparse_optimizers_base.py), SET (arXiv 1707.04780, algorithm 1).
    """
    leaves, layouts, rule = due.leaves, due.layouts, due.rule
    number = counts_due(due)
    before = [x.units_of(leaf.active) for x, leaf in zip(layouts, leaves, strict=True)]
    axes = [x.group_axes for x in layouts]
    nans: list[list[Array]] = [[] for _ in leaves]
    survivors = before

    if rule.keep is not None:
        kept = [x.units_of(rule.keep(leaf)) for x, leaf in zip(layouts, leaves, strict=True)]
    else:
        drop_scores = [x.pool(rule.drop(leaf)) for x, leaf in zip(layouts, leaves, strict=True)]
        nans = _nans(drop_scores, before)
        counts = [x.per_group(k) for (k, _), x in zip(number, layouts, strict=True)]
        if rule.ramp is None or rule.grow is None or rule.regrown == "zero":
            kept = top_k_masks(drop_scores, counts, before, axes)
        else:
            # Where the target count falls, pruning comes first: what it takes has lost its value.
            totals_due = [x.per_group(n) for (_, n), x in zip(number, layouts, strict=True)]
            both = top_k_masks(drop_scores * 2, counts + totals_due, before * 2, axes * 2)
            kept, survivors = both[: len(leaves)], both[len(leaves) :]

    after, candidates_chosen = kept, [jnp.zeros_like(k) for k in kept]
    if rule.grow is not None:
        blocked = kept if rule.regrow == "allow" else before
        # A connection that stayed must not be grown again, whichever way the rest is blocked.
        eligible = [~(b | k) for b, k in zip(blocked, kept, strict=True)]
        grow_scores = [x.pool(rule.grow(leaf)) for x, leaf in zip(layouts, leaves, strict=True)]
        nans = [a + b for a, b in zip(nans, _nans(grow_scores, eligible), strict=True)]
        counts = [
            x.per_group(n) - _group_total(k, x)
            for (_, n), k, x in zip(number, kept, layouts, strict=True)
        ]
        candidates_chosen = top_k_masks(grow_scores, counts, eligible, axes)
        after = [k | c for k, c in zip(kept, candidates_chosen, strict=True)]

    changes = []
    for x, leaf, old, survived, new, chosen, unscored, (_, total) in zip(
        layouts, leaves, before, survivors, after, candidates_chosen, nans, number, strict=True
    ):
        fresh = chosen if rule.regrown == "zero" else chosen & ~survived
        # All counts of a leaf in one pass over it.
        dropped, grown, *of_nans = x.count(old & ~new, new & ~old, *unscored)
        changes.append(
            Change(
                active=x.spread(new, leaf.active),
                reset=x.spread(fresh, leaf.active),
                dropped=dropped,
                grown=grown,
                unscored=sum(map(jnp.sum, of_nans), jnp.int32(0)) // jnp.int32(x.unit_size),
                scheduled=x.weights(total),
            )
        )
    return changes


def _group_total(units: Array, layout: Layout) -> Array:
    axes = tuple(a for a in range(units.ndim) if a not in layout.group_axes)
    return totals([units], axes)[0]


def _nans(scores: list[Array], where: list[Array]) -> list[list[Array]]:
    return [[jnp.isnan(s) & w] for s, w in zip(scores, where, strict=True)]
