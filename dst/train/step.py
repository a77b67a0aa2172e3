"""One optimizer update as one compiled function, and looks at its result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

import dst
from dst._typing import Array
from dst.train.devices import Placement
from dst.train.state import Network, TrainState, variables
from dst.train.task import Task

Metrics = dict[str, Array]


def make(
    network: Network,
    task: Task,
    tx: dst.SparseTransformation,
    learning_rate: Callable[[Any], Any],
    ema: float | None,
    placement: Placement,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """The training step.

    Args:
      network: see :func:`dst.train.state.modes`.
      task: what its outputs are judged by.
      tx: the sparse optimizer.
      learning_rate: that it uses, as a function of its updates, for the metrics.
      ema: decay of the moving average of the parameters; None: none.
      placement: where the state lies, before a step and after.

    Returns:
      ``step(state, inputs, labels, topology=bool) -> state, {figures of the task,
      learning_rate}``. Inputs and labels have two leading axes, micro-batch and example in it:
      gradients are averaged over both, then there is one update; what the network carries beside
      its weights passes from one micro-batch to the next. ``state`` is donated. ``topology`` is
      static: the step compiled for False contains no selection.
    """
    rule = tx.rule

    def loss(params: Any, carried: Any, inputs: Array, labels: Array) -> tuple[Array, Any]:
        model = network.merge(network.train, params, carried)
        scores = task.scores(model(inputs), labels)
        return scores["loss"], (scores, variables(model))

    def step(
        state: TrainState, inputs: Array, labels: Array, *, topology: bool
    ) -> tuple[TrainState, Metrics]:
        def micro_step(so_far: Any, batch: tuple[Array, Array]) -> tuple[Any, None]:
            total, carried = so_far
            grads, (scores, carried) = jax.grad(loss, has_aux=True)(state.params, carried, *batch)
            grads = placement.keep(grads)
            return (jax.tree.map(jnp.add, total, (grads, scores)), carried), None

        zero = (
            jax.tree.map(jnp.zeros_like, state.params),
            dict.fromkeys(task.figures, jnp.zeros(())),
        )
        (total, carried), _ = lax.scan(micro_step, (zero, state.variables), (inputs, labels))
        grads, metrics = jax.tree.map(lambda x: x / len(inputs), total)

        updates, opt_state = tx.update(grads, state.opt_state, state.params, topology=topology)
        params = optax.apply_updates(state.params, updates)
        average = None
        if ema is not None:
            average = optax.incremental_update(params, state.ema, 1 - ema)

        # Where topology steps take no optimizer step, the inner optimizer has counted fewer.
        skipped = 0 if rule.update_weights else state.opt_state.topology.done
        metrics["learning_rate"] = jnp.asarray(learning_rate(state.opt_state.count - skipped))
        return placement.keep(TrainState(params, opt_state, average, carried)), metrics

    return jax.jit(step, static_argnames="topology", donate_argnames="state")


@jax.jit
def observe(state: TrainState) -> Metrics:
    """The metrics of the masks (:func:`dst.metrics`), and the churn of the last topology step:
    the fraction of active connections that it exchanged."""
    found = dst.metrics(state.opt_state, state.params)
    masks = dst.masks(state.opt_state).values()
    active = sum((jnp.sum(m, dtype=jnp.int32) for m in masks), jnp.zeros([], jnp.int32))
    before = active + found["dropped"] - found["grown"]
    return found | {"churn": found["dropped"] / jnp.maximum(before, 1)}


@jax.jit
def finite(state: TrainState) -> Array:
    """bool: whether all weights, and what is carried beside them, are finite numbers."""
    found = jax.tree.leaves((state.params, state.variables))
    numbers = [x for x in found if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in numbers]))
