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
from dst.scores import uniform
from dst.selection import top_k_masks


def chosen(
    flat: state.Flat, seed: int | Array, initial: Any, masks: Mapping[str, Any] | None
) -> list[Array]:
    """bool arrays, one per sparse leaf: random, by magnitude, or as given.

    Counts are those of the plan, exact in every group.
    """
    if not flat.plans:
        return []
    if masks is not None:
        return [jnp.asarray(masks[p.leaf.path], bool) for p in flat.plans]
    layouts = [p.layout for p in flat.plans]
    groups = [tuple(x.split[a] for a in x.groups) for x in layouts]
    counts = [
        np.broadcast_to(p.initial.reshape(p.initial.shape + (1,) * (len(g) - p.initial.ndim)), g)
        for p, g in zip(flat.plans, groups, strict=True)
    ]

    @jax.jit  # one program to compile, where the parts would be dozens
    def draw(seed: Array, weights: list[Array]) -> list[Array]:
        if initial == "magnitude":
            scores = [jnp.abs(x.astype(jnp.float32)) for x in weights]
        else:
            keys = state.keys(flat, seed, 0)
            scores = [uniform(key, x) for key, x in zip(keys, weights, strict=True)]
        pooled = [x.pool(s) for x, s in zip(layouts, scores, strict=True)]
        axes = [x.group_axes for x in layouts]
        units = top_k_masks(pooled, counts, [None] * len(pooled), axes)
        return [x.spread(u) for x, u in zip(layouts, units, strict=True)]

    return draw(jnp.asarray(seed, jnp.uint32), flat.sparse)


def placed_like(mask: Array, leaf: Any) -> Array:
    """The mask, placed as its parameter is."""
    if isinstance(leaf, jax.core.Tracer):
        return shard_alike(mask, leaf)[0]
    # Only what the user has placed is placed: committing more would compile the step twice.
    placed = isinstance(leaf, jax.Array) and leaf.committed
    return jax.device_put(mask, leaf.sharding) if placed else mask
