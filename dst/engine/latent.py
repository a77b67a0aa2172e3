"""The transformation of latent-weight methods: gradients are pulled back, weights derived anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dst.core.reductions import totals
from dst.core.selection import top_k_masks
from dst.core.typing import Array
from dst.engine import cold_start as moments
from dst.engine import lookup as clock
from dst.engine import state
from dst.engine.initial_masks import placed_like
from dst.engine.plan import Plan
from dst.engine.state import Flat, SparsifyState, TopologyLog
from dst.rules.latent import Latent, View


def init(
    inner: Any, latent: Latent, flat: Flat, wide: Plan | None, seed: int | Array, params: Any
) -> SparsifyState:
    """The state before the first step; arguments as in :func:`update`."""
    seed = jnp.asarray(seed, jnp.uint32)
    keys = state.keys(flat.sparse_paths, seed, 0)
    weights = [p.astype(jnp.float32) for p in flat.sparse]
    start = [latent.start(w, p.leaf, k) for w, p, k in zip(weights, flat.plans, keys, strict=True)]
    fixed = [
        latent.fix(w, p.leaf) if latent.fix else w for w, p in zip(weights, flat.plans, strict=True)
    ]
    chosen = _choose(latent, start, flat, [p.counts[0, 1] for p in flat.plans])
    reached = _reached(latent, start, flat, wide, chosen)
    reached = _narrowed(latent, reached, chosen, jnp.zeros([], jnp.int32))
    support = _support(latent, chosen, jnp.zeros([], jnp.int32))
    # Buffers of their own: the state may be donated, and the parameters are the caller's.
    memory = jax.tree.map(jnp.copy, _remembered(latent, flat, start, fixed, chosen, reached))
    return state.begin(
        flat,
        latent.cadence,
        seed,
        [placed_like(state.first_masks(s), p) for s, p in zip(support, flat.sparse, strict=True)],
        memory=memory,
        inner_state=inner.init(flat.replace(params, start)),
    )


def update(
    inner: Any,
    latent: Latent,
    flat: Flat,
    wide: Plan | None,
    grads: Any,
    now: SparsifyState,
    params: Any,
    topology: bool | Array | None,
    extra: dict[str, Any],
) -> tuple[Any, SparsifyState]:
    """One step.

    Args:
      inner: the wrapped optimizer.
      latent: the method.
      flat: the parameters and their plans.
      wide: the plan of the larger set, where there is one.
      grads: with respect to the parameters.
      now: the state.
      params: the parameters.
      topology: whether connections are chosen anew, where the method has a cadence.
      extra: arguments for the inner optimizer.
    """
    flat.masks(now.masks)  # raises where the state is not one of these parameters
    before = [_view(latent, m, p, g, now.count) for m, p, g in _rows(flat, now, grads)]
    pulled = [latent.gradient(v) for v in before]
    points = [v.latent for v in before]
    if not latent.train_dense:
        zeros = jax.tree.map(jnp.zeros_like, grads)
        grads = flat.replace(zeros, flat.of(grads))
    updates, inner_state = inner.update(
        flat.replace(grads, pulled),
        now.inner_state,
        flat.replace(params, points),
        **extra,
    )
    if not latent.train_dense:
        updates = flat.replace(jax.tree.map(jnp.zeros_like, updates), flat.of(updates))
    moved = [
        jnp.where(v.wide, v.latent + u.astype(jnp.float32), v.latent)
        for v, u in zip(before, flat.of(updates), strict=True)
    ]

    step = now.count + 1
    stage = sum((now.count >= s).astype(jnp.int32) for s in latent.stages)
    counts = [
        lax.dynamic_index_in_dim(t, jnp.minimum(stage, t.shape[0] - 1), keepdims=False)[1]
        for t in flat.of(now.hyper.counts)
    ]

    def choose() -> tuple[list[Array], list[Array]]:
        chosen = _choose(latent, moved, flat, counts)
        return chosen, _reached(latent, moved, flat, wide, chosen)

    def keep() -> tuple[list[Array], list[Array]]:
        return [v.active for v in before], [v.wide for v in before]

    chosen, reached = _decide(latent, topology, now, choose, keep)
    reached = _narrowed(latent, reached, chosen, step)
    if wide is not None:
        outside = flat.tree([~r for r in reached])
        inner_state = moments.reset(inner, inner_state, outside)
    after = [
        v._replace(latent=w, active=c, wide=r, softness=_softness(latent, step))
        for v, w, c, r in zip(before, moved, chosen, reached, strict=True)
    ]
    support = _support(latent, chosen, step)
    weights = [p.astype(jnp.float32) for p in flat.sparse]
    changes = [
        # Where parameters are the variables, `w - p + p` would round what the optimizer gives.
        jnp.where(s, latent.weight(v) - p if latent.remember else u.astype(jnp.float32), -p)
        for s, v, p, u in zip(support, after, weights, flat.of(updates), strict=True)
    ]
    log, anew = now.topology, _anew(latent, topology, now)
    return flat.replace(updates, changes), now._replace(
        count=step,
        masks=flat.zip(
            lambda m, s: state.next_masks(m, s, s & ~state.active(m)),
            flat.of(now.masks),
            support,
        ),
        active=flat.zip(state.count_active, flat.plans, support),
        topology=_log(latent, flat, now, support, moved, counts, anew, log),
        memory=_remembered(latent, flat, moved, [v.fixed for v in after], chosen, reached),
        inner_state=inner_state,
    )


def _rows(flat: Flat, now: SparsifyState, grads: Any) -> Any:
    masks = [state.active(m) for m in flat.of(now.masks)]
    memories = flat.of(now.memory)
    rows = zip(masks, memories, strict=True)
    return zip([(m, x) for m, x in rows], flat.sparse, flat.of(grads), strict=True)


def _view(latent: Latent, row: Any, weight: Array, grad: Array, count: Array) -> View:
    mask, memory = row
    variable = memory.get("latent", weight.astype(jnp.float32))
    chosen = memory.get("active", mask)
    everywhere = jnp.ones_like(mask)
    return View(
        latent=variable,
        fixed=memory.get("fixed", variable),
        active=chosen,
        wide=memory.get("wide", everywhere),
        grad=grad.astype(jnp.float32),
        softness=_softness(latent, count),
    )


def _remembered(
    latent: Latent,
    flat: Flat,
    latents: list[Array],
    fixed: list[Array],
    chosen: list[Array],
    reached: list[Array],
) -> Any:
    """What the state keeps of every leaf beside its mask: nothing that the mask says already."""
    kept = []
    for variable, still, active, wide in zip(latents, fixed, chosen, reached, strict=True):
        memory = {}
        if latent.remember:
            memory["latent"] = variable
        if latent.fix is not None:
            memory["fixed"] = still
        if latent.softness is not None:
            memory["active"] = active
        if latent.wide is not None:
            memory["wide"] = wide
        kept.append(memory)
    return flat.tree(kept)


def _choose(latent: Latent, variables: list[Array], flat: Flat, counts: list[Any]) -> list[Array]:
    """The connections of highest score, as masks."""
    layouts = [p.layout for p in flat.plans]
    pooled = [x.pool(latent.score(v)) for x, v in zip(layouts, variables, strict=True)]
    wanted = [x.per_group(n) for n, x in zip(counts, layouts, strict=True)]
    axes = [x.group_axes for x in layouts]
    units = top_k_masks(pooled, wanted, [None] * len(pooled), axes)
    masks = [x.spread(u, v) for x, u, v in zip(layouts, units, variables, strict=True)]
    return [placed_like(m, v) for m, v in zip(masks, variables, strict=True)]


def _reached(
    latent: Latent,
    variables: list[Array],
    flat: Flat,
    wide: Plan | None,
    chosen: list[Array],
) -> list[Array]:
    """The larger set that gradients reach."""
    if wide is None:
        return [jnp.ones_like(c) for c in chosen]
    counts = [wide.sparse[p.leaf.path].counts[0, 1] for p in flat.plans]
    return _choose(latent, variables, flat, counts)


def _narrowed(
    latent: Latent, reached: list[Array], chosen: list[Array], count: Array
) -> list[Array]:
    """The larger set, or the connections themselves once exploration has ended."""
    if latent.narrow_from is None:
        return reached
    narrow = count >= latent.narrow_from
    return [jnp.where(narrow, c, r) for c, r in zip(chosen, reached, strict=True)]


def _softness(latent: Latent, count: Array) -> Array:
    return jnp.float32(0) if latent.softness is None else jnp.float32(latent.softness(count))


def _support(latent: Latent, chosen: list[Array], count: Array) -> list[Array]:
    """The weights in use."""
    if latent.softness is None:
        return chosen
    soft = _softness(latent, count) > 0
    return [c | soft for c in chosen]


def _anew(latent: Latent, topology: bool | Array | None, now: SparsifyState) -> Any:
    """Whether connections are chosen in this step: a Python bool where that is known."""
    if latent.cadence is None:
        return True
    if topology is not None:
        return bool(topology) if isinstance(topology, (bool, np.bool_)) else topology
    return clock.fires(now.count, now.hyper)


def _decide(
    latent: Latent,
    topology: Any,
    now: SparsifyState,
    choose: Callable[[], Any],
    keep: Callable[[], Any],
) -> Any:
    anew = _anew(latent, topology, now)
    if isinstance(anew, bool):
        return choose() if anew else keep()
    return lax.cond(anew, choose, keep)


def _log(
    latent: Latent,
    flat: Flat,
    now: SparsifyState,
    support: list[Array],
    moved: list[Array],
    counts: list[Array],
    anew: Any,
    log: TopologyLog,
) -> TopologyLog:
    if anew is False:
        return log
    dropped, grown, unscored, scheduled = [], [], [], []
    for p, mask, new, variable, n in zip(
        flat.plans, flat.of(now.masks), support, moved, counts, strict=True
    ):
        old = state.active(mask)
        axes = tuple(range(len(p.layout.counts), old.ndim))
        nan = jnp.isnan(latent.score(variable))
        gone, come, bad = totals([old & ~new, new & ~old, nan], axes)
        dropped.append(gone)
        grown.append(come)
        unscored.append(jnp.sum(bad))
        due = p.layout.weights(jnp.broadcast_to(n, p.layout.counts))
        soft = _softness(latent, now.count + 1) > 0
        scheduled.append(jnp.where(soft, jnp.int32(p.leaf.layer_size), due))
    found = TopologyLog(
        done=log.done + (latent.cadence is not None),
        at=now.count,
        spacing=now.count - log.at,
        scheduled=flat.tree(scheduled),
        dropped=flat.tree(dropped),
        grown=flat.tree(grown),
        unscored=flat.tree(unscored),
    )
    if anew is True:
        return found
    return jax.tree.map(lambda new, old: jnp.where(anew, new, old), found, log)
