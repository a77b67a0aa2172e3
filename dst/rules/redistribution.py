"""SNFS's counts: layers grow in proportion to the mean grow score of their active weights."""

from __future__ import annotations

import jax.numpy as jnp

from dst.core.reductions import exact_sum
from dst.core.typing import Array
from dst.rules.counts import TopologyInputs, apportion, exchanged


def redistribution(inputs: TopologyInputs) -> list[tuple[Array, Array]]:
    """Counts per layer: what each drops, and its share of all that is grown.

    The number of active weights in all layers together does not change.
    """
    score = inputs.rule.which.grow or inputs.rule.which.drop
    size, active, mean = [], [], []
    for layout, leaf in zip(inputs.layouts, inputs.leaves, strict=True):
        inside = tuple(range(leaf.stacked, leaf.weight.ndim))
        n = jnp.sum(leaf.active, axis=inside, dtype=jnp.int32).reshape(-1)
        total = exact_sum(jnp.where(leaf.active, score(leaf), 0.0), inside).reshape(-1)
        size.append(jnp.full_like(n, layout.units))
        active.append(n)
        mean.append(total / jnp.maximum(n, 1).astype(jnp.float32))
    sizes, n, means = map(jnp.concatenate, (size, active, mean))
    zeros = sizes - n
    # One number per layer, not sharded: no mesh changes the order of this addition.
    share = means / jnp.maximum(jnp.sum(means), jnp.float32(1e-30))

    dropped = exchanged(n, inputs.share, inputs.rule.how_many.rounding)
    # Nearly dense layers with a large share drop no more than the zeros that they can fill.
    sparsity = zeros.astype(jnp.float32) / sizes.astype(jnp.float32)
    few = jnp.floor(sparsity * n.astype(jnp.float32)).astype(jnp.int32)
    full = (sparsity < 0.2) & (share > 1.0 / len(n))
    dropped = jnp.where(full, jnp.minimum(dropped, few), dropped)

    free = zeros + dropped
    grown = apportion(jnp.sum(dropped), share, free - (free + 99) // 100, free)
    kept, total = n - dropped, n - dropped + grown
    edges = [0]
    for part in active:
        edges.append(edges[-1] + part.size)
    return [
        (kept[a:b].reshape(x.counts), total[a:b].reshape(x.counts))
        for x, a, b in zip(inputs.layouts, edges[:-1], edges[1:], strict=True)
    ]
