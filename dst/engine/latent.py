"""Latent weights: the optimizer trains them, and the weights in use are derived from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from dst.core.selection import top_k_masks_and_short
from dst.core.typing import Array, ArrayLike, Params, PyTree
from dst.engine import cold_start, masks, scaling, schedule_lookup
from dst.engine.flat import Flat
from dst.engine.initial_masks import placed_like
from dst.engine.latent_log import logged, softness_at
from dst.engine.latent_plan import backward_plan_of, plan_of
from dst.engine.plan import Planner
from dst.engine.state import SparsifyState, initial_state
from dst.engine.trained_scores import gradients, parted, projected, trained_variables
from dst.rules.latent import Latent, LatentLeaf


class Chosen(NamedTuple):
    """The connections of all sparse leaves, bool arrays.

    Attributes:
      active: those that the structure and the counts choose.
      backward: the larger set that gradients reach.
    """

    active: list[Array]
    backward: list[Array]


class LatentWeights:
    """How a :class:`dst.Latent` runs inside Optax; see
    :class:`dst.engine.sparsify.Implementation`.

    Args:
      inner: the wrapped optimizer.
      rule: with all durations in steps.
      seed: of random choices.
      options: which leaves are sparse; see :func:`dst.core.tree.survey`.
      initial, scale: of :func:`dst.sparsify`.
    """

    update_weights = True
    selects_every_step = True

    def __init__(
        self,
        inner: optax.GradientTransformationExtraArgs,
        rule: Latent,
        seed: int | Array,
        options: Mapping[str, Any],
        initial: str | Mapping[str, ArrayLike] | None,
        scale: str | None = None,
    ):
        if initial not in (None, "magnitude"):
            raise ValueError(
                "initial: the connections of a latent-weight method follow from its variables. "
                "Leave it out."
            )
        self.inner, self.rule, self.seed, self.scale = inner, rule, seed, scale
        self.plan = Planner(partial(plan_of, latent=rule), options)
        self._backward_plan = Planner(partial(backward_plan_of, latent=rule), options)

    def init(self, params: Params) -> SparsifyState:
        """The state before the first step."""
        rule, flat = self.rule, Flat(params, self.plan)
        seed, begin = jnp.asarray(self.seed, jnp.uint32), jnp.zeros([], jnp.int32)
        leaves = _first_leaves(rule, flat, seed, begin)
        counts = _counts(rule, leaves, [p.counts[0, 1] for p in flat.plans])
        chosen = _narrowed(rule, self._choose(flat, leaves, counts), begin)
        support = _support(rule, chosen.active, begin)
        # Copies: the state may be donated, and the parameters belong to the caller.
        variables = jax.tree.map(jnp.copy, _variables(rule, flat, leaves, chosen))
        placed = map(placed_like, map(masks.first_masks, support), flat.sparse)
        return initial_state(
            flat,
            rule.when,
            seed,
            list(placed),
            variables=variables,
            inner_state=self.inner.init(flat.rebuild(flat.leaves, trained_variables(rule, leaves))),
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
        rule, flat = self.rule, Flat(params, self.plan)
        before = _latent_leaves(rule, flat, state, flat.pick(leaves := flat.gradients(grads)))
        dense_grads = leaves if rule.train_dense else list(map(jnp.zeros_like, leaves))
        updates, inner_state = self.inner.update(
            flat.rebuild(dense_grads, gradients(rule, before)),
            state.inner_state,
            flat.rebuild(flat.leaves, trained_variables(rule, before)),
            **extra,
        )
        steps = flat.leaves_of(updates)
        first, second = parted(rule, flat.pick(steps))
        moves = scaling.scale_updates(self.scale, flat, state, first)
        latent = [
            x.latent + u
            if rule.backward_sparsity is None  # latent variables may have another shape
            else jnp.where(x.backward, x.latent + u, x.latent)
            for x, u in zip(before, moves, strict=True)
        ]
        scores = latent
        if rule.scores is not None:
            scores = [x.scores + u for x, u in zip(before, second, strict=True)]

        count = state.count + 1
        after = projected(rule, _moved(rule, flat, state, before, latent, scores))
        counts = _counts(rule, after, _stage_counts(rule, flat, state))
        fired = True if rule.when is None else schedule_lookup.fired(topology, state)
        chosen = schedule_lookup.branch(
            fired, partial(self._choose, flat, after, counts), lambda: _chosen(after)
        )
        chosen = _narrowed(rule, chosen, count)
        if rule.backward_sparsity is not None:
            outside = flat.tree([~x for x in chosen.backward])
            inner_state = cold_start.reset(self.inner, inner_state, outside)
        support = _support(rule, chosen.active, count)
        columns = support, after, chosen.active, chosen.backward, flat.sparse, moves
        changes = [
            _change(rule, s, x._replace(active=a, backward=b), p, u)
            for s, x, a, b, p, u in zip(*columns, strict=True)
        ]
        if not rule.train_dense:
            steps = jax.tree.map(jnp.zeros_like, steps)
        return flat.rebuild(steps, changes), state._replace(
            count=count,
            masks=flat.zip(
                lambda m, s: masks.next_masks(m, s, s & ~masks.active(m)),
                flat.of(state.masks),
                support,
            ),
            active=flat.zip(masks.count_active, flat.plans, support),
            topology=logged(rule, flat, state, support, after, counts, topology),
            variables=_variables(rule, flat, after, chosen),
            inner_state=inner_state,
        )

    def _choose(self, flat: Flat, leaves: list[LatentLeaf], counts: Sequence[ArrayLike]) -> Chosen:
        """The connections of highest score, and the larger set that gradients reach.

        Groups that NaN scores leave with too few candidates stay as they were.
        """
        old = _chosen(leaves)
        active = _best(self.rule, leaves, flat, counts, old.active)
        if self.rule.backward_sparsity is None:
            return Chosen(active, [jnp.ones_like(c) for c in active])
        plan = self._backward_plan.of(flat.paths, flat.leaves, flat.treedef.unflatten(flat.leaves))
        # A leaf without a plan is dense: gradients reach all of it.
        paths, units = flat.sparse_paths, [p.layout.units for p in flat.plans]
        found = [plan.sparse.get(path) for path in paths]
        larger = [n if p is None else p.counts[0, 1] for p, n in zip(found, units, strict=True)]
        return Chosen(active, _best(self.rule, leaves, flat, larger, old.backward))


def _chosen(leaves: list[LatentLeaf]) -> Chosen:
    return Chosen([x.active for x in leaves], [x.backward for x in leaves])


def _first_leaves(rule: Latent, flat: Flat, seed: Array, begin: Array) -> list[LatentLeaf]:
    keys = masks.keys(flat.sparse_paths, seed, 0)
    leaves = []
    for plan, weight, key in zip(flat.plans, flat.sparse, keys, strict=True):
        weight = weight.astype(jnp.float32)
        latent = rule.start(weight, plan.leaf, key)
        everything = jnp.ones(weight.shape, bool)
        leaves.append(
            LatentLeaf(
                latent=latent,
                fixed=rule.fix(weight, plan.leaf) if rule.fix else weight,
                active=everything,
                backward=everything,
                grad=jnp.zeros_like(weight),
                softness=softness_at(rule, begin),
                scores=rule.scores.start(weight, plan.leaf, key) if rule.scores else latent,
                count=begin,
                layout=plan.layout,
                key=key if rule.draws else None,
            )
        )
    return leaves


def _latent_leaves(
    rule: Latent, flat: Flat, state: SparsifyState, grads: list[Array]
) -> list[LatentLeaf]:
    softness, keys = softness_at(rule, state.count), _keys(rule, flat, state, 0)
    variables = flat.of(state.variables)
    columns = flat.plans, flat.masks(state.masks), variables, flat.sparse, grads, keys
    leaves = []
    for plan, mask, kept, weight, grad, key in zip(*columns, strict=True):
        active = masks.active(mask)
        latent = kept.get("latent", weight.astype(jnp.float32))
        leaves.append(
            LatentLeaf(
                latent=latent,
                fixed=kept.get("fixed", latent),
                active=kept.get("active", active),
                backward=kept.get("backward", jnp.ones_like(active)),
                grad=grad.astype(jnp.float32),
                softness=softness,
                scores=kept.get("scores", latent),
                count=state.count,
                layout=plan.layout,
                key=key,
            )
        )
    return leaves


def _keys(rule: Latent, flat: Flat, state: SparsifyState, later: int) -> Sequence[Array | None]:
    """Of every sparse leaf, for the weights in use after ``later`` more updates."""
    if not rule.draws:
        return [None] * len(flat.plans)
    return masks.keys(flat.sparse_paths, state.hyper.seed, state.count + later)


def _change(rule: Latent, support: Array, leaf: LatentLeaf, weight: Array, move: Array) -> Array:
    """What is added to a weight, in the wider of its type and float32."""
    old = weight.astype(jnp.promote_types(weight.dtype, jnp.float32))
    # Where the parameters are the latent weights, `w - p + p` would round the update.
    new = rule.weight(leaf).astype(old.dtype) - old if rule.keep_latent else move
    return jnp.where(support, new.astype(old.dtype), -old)


def _moved(
    rule: Latent,
    flat: Flat,
    state: SparsifyState,
    before: list[LatentLeaf],
    latent: list[Array],
    scores: list[Array],
) -> list[LatentLeaf]:
    """The leaves after the step of the optimizer, with the connections from before it."""
    count = state.count + 1
    softness, keys = softness_at(rule, count), _keys(rule, flat, state, 1)
    return [
        x._replace(latent=w, scores=s, softness=softness, count=count, key=key)
        for x, w, s, key in zip(before, latent, scores, keys, strict=True)
    ]


def _variables(rule: Latent, flat: Flat, leaves: list[LatentLeaf], chosen: Chosen) -> PyTree:
    """What the state keeps of every leaf beside its mask; nothing that follows from the mask."""
    kept = {
        "latent": [x.latent for x in leaves] if rule.keep_latent else None,
        "fixed": None if rule.fix is None else [x.fixed for x in leaves],
        "scores": None if rule.scores is None else [x.scores for x in leaves],
        "active": None if rule.softness is None else chosen.active,
        "backward": None if rule.backward_sparsity is None else chosen.backward,
    }
    columns = {name: values for name, values in kept.items() if values is not None}
    return flat.tree([{k: v[i] for k, v in columns.items()} for i in range(len(flat.plans))])


def _counts(
    rule: Latent, leaves: list[LatentLeaf], planned: Sequence[ArrayLike]
) -> Sequence[ArrayLike]:
    """int32 units per group of every leaf: as planned, unless training decides."""
    if rule.counts is None:
        return planned
    return [rule.counts(x.layout.pool(rule.score(x)), x.layout) for x in leaves]


def _best(
    rule: Latent,
    leaves: list[LatentLeaf],
    flat: Flat,
    counts: Sequence[ArrayLike],
    old: Sequence[Array],
) -> list[Array]:
    """Masks of the ``counts`` units of highest score per group; ``old`` where too few have one."""
    layouts = [p.layout for p in flat.plans]
    pooled = [x.layout.pool(rule.score(x)) for x in leaves]
    wanted = [x.per_group(n) for n, x in zip(counts, layouts, strict=True)]
    axes = [x.group_axes for x in layouts]
    units, short = top_k_masks_and_short(pooled, wanted, [None] * len(pooled), axes)
    # Like the weights: latent variables may have another shape.
    spread = [
        x.spread(jnp.where(s, x.units_of(o), u), w)
        for x, u, s, o, w in zip(layouts, units, short, old, flat.sparse, strict=True)
    ]
    return list(map(placed_like, spread, flat.sparse))


def _narrowed(rule: Latent, chosen: Chosen, count: Array) -> Chosen:
    """The connections, with gradients for active ones alone where exploration has ended."""
    if rule.narrow_from is None:
        return chosen
    narrow = count >= rule.narrow_from
    backward = [jnp.where(narrow, a, b) for a, b in zip(*chosen, strict=True)]
    return chosen._replace(backward=backward)


def _stage_counts(rule: Latent, flat: Flat, state: SparsifyState) -> list[Array]:
    """int32 units per group of every sparse leaf at the stage of this step."""
    stage = sum((state.count >= s).astype(jnp.int32) for s in rule.stages)
    return [
        lax.dynamic_index_in_dim(t, jnp.minimum(stage, t.shape[0] - 1), keepdims=False)[1]
        for t in flat.of(state.hyper.counts)
    ]


def _support(rule: Latent, chosen: list[Array], count: Array) -> list[Array]:
    """The weights in use."""
    if rule.softness is None:
        return chosen
    soft = softness_at(rule, count) > 0
    return [c | soft for c in chosen]
