"""Where in its schedule a run is, from the counts in its state: traced integers only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dst.core.typing import Array
from dst.engine.state import Hyper, SparsifyState
from dst.rules.schedule import FOREVER


def fires(count: Array, hyper: Hyper) -> Array:
    """bool: whether the update after ``count`` updates is a topology step."""
    on_grid = (count - hyper.first) % hyper.every == 0
    return (count >= hyper.first) & (count <= hyper.last) & (on_grid | (count == hyper.last))


def branch(
    topology: bool | Array | None,
    state: SparsifyState,
    changing: Callable[[], Any],
    plain: Callable[[], Any],
) -> Any:
    """The result of ``changing`` at topology steps, of ``plain`` between them.

    Args:
      topology: a Python bool decides while tracing, an array under ``lax.cond``; None asks the
        schedule in the state.
      state: before the step.
      changing, plain: give results of the same types.
    """
    if topology is None:
        topology = fires(state.count, state.hyper)
    if isinstance(topology, (bool, np.bool_)):
        return changing() if topology else plain()
    return lax.cond(topology, changing, plain)


def row(table: Array, count: Array, hyper: Hyper) -> Array:
    """The entry of the last topology step that was scheduled until now."""
    rows = table.shape[0]
    index = jnp.clip((count - hyper.first) // hyper.every, 0, rows - 1)
    index = jnp.where(count >= hyper.last, rows - 1, index)
    return lax.dynamic_index_in_dim(table, index, keepdims=False)


def longer(hyper: Hyper, rows: int) -> Hyper:
    """The same schedule in tables of at least so many rows: the last one, again and again."""

    def padded(table: Array) -> Array:
        more = max(rows - len(table), 0)
        return jnp.concatenate([table, jnp.repeat(table[-1:], more, axis=0)])

    return hyper._replace(counts=jax.tree.map(padded, hyper.counts), shares=padded(hyper.shares))


def steps_left(count: Array, hyper: Hyper) -> Array:
    """int32 updates until the next topology step, 0 at one; 2^31 - 1 after the last."""
    ahead = (hyper.first - count) % hyper.every
    next_ = jnp.where(count < hyper.first, hyper.first, count + ahead)
    next_ = jnp.where(count <= hyper.last, jnp.minimum(next_, hyper.last), FOREVER)
    return jnp.where(next_ == FOREVER, FOREVER, next_ - count)
