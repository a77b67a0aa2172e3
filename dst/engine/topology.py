"""One drop-and-grow of many leaves: pure arrays, no optimizer."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from dst.core.reductions import totals
from dst.core.selection import top_k_masks
from dst.core.typing import Array, Bool, Int
from dst.rules.counts import TopologyInputs, competing_score, counts
from dst.rules.layout import Layout


class Change(NamedTuple):
    """What a topology step did to one leaf.

    Attributes:
      active: the new mask.
      reset: weights that start at zero with zero moments: new connections, and regrown ones where
        the rule zeroes them.
      dropped: connections that were active and are not, per stacked slice.
      grown: connections that were not active and are, per stacked slice.
      unscored: NaN scores among the candidates of the leaf; they are never chosen. A slice that
        they leave with fewer active weights than scheduled, or with none, stays as it was.
      scheduled: active weights that the counts ask for, per stacked slice.
    """

    active: Bool[Array, "*shape"]
    reset: Bool[Array, "*shape"]
    dropped: Int[Array, "*counts"]
    grown: Int[Array, "*counts"]
    unscored: Int[Array, ""]
    scheduled: Int[Array, "*counts"]


def drop_and_grow(inputs: TopologyInputs) -> list[Change]:
    """One topology step of all leaves.

    Source: RigL (arXiv 1911.11134, algorithm 1; google-research/rigl at d39fc7d,
    rigl/sparse_optimizers_base.py), SET (arXiv 1707.04780, algorithm 1).
    """
    leaves, layouts, rule = inputs.leaves, inputs.layouts, inputs.rule
    which, regrow_value = rule.which, rule.reset.regrow_value
    number = counts(inputs)
    before = [x.units_of(leaf.active) for x, leaf in zip(layouts, leaves, strict=True)]
    axes = [x.group_axes for x in layouts]
    nans: list[list[Array]] = [[] for _ in leaves]
    survivors = before

    competing = competing_score(rule.how_many)
    if competing is not None and competing is not which.drop:
        rivals = [x.pool(competing(leaf)) for x, leaf in zip(layouts, leaves, strict=True)]
        nans = _nans(rivals, before)
    if which.keep is not None:
        kept = [x.units_of(which.keep(leaf)) for x, leaf in zip(layouts, leaves, strict=True)]
    else:
        drop_scores = [x.pool(which.drop(leaf)) for x, leaf in zip(layouts, leaves, strict=True)]
        nans = [a + b for a, b in zip(nans, _nans(drop_scores, before), strict=True)]
        stay = [x.per_group(k) for (k, _), x in zip(number, layouts, strict=True)]
        if which.grow is not None and which.regrow == "forbid":
            # No more can be exchanged than places that were inactive, or the layer would shrink.
            free = [
                jnp.int32(x.units) - _group_total(b, x)
                for b, x in zip(before, layouts, strict=True)
            ]
            stay = [
                jnp.maximum(k, x.per_group(n) - f)
                for k, (_, n), f, x in zip(stay, number, free, layouts, strict=True)
            ]
        if rule.how_many.ramp is None or which.grow is None or regrow_value == "zero":
            kept = top_k_masks(drop_scores, stay, before, axes)
        else:
            # Where the target count falls, pruning comes first: pruned weights lose their value.
            target = [x.per_group(n) for (_, n), x in zip(number, layouts, strict=True)]
            both = top_k_masks(drop_scores * 2, stay + target, before * 2, axes * 2)
            kept, survivors = both[: len(leaves)], both[len(leaves) :]

    after, chosen = kept, [jnp.zeros_like(k) for k in kept]
    if which.grow is not None:
        blocked = kept if which.regrow == "allow" else before
        # Connections that were kept are never candidates, whatever else is blocked.
        eligible = [~(b | k) for b, k in zip(blocked, kept, strict=True)]
        staying = [
            leaf._replace(kept=x.spread(k, leaf.active))
            for x, leaf, k in zip(layouts, leaves, kept, strict=True)
        ]
        grow_scores = [x.pool(which.grow(leaf)) for x, leaf in zip(layouts, staying, strict=True)]
        nans = [a + b for a, b in zip(nans, _nans(grow_scores, eligible), strict=True)]
        missing = [
            x.per_group(n) - _group_total(k, x)
            for (_, n), k, x in zip(number, kept, layouts, strict=True)
        ]
        chosen = top_k_masks(grow_scores, missing, eligible, axes)
        after = [k | c for k, c in zip(kept, chosen, strict=True)]

    changes = []
    for x, leaf, old, survived, new, grown_units, unscored, (_, total) in zip(
        layouts, leaves, before, survivors, after, chosen, nans, number, strict=True
    ):
        fresh = grown_units if regrow_value == "zero" else grown_units & ~survived
        # All counts of a leaf in one pass over it.
        was, dropped, grown, *of_nans = x.count(old, old & ~new, new & ~old, *unscored)
        scheduled, nan = x.weights(total), sum(of_nans, jnp.zeros_like(was))
        active = was - dropped + grown
        stays = (nan > 0) & ((active != scheduled) | (active == 0))
        of_units = lax.expand_dims(stays, range(stays.ndim, old.ndim))
        changes.append(
            Change(
                active=x.spread(jnp.where(of_units, old, new), leaf.active),
                reset=x.spread(fresh & ~of_units, leaf.active),
                dropped=jnp.where(stays, 0, dropped),
                grown=jnp.where(stays, 0, grown),
                unscored=jnp.sum(nan, dtype=jnp.int32) // jnp.int32(x.unit_size),
                scheduled=scheduled,
            )
        )
    return changes


def _group_total(units: Array, layout: Layout) -> Array:
    axes = tuple(a for a in range(units.ndim) if a not in layout.group_axes)
    return totals([units], axes)[0]


def _nans(scores: list[Array], where: list[Array]) -> list[list[Array]]:
    return [[jnp.isnan(s) & w] for s, w in zip(scores, where, strict=True)]
