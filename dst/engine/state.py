"""The state of a sparse transformation, and how to get it out of an optimizer state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dst.core import tree
from dst.core.typing import Array, ArrayLike, OptState, PyTree
from dst.engine import places
from dst.engine.flat import Flat
from dst.engine.masks import active, count_active
from dst.engine.places import is_places
from dst.rules.schedule import UpdateSchedule


class Hyper(NamedTuple):
    """Numbers that differ between batched trials; ``update`` reads them here.

    Attributes:
      seed: uint32.
      first, every, last: int32; the update schedule. No topology step where ``last < first``.
      counts: int32 ``[topology step, (kept, active), *stacked]`` per sparse leaf.
      shares: uint32 ``[topology step]``: drop fractions in units of 2^-31; one where all are equal.
      decays: float32 ``(b1, b2)`` of Adam-like inner rules, where recently grown weights are
        corrected.
    """

    seed: Array
    first: Array
    every: Array
    last: Array
    counts: PyTree
    shares: Array
    decays: PyTree


class TopologyLog(NamedTuple):
    """What topology steps have done.

    Attributes:
      done: int32 number of topology steps.
      at: int32 count at which the last one was.
      spacing: int32 updates between the last two.
      scheduled: int32 active weights per sparse leaf (and stacked slice), as scheduled for the
        last topology step, or for the start.
      dropped, grown: int32 per sparse leaf (and stacked slice), at the last topology step.
      unscored: int32 per sparse leaf: NaN scores at the last topology step.
    """

    done: Array
    at: Array
    spacing: Array
    scheduled: PyTree
    dropped: PyTree
    grown: PyTree
    unscored: PyTree


class SparsifyState(NamedTuple):
    """State of :func:`sparsify`. Trees have the shape of the parameters, and
    ``optax.MaskedNode`` where a leaf is dense.

    Attributes:
      count: int32 updates done.
      masks: uint8 per sparse weight: bit 0 active, bit 1 explored, bits 2 to 7 the age in
        topology steps, 63 at most. In the packed form :class:`dst.engine.places.Places`.
      active: int32 active weights per sparse leaf (and stacked slice).
      hyper: numbers that differ between batched trials.
      topology: what topology steps have done.
      variables: what the method keeps per sparse leaf beside the mask: accumulated gradients,
        latent weights; ``MaskedNode`` where it keeps nothing.
      inner_state: of the wrapped optimizer.
    """

    count: Array  # type: ignore[assignment]  # as in Optax's states
    masks: PyTree
    active: PyTree
    hyper: Hyper
    topology: TopologyLog
    variables: PyTree
    inner_state: OptState


def initial_state(
    flat: Flat,
    when: UpdateSchedule | None,
    seed: int | Array,
    mask_bytes: Sequence[Array],
    *,
    variables: PyTree,
    inner_state: OptState,
    shares: np.ndarray | None = None,
    decays: PyTree | None = None,
) -> SparsifyState:
    """The state before the first step.

    Args:
      flat: the parameters and their plans.
      when: topology steps; None: there are none.
      seed: of random choices.
      mask_bytes: of every sparse leaf, placed as their parameters are.
      variables, inner_state: as in :class:`SparsifyState`.
      shares, decays: as in :class:`Hyper`; None: none are needed.
    """
    steps = (1, 1, 0) if when is None else (when.first, when.every, when.last)
    first, every, last = (jnp.asarray(n, jnp.int32) for n in steps)

    def count() -> PyTree:
        return flat.zip(count_active, flat.plans, [active(m) for m in mask_bytes])

    def zeros() -> PyTree:  # new buffers: a donated state must not contain one twice
        return flat.map(lambda p: jnp.zeros(p.layout.counts, jnp.int32))

    return SparsifyState(
        count=jnp.zeros([], jnp.int32),
        masks=flat.tree(mask_bytes),
        active=count(),
        hyper=Hyper(
            seed=jnp.asarray(seed, jnp.uint32),
            first=first,
            every=every,
            last=last,
            # `asarray` would not place it on the mesh, and the step would compile twice.
            counts=flat.map(lambda p: jnp.array(p.counts, jnp.int32)),
            shares=jnp.array(np.zeros(1, np.uint32) if shares is None else shares),
            decays=flat.map(lambda p: optax.MaskedNode()) if decays is None else decays,
        ),
        topology=TopologyLog(
            done=jnp.zeros([], jnp.int32),
            at=jnp.zeros([], jnp.int32),
            spacing=jnp.zeros([], jnp.int32),
            scheduled=count(),
            dropped=zeros(),
            grown=zeros(),
            unscored=flat.map(lambda p: jnp.zeros([], jnp.int32)),
        ),
        variables=variables,
        inner_state=inner_state,
    )


def sparse_states(opt_state: OptState) -> list[SparsifyState]:
    """All sparse states in an optimizer state, at any depth, in the masked form.

    Raises:
      ValueError: there is none.
    """
    return list(map(as_masked, raw_states(opt_state)))


def raw_states(opt_state: OptState) -> list[SparsifyState]:
    """:func:`sparse_states`, each in its form."""
    states = list(_walk(opt_state))
    if not states:
        raise ValueError(
            "no sparse state in this optimizer state: was the optimizer wrapped by dst.sparsify, "
            "and is this what tx.init(params) returned?"
        )
    return states


def as_masked(state: SparsifyState) -> SparsifyState:
    """With masks of the shapes of the leaves; the inner state stays packed."""

    def bytes_of(node: Any) -> Any:
        return node.mask_bytes() if is_places(node) else node

    return state._replace(masks=jax.tree.map(bytes_of, state.masks, is_leaf=is_places))


def _walk(opt_state: OptState) -> Iterator[SparsifyState]:
    def sparse(node: Any) -> bool:
        return isinstance(node, SparsifyState)

    for node in jax.tree.leaves(opt_state, is_leaf=sparse):
        if sparse(node):
            yield SparsifyState(*map(tree.value_of, node))  # of dst.nnx.Optimizer: in variables
            yield from _walk(node.inner_state)


def by_path(nodes: PyTree) -> dict[str, Any]:
    """The sparse leaves of a tree like the parameters, by leaf path."""
    paths, leaves, _ = tree.flatten(nodes)
    return dict(zip(paths, leaves, strict=True))


def is_packed(opt_state: OptState) -> bool:
    """Whether a state of :func:`sparsify` belongs to packed values."""
    nodes = (jax.tree.leaves(s.masks, is_leaf=is_places) for s in raw_states(opt_state))
    return any(is_places(node) for masks in nodes for node in masks)


def places_by_path(opt_state: OptState) -> dict[str, tuple[Array, tuple[int, ...]]]:
    """The index of every packed leaf and its shape with zeros, by leaf path."""
    return {
        path: (place.index, place.shape)
        for state in raw_states(opt_state)
        for path, place in places.by_path(state.masks).items()
    }


def masks_by_path(opt_state: OptState) -> dict[str, ArrayLike]:
    """Mask bytes of every sparse leaf, of all sparse states, by leaf path."""
    return {
        path: m for state in sparse_states(opt_state) for path, m in by_path(state.masks).items()
    }
