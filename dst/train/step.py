"""One optimizer update as one compiled function, and the two looks at its result."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax

import dst
from dst._typing import Array
from dst.train.state import TrainState

Metrics = dict[str, Array]


def make(
    graphdef: Any,
    tx: dst.SparseTransformation,
    learning_rate: Callable[[Any], Any],
    ema: float | None,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """The training step.

    Args:
      graphdef: of the network, from ``nnx.split``.
      tx: the sparse optimizer.
      learning_rate: that it uses, as a function of its updates, for the metrics.
      ema: decay of the moving average of the parameters; None: none.

    Returns:
      ``step(state, images, labels, topology=bool) -> state, {loss, accuracy, learning_rate}``.
      Images and labels have two leading axes, micro-batch and image in it: gradients are averaged
      over both, then there is one update. ``state`` is donated. ``topology`` is static: the step
      compiled for False contains no selection.
    """
    rule = tx.rule

    @partial(jax.jit, static_argnames="topology", donate_argnames="state")
    def step(
        state: TrainState, images: Array, labels: Array, *, topology: bool
    ) -> tuple[TrainState, Metrics]:
        def micro_step(total: Any, batch: tuple[Array, Array]) -> tuple[Any, None]:
            found = jax.grad(partial(_loss, graphdef), has_aux=True)(state.params, *batch)
            return jax.tree.map(jnp.add, total, found), None

        nothing = jax.tree.map(jnp.zeros_like, state.params), dict.fromkeys(_SCORES, jnp.zeros(()))
        total, _ = lax.scan(micro_step, nothing, (images, labels))
        grads, metrics = jax.tree.map(lambda x: x / len(images), total)

        updates, opt_state = tx.update(grads, state.opt_state, state.params, topology=topology)
        params = optax.apply_updates(state.params, updates)
        average = None
        if ema is not None:
            average = optax.incremental_update(params, state.ema, 1 - ema)

        # Where topology steps take no optimizer step, the inner optimizer has counted fewer.
        skipped = 0 if rule.update_weights else state.opt_state.topology.done
        metrics["learning_rate"] = jnp.asarray(learning_rate(state.opt_state.count - skipped))
        return TrainState(params, opt_state, average), metrics

    return step


def make_evaluate(graphdef: Any) -> Callable[[TrainState, Array, Array], Metrics]:
    """``evaluate(state, images, labels) -> {loss, accuracy}``; with a moving average also
    ``ema_loss`` and ``ema_accuracy``, of the average under the masks."""

    @jax.jit
    def evaluate(state: TrainState, images: Array, labels: Array) -> Metrics:
        found = _loss(graphdef, state.params, images, labels)[1]
        if state.ema is not None:
            average = dst.apply_masks(state.ema, state.opt_state)
            scores = _loss(graphdef, average, images, labels)[1]
            found |= {f"ema_{name}": value for name, value in scores.items()}
        return found

    return evaluate


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
    """bool: whether all weights are finite numbers."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(state.params)]))


_SCORES = ("loss", "accuracy")


def _loss(graphdef: Any, params: Any, images: Array, labels: Array) -> tuple[Array, Metrics]:
    logits = nnx.merge(graphdef, params)(images)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == labels)
    return loss, {"loss": loss, "accuracy": accuracy}
