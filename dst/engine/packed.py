"""The packed form: only active weights, their moments and their places are stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding

from dst.core import checks
from dst.core.tree import flatten
from dst.core.typing import Array, Params, PyTree
from dst.engine import cold_start, initial_masks, masks, schedule_lookup
from dst.engine.decisions import Decision, Step, decide, unchanged
from dst.engine.entries import check_entries
from dst.engine.flat import Flat
from dst.engine.frozen import check_moving
from dst.engine.hard import HardMasks, take
from dst.engine.places import Move, Places, Slots, division, is_places, places_of
from dst.engine.plan import LeafPlan, Planner
from dst.engine.state import SparsifyState, as_masked, initial_state
from dst.rules.allocation import Global, allocator
from dst.rules.structure import BalancedBlock

_PART = 2**14  # spare slots are fewer than one in so many weights
# Entries of the log with a number for every leaf.
_OF_LEAVES = ("scheduled", "dropped", "grown", "unscored")


class _PackedFlat(Flat):
    """The flat view of packed values; plans are those of the dense leaves."""

    def __init__(self, values: PyTree, places: PyTree, planner: Planner):
        paths, leaves, treedef = flatten(values)
        at = treedef.flatten_up_to(places)
        shapes = [
            jax.ShapeDtypeStruct(p.shape, x.dtype) if is_places(p) else x
            for p, x in zip(at, leaves, strict=True)
        ]
        super().__init__(treedef.unflatten(shapes), planner)
        self.leaves, self.sparse = leaves, self.pick(leaves)
        self.places: list[Places] = self.pick(at)

    def masks(self, nodes: PyTree) -> list[Array]:
        """The bytes of the slots."""
        return self.of(nodes)

    def spread(self, numbers: Sequence[Array]) -> list[Array]:
        """Numbers per stacked slice of each sparse leaf, so that they broadcast over the slots."""
        return [p.spread(n) for p, n in zip(self.places, numbers, strict=True)]


class PackedMasks:
    """How a :class:`dst.Rule` runs on packed values, as an
    :class:`dst.engine.sparsify.Implementation`.

    Between topology steps it is the masked form on arrays in a row. A topology step unpacks, and
    decides as the masked form does.

    Args:
      masked: the same run in the masked form.

    Raises:
      ValueError: a rule for which the number of slots has no bound, or which needs dense arrays.
    """

    selects_every_step = False

    def __init__(self, masked: HardMasks):
        rule = masked.rule
        if rule.which.accumulator is not None:
            raise ValueError(_refusal("a method that accumulates gradients of inactive weights"))
        allocations = rule.how_many.allocation, rule.start.allocation or "uniform"
        if rule.how_many.counts is not None or any(
            isinstance(allocator(x), Global) for x in allocations
        ):
            raise ValueError(_refusal("layers whose numbers of weights follow from the weights"))
        self.masked, self.inner, self.rule, self.plan = masked, masked.inner, rule, masked.plan
        self.update_weights, self.scale = rule.reset.update_weights, masked.scale

    def init(self, params: Params) -> SparsifyState:
        """There is none."""
        raise ValueError("the packed form begins with values, opt_state = dst.pack(params, tx).")

    def pack(self, params: Params) -> tuple[PyTree, SparsifyState]:
        """Values and state before the first step."""
        masked, flat = self.masked, Flat(params, self.plan)
        starts = initial_masks.chosen(flat, self.rule, masked.seed, masked.initial, masked.masks)
        first = list(map(masks.first_masks, starts))
        places, values = self._placed(flat, first)
        inner_state = self.inner.init(values)
        if self.rule.when is not None and flat.plans:
            shapes = [jax.ShapeDtypeStruct(p.marks.shape, jnp.bool) for p in places]
            cold_start.check_slots(self.inner, inner_state, flat.tree(shapes))
            check_moving(self.inner, inner_state, values, flat)
        state = initial_state(
            flat,
            self.rule.when,
            masked.seed,
            first,
            shares=self.plan(params).shares,
            decays=cold_start.decays(self.inner, params, self.rule, flat),
            variables=flat.map(lambda p: optax.MaskedNode()),
            inner_state=inner_state,
        )
        return self._divided(flat, values, state._replace(masks=flat.tree(places)))

    def packed(self, params: Params, state: SparsifyState) -> tuple[PyTree, SparsifyState]:
        """Values and state, from those of the masked form at the same step."""
        flat = Flat(params, self.plan)
        places, values = self._placed(flat, flat.of(state.masks))
        for path, place, mask in zip(flat.sparse_paths, places, flat.of(state.masks), strict=True):
            lost = masks.active(mask) & ~masks.active(place.mask_bytes())
            if not isinstance(lost, jax.core.Tracer) and lost.any():
                raise ValueError(
                    f"{path}: {int(lost.sum())} active weights do not fit into the slots that the "
                    "schedule and the structure of the method have. Give the method of the masks."
                )
        at = flat.tree(places)
        inner_state = cold_start.at_slots(
            self.inner, state.inner_state, at, lambda slot, place: place.gather(slot)
        )
        return self._divided(flat, values, state._replace(masks=at, inner_state=inner_state))

    def masked_state(self, state: SparsifyState) -> SparsifyState:
        """The state of the masked form at the same step."""

        def at(place: Any) -> Any:
            return Move(place, place) if is_places(place) else place

        inner_state = cold_start.at_slots(
            self.inner,
            state.inner_state,
            jax.tree.map(at, state.masks, is_leaf=is_places),
            lambda slot, move: move.old.scatter(slot),
        )
        return as_masked(state)._replace(inner_state=inner_state)

    def _placed(self, flat: Flat, mask_bytes: Sequence[Array]) -> tuple[list[Places], PyTree]:
        """Where active weights stand, and the values."""
        for path, leaf in zip(flat.sparse_paths, flat.sparse, strict=True):
            _check_leaf(path, leaf)
        places = [places_of(m, _slots(p)) for m, p in zip(mask_bytes, flat.plans, strict=True)]
        values = flat.rebuild(
            flat.leaves,
            [p.gather(jnp.asarray(x)) for p, x in zip(places, flat.sparse, strict=True)],
        )
        check_entries(self.inner, values, flat)
        return places, values

    def _divided(
        self, flat: Flat, values: PyTree, state: SparsifyState
    ) -> tuple[PyTree, SparsifyState]:
        """Values and state with what is packed divided among the devices that divide the leaves."""

        def whole(leaf: Any) -> bool:
            traced = isinstance(leaf, jax.core.Tracer)
            return traced or not isinstance(getattr(leaf, "sharding", None), NamedSharding)

        if all(whole(x) or x.sharding.is_fully_replicated for x in flat.sparse):
            return values, state
        places = flat.of(state.masks)
        at = [
            p if whole(x) else jax.tree.map(initial_masks.put, p, division(p, x.sharding))
            for p, x in zip(places, flat.sparse, strict=True)
        ]

        def like(slot: Array, place: Places) -> Array:
            return initial_masks.put(slot, place.marks.sharding)

        moved = [Move(p, p) for p in at]
        inner_state = cold_start.at_slots(
            self.inner, state.inner_state, flat.tree(moved), lambda slot, move: like(slot, move.new)
        )
        values = flat.rebuild(flat.leaves, list(map(like, flat.of(values), at)))
        return values, state._replace(masks=flat.tree(at), inner_state=inner_state)

    def update(
        self,
        grads: PyTree,
        state: SparsifyState,
        values: PyTree,
        topology: bool | Array | None,
        extra: dict[str, Any],
    ) -> tuple[PyTree, SparsifyState]:
        """A step between topology steps."""
        fired = self.rule.when is not None and schedule_lookup.fired(topology, state)
        if fired is not False:
            raise ValueError(
                "topology: expected False, got "
                f"{topology!r:.40}. In the packed form topology steps are tx.retopologise(grads, "
                "opt_state, values), with gradients of the unpacked parameters; tx.fires(count) "
                "says when."
            )
        flat = _PackedFlat(values, state.masks, self.plan)
        step = Step(self.inner, self.rule, flat, values, flat.gradients(grads), extra, self.scale)
        marked = state._replace(masks=flat.tree([p.marks for p in flat.of(state.masks)]))
        updates, after = take(step, marked, unchanged(step, marked), False)
        return updates, after._replace(masks=state.masks)

    def retopologise(
        self, grads: PyTree, state: SparsifyState, values: PyTree, extra: dict[str, Any]
    ) -> tuple[PyTree, SparsifyState]:
        """A topology step: the values after it, and the state; one leaf at a time is dense."""
        flat = _PackedFlat(values, state.masks, self.plan)
        dense = _gradients(flat, grads)
        old: list[Places] = flat.of(state.masks)
        in_order, changed = _Sequential(), []
        for i, inputs in enumerate(zip(old, flat.sparse, flat.pick(dense), strict=True)):
            changed.append(in_order(inputs[0], partial(self._changed, flat, state, i), *inputs[1:]))
        new = [x.places for x in changed]
        moves = [Move(a, b) for a, b in zip(old, new, strict=True)]
        inner_state = cold_start.at_slots(
            self.inner,
            state.inner_state,
            flat.tree(moves),
            lambda slot, move: in_order(move.old, move.again, slot),
        )
        values = flat.rebuild(flat.leaves, [x.values for x in changed])
        places = flat.tree(new)
        flat = _PackedFlat(values, places, self.plan)
        chosen = flat.rebuild(dense, [x.grads for x in changed])
        step = Step(self.inner, self.rule, flat, values, flat.gradients(chosen), extra, self.scale)
        logs = [x.decided.topology for x in changed]
        parts = {name: flat.tree([getattr(x, name) for x in logs]) for name in _OF_LEAVES}
        decided = Decision(
            masks=flat.tree([p.marks for p in new]),
            active=flat.tree([x.decided.active for x in changed]),
            topology=logs[0]._replace(**parts) if logs else state.topology,
            fresh=[x for each in changed for x in each.decided.fresh],
        )
        marked = state._replace(
            masks=flat.tree([x.marks for x in changed]), inner_state=inner_state
        )
        updates, after = take(step, marked, decided, True)
        return optax.apply_updates(values, updates), after._replace(masks=places)

    def _changed(
        self, flat: Flat, state: SparsifyState, i: int, old: Places, values: Array, grad: Array
    ) -> _Changed:
        """A leaf after the topology step, all of it packed."""
        weight = old.scatter(values)
        one = flat.only(i, weight)
        log = {name: flat.of(getattr(state.topology, name))[i] for name in _OF_LEAVES}
        counts = flat.of(state.hyper.counts)[i]
        before = state._replace(
            masks=old.mask_bytes(),
            active=flat.of(state.active)[i],
            hyper=state.hyper._replace(counts=counts),
            topology=state.topology._replace(**log),
            variables=optax.MaskedNode(),
        )
        step = Step(self.inner, self.rule, one, weight, [grad], {}, None)
        decided = decide(step, before, unchanged(step, before))
        new = places_of(decided.masks, old.slots)
        return _Changed(
            places=new,
            marks=new.gather(old.scatter(old.marks)),
            values=new.gather(weight),
            grads=new.gather(grad),
            decided=decided._replace(masks=(), fresh=[new.gather(x) for x in decided.fresh]),
        )


class _Changed(NamedTuple):
    """A leaf after a topology step.

    Attributes:
      places: of its weights.
      marks: those of its slots before the step.
      values, grads: of its weights.
      decided: for it alone, without masks.
    """

    places: Places
    marks: Array
    values: Array
    grads: Array
    decided: Decision


class _Sequential:
    """Calls functions of places so that the compiled program ends one before it begins the next:
    what they need in between is in memory for one of them at a time.

    The compiler keeps an order only where data flow. So a zero that it cannot foresee goes from
    the result of each call into the places of the next.
    """

    def __init__(self) -> None:
        self.zero = jnp.int32(0)

    def __call__(self, places: Places, function: Callable[..., Any], *arguments: Any) -> Any:
        result = function(replace(places, index=places.index + self.zero), *arguments)
        for x in jax.tree.leaves(result):
            if x.size and jnp.issubdtype(x.dtype, jnp.number):
                nan = (x.reshape(-1)[0] != x.reshape(-1)[0]).astype(jnp.int32)
                self.zero = self.zero + jnp.minimum(nan, 0)
        return result


def _gradients(flat: Flat, grads: PyTree) -> list[Array]:
    """All leaves of the gradients of unpacked parameters."""
    leaves = flat.leaves_of(grads)
    shapes = dict(zip(flat.sparse_paths, (p.leaf.shape for p in flat.plans), strict=True))
    for path, leaf, grad in zip(flat.paths, flat.leaves, leaves, strict=True):
        shape = shapes.get(path, jnp.shape(leaf))
        if grad is None or jnp.shape(grad) != shape:
            found = "None" if grad is None else f"shape {jnp.shape(grad)}"
            raise ValueError(
                f"{path}: expected a gradient of shape {shape}, got {found}. Differentiate with "
                "respect to the parameters of dst.unpack(values, opt_state)."
            )
    return leaves


def _slots(plan: LeafPlan) -> Slots:
    """As many slots as the schedule ever gives a leaf active weights."""
    counts = plan.initial[None], plan.counts[:, 1]
    structure, leaf = plan.structure, plan.leaf
    if isinstance(structure, BalancedBlock) and "".join(leaf.letters).strip("i").strip("o") == "":
        matrix = (*leaf.shape[: leaf.stacked], *leaf.merged_shape)
        return Slots(max(int(n.max()) for n in counts), (structure.h, structure.w), matrix)
    units = max(int(n.reshape(len(n), -1).sum(axis=1).max()) for n in counts)
    # In parts that a mesh of devices can divide, whatever the mesh: a power of two, so few that the
    # spare slots do not count.
    part = 1 << max((leaf.size // _PART).bit_length() - 1, 0)
    return Slots(-(-units * plan.layout.weights_per_count // part) * part)


def _check_leaf(path: str, leaf: Any) -> None:
    """Raises for a leaf whose places 32 bits cannot hold."""
    if leaf.size > checks.LARGEST // 2:
        raise ValueError(
            f'{path}: form="packed" is for leaves of at most {checks.LARGEST // 2} weights, got '
            f'{leaf.size}. Split it, or use form="masked".'
        )


def _refusal(what: str) -> str:
    return f'form="packed" is not for {what}: no bound of the slots is known. Use form="masked".'
