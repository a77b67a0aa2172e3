"""Where a run is in its schedule. All inputs are traced integers of its state."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dst.core.text import shown
from dst.core.typing import Array
from dst.engine.state import Hyper, SparsifyState
from dst.rules.schedule import FOREVER

T = TypeVar("T")


def fires(count: Array, hyper: Hyper) -> Array:
    """bool scalar: whether the update after ``count`` updates is a topology step."""
    on_grid = (count - hyper.first) % hyper.every == 0
    return (count >= hyper.first) & (count <= hyper.last) & (on_grid | (count == hyper.last))


def fired(topology: bool | Array | None, state: SparsifyState) -> bool | Array:
    """Whether a step is a topology step: a Python bool where that is known while tracing.

    Args:
      topology: as in :func:`dst.sparsify`; None asks the schedule in the state.
      state: before the step.
    """
    if topology is None:
        return fires(state.count, state.hyper)
    if isinstance(topology, (bool, np.bool_)):
        return bool(topology)
    if not (isinstance(topology, jax.Array) and topology.shape == ()):
        raise ValueError(
            f"topology must be None, True, False or a bool scalar, got {shown(topology)}."
        )
    return topology


def branch(fired: bool | Array, changing: Callable[[], T], plain: Callable[[], T]) -> T:
    """The result of ``changing`` at topology steps, of ``plain`` between them.

    Args:
      fired: a Python bool decides while tracing, an array under ``lax.cond``.
      changing, plain: functions whose results have the same types.
    """
    if isinstance(fired, bool):
        return changing() if fired else plain()
    return lax.cond(fired, changing, plain)


def perhaps(fired: bool | Array, change: Callable[[T], T], value: T) -> T:
    """``change(value)`` at topology steps, the value between them.

    A loop of one round or none. Under ``vmap`` over schedules a conditional would do both at every
    step; the loop does nothing unless some trial is at a topology step.

    Args:
      fired: a Python bool decides while tracing.
      change: gives what it gets in the same types.
      value: before the step.
    """
    if isinstance(fired, bool):
        return change(value) if fired else value
    start = jnp.asarray(fired), value
    return lax.while_loop(lambda x: x[0], lambda x: (jnp.zeros_like(x[0]), change(x[1])), start)[1]


def row(table: Array, count: Array, hyper: Hyper) -> Array:
    """The row of a table for the latest topology step; the first row before there was one."""
    rows = table.shape[0]
    index = jnp.clip((count - hyper.first) // hyper.every, 0, rows - 1)
    index = jnp.where(count >= hyper.last, rows - 1, index)
    return lax.dynamic_index_in_dim(table, index, keepdims=False)


def longer(hyper: Hyper, rows: int) -> Hyper:
    """The same schedule in tables of at least ``rows`` rows: the last row is repeated."""

    def padded(table: Array) -> Array:
        more = max(rows - len(table), 0)
        return jnp.concatenate([table, jnp.repeat(table[-1:], more, axis=0)])

    return hyper._replace(counts=jax.tree.map(padded, hyper.counts), shares=padded(hyper.shares))


def steps_left(count: Array, hyper: Hyper) -> Array:
    """int32 updates until the next topology step: 0 at one, 2^31 - 1 after the last."""
    ahead = (hyper.first - count) % hyper.every
    next_ = jnp.where(count < hyper.first, hyper.first, count + ahead)
    next_ = jnp.where(count <= hyper.last, jnp.minimum(next_, hyper.last), FOREVER)
    return jnp.where(next_ == FOREVER, FOREVER, next_ - count)
