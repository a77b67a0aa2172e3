"""The packed form: only active weights, their moments and their places are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dst.core.tree import flatten
from dst.core.typing import Array, ArrayLike, OptState, Params, PyTree
from dst.engine import cold_start, initial_masks, masks
from dst.engine.decisions import Decision, Step, decide, unchanged
from dst.engine.flat import Flat
from dst.engine.frozen import check_moving
from dst.engine.hard import HardMasks, take
from dst.engine.places import Move, Places, is_places, places_of
from dst.engine.plan import LeafPlan, Planner
from dst.engine.state import SparsifyState, initial_state, raw_states
from dst.engine.transformation import SparseTransformation
from dst.rules.allocation import Global, allocator
from dst.rules.rule import Rule

_SIDE, _TOLERANCE = 128, 1e-4  # of the array on which an optimizer is tried; Adafactor's limit


def pack(params: Params, tx: SparseTransformation) -> tuple[PyTree, OptState]:
    """Values and state to begin a run in the packed form.

    Args:
      params: the parameters of the dense network.
      tx: ``dst.sparsify(inner, method, form="packed")``.

    Returns:
      A tree like ``params`` with an array ``[capacity]`` for every sparse leaf: its active weights
      in the order of their places, then zeros in spare slots. The capacity is the largest number of
      active weights of the schedule. And the state of ``tx``.

    Raises:
      ValueError: another form; an optimizer that looks at more than single entries of a leaf; as
        ``tx.init`` of the masked form.

    Example:
      >>> import dst, optax, jax.numpy as jnp
      >>> tx = dst.sparsify(optax.adam(1e-3), dst.Static(sparsity=0.75), form="packed")
      >>> values, opt_state = dst.pack({"w": jnp.ones((8, 8)), "b": jnp.zeros(8)}, tx)
      >>> values["w"].shape, dst.unpack(values, opt_state)["w"].shape
      ((16,), (8, 8))
    """
    if tx.packed is None:
        raise ValueError(
            'pack: expected dst.sparsify(inner, method, form="packed"), got the masked form: its '
            "state comes from tx.init(params)."
        )
    return tx.packed.pack(params)


def unpack(values: PyTree, opt_state: OptState) -> Params:
    """The parameters with their zeros, from packed values; differentiable in the values.

    Args:
      values: of :func:`pack`, or of the steps after it.
      opt_state: the state at the same step; its places are what is read.

    Raises:
      ValueError: a state without packed leaves, or of other values.
    """
    _, flat, treedef = flatten(values)
    for state in raw_states(opt_state):
        places = treedef.flatten_up_to(state.masks)
        if any(map(is_places, places)):
            return treedef.unflatten(
                [_dense(p, v) if is_places(p) else v for p, v in zip(places, flat, strict=True)]
            )
    raise ValueError("unpack: expected the state of dst.pack, found no packed leaf in it.")


def _dense(places: Places, values: Array) -> Array:
    if values.shape != places.index.shape:
        raise ValueError(
            f"unpack: expected values of shape {places.index.shape}, got {values.shape}. Give the "
            "state of the same step."
        )
    return places.scatter(values)


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

    def masks(self, nodes: PyTree) -> list[Array]:
        """The bytes of the slots."""
        return self.of(nodes)


class PackedMasks:
    """How a :class:`dst.Rule` runs on packed values, as an
    :class:`dst.engine.sparsify.Implementation`.

    Between topology steps it is the masked form on arrays in a row. A topology step unpacks, and
    decides as the masked form does.

    Args:
      inner, rule, seed, options, initial: as for :class:`dst.engine.hard.HardMasks`.
    """

    selects_every_step = False

    def __init__(
        self,
        inner: optax.GradientTransformationExtraArgs,
        rule: Rule,
        seed: int | Array,
        options: Mapping[str, Any],
        initial: str | Mapping[str, ArrayLike] | None,
    ):
        if rule.which.accumulator is not None:
            raise ValueError(_refusal("a method that accumulates gradients of inactive weights"))
        allocations = rule.how_many.allocation, rule.start.allocation or "uniform"
        if rule.how_many.counts is not None or any(
            isinstance(allocator(x), Global) for x in allocations
        ):
            raise ValueError(_refusal("layers whose numbers of weights follow from the weights"))
        self.masked = HardMasks(inner, rule, seed, options, initial)
        self.inner, self.rule, self.plan = inner, rule, self.masked.plan
        self.update_weights = rule.reset.update_weights

    def init(self, params: Params) -> SparsifyState:
        """There is none."""
        raise ValueError("the packed form begins with values, opt_state = dst.pack(params, tx).")

    def pack(self, params: Params) -> tuple[PyTree, SparsifyState]:
        """Values and state before the first step."""
        masked, flat = self.masked, Flat(params, self.plan)
        starts = initial_masks.chosen(flat, self.rule, masked.seed, masked.initial, masked.masks)
        first = list(map(masks.first_masks, starts))
        places = [places_of(m, _capacity(p)) for m, p in zip(first, flat.plans, strict=True)]
        values = flat.rebuild(
            flat.leaves,
            [p.gather(jnp.asarray(x)) for p, x in zip(places, flat.sparse, strict=True)],
        )
        _check_entries(self.inner, values, flat)
        inner_state = self.inner.init(values)
        if self.rule.when is not None and flat.plans:
            shapes = [jax.ShapeDtypeStruct(p.index.shape, jnp.bool) for p in places]
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
        return values, state._replace(masks=flat.tree(places))

    def update(
        self,
        grads: PyTree,
        state: SparsifyState,
        values: PyTree,
        topology: bool | Array | None,
        extra: dict[str, Any],
    ) -> tuple[PyTree, SparsifyState]:
        """A step between topology steps."""
        if (
            self.rule.when is not None
            and topology is not False
            and not (isinstance(topology, np.bool_) and not topology)
        ):
            raise ValueError(
                "topology: expected False, got "
                f"{topology!r:.40}. In the packed form topology steps are tx.retopologise(grads, "
                "opt_state, values), with gradients of the unpacked parameters; tx.fires(count) "
                "says when."
            )
        flat = _PackedFlat(values, state.masks, self.plan)
        step = Step(self.inner, self.rule, flat, values, flat.gradients(grads), extra, None)
        marked = state._replace(masks=flat.tree([p.marks for p in flat.of(state.masks)]))
        updates, after = take(step, marked, unchanged(step, marked), False)
        return updates, after._replace(masks=state.masks)

    def retopologise(
        self, grads: PyTree, state: SparsifyState, values: PyTree, extra: dict[str, Any]
    ) -> tuple[PyTree, SparsifyState]:
        """A topology step: the values after it, and the state."""
        flat = _PackedFlat(values, state.masks, self.plan)
        old: list[Places] = flat.of(state.masks)
        dense = flat.rebuild(
            flat.leaves, [p.scatter(x) for p, x in zip(old, flat.sparse, strict=True)]
        )
        whole = Flat(dense, self.plan)
        grads = whole.gradients(grads)
        step = Step(self.inner, self.rule, whole, dense, grads, extra, None)
        before = state._replace(masks=whole.tree([p.mask_bytes() for p in old]))
        decided = decide(step, before, unchanged(step, before))

        found = whole.masks(decided.masks)
        new = [places_of(m, len(p.index)) for m, p in zip(found, old, strict=True)]
        moves = [Move(a, b) for a, b in zip(old, new, strict=True)]
        values = flat.rebuild(
            flat.leaves, [move(x) for move, x in zip(moves, flat.sparse, strict=True)]
        )
        inner_state = cold_start.at_slots(
            self.inner, state.inner_state, flat.tree(moves), lambda slot, move: move(slot)
        )
        places = flat.tree(new)
        flat = _PackedFlat(values, places, self.plan)
        chosen = flat.rebuild(
            grads, [p.gather(g) for p, g in zip(new, flat.pick(grads), strict=True)]
        )
        marks = [move(m.marks) for move, m in zip(moves, old, strict=True)]
        step = Step(self.inner, self.rule, flat, values, flat.gradients(chosen), extra, None)
        here = Decision(
            masks=flat.tree([p.marks for p in new]),
            active=decided.active,
            topology=decided.topology,
            fresh=[p.gather(x) for p, x in zip(new, decided.fresh, strict=False)],
        )
        there = state._replace(masks=flat.tree(marks), inner_state=inner_state)
        updates, after = take(step, there, here, True)
        return optax.apply_updates(values, updates), after._replace(masks=places)


def _capacity(plan: LeafPlan) -> int:
    """The most active weights that the schedule ever gives a leaf."""
    units = max(int(plan.initial.sum()), *(int(n.sum()) for n in plan.counts[:, 1]))
    return units * plan.layout.weights_per_count


def _refusal(what: str) -> str:
    return f'form="packed" is not for {what}: no bound of the slots is known. Use form="masked".'


def _check_entries(
    inner: optax.GradientTransformationExtraArgs, values: PyTree, flat: Flat
) -> None:
    """Raises where an optimizer looks at more than single entries of a leaf.

    It is tried on a sparse matrix for every sparse leaf, and on its weights in a row.
    """
    random = np.random.default_rng(0)
    mask = random.random((_SIDE, _SIDE)) < 0.2

    def tree(arrays: Sequence[np.ndarray], in_a_row: bool) -> PyTree:
        tiny = [np.ones((1,) * np.ndim(x), np.float32) for x in flat.leaves]
        shaped = [x[mask] if in_a_row else np.where(mask, x, 0) for x in arrays]
        return jax.tree.map(jnp.asarray, flat.rebuild(tiny, shaped))

    drawn = random.normal(size=(3, len(flat.plans), _SIDE, _SIDE)).astype(np.float32)

    @partial(jax.jit, static_argnums=0)
    def updates(in_a_row: bool) -> list[Array]:
        params = tree(drawn[0], in_a_row)
        state, found = inner.init(params), None
        for grads in drawn[1:]:
            found, state = inner.update(tree(grads, in_a_row), state, params)
        return flat.of(found)

    with jax.ensure_compile_time_eval():
        try:
            matrices, rows = (jax.device_get(updates(x)) for x in (False, True))
        except Exception as error:
            raise ValueError(
                'form="packed": the inner optimizer could not be tried on weights in a row: '
                f'{type(error).__name__}: {error!s:.100}. Use form="masked".'
            ) from error
    for path, matrix, row in zip(flat.sparse_paths, matrices, rows, strict=True):
        difference = np.abs(matrix[mask] - row).max()
        if not difference <= _TOLERANCE * np.abs(row).max():
            raise ValueError(
                f'form="packed": the inner optimizer updates the weights of {path} otherwise when '
                "they stand in a row, so it looks at more than single entries. Use one that does "
                'not, such as Adam, or form="masked".'
            )
