"""Dropping below a threshold, and growing in proportion to what survives in each layer."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from dst.core.selection import top_k_masks
from dst.core.typing import Array
from dst.rules.counts import TopologyInputs, apportion
from dst.rules.scores import Connections


def above_threshold(leaf: Connections) -> Array:
    """Keeps the active weights whose size is at least the accumulated threshold; of every layer the
    largest, whatever its size."""
    size = jnp.abs(leaf.weight)
    largest = top_k_masks([size], [1], [leaf.active], [tuple(range(leaf.stacked))])[0]
    # Weights that are no numbers stay, so that their layer does not lose its connections.
    return leaf.active & (~(size < leaf.accumulated) | largest)


def by_survivors(inputs: TopologyInputs) -> list[tuple[Array, Array]]:
    """Counts where layers share what is grown in proportion to their surviving connections.

    The rule's ``keep`` says what survives. As many connections grow as are dropped, of all layers
    together; what rounding leaves goes to layers one by one, from the first. At least half of all
    weights must be inactive.
    """
    keep = inputs.rule.which.keep or above_threshold
    kept, before, size = [], [], []
    for leaf, layout in zip(inputs.leaves, inputs.layouts, strict=True):
        inside = tuple(range(leaf.stacked, leaf.weight.ndim))
        kept.append(jnp.sum(keep(leaf), axis=inside, dtype=jnp.int32).reshape(-1))
        before.append(jnp.sum(leaf.active, axis=inside, dtype=jnp.int32).reshape(-1))
        size.append(jnp.full_like(kept[-1], layout.units))
    survivors, n, sizes = map(jnp.concatenate, (kept, before, size))
    share = survivors.astype(jnp.float32) / jnp.sum(survivors).astype(jnp.float32)
    free = sizes - n
    grown = apportion(jnp.sum(n) - jnp.sum(survivors), share, free, free)
    edges = np.cumsum([0, *(x.size for x in kept)])
    return [
        (survivors[a:b].reshape(x.counts), (survivors + grown)[a:b].reshape(x.counts))
        for x, a, b in zip(inputs.layouts, edges[:-1], edges[1:], strict=True)
    ]
