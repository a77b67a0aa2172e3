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
from dst.engine.trained_scores import gradients, joined, parted
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
        weights = [p.astype(jnp.float32) for p in flat.sparse]
        leaves = [p.leaf for p in flat.plans]
        keys = masks.keys(flat.sparse_paths, seed, 0)
        latent = [rule.start(w, x, k) for w, x, k in zip(weights, leaves, keys, strict=True)]
        fixed = [rule.fix(w, x) if rule.fix else w for w, x in zip(weights, leaves, strict=True)]
        scores = latent
        if (trained := rule.scores) is not None:
            scores = [trained.start(*x) for x in zip(weights, leaves, keys, strict=True)]
        first = [p.counts[0, 1] for p in flat.plans]
        everything = [jnp.ones(w.shape, bool) for w in weights]
        chosen = self._choose(flat, scores, first, Chosen(everything, everything))
        chosen = _narrowed(rule, chosen, begin)
        support = _support(rule, chosen.active, begin)
        # Copies: the state may be donated, and the parameters belong to the caller.
        kept = _variables(rule, flat, latent, fixed, scores, chosen)
        variables = jax.tree.map(jnp.copy, kept)
        placed = map(placed_like, map(masks.first_masks, support), flat.sparse)
        return initial_state(
            flat,
            rule.when,
            seed,
            list(placed),
            variables=variables,
            inner_state=self.inner.init(flat.rebuild(flat.leaves, joined(rule, latent, scores))),
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
        points = joined(rule, [x.latent for x in before], [x.scores for x in before])
        slopes = joined(rule, *gradients(rule, before))
        dense_grads = leaves if rule.train_dense else list(map(jnp.zeros_like, leaves))
        updates, inner_state = self.inner.update(
            flat.rebuild(dense_grads, slopes),
            state.inner_state,
            flat.rebuild(flat.leaves, points),
            **extra,
        )
        steps = flat.leaves_of(updates)
        first, second = parted(rule, flat.pick(steps))
        moves = scaling.scale_updates(self.scale, flat, state, first)
        moved = [
            x.latent + u
            if rule.backward_sparsity is None  # latent variables may have another shape
            else jnp.where(x.backward, x.latent + u, x.latent)
            for x, u in zip(before, moves, strict=True)
        ]
        scores = moved
        if rule.scores is not None:
            scores = [x.scores + u for x, u in zip(before, second, strict=True)]

        count = state.count + 1
        counts = _stage_counts(rule, flat, state)
        fired = True if rule.when is None else schedule_lookup.fired(topology, state)
        old = Chosen([x.active for x in before], [x.backward for x in before])
        chosen = schedule_lookup.branch(
            fired, partial(self._choose, flat, scores, counts, old), lambda: old
        )
        chosen = _narrowed(rule, chosen, count)
        if rule.backward_sparsity is not None:
            outside = flat.tree([~x for x in chosen.backward])
            inner_state = cold_start.reset(self.inner, inner_state, outside)
        support = _support(rule, chosen.active, count)
        changes = [
            _change(rule, s, x, p, u)
            for s, x, p, u in zip(
                support,
                _moved(
                    before,
                    moved,
                    scores,
                    chosen,
                    softness_at(rule, count),
                    _keys(rule, flat, state, 1),
                ),
                flat.sparse,
                moves,
                strict=True,
            )
        ]
        if not rule.train_dense:
            steps = jax.tree.map(jnp.zeros_like, steps)
        fixed = [x.fixed for x in before]
        return flat.rebuild(steps, changes), state._replace(
            count=count,
            masks=flat.zip(
                lambda m, s: masks.next_masks(m, s, s & ~masks.active(m)),
                flat.of(state.masks),
                support,
            ),
            active=flat.zip(masks.count_active, flat.plans, support),
            topology=logged(rule, flat, state, support, scores, counts, topology),
            variables=_variables(rule, flat, moved, fixed, scores, chosen),
            inner_state=inner_state,
        )

    def _choose(
        self, flat: Flat, scores: list[Array], counts: Sequence[ArrayLike], old: Chosen
    ) -> Chosen:
        """The connections of highest score, and the larger set that gradients reach.

        Groups that NaN scores leave with too few candidates stay as they were in ``old``.
        """
        active = _best(self.rule, scores, flat, counts, old.active)
        if self.rule.backward_sparsity is None:
            return Chosen(active, [jnp.ones_like(c) for c in active])
        plan = self._backward_plan.of(flat.paths, flat.leaves, flat.treedef.unflatten(flat.leaves))
        # A leaf without a plan is dense: gradients reach all of it.
        paths, units = flat.sparse_paths, [p.layout.units for p in flat.plans]
        found = [plan.sparse.get(path) for path in paths]
        larger = [n if p is None else p.counts[0, 1] for p, n in zip(found, units, strict=True)]
        return Chosen(active, _best(self.rule, scores, flat, larger, old.backward))


def _latent_leaves(
    rule: Latent, flat: Flat, state: SparsifyState, grads: list[Array]
) -> list[LatentLeaf]:
    softness, keys = softness_at(rule, state.count), _keys(rule, flat, state, 0)
    variables = flat.masks(state.masks), flat.of(state.variables)
    columns = *variables, flat.sparse, grads, keys, flat.plans
    leaves = []
    for mask, kept, weight, grad, key, plan in zip(*columns, strict=True):
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
                key=key,
                scores=kept.get("scores", latent),
                layout=plan.layout,
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
    before: list[LatentLeaf],
    latent: list[Array],
    scores: list[Array],
    chosen: Chosen,
    softness: Array,
    keys: Sequence[Array | None],
) -> list[LatentLeaf]:
    columns = before, latent, scores, chosen.active, chosen.backward, keys
    return [
        x._replace(latent=w, active=a, backward=b, softness=softness, scores=s, key=key)
        for x, w, s, a, b, key in zip(*columns, strict=True)
    ]


def _variables(
    rule: Latent,
    flat: Flat,
    latent: list[Array],
    fixed: list[Array],
    scores: list[Array],
    chosen: Chosen,
) -> PyTree:
    """What the state keeps of every leaf beside its mask; nothing that follows from the mask."""
    kept = {
        "latent": latent if rule.keep_latent else None,
        "fixed": None if rule.fix is None else fixed,
        "scores": None if rule.scores is None else scores,
        "active": None if rule.softness is None else chosen.active,
        "backward": None if rule.backward_sparsity is None else chosen.backward,
    }
    columns = {name: values for name, values in kept.items() if values is not None}
    return flat.tree([{k: v[i] for k, v in columns.items()} for i in range(len(flat.plans))])


def _best(
    rule: Latent,
    scores: list[Array],
    flat: Flat,
    counts: Sequence[ArrayLike],
    old: Sequence[Array],
) -> list[Array]:
    """Masks of the ``counts`` units of highest score per group; ``old`` where too few have one."""
    layouts = [p.layout for p in flat.plans]
    pooled = [x.pool(rule.score(v)) for x, v in zip(layouts, scores, strict=True)]
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
