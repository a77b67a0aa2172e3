"""``sparsify``: a sparse training method as one Optax transformation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from dst.core import checks, tree
from dst.core.typing import Array
from dst.engine import cold_start as moments
from dst.engine import initial_masks, memory
from dst.engine import latent as pullback
from dst.engine import lookup as clock
from dst.engine import state as states
from dst.engine.plan import Plan, make
from dst.engine.state import Flat, SparsifyState, TopologyLog
from dst.engine.topology import Change, drop_and_grow
from dst.rules.counts import Due
from dst.rules.latent import Latent
from dst.rules.rule import INITIAL, Rule
from dst.rules.scores import Connections


class SparseTransformation(optax.GradientTransformationExtraArgs):
    """What :func:`sparsify` returns: an Optax transformation that can show its plan.

    Attributes:
      rule: the method with all durations in optimizer steps.
      plan: ``plan(params)`` is the start table: every leaf, what it is and why; printable.
    """

    rule: Rule | Latent
    plan: Callable[[Any], Plan]

    def fires(self, count: int) -> bool:
        """Whether the update after ``count`` updates is a topology step."""
        return self.rule.fires(count)


def sparsify(
    inner: optax.GradientTransformation,
    method: Any,
    *,
    seed: int | Array = 0,
    steps: int | None = None,
    select: tree.Select | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    stacked: Mapping[str, int] | None = None,
    axes: Mapping[str, str] | None = None,
    initial: str | Mapping[str, Any] | None = None,
) -> SparseTransformation:
    """Wraps an optimizer so that it trains a sparse network.

    After every ``optax.apply_updates`` off-mask weights are exactly ``0.0``: the update there
    is ``-p``, and ``p + (-p)`` is zero for every finite ``p``. Gradients and moments of
    inactive weights are kept at zero; at topology steps connections are dropped and grown.

    Use it outermost. ``optax.MultiSteps``, ``apply_if_finite`` and ``partition`` may go around
    it; whatever rewrites updates (``scale``, ``lookahead``, ``schedule_free``, SAM) goes inside.
    Averages of parameters pass through :func:`apply_masks` before evaluation.

    Args:
      inner: any Optax optimizer.
      method: :class:`dst.RigL`, ... or a :class:`Rule`.
      seed: of every random choice. Equal seeds give equal masks on every device layout.
      steps: length of training in optimizer updates; resolves percentages such as ``"75%"``.
      select: which leaves are sparse; see :func:`dst.core.tree.survey`.
      overrides: settings per leaf pattern.
      stacked: leading axes that enumerate layers, per leaf pattern.
      axes: meaning of kernel axes, per leaf pattern.
      initial: ``"random"``, ``"magnitude"`` (start from a dense checkpoint) or masks by leaf
        path, whose counts replace the allocation. None: what the method says, mostly random.

    Returns:
      A transformation. ``update`` takes ``topology``: ``None`` decides by the count of updates
      under ``lax.cond``; a Python ``True`` or ``False`` decides while tracing, so that the hot
      step holds no selection at all.

    Raises:
      ValueError: from ``init`` or here, naming the leaf or argument at fault.

    Example:
      >>> import dst, optax, jax, jax.numpy as jnp
      >>> params = {"w": jnp.ones((4, 4)), "b": jnp.zeros(4)}
      >>> tx = dst.sparsify(optax.sgd(0.1), dst.Static(sparsity=0.5))
      >>> opt_state = tx.init(params)
      >>> params = dst.apply_masks(params, opt_state)
      >>> int((params["w"] != 0).sum())
      8
    """
    inner = optax.with_extra_args_support(inner)
    rule = method if isinstance(method, (Rule, Latent)) else method.rule(steps)
    options = {"select": select, "overrides": overrides, "stacked": stacked, "axes": axes}
    if isinstance(rule, Latent):
        return _latent(inner, rule, seed, options, initial)
    initial = rule.initial if initial is None else initial
    if isinstance(initial, str):
        checks.one_of("initial", initial, INITIAL)
    masks = initial if isinstance(initial, Mapping) else rule.masks
    plan = _planner(rule, options, masks)

    def init(params: Any) -> SparsifyState:
        flat = Flat(params, plan(params))
        starts = initial_masks.chosen(flat, rule, seed, initial, masks)
        placed = map(initial_masks.placed_like, map(states.first_masks, starts), flat.sparse)
        return states.begin(
            flat,
            rule.cadence,
            seed,
            list(placed),
            shares=plan(params).shares,
            decays=moments.decays(inner, params, rule, flat),
            memory=memory.first(rule, flat),
            inner_state=inner.init(params),
        )

    def update(
        grads: Any,
        state: SparsifyState,
        params: Any = None,
        *,
        topology: bool | Array | None = None,
        **extra: Any,
    ) -> tuple[Any, SparsifyState]:
        _require(params)
        flat = Flat(params, plan(params))
        state = memory.observe(rule, flat, grads, state)
        plain = partial(_plain_step, inner, rule, flat, extra)
        changing = partial(_topology_step, inner, rule, flat, extra)
        if rule.cadence is None or not flat.plans:
            return plain(grads, state, params)
        if topology is None:
            topology = clock.fires(state.count, state.hyper)
        if isinstance(topology, (bool, np.bool_)):
            return (changing if topology else plain)(grads, state, params)
        return lax.cond(topology, changing, plain, grads, state, params)

    tx = SparseTransformation(init, update)
    tx.rule, tx.plan = rule, plan
    return tx


def _latent(
    inner: Any, rule: Latent, seed: int | Array, options: dict[str, Any], initial: Any
) -> SparseTransformation:
    if initial not in (None, "magnitude"):
        raise ValueError(
            "initial: the connections of a latent-weight method follow from its variables. Leave "
            "it out."
        )
    plan = _planner(rule.table_rule(), options)
    wide = None if rule.wide is None else _planner(rule.table_rule(rule.wide), options)

    def init(params: Any) -> SparsifyState:
        flat, larger = Flat(params, plan(params)), wide and wide(params)
        return pullback.init(inner, rule, flat, larger, seed, params)

    def update(
        grads: Any,
        state: SparsifyState,
        params: Any = None,
        *,
        topology: bool | Array | None = None,
        **extra: Any,
    ) -> tuple[Any, SparsifyState]:
        _require(params)
        flat, larger = Flat(params, plan(params)), wide and wide(params)
        return pullback.update(inner, rule, flat, larger, grads, state, params, topology, extra)

    tx = SparseTransformation(init, update)
    tx.rule, tx.plan = rule, plan
    return tx


def _planner(
    rule: Rule, options: dict[str, Any], masks: Mapping[str, Any] | None = None
) -> Callable[[Any], Plan]:
    """The plan of a parameter tree, made once per set of shapes."""
    plans: dict[Any, Plan] = {}

    def plan(params: Any) -> Plan:
        paths, leaves, _ = tree.flatten(params)
        key = tuple((p, tuple(x.shape), str(x.dtype)) for p, x in zip(paths, leaves, strict=True))
        if key not in plans:
            plans[key] = make(tree.survey(params, **options), rule, masks if leaves else None)
        return plans[key]

    return plan


def _require(params: Any) -> None:
    if params is None:
        raise ValueError(
            "sparsify needs the parameters: call tx.update(grads, opt_state, params). "
            "They hold the weights that topology steps rank and that updates set to zero."
        )


def _plain_step(
    inner: Any, rule: Rule, flat: Flat, extra: Any, grads: Any, state: SparsifyState, params: Any
) -> tuple[Any, SparsifyState]:
    active = [states.active(m) for m in flat.masks(state.masks)]
    updates, inner_state = _inner_step(
        inner, rule, flat, extra, grads, state, params, state.inner_state, active
    )
    return updates, state._replace(count=state.count + 1, inner_state=inner_state)


def _topology_step(
    inner: Any, rule: Rule, flat: Flat, extra: Any, grads: Any, state: SparsifyState, params: Any
) -> tuple[Any, SparsifyState]:
    masks = flat.masks(state.masks)
    changes = _changes(rule, flat, masks, grads, state)
    forgotten = [_forgotten(rule, c) for c in changes]
    inner_state = moments.reset(inner, state.inner_state, flat.tree(forgotten))
    steady = [c.active & ~c.reset for c in changes]
    if rule.update_weights:
        all_stepped = rule.forget == "grown"
        moving = None if all_stepped else [s & ~f for s, f in zip(steady, forgotten, strict=True)]
        updates, inner_state = _inner_step(
            inner, rule, flat, extra, grads, state, params, inner_state, steady, moving
        )
    else:
        kinds = jax.eval_shape(
            lambda g, s, p: _plain_step(inner, rule, flat, extra, g, s, p)[0], grads, state, params
        )
        nothing = jax.tree.map(lambda u, p: jnp.zeros_like(p, u.dtype), kinds, params)
        updates = flat.replace(
            nothing,
            list(map(_project, steady, flat.sparse, flat.of(nothing))),
        )
    log = state.topology
    return updates, state._replace(
        count=state.count + 1,
        masks=flat.zip(
            lambda m, c, f: states.next_masks(m, c.active, f), masks, changes, forgotten
        ),
        active=flat.zip(lambda p, c: states.count_active(p, c.active), flat.plans, changes),
        topology=TopologyLog(
            done=log.done + 1,
            at=state.count,
            spacing=state.count - log.at,
            scheduled=flat.tree([c.scheduled for c in changes]),
            dropped=flat.tree([c.dropped for c in changes]),
            grown=flat.tree([c.grown for c in changes]),
            unscored=flat.tree([c.unscored for c in changes]),
        ),
        inner_state=inner_state,
    )


def _inner_step(
    inner: Any,
    rule: Rule,
    flat: Flat,
    extra: Any,
    grads: Any,
    state: SparsifyState,
    params: Any,
    inner_state: Any,
    keep: list[Array],
    moving: list[Array] | None = None,
) -> tuple[Any, Any]:
    """The wrapped optimizer on masked gradients, its updates projected onto the mask.

    ``moving``: those of the kept weights that take the step; all, when absent.
    """
    stepping = keep if moving is None else moving
    masked = [
        jnp.where(m, g, jnp.zeros_like(g)) for m, g in zip(stepping, flat.of(grads), strict=True)
    ]
    updates, inner_state = inner.update(flat.replace(grads, masked), inner_state, params, **extra)
    scales = moments.young_factors(rule, flat, state)
    scaled = [
        u if scale is None else u * scale.astype(u.dtype)
        for u, scale in zip(flat.of(updates), scales, strict=True)
    ]
    if moving is not None:
        scaled = [jnp.where(m, u, jnp.zeros_like(u)) for m, u in zip(moving, scaled, strict=True)]
    projected = list(map(_project, keep, flat.sparse, scaled))
    return flat.replace(updates, projected), inner_state


def _project(keep: Array, weight: Array, update: Array) -> Array:
    """``update`` where kept, ``-weight`` elsewhere, in the wider of the two types."""
    kind = jnp.promote_types(update.dtype, weight.dtype)
    return jnp.where(keep, update.astype(kind), -weight.astype(kind))


def _changes(
    rule: Rule, flat: Flat, masks: list[Array], grads: Any, state: SparsifyState
) -> list[Change]:
    keys = states.keys(flat.sparse_paths, state.hyper.seed, state.count + 1)
    leaves = [
        Connections(
            weight=p.astype(jnp.float32),
            grad=g.astype(jnp.float32),
            active=states.active(m),
            explored=states.explored(m),
            key=key,
            stacked=plan.leaf.stacked,
            memory=remembered,
        )
        for plan, p, g, m, key, remembered in zip(
            flat.plans,
            flat.sparse,
            flat.of(grads),
            masks,
            keys,
            flat.of(state.memory),
            strict=True,
        )
    ]
    rows = [clock.row(table, state.count, state.hyper) for table in flat.of(state.hyper.counts)]
    return drop_and_grow(
        Due(
            leaves=leaves,
            layouts=[p.layout for p in flat.plans],
            paths=[p.leaf.path for p in flat.plans],
            kept=[row[0] for row in rows],
            total=[row[1] for row in rows],
            share=clock.row(state.hyper.shares, state.count, state.hyper),
            rule=rule,
        )
    )


def _forgotten(rule: Rule, change: Change) -> Array:
    """Weights whose moments start at zero at this step."""
    if rule.forget == "grown":
        return change.reset
    return change.reset | (change.active & (jnp.sum(change.grown) > 0))
