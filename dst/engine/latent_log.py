"""What the state of a latent-weight method says about its last choice of connections."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp

from dst.core.reductions import totals
from dst.core.typing import Array, ArrayLike
from dst.engine import masks, schedule_lookup
from dst.engine.flat import Flat
from dst.engine.state import SparsifyState, TopologyLog
from dst.rules.latent import Latent, LatentLeaf


def logged(
    rule: Latent,
    flat: Flat,
    state: SparsifyState,
    support: list[Array],
    leaves: list[LatentLeaf],
    counts: Sequence[ArrayLike],
    topology: bool | Array | None,
) -> TopologyLog:
    """The log after this step; unchanged where the step chose no connections."""
    before = state.topology

    def chose() -> TopologyLog:
        soft = softness_at(rule, state.count + 1) > 0
        dropped, grown, unscored, scheduled = [], [], [], []
        for p, mask, new, leaf, n in zip(
            flat.plans, flat.of(state.masks), support, leaves, counts, strict=True
        ):
            old = masks.active(mask)
            axes = tuple(range(len(p.layout.counts), old.ndim))
            nan = jnp.isnan(rule.score(leaf))
            gone, come, bad = totals([old & ~new, new & ~old, nan], axes)
            dropped.append(gone)
            grown.append(come)
            unscored.append(jnp.sum(bad, dtype=jnp.int32))
            asked = p.layout.weights(p.layout.per_group(n))
            scheduled.append(jnp.where(soft, jnp.int32(p.leaf.layer_size), asked))
        return TopologyLog(
            done=before.done + (rule.when is not None),
            at=state.count,
            spacing=state.count - before.at,
            scheduled=flat.tree(scheduled),
            dropped=flat.tree(dropped),
            grown=flat.tree(grown),
            unscored=flat.tree(unscored),
        )

    fired = True if rule.when is None else schedule_lookup.fired(topology, state)
    return schedule_lookup.branch(fired, chose, lambda: before)


def softness_at(rule: Latent, count: Array) -> Array:
    """float32 scalar, that of a count of updates; 0 for hard masks."""
    return jnp.float32(0) if rule.softness is None else jnp.float32(rule.softness(count))
