"""The connections that a run starts with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.shard_alike import shard_alike

from dst import state
from dst._typing import Array
from dst.allocation import Global, allocator
from dst.budget import best_of_all
from dst.rule import Rule
from dst.scores import COMPARABLE, Connections, uniform
from dst.selection import top_k_masks


def chosen(
    flat: state.Flat, rule: Rule, seed: int | Array, initial: Any, masks: Mapping[str, Any] | None
) -> list[Array]:
    """bool arrays, one per sparse leaf: random, by magnitude, or as given.

    Counts are those of the plan, exact in every group; where layers compete, their sum is.

    Raises:
      ValueError: random connections under an allocation that ranks weights.
    """
    if not flat.plans:
        return []
    if masks is not None:
        return [jnp.asarray(masks[p.leaf.path], bool) for p in flat.plans]
    layouts = [p.layout for p in flat.plans]
    dense = all((p.initial == p.layout.units).all() for p in flat.plans)
    ranked = isinstance(allocator(rule.first_allocation or rule.allocation), Global)
    if initial == "random" and ranked and not dense:
        raise ValueError(
            "a global allocation ranks weights, so connections cannot start at random. Start from "
            "a dense network (initial='magnitude'), or use 'erk' or 'uniform'."
        )
    groups = [tuple(x.split[a] for a in x.groups) for x in layouts]
    due = [
        np.broadcast_to(p.initial.reshape(p.initial.shape + (1,) * (len(g) - p.initial.ndim)), g)
        for p, g in zip(flat.plans, groups, strict=True)
    ]

    # One program to compile, where the parts would be dozens; the same for every seed and sparsity.
    @jax.jit
    def draw(seed: Array, weights: list[Array], counts: list[Array]) -> list[Array]:
        if initial == "magnitude":
            scores = [jnp.abs(x.astype(jnp.float32)) for x in weights]
        else:
            keys = state.keys(flat, seed, 0)
            scores = [uniform(key, x) for key, x in zip(keys, weights, strict=True)]
        pooled = [x.pool(s) for x, s in zip(layouts, scores, strict=True)]
        competition = allocator(rule.allocation)
        if initial == "magnitude" and isinstance(competition, Global):
            k = sum(int(p.initial.sum()) for p in flat.plans)
            units = best_of_all(
                _compared(competition, flat, weights), layouts, k, competition.floor
            )
            return [x.spread(u, w) for x, u, w in zip(layouts, units, weights, strict=True)]
        axes = [x.group_axes for x in layouts]
        units = top_k_masks(pooled, counts, [None] * len(pooled), axes)
        return [x.spread(u, w) for x, u, w in zip(layouts, units, weights, strict=True)]

    return draw(jnp.asarray(seed, jnp.uint32), flat.sparse, due)


def _compared(allocation: Global, flat: state.Flat, weights: list[Array]) -> list[Array]:
    """What layers compete with before there is a gradient."""
    everything = [
        Connections(
            weight=w.astype(jnp.float32),
            grad=jnp.zeros_like(w, jnp.float32),
            active=jnp.ones_like(w, bool),
            explored=jnp.ones_like(w, bool),
            key=key,
            stacked=p.leaf.stacked,
        )
        for p, w, key in zip(flat.plans, weights, state.keys(flat, jnp.uint32(0), 0), strict=True)
    ]
    return [
        p.layout.pool(COMPARABLE[allocation.score](x))
        for p, x in zip(flat.plans, everything, strict=True)
    ]


def placed_like(mask: Array, leaf: Any) -> Array:
    """The mask, placed as its parameter is."""
    if isinstance(leaf, jax.core.Tracer):
        return shard_alike(mask, leaf)[0]
    # Only what the user has placed is placed: committing more would compile the step twice.
    if not (isinstance(leaf, jax.Array) and leaf.committed):
        return mask
    if mask.is_fully_addressable and not leaf.is_fully_addressable:
        # JAX 0.10.2 makes an array that cannot be saved of a local one that it puts on devices of
        # several processes with one device each; of NumPy's it makes a good one.
        return jax.device_put(np.asarray(mask), leaf.sharding)
    return jax.device_put(mask, leaf.sharding)
