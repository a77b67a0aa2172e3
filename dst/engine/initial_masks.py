"""The connections that a run starts with."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.shard_alike import shard_alike
from jax.sharding import Sharding

from dst.core.draws import uniform
from dst.core.selection import top_k_masks
from dst.core.typing import Array, ArrayLike
from dst.engine.flat import Flat
from dst.engine.masks import keys
from dst.rules.allocation import Global, allocator
from dst.rules.counts import best_of_all
from dst.rules.layout import Layout
from dst.rules.rule import Rule
from dst.rules.scores import COMPARABLE, Connections


def chosen(
    flat: Flat,
    rule: Rule,
    seed: int | Array,
    initial: str | Mapping[str, ArrayLike],
    masks: Mapping[str, ArrayLike] | None,
) -> list[Array]:
    """bool arrays, one per sparse leaf: random, by magnitude, or the masks of the user.

    Counts are those of the plan, exact in every group. Where layers compete, their sum is exact.

    Raises:
      ValueError: random connections under an allocation that ranks weights.
    """
    if not flat.plans:
        return []
    if masks is not None:
        return [jnp.asarray(masks[p.leaf.path], bool) for p in flat.plans]
    layouts = tuple(p.layout for p in flat.plans)
    dense = all((p.initial == p.layout.units).all() for p in flat.plans)
    ranked = isinstance(allocator(rule.start.allocation or rule.how_many.allocation), Global)
    if initial == "random" and ranked and not dense:
        raise ValueError(
            "a global allocation ranks weights, so connections cannot start at random. Start from "
            "a dense network (initial='magnitude'), or use 'erk' or 'uniform'."
        )
    weights, seed = flat.sparse, jnp.asarray(seed, jnp.uint32)
    competition = allocator(rule.how_many.allocation)
    if initial == "magnitude" and isinstance(competition, Global):
        units = sum(int(p.initial.sum()) for p in flat.plans)
        stacked = tuple(p.leaf.stacked for p in flat.plans)
        return _compete(weights, units, competition, flat.sparse_paths, stacked, layouts)
    groups = [tuple(x.split[a] for a in x.groups) for x in layouts]
    counts = [
        np.broadcast_to(p.initial.reshape(p.initial.shape + (1,) * (len(g) - p.initial.ndim)), g)
        for p, g in zip(flat.plans, groups, strict=True)
    ]
    return _draw(seed, weights, counts, initial, flat.sparse_paths, layouts)


# Jitted at module level: transformations that differ only in seed and sparsity compile once.
@partial(jax.jit, static_argnames=("initial", "paths", "layouts"))
def _draw(
    seed: Array,
    weights: list[Array],
    counts: list[Array],
    initial: str,
    paths: tuple[str, ...],
    layouts: tuple[Layout, ...],
) -> list[Array]:
    """Masks of ``counts`` units per group: random ones, or those with the largest weights."""
    if initial == "magnitude":
        scores = [jnp.abs(x.astype(jnp.float32)) for x in weights]
    else:
        scores = list(map(uniform, keys(paths, seed, 0), weights))
    pooled = [x.pool(s) for x, s in zip(layouts, scores, strict=True)]
    axes = [x.group_axes for x in layouts]
    units = top_k_masks(pooled, counts, [None] * len(pooled), axes)
    return [x.spread(u, w) for x, u, w in zip(layouts, units, weights, strict=True)]


@partial(jax.jit, static_argnames=("allocation", "paths", "stacked", "layouts"))
def _compete(
    weights: list[Array],
    units: Array,
    allocation: Global,
    paths: tuple[str, ...],
    stacked: tuple[int, ...],
    layouts: tuple[Layout, ...],
) -> list[Array]:
    """Masks of the best units of all leaves together; gradients count as zero."""
    scored = [
        layout.pool(
            COMPARABLE[allocation.score](
                Connections(
                    weight=w.astype(jnp.float32),
                    grad=jnp.zeros_like(w, jnp.float32),
                    active=jnp.ones_like(w, bool),
                    explored=jnp.ones_like(w, bool),
                    key=key,
                    stacked=axes,
                )
            )
        )
        for layout, w, key, axes in zip(
            layouts, weights, keys(paths, jnp.uint32(0), 0), stacked, strict=True
        )
    ]
    best = best_of_all(scored, layouts, units, allocation.min_active)
    return [x.spread(u, w) for x, u, w in zip(layouts, best, weights, strict=True)]


def placed_like(mask: Array, leaf: ArrayLike) -> Array:
    """The mask, placed as its parameter is."""
    if isinstance(leaf, jax.core.Tracer):
        return shard_alike(mask, leaf)[0]
    # Committing an array that the user has not placed would compile the step twice.
    if not (isinstance(leaf, jax.Array) and leaf.committed):
        return mask
    return put(mask, leaf.sharding)


def put(x: Array, sharding: Sharding) -> Array:
    """As ``jax.device_put``. Of several processes, all must hold the same local values."""
    if x.is_fully_addressable and not sharding.is_fully_addressable:
        # JAX 0.10.2 cannot save a local array after placing it on devices of several processes.
        # It can save the same values placed from NumPy.
        return jax.device_put(np.asarray(x), sharding)
    return jax.device_put(x, sharding)
