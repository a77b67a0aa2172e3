"""Hard masks: an optimizer step on masked gradients, and the topology step between two of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dst.core import checks
from dst.core.tree import Leaf
from dst.core.typing import Array, ArrayLike, OptState, Params, PyTree
from dst.engine import cold_start, initial_masks, masks, scaling, schedule_lookup
from dst.engine.flat import Flat
from dst.engine.frozen import check_moving
from dst.engine.hard_plan import plan_of
from dst.engine.plan import Plan, Planner
from dst.engine.state import SparsifyState, TopologyLog, initial_state
from dst.engine.topology import Change, drop_and_grow
from dst.rules.accumulators import Accumulator, Observation
from dst.rules.counts import TopologyInputs
from dst.rules.rule import INITIAL, Rule
from dst.rules.scores import Connections


class HardMasks:
    """How a :class:`dst.Rule` runs inside Optax; see :class:`dst.engine.sparsify.Implementation`.

    Args:
      inner: the wrapped optimizer.
      rule: with all durations in steps.
      seed: of random choices.
      options: which leaves are sparse; see :func:`dst.core.tree.survey`.
      initial, scale: of :func:`dst.sparsify`.
    """

    selects_every_step = False

    def __init__(
        self,
        inner: optax.GradientTransformationExtraArgs,
        rule: Rule,
        seed: int | Array,
        options: Mapping[str, Any],
        initial: str | Mapping[str, ArrayLike] | None,
        scale: str | None = None,
    ):
        self.inner, self.rule, self.seed, self.scale = inner, rule, seed, scale
        self.update_weights = rule.reset.update_weights
        self.initial = rule.start.connections if initial is None else initial
        if isinstance(self.initial, str):
            checks.one_of("initial", self.initial, INITIAL)
        self.masks = self.initial if isinstance(self.initial, Mapping) else rule.start.masks
        self.plan = Planner(self._plan, options)

    def _plan(self, leaves: Sequence[Leaf]) -> Plan:
        return plan_of(leaves, self.rule, self.masks if leaves else None)

    def init(self, params: Params) -> SparsifyState:
        """The state before the first step."""
        flat, rule = Flat(params, self.plan), self.rule
        starts = initial_masks.chosen(flat, rule, self.seed, self.initial, self.masks)
        placed = list(map(initial_masks.placed_like, map(masks.first_masks, starts), flat.sparse))
        accumulator = rule.which.accumulator
        # What a slot takes from the weights (schedule_free's) is zero where they are.
        inner_state = self.inner.init(flat.rebuild(flat.leaves, _masked(placed, flat.sparse)))
        if rule.when is not None and flat.plans:
            shapes = flat.zip(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bool), flat.sparse)
            cold_start.check_slots(self.inner, inner_state, shapes)
            check_moving(self.inner, inner_state, params, flat)
        variables = flat.tree(
            [
                optax.MaskedNode() if accumulator is None else accumulator.init(x)
                for x in _float32(flat.sparse)
            ]
        )
        return initial_state(
            flat,
            rule.when,
            self.seed,
            placed,
            shares=self.plan(params).shares,
            decays=cold_start.decays(self.inner, params, rule, flat),
            variables=variables,
            inner_state=inner_state,
        )

    def update(
        self,
        grads: PyTree,
        state: SparsifyState,
        params: Params,
        topology: bool | Array | None,
        extra: dict[str, Any],
    ) -> tuple[PyTree, SparsifyState]:
        """One step: updates of the parameters, and the state after it."""
        flat = Flat(params, self.plan)
        step = _Step(self.inner, self.rule, flat, params, flat.gradients(grads), extra, self.scale)
        if self.rule.which.accumulator is not None:
            state = _accumulated(step, self.rule.which.accumulator, state)
        if self.rule.when is None or not flat.plans:
            return _plain(step, state)
        static = isinstance(topology, bool)
        return schedule_lookup.branch(
            topology, state, partial(_changing, step, state, static), partial(_plain, step, state)
        )


class _Step(NamedTuple):
    """What a step needs beside the state.

    Attributes:
      inner: the wrapped optimizer.
      rule: of the method.
      flat: the parameters and their plans.
      params: the tree of the parameters.
      grads: all leaves of the gradients, flattened once.
      extra: arguments for the inner optimizer.
      scale: of :func:`dst.sparsify`.
    """

    inner: optax.GradientTransformationExtraArgs
    rule: Rule
    flat: Flat
    params: Params
    grads: list[Array]
    extra: dict[str, Any]
    scale: str | None


def _masked(mask_bytes: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
    return [
        jnp.where(masks.active(m), w, jnp.zeros_like(w))
        for m, w in zip(mask_bytes, weights, strict=True)
    ]


def _float32(arrays: Sequence[ArrayLike]) -> list[Array]:
    return [jnp.asarray(x, jnp.float32) for x in arrays]


def _accumulated(step: _Step, accumulator: Accumulator, state: SparsifyState) -> SparsifyState:
    """The state with the gradients of this step in the rule's accumulator."""
    flat = step.flat
    left = schedule_lookup.steps_left(state.count, state.hyper)
    return state._replace(
        variables=flat.zip(
            lambda kept, g, p, m: accumulator.observe(
                kept, Observation(g, p, masks.active(m), left)
            ),
            flat.of(state.variables),
            _float32(flat.pick(step.grads)),
            _float32(flat.sparse),
            flat.masks(state.masks),
        )
    )


