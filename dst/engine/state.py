"""State of a sparse transformation, and the flat view of trees that goes with it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dst.core import tree
from dst.core.reductions import totals
from dst.core.typing import Array
from dst.engine.plan import LeafPlan, Plan
from dst.rules.schedule import Cadence

# One byte per sparse weight.
ACTIVE = np.uint8(1)
EXPLORED = np.uint8(2)
AGE_SHIFT = np.uint8(2)
OLD = np.uint8(63)  # ages are six bits; at this age a weight counts as old as the network


class Hyper(NamedTuple):
    """What a sweep may batch; ``update`` reads it here, never from a closure.

    Attributes:
      seed: uint32.
      first, every, last: int32; the cadence. No topology step where ``last < first``.
      counts: int32 ``[topology step, (kept, active), *stacked]`` per sparse leaf.
      shares: uint32 ``[topology step]``: drop fractions in units of 2^-31; one where all are equal.
      decays: float32 ``(b1, b2)`` of Adam-like inner rules, where young weights are corrected.
    """

    seed: Array
    first: Array
    every: Array
    last: Array
    counts: Any
    shares: Array
    decays: Any


class TopologyLog(NamedTuple):
    """What topology steps have done.

    Attributes:
      done: int32 number of topology steps.
      at: int32 count at which the last one was.
      spacing: int32 updates between the last two.
      scheduled: int32 active weights per sparse leaf (and stacked slice) that the schedule gave
        at the last topology step, or at the start.
      dropped, grown: int32 per sparse leaf (and stacked slice), at the last topology step.
      unscored: int32 per sparse leaf: NaN scores at the last topology step.
    """

    done: Array
    at: Array
    spacing: Array
    scheduled: Any
    dropped: Any
    grown: Any
    unscored: Any


class SparsifyState(NamedTuple):
    """State of :func:`sparsify`. Trees have the shape of the parameters, and
    ``optax.MaskedNode`` where a leaf is dense.

    Attributes:
      count: int32 updates done.
      masks: uint8 per sparse weight: bit 0 active, bit 1 explored, bits 2 to 7 the age in
        topology steps, 63 at most.
      active: int32 active weights per sparse leaf (and stacked slice).
      hyper: what a sweep may batch.
      topology: what topology steps have done.
      memory: what the rule remembers, per sparse leaf; ``MaskedNode`` where it remembers nothing.
      inner_state: of the wrapped optimizer.
    """

    count: Array  # type: ignore[assignment]  # as in Optax's states
    masks: Any
    active: Any
    hyper: Hyper
    topology: TopologyLog
    memory: Any
    inner_state: Any


class Flat:
    """The sparse leaves of a parameter tree as lists, and the way back to trees."""

    def __init__(self, params: Any, plan: Plan):
        self.paths, self.leaves, self.treedef = tree.flatten(params)
        self.at = [i for i, path in enumerate(self.paths) if path in plan.sparse]
        self.plans: list[LeafPlan] = [plan.sparse[self.paths[i]] for i in self.at]
        self.sparse = [self.leaves[i] for i in self.at]
        self.sparse_paths = tuple(p.leaf.path for p in self.plans)

    def of(self, nodes: Any) -> list[Any]:
        """The sparse leaves of a tree like the parameters."""
        try:
            flat = self.treedef.flatten_up_to(nodes)
        except ValueError as error:
            raise ValueError(
                "the sparse state does not fit the parameters: it was made for another tree. "
                f"Use the opt_state of tx.init(params). {error}"
            ) from error
        return [flat[i] for i in self.at]

    def masks(self, nodes: Any) -> list[Any]:
        """The sparse leaves of a mask tree, checked against the parameters."""
        found = self.of(nodes)
        for plan, mask in zip(self.plans, found, strict=True):
            shape = getattr(mask, "shape", None)
            if shape != plan.leaf.shape:
                kind = "is dense" if shape is None else f"has shape {shape}"
                raise ValueError(
                    f"masks do not fit the parameters: {plan.leaf.path} has shape "
                    f"{plan.leaf.shape}, its mask {kind}. Use the opt_state of tx.init(params)."
                )
        return found

    def tree(self, values: Sequence[Any]) -> Any:
        """A tree like the parameters: values at sparse leaves, ``MaskedNode`` at dense ones."""
        nodes: list[Any] = [optax.MaskedNode()] * len(self.paths)
        for i, value in zip(self.at, values, strict=True):
            nodes[i] = value
        return self.treedef.unflatten(nodes)

    def map(self, function: Callable[[LeafPlan], Any]) -> Any:
        """A tree like the parameters from a function of each sparse leaf's plan."""
        return self.tree([function(p) for p in self.plans])

    def zip(self, function: Callable[..., Any], *columns: Sequence[Any]) -> Any:
        """A tree like the parameters from lists with one entry per sparse leaf."""
        return self.tree([function(*row) for row in zip(*columns, strict=True)])

    def replace(self, nodes: Any, values: Sequence[Any]) -> Any:
        """A tree like the parameters with its sparse leaves replaced."""
        flat = self.treedef.flatten_up_to(nodes)
        for i, value in zip(self.at, values, strict=True):
            flat[i] = value
        return self.treedef.unflatten(flat)


