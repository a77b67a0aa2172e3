"""Counts where the connections of all layers compete: for dropping, and for growing."""

from __future__ import annotations

import jax.numpy as jnp

from dst.core.selection import top_k_masks_together
from dst.core.typing import Array
from dst.rules.counts import TopologyInputs, best_of_all, exchanged, units_per_slice
from dst.rules.rule import Counts


def exchange_together(min_active: int) -> Counts:
    """As many connections are dropped as are grown, but of all layers together.

    Scores of the rule's ``which`` compare units of different layers. Candidates for growth were
    inactive and have a grow score of at least zero. Where there are fewer of them than the drop
    fraction asks for, fewer connections are exchanged; also where layers keep their last ones.

    Args:
      min_active: units that every layer keeps; all that it has where these are fewer.
    """

    def counts(inputs: TopologyInputs) -> list[tuple[Array, Array]]:
        which, layouts = inputs.rule.which, inputs.layouts
        pairs = list(zip(layouts, inputs.leaves, strict=True))
        active = [x.units_of(leaf.active) for x, leaf in pairs]
        size = [x.pool(which.drop(leaf)) for x, leaf in pairs]
        grow = [x.pool((which.grow or which.drop)(leaf)) for x, leaf in pairs]
        free = [~a & (g >= 0) for a, g in zip(active, grow, strict=True)]
        n, most = _total(active), _total(free)
        k = jnp.minimum(exchanged(n, inputs.share, inputs.rule.how_many.rounding), most)
        stay = best_of_all(size, layouts, n - k, min_active, among=active)
        kept = units_per_slice(stay, layouts)
        grown = units_per_slice(top_k_masks_together(grow, n - _total(stay), free), layouts)
        return [(a, a + b) for a, b in zip(kept, grown, strict=True)]

    return counts


def _total(units: list[Array]) -> Array:
    of_leaves = [jnp.sum(u, dtype=jnp.int32) for u in units]
    return jnp.sum(jnp.stack(of_leaves), dtype=jnp.int32)
