"""What a topology step decides: new masks, from the weights and the gradients before it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from dst.core.typing import Array, ArrayLike, Params, PyTree
from dst.engine import masks, schedule_lookup
from dst.engine.flat import Flat
from dst.engine.state import SparsifyState, TopologyLog
from dst.engine.topology import Change, drop_and_grow
from dst.rules.counts import TopologyInputs
from dst.rules.rule import Rule
from dst.rules.scores import Connections


class Step(NamedTuple):
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


class Decision(NamedTuple):
    """What a topology step decides, one byte per weight: all that an untaken step passes on.

    Attributes:
      masks, active, topology: of the state after the step.
      fresh: weights that start at zero, per sparse leaf, where the masks do not tell them.
    """

    masks: PyTree
    active: PyTree
    topology: TopologyLog
    fresh: list[Array]


def unchanged(step: Step, state: SparsifyState) -> Decision:
    """Nothing changes."""
    asked = step.rule.reset.moments == "all"
    fresh = [jnp.zeros(x.shape, bool) for x in step.flat.sparse] if asked else []
    return Decision(state.masks, state.active, state.topology, fresh)


def decide(step: Step, state: SparsifyState, before: Decision) -> Decision:
    """New masks, from the weights and the gradients before the step."""
    flat, moments = step.flat, step.rule.reset.moments
    state = state._replace(masks=before.masks, active=before.active, topology=before.topology)
    mask_bytes = flat.masks(state.masks)
    changes = _changes(step, state, mask_bytes)
    restarted = [_restarted(moments, c) for c in changes]
    log = state.topology
    return Decision(
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
        fresh=[c.reset for c in changes] if moments == "all" else [],
    )


def _changes(step: Step, state: SparsifyState, mask_bytes: list[Array]) -> list[Change]:
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
            updates=state.count,
        )
        for plan, p, g, m, key, kept in zip(
            flat.plans,
            float32(flat.sparse),
            float32(flat.pick(step.grads)),
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


def float32(arrays: Sequence[ArrayLike]) -> list[Array]:
    """The arrays in the type of scores."""
    return [jnp.asarray(x, jnp.float32) for x in arrays]