def active(mask: Array) -> Array:
    """bool: which weights a mask byte says are active."""
    return (mask & ACTIVE) != 0


def explored(mask: Array) -> Array:
    """bool: which weights were ever active."""
    return (mask & EXPLORED) != 0


def age(mask: Array) -> Array:
    """uint8: topology steps since a weight was grown; 63 and more read 63."""
    return mask >> AGE_SHIFT


def first_masks(chosen: Array) -> Array:
    """Mask bytes of the connections that a run starts with."""
    return chosen.astype(jnp.uint8) * (ACTIVE | EXPLORED) | np.uint8(OLD << AGE_SHIFT)


def next_masks(mask: Array, chosen: Array, fresh: Array) -> Array:
    """Mask bytes after a topology step: ``chosen`` are active, ``fresh`` have just been grown."""
    older = jnp.minimum(age(mask) + np.uint8(1), OLD)
    years = jnp.where(fresh, np.uint8(0), older)
    now = chosen.astype(jnp.uint8)
    return now | (mask & EXPLORED) | (now * EXPLORED) | (years << AGE_SHIFT)


def count_active(plan: LeafPlan, chosen: Array) -> Array:
    """int32 active weights per stacked slice."""
    axes = tuple(range(len(plan.layout.counts), chosen.ndim))
    return totals([chosen], axes)[0]


def keys(paths: Sequence[str], seed: Array, draw: Array | int) -> list[Array]:
    """One key per leaf; independent of devices, of other leaves and of the default PRNG."""
    key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), draw)
    return [jax.random.fold_in(key, zlib.crc32(path.encode())) for path in paths]


def begin(
    flat: Flat,
    cadence: Cadence | None,
    seed: int | Array,
    masks: Sequence[Array],
    *,
    memory: Any,
    inner_state: Any,
    shares: np.ndarray | None = None,
    decays: Any = None,
) -> SparsifyState:
    """The state before the first step.

    Args:
      flat: the parameters and their plans.
      cadence: of topology steps; None: there are none.
      seed: of random choices.
      masks: mask bytes of every sparse leaf, placed as their parameters are.
      memory, inner_state: as in :class:`SparsifyState`.
      shares, decays: as in :class:`Hyper`; None: none are needed.
    """
    when = (1, 1, 0) if cadence is None else (cadence.first, cadence.every, cadence.last)
    first, every, last = (jnp.asarray(n, jnp.int32) for n in when)

    def count() -> Any:
        return flat.zip(count_active, flat.plans, [active(m) for m in masks])

    def zeros() -> Any:  # buffers of their own: a donated state must not hold one twice
        return flat.map(lambda p: jnp.zeros(p.layout.counts, jnp.int32))

    return SparsifyState(
        count=jnp.zeros([], jnp.int32),
        masks=flat.tree(masks),
        active=count(),
        hyper=Hyper(
            seed=jnp.asarray(seed, jnp.uint32),
            first=first,
            every=every,
            last=last,
            # `asarray` would leave it off the mesh, and the step would be compiled twice.
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
        memory=memory,
        inner_state=inner_state,
    )


def find(opt_state: Any) -> list[SparsifyState]:
    """All sparse states in an optimizer state, however deep.

    Raises:
      ValueError: there is none.
    """
    found = list(_walk(opt_state))
    if not found:
        raise ValueError(
            "no sparse state in this optimizer state: was the optimizer wrapped by dst.sparsify, "
            "and is this what tx.init(params) returned?"
        )
    return found


def _walk(opt_state: Any) -> Iterator[SparsifyState]:
    def sparse(node: Any) -> bool:
        return isinstance(node, SparsifyState)

    for node in jax.tree.leaves(opt_state, is_leaf=sparse):
        if sparse(node):
            yield node
            yield from _walk(node.inner_state)


def by_path(nodes: Any) -> dict[str, Any]:
    """The sparse leaves of a tree like the parameters, by leaf path."""
    paths, leaves, _ = tree.flatten(nodes)
    return dict(zip(paths, leaves, strict=True))


def mask_bytes(opt_state: Any) -> dict[str, Any]:
    """Mask bytes of every sparse leaf, of all sparse states, by leaf path."""
    return {path: m for state in find(opt_state) for path, m in by_path(state.masks).items()}
