"""Hard masks: an optimizer step on masked gradients, and the topology step between two of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dst.core import checks
from dst.core.tree import Leaf
from dst.core.typing import Array, ArrayLike, OptState, Params, PyTree
from dst.engine import cold_start, initial_masks, masks, scaling, schedule_lookup
from dst.engine.decisions import Decision, Step, decide, float32, unchanged
from dst.engine.flat import Flat
from dst.engine.frozen import check_moving
from dst.engine.hard_plan import plan_of
from dst.engine.plan import Plan, Planner
from dst.engine.state import SparsifyState, TopologyLog, initial_state
from dst.rules.accumulators import Accumulator, Observation
from dst.rules.rule import INITIAL, Rule


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
                for x in float32(flat.sparse)
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
        step = Step(self.inner, self.rule, flat, params, flat.gradients(grads), extra, self.scale)
        if self.rule.which.accumulator is not None:
            state = _accumulated(step, self.rule.which.accumulator, state)
        if self.rule.when is None or not flat.plans:
            plain = unchanged(step, state)
            if self.rule.when is None or self.rule.which.derivative is None:
                return take(step, state, plain, False)
            # What stands in the place of gradients trains nothing, also where nothing is masked.
            fired = schedule_lookup.fired(topology, state)
            return take(step, state, plain._replace(topology=_counted(state, fired)), fired)
        fired = schedule_lookup.fired(topology, state)
        change = partial(decide, step, state)
        decided = schedule_lookup.perhaps(fired, change, unchanged(step, state))
        return take(step, state, decided, fired)


def _counted(state: SparsifyState, fired: bool | Array) -> TopologyLog:
    """The log after a topology step that had nothing to change."""
    log = state.topology
    return log._replace(
        done=log.done + jnp.asarray(fired, jnp.int32),
        at=jnp.where(fired, state.count, log.at),
        spacing=jnp.where(fired, state.count - log.at, log.spacing),
    )


def _masked(mask_bytes: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
    return [
        jnp.where(masks.active(m), w, jnp.zeros_like(w))
        for m, w in zip(mask_bytes, weights, strict=True)
    ]


def _accumulated(step: Step, accumulator: Accumulator, state: SparsifyState) -> SparsifyState:
    """The state with the gradients of this step in the rule's accumulator."""
    flat = step.flat
    left, log = schedule_lookup.steps_left(state.count, state.hyper), state.topology
    just = (log.done > 0) & (state.count == log.at + 1)
    parts = [jnp.sum(n, dtype=jnp.int32) for n in flat.of(log.dropped)]
    dropped = jnp.where(just, sum(parts, jnp.int32(0)), -1)
    return state._replace(
        variables=flat.zip(
            lambda kept, g, p, m: accumulator.observe(
                kept, Observation(g, p, masks.active(m), left, dropped)
            ),
            flat.of(state.variables),
            float32(flat.pick(step.grads)),
            float32(flat.sparse),
            flat.masks(state.masks),
        )
    )


def take(
    step: Step, state: SparsifyState, decided: Decision, fired: bool | Array
) -> tuple[PyTree, SparsifyState]:
    """The optimizer step under the masks that were decided, where the rule takes one.

    Args:
      step: what the step needs.
      state: before the step.
      decided: the masks after it.
      fired: whether this is a topology step; an array, where the compiled program asks.
    """
    flat, reset = step.flat, step.rule.reset
    mask_bytes = flat.masks(decided.masks)
    keep = moving = [masks.active(m) for m in mask_bytes]
    targets = [jnp.zeros([], w.dtype) for w in flat.sparse]
    inner_state = before = state.inner_state
    if fired is not False:
        # Ages count from the topology step at which a weight started: at this one they are zero.
        restarted = [fired & (masks.age(m) == 0) for m in mask_bytes]
        keep = [k & ~x for k, x in zip(keep, decided.fresh or restarted, strict=True)]
        moving = keep
        if reset.moments == "all":
            moving = [k & ~r for k, r in zip(keep, restarted, strict=True)]
        forgotten = restarted
        if reset.moments != "grown":
            forgotten = [r | fired & ~k for k, r in zip(keep, restarted, strict=True)]
        inner_state = before = cold_start.reset(step.inner, inner_state, flat.tree(forgotten))
        if reset.grown_value == "accumulated":
            targets = [
                jnp.where(r, v, 0).astype(w.dtype)
                for r, v, w in zip(restarted, flat.of(state.variables), flat.sparse, strict=True)
            ]
    project = partial(_projected, keep, flat.sparse, targets)
    updates = None
    if reset.update_weights or fired is not True:
        updates, inner_state = _inner_step(step, state, inner_state, moving, keep, project)
    if not reset.update_weights and fired is not False:
        updates, inner_state = (
            _without(step, updates, project, fired),
            _where(fired, before, inner_state),
        )
    return updates, state._replace(
        count=state.count + 1,
        masks=decided.masks,
        active=decided.active,
        topology=decided.topology,
        inner_state=inner_state,
    )


def _inner_step(
    step: Step,
    state: SparsifyState,
    inner_state: OptState,
    moving: list[Array],
    keep: list[Array],
    project: Callable[[list[Array]], list[Array]],
) -> tuple[PyTree, OptState]:
    """The wrapped optimizer on masked gradients, its updates projected onto the mask.

    Args:
      step: what the step needs.
      state: before the step.
      inner_state: of the wrapped optimizer.
      moving: weights that take the step, per sparse leaf.
      keep: those that are active and keep their value; the same list, where all of them move.
      project: from updates of the sparse leaves to those that respect the masks.
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
    return flat.rebuild(leaves, project(sparse)), inner_state


def _without(
    step: Step,
    updates: PyTree | None,
    project: Callable[[list[Array]], list[Array]],
    fired: bool | Array,
) -> PyTree:
    """Where topology steps take no optimizer step: updates that only set inactive weights to zero.

    Args:
      step: what the step needs.
      updates: of the optimizer step; None where there was none.
      project: as in :func:`_inner_step`.
      fired: whether this is a topology step.
    """
    flat, zeros = step.flat, [jnp.zeros_like(p) for p in step.flat.leaves]
    alone = flat.rebuild(zeros, project(flat.pick(zeros)))
    return alone if updates is None else _where(fired, alone, updates)


def _where(fired: bool | Array, there: PyTree, elsewhere: PyTree) -> PyTree:
    """One of two trees, in the types of the second."""
    return jax.tree.map(
        lambda x, y: x if x is y else jnp.where(fired, x, y).astype(jnp.result_type(y)),
        there,
        elsewhere,
    )


def _projected(
    keep: list[Array], weights: list[Array], targets: list[Array], updates: list[Array]
) -> list[Array]:
    """``update`` where kept, ``target - weight`` elsewhere, in the wider of the two types."""

    def project(keep: Array, weight: Array, target: Array, update: Array) -> Array:
        kind = jnp.promote_types(update.dtype, weight.dtype)
        return jnp.where(keep, update.astype(kind), target.astype(kind) - weight.astype(kind))

    return list(map(project, keep, weights, targets, updates))
