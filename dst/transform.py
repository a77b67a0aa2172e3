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

from dst import checks, moments, tree
from dst import initial as initial_masks
from dst import state as states
from dst._typing import Array
from dst.plan import LeafPlan, Plan, make
from dst.rule import Rule
from dst.scores import Connections
from dst.state import Flat, Hyper, SparsifyState, TopologyLog
from dst.topology import Change, drop_and_grow


class SparseTransformation(optax.GradientTransformationExtraArgs):
    """What :func:`sparsify` returns: an Optax transformation that can show its plan.

    Attributes:
      rule: the method with all durations in optimizer steps.
      plan: ``plan(params)`` is the start table: every leaf, what it is and why; printable.
    """

    rule: Rule
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
    initial: str | Mapping[str, Any] = "random",
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
      select: which leaves are sparse; see :func:`dst.tree.survey`.
      overrides: settings per leaf pattern.
      stacked: leading axes that enumerate layers, per leaf pattern.
      axes: meaning of kernel axes, per leaf pattern.
      initial: ``"random"``, ``"magnitude"`` (start from a dense checkpoint) or masks by leaf
        path, whose counts replace the allocation.

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
    rule = method if isinstance(method, Rule) else method.rule(steps)
    if isinstance(initial, str):
        checks.one_of("initial", initial, ("random", "magnitude"))
    masks = initial if isinstance(initial, Mapping) else rule.masks
    options: dict[str, Any] = {
        "select": select,
        "overrides": overrides,
        "stacked": stacked,
        "axes": axes,
    }
    plans: dict[Any, Plan] = {}

    def plan(params: Any) -> Plan:
        paths, leaves, _ = tree.flatten(params)
        key = tuple((p, tuple(x.shape), str(x.dtype)) for p, x in zip(paths, leaves, strict=True))
        if key not in plans:
            plans[key] = make(tree.survey(params, **options), rule, masks if leaves else None)
        return plans[key]

    def init(params: Any) -> SparsifyState:
        flat = Flat(params, plan(params))
        starts = initial_masks.chosen(flat, seed, initial, masks)
        cadence = rule.cadence
        first, every, last = (
            (1, 1, 0) if cadence is None else (cadence.first, cadence.every, cadence.last)
        )
        decays = moments.decays(inner, params, rule, flat)
        return SparsifyState(
            count=jnp.zeros([], jnp.int32),
            masks=flat.zip(
                lambda m, p: initial_masks.placed_like(states.first_masks(m), p),
                starts,
                flat.sparse,
            ),
            active=flat.zip(states.count_active, flat.plans, starts),
            hyper=Hyper(
                seed=jnp.asarray(seed, jnp.uint32),
                first=jnp.asarray(first, jnp.int32),
                every=jnp.asarray(every, jnp.int32),
                last=jnp.asarray(last, jnp.int32),
                # `asarray` would leave it off the mesh, and the step would be compiled twice.
                counts=flat.map(lambda p: jnp.array(p.counts, jnp.int32)),
                decays=decays,
            ),
            topology=TopologyLog(
                done=jnp.zeros([], jnp.int32),
                at=jnp.zeros([], jnp.int32),
                spacing=jnp.zeros([], jnp.int32),
                scheduled=flat.map(lambda p: _weights(p, jnp.asarray(p.initial))),
                # Buffers of their own: a donated state must not hold one twice.
                dropped=flat.map(lambda p: jnp.zeros(p.layout.counts, jnp.int32)),
                grown=flat.map(lambda p: jnp.zeros(p.layout.counts, jnp.int32)),
                unscored=flat.map(lambda p: jnp.zeros([], jnp.int32)),
            ),
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
        if params is None:
            raise ValueError(
                "sparsify needs the parameters: call tx.update(grads, opt_state, params). "
                "They hold the weights that topology steps rank and that updates set to zero."
            )
        flat = Flat(params, plan(params))
        plain = partial(_plain_step, inner, rule, flat, extra)
        changing = partial(_topology_step, inner, rule, flat, extra)
        if rule.cadence is None or not flat.plans:
            return plain(grads, state, params)
        if topology is None:
            topology = _fires(state.count, state.hyper)
        if isinstance(topology, (bool, np.bool_)):
            return (changing if topology else plain)(grads, state, params)
        return lax.cond(topology, changing, plain, grads, state, params)

    tx = SparseTransformation(init, update)
    tx.rule, tx.plan = rule, plan
    return tx


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
    rows = [_row(table, state) for table in flat.of(state.hyper.counts)]
    changes = _changes(rule, flat, masks, grads, state, rows)
    inner_state = moments.reset(inner, state.inner_state, flat.tree([c.reset for c in changes]))
    steady = [c.active & ~c.reset for c in changes]
    if rule.update_weights:
        updates, inner_state = _inner_step(
            inner, rule, flat, extra, grads, state, params, inner_state, steady
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
        masks=flat.zip(lambda m, c: states.next_masks(m, c.active, c.reset), masks, changes),
        active=flat.zip(lambda p, c: states.count_active(p, c.active), flat.plans, changes),
        topology=TopologyLog(
            done=log.done + 1,
            at=state.count,
            spacing=state.count - log.at,
            scheduled=flat.zip(lambda p, row: _weights(p, row[1]), flat.plans, rows),
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
) -> tuple[Any, Any]:
    """The wrapped optimizer on masked gradients, its updates projected onto the mask."""
    masked = [jnp.where(m, g, jnp.zeros_like(g)) for m, g in zip(keep, flat.of(grads), strict=True)]
    updates, inner_state = inner.update(flat.replace(grads, masked), inner_state, params, **extra)
    scales = moments.young_factors(rule, flat, state)
    projected = [
        _project(m, p, u if scale is None else u * scale.astype(u.dtype))
        for m, p, u, scale in zip(keep, flat.sparse, flat.of(updates), scales, strict=True)
    ]
    return flat.replace(updates, projected), inner_state


def _project(keep: Array, weight: Array, update: Array) -> Array:
    """``update`` where kept, ``-weight`` elsewhere, in the wider of the two types."""
    kind = jnp.promote_types(update.dtype, weight.dtype)
    return jnp.where(keep, update.astype(kind), -weight.astype(kind))


def _changes(
    rule: Rule,
    flat: Flat,
    masks: list[Array],
    grads: Any,
    state: SparsifyState,
    rows: list[Array],
) -> list[Change]:
    keys = states.keys(flat, state.hyper.seed, state.count + 1)
    leaves = [
        Connections(
            weight=p.astype(jnp.float32),
            grad=g.astype(jnp.float32),
            active=states.active(m),
            explored=states.explored(m),
            key=key,
        )
        for p, g, m, key in zip(flat.sparse, flat.of(grads), masks, keys, strict=True)
    ]
    return drop_and_grow(
        leaves,
        [p.layout for p in flat.plans],
        [row[0] for row in rows],
        [row[1] for row in rows],
        rule,
    )


def _weights(plan: LeafPlan, count: Array) -> Array:
    """Active weights per stacked slice from the active units of each of its groups."""
    return count.astype(jnp.int32) * jnp.int32(plan.layout.weights_per_count)


def _row(table: Array, state: SparsifyState) -> Array:
    """The counts due: of the last topology step that was scheduled until now."""
    hyper, rows = state.hyper, table.shape[0]
    index = jnp.clip((state.count - hyper.first) // hyper.every, 0, rows - 1)
    index = jnp.where(state.count >= hyper.last, rows - 1, index)
    return lax.dynamic_index_in_dim(table, index, keepdims=False)


def _fires(count: Array, hyper: Hyper) -> Array:
    on_grid = (count - hyper.first) % hyper.every == 0
    return (count >= hyper.first) & (count <= hyper.last) & (on_grid | (count == hyper.last))