def _plain(step: _Step, state: SparsifyState) -> tuple[PyTree, SparsifyState]:
    """An optimizer step between topology steps."""
    active = [masks.active(m) for m in step.flat.masks(state.masks)]
    updates, inner_state = _inner_step(step, state, state.inner_state, active, active)
    return updates, state._replace(count=state.count + 1, inner_state=inner_state)


def _changing(step: _Step, state: SparsifyState, static: bool) -> tuple[PyTree, SparsifyState]:
    """A topology step: new masks first, then the optimizer step, where the rule takes one."""
    flat, reset = step.flat, step.rule.reset
    mask_bytes = flat.masks(state.masks)
    changes = _changes(step, state, mask_bytes)
    restarted = [_restarted(reset.moments, c) for c in changes]
    forgotten = [_forgotten(reset.moments, c, r) for c, r in zip(changes, restarted, strict=True)]
    inner_state = cold_start.reset(step.inner, state.inner_state, flat.tree(forgotten))
    keep = [c.active & ~c.reset for c in changes]
    if reset.update_weights:
        moving = keep
        if reset.moments == "all":
            moving = [k & ~r for k, r in zip(keep, restarted, strict=True)]
        updates, inner_state = _inner_step(step, state, inner_state, keep, moving)
    else:
        updates = _projection_alone(step, state, keep, static)
    log = state.topology
    return updates, state._replace(
        count=state.count + 1,
        masks=flat.zip(
            lambda m, c, r: masks.next_masks(m, c.active, r), mask_bytes, changes, restarted
        ),
        active=flat.zip(lambda p, c: masks.count_active(p, c.active), flat.plans, changes),
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
    step: _Step,
    state: SparsifyState,
    inner_state: OptState,
    keep: list[Array],
    moving: list[Array],
) -> tuple[PyTree, OptState]:
    """The wrapped optimizer on masked gradients, its updates projected onto the mask.

    Args:
      step: what the step needs.
      state: before the step.
      inner_state: of the wrapped optimizer.
      keep: weights that are active and keep their value, per sparse leaf.
      moving: those of them that take the step; the same list, where all do.
    """
    flat = step.flat
    masked = [
        jnp.where(m, g, jnp.zeros_like(g))
        for m, g in zip(moving, flat.pick(step.grads), strict=True)
    ]
    grads = flat.rebuild(step.grads, masked)
    updates, inner_state = step.inner.update(grads, inner_state, step.params, **step.extra)
    leaves = flat.leaves_of(updates)
    sparse = cold_start.scale(step.rule, flat, state, flat.pick(leaves))
    sparse = scaling.scale_updates(step.scale, flat, state, sparse)
    if moving is not keep:
        sparse = [jnp.where(m, u, jnp.zeros_like(u)) for m, u in zip(moving, sparse, strict=True)]
    return flat.rebuild(leaves, list(map(_project, keep, flat.sparse, sparse))), inner_state


def _projection_alone(step: _Step, state: SparsifyState, keep: list[Array], static: bool) -> PyTree:
    """Updates of a topology step that only sets inactive weights to zero."""
    flat, zeros = step.flat, [jnp.zeros_like(p) for p in step.flat.leaves]
    if not static:  # both branches of a `cond` give the same types: those of the inner optimizer
        updates = jax.eval_shape(
            lambda g, s, p: step.inner.update(g, s, p, **step.extra)[0],
            flat.treedef.unflatten(step.grads),
            state.inner_state,
            step.params,
        )
        zeros = [z.astype(u.dtype) for z, u in zip(zeros, flat.leaves_of(updates), strict=True)]
    return flat.rebuild(zeros, list(map(_project, keep, flat.sparse, flat.pick(zeros))))


def _project(keep: Array, weight: Array, update: Array) -> Array:
    """``update`` where kept, ``-weight`` elsewhere, in the wider of the two types."""
    kind = jnp.promote_types(update.dtype, weight.dtype)
    return jnp.where(keep, update.astype(kind), -weight.astype(kind))


def _changes(step: _Step, state: SparsifyState, mask_bytes: list[Array]) -> list[Change]:
    flat = step.flat
    keys = masks.keys(flat.sparse_paths, state.hyper.seed, state.count + 1)
    leaves = [
        Connections(
            weight=p,
            grad=g,
            active=masks.active(m),
            explored=masks.explored(m),
            key=key,
            stacked=plan.leaf.stacked,
            accumulated=kept,
        )
        for plan, p, g, m, key, kept in zip(
            flat.plans,
            _float32(flat.sparse),
            _float32(flat.pick(step.grads)),
            mask_bytes,
            keys,
            flat.of(state.variables),
            strict=True,
        )
    ]
    row = partial(schedule_lookup.row, count=state.count, hyper=state.hyper)
    counts = [row(table) for table in flat.of(state.hyper.counts)]
    return drop_and_grow(
        TopologyInputs(
            leaves=leaves,
            layouts=[p.layout for p in flat.plans],
            paths=flat.sparse_paths,
            kept=[kept for kept, _ in counts],
            total=[total for _, total in counts],
            share=row(state.hyper.shares),
            rule=step.rule,
        )
    )


def _restarted(moments: str, change: Change) -> Array:
    """Weights whose age starts at zero at this step, as their moments do."""
    if moments != "all":
        return change.reset
    return change.reset | (change.active & (jnp.sum(change.grown) > 0))


def _forgotten(moments: str, change: Change, restarted: Array) -> Array:
    """Weights whose moments are set to zero at this step."""
    return restarted if moments == "grown" else restarted | ~change.active
