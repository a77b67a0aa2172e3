"""One optimizer update as one compiled function, and looks at its result."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax import lax

import dst
from dst.core.typing import Array, Batch, Params, PyTree
from dst.rules.derivatives import Derivative
from dst.train import objectives
from dst.train.distributed.mesh import Placement
from dst.train.objectives import Objective
from dst.train.state import Network, TrainState, variables, weights

Metrics = dict[str, Array]


def make(
    network: Network,
    objective: Objective,
    tx: dst.SparseTransformation,
    learning_rate: optax.Schedule,
    ema: float | None,
    placement: Placement,
    skip: bool = False,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """The training step.

    Args:
      network: see :func:`dst.train.state.modes`.
      objective: what is minimised.
      tx: the sparse optimizer.
      learning_rate: that it uses, as a function of its updates, for the metrics.
      ema: decay of the moving average of the parameters; None: none.
      placement: where the state lies, before a step and after.
      skip: whether an update is left out where the loss, a gradient or a weight after it is not
        finite. Everything stays as it was, but the count goes on, so that topology steps and what
        they give stay where the schedule says; learning rates wait, as the inner optimizer has not
        counted. A topology step is left out as a whole: the caller makes it up at the next step
        (:func:`missed_topology_step`), since a count of active weights may depend on it.

    Returns:
      ``step(state, inputs, labels, topology=bool) -> state, {metrics of the objective,
      learning_rate}``; with ``skip`` also ``skipped``, the updates left out so far. Inputs and
      labels have two leading axes, micro-batch and example in it: gradients are averaged over
      both, then there is one update; what the network carries beside its weights passes from one
      micro-batch to the next. ``state`` is donated. ``topology`` is static: the step compiled for
      False contains no selection.
    """

    def step(
        state: TrainState,
        inputs: Array,
        labels: Array,
        more: tuple[PyTree, ...] = (),
        *,
        topology: bool,
    ) -> tuple[TrainState, Metrics]:
        def loss(
            params: Params,
            opt_state: PyTree,
            carried: PyTree,
            batch: Batch,
            key: Array,
            temperature: float = 1.0,
        ) -> tuple[Array, PyTree]:
            if opt_state is not None:
                params = weights(params, opt_state)
            model = network.merge(network.train, params, carried)
            called = model if temperature == 1 else lambda *args: model(*args) / temperature
            value, metrics = objective.loss(called, batch, key, *more)
            return value, ({"loss": value, **metrics}, variables(model))

        seed = jax.random.key(state.opt_state.hyper.seed, impl="threefry2x32")
        keys = jax.random.split(jax.random.fold_in(seed, state.opt_state.count), len(inputs))

        # Topology steps look at the gradients of all weights.
        whole = topology and tx.packed is not None
        point = (state.weights, None) if whole else (state.params, state.opt_state)

        def micro_step(carried: PyTree, batch: Batch, key: Array) -> tuple[PyTree, PyTree]:
            before = carried
            grads, (scores, carried) = jax.grad(loss, has_aux=True)(*point, carried, batch, key)
            if topology and tx.derivative is not None:
                grads = derived(tx.derivative, before, batch, key)
            return carried, (placement.keep(grads), scores)

        def derived(what: Derivative, carried: PyTree, batch: Batch, key: Array) -> PyTree:
            """What the method takes in place of gradients at a topology step."""

            def whole_loss(params: Params) -> Array:
                return loss(params, None, carried, batch, key, what.temperature)[0]

            def outputs(params: Params) -> Array:
                sizes = jax.tree.map(_size, carried)
                return network.merge(network.test, params, sizes)(_ones_like(batch[0]))

            function = outputs if what.of == "ones" else whole_loss
            return tx.topology_gradients(function, state.weights)

        def add(so_far: PyTree, part: PyTree) -> tuple[PyTree, None]:
            carried, total = so_far
            carried, parts = micro_step(carried, *part)
            return (carried, jax.tree.map(jnp.add, total, parts)), None

        # One micro-batch is no loop: in loops, XLA's CPU backend takes 15 times as long over
        # convolutions.
        first = (inputs[0], labels[0]), keys[0]
        if len(inputs) == 1:
            carried, total = micro_step(state.variables, *first)
        else:
            scores = jax.eval_shape(loss, *point, state.variables, *first)[1][0]
            shapes = (point[0], scores)
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
            start = (state.variables, zeros)
            (carried, total), _ = lax.scan(add, start, ((inputs, labels), keys))
        grads, means = jax.tree.map(lambda x: x / len(inputs), total)
        metrics = dict(objectives.measured(objective, means))

        if whole:
            params, opt_state = tx.retopologise(grads, state.opt_state, state.params)
        else:
            updates, opt_state = tx.update(grads, state.opt_state, state.params, topology=topology)
            params = optax.apply_updates(state.params, updates)
        average = None
        if ema is not None:
            average = optax.incremental_update(params, state.ema, 1 - ema)

        # Where topology steps take no optimizer step, the inner optimizer has counted fewer.
        waited = 0 if tx.update_weights else state.opt_state.topology.done
        taken = state.opt_state.count - state.skipped - waited
        metrics["learning_rate"] = jnp.asarray(learning_rate(taken))
        new = TrainState(params, opt_state, average, carried, state.skipped)
        if skip:
            good = finite((metrics["loss"], grads, params, carried, kept(opt_state)))
            new = jax.tree.map(partial(jnp.where, good), new, _left_out(state))
            metrics["skipped"] = new.skipped
        return placement.keep(new), metrics

    program = jax.jit(step, static_argnames="topology", donate_argnames="state")
    more = objectives.arrays(objective)
    return partial(program, more=placement.put(more)) if more else program


def several(
    step: Callable[..., tuple[TrainState, Metrics]],
) -> Callable[..., tuple[TrainState, Metrics, Array]]:
    """Updates between two topology steps, as one compiled function for any number of them.

    How they are cut into calls changes no bit: it is one loop, whose length is an argument.

    Args:
      step: as :func:`make` gives it.

    Returns:
      ``steps(state, inputs, labels, n) -> state, metrics of the last update, losses [most, ...]``,
      of which the first ``n`` are those of the updates. Inputs and labels are batches one after
      another, ``[most, parts, batch, ...]``; 1 <= ``n`` <= ``most``. ``state`` is donated.
    """

    program, given = (step.func, step.keywords) if isinstance(step, partial) else (step, {})

    def steps(
        state: TrainState, inputs: Array, labels: Array, n: Array, **given: PyTree
    ) -> tuple[TrainState, Metrics, Array]:
        update = partial(program, topology=False, **given)

        def one(i: Array, so_far: PyTree) -> PyTree:
            state, _, losses = so_far
            state, metrics = update(state, inputs[i], labels[i])
            return state, metrics, losses.at[i].set(metrics["loss"])

        shapes = jax.eval_shape(update, state, inputs[0], labels[0])[1]
        metrics = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        losses = jnp.zeros((len(inputs), *shapes["loss"].shape))
        return lax.fori_loop(0, n, one, (state, metrics, losses))

    compiled = jax.jit(steps, donate_argnames="state")
    return partial(compiled, **given) if given else compiled


def _size(x: Array) -> Array:
    """Absolute values of real numbers; counters and keys as they are."""
    return jnp.abs(x) if jnp.issubdtype(x.dtype, jnp.floating) else x


def _ones_like(inputs: Array) -> Array:
    """One input of ones.

    Raises:
      ValueError: inputs that are no real numbers.
    """
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise ValueError(
            f"the method scores weights by an input of ones, but inputs are {inputs.dtype}, not "
            "real numbers. Choose a method that reads data, such as snip."
        )
    return jnp.ones_like(inputs[:1])


@jax.jit
def observe(state: TrainState) -> Metrics:
    """The metrics of the masks (:func:`dst.metrics`), and the churn of the last topology step:
    the fraction of active connections that it exchanged."""
    metrics = dst.metrics(state.opt_state, state.weights)
    masks = dst.masks(state.opt_state).values()
    active = sum((jnp.sum(m, dtype=jnp.int32) for m in masks), jnp.zeros([], jnp.int32))
    before = active + metrics["dropped"] - metrics["grown"]
    return metrics | {"churn": metrics["dropped"] / jnp.maximum(before, 1)}


def finite(tree: PyTree) -> Array:
    """bool: whether all floating-point numbers in a tree are finite."""
    numbers = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    each = [jnp.all(jnp.isfinite(x)) for x in numbers]
    return jnp.all(jnp.stack(each)) if each else jnp.bool_(True)


def kept(opt_state: PyTree) -> list[Array]:
    """The arrays of an optimizer that must be finite: moments, latent weights, accumulators.

    Single numbers are left out: the best loss so far may begin as infinite.
    """
    return [x for x in jax.tree.leaves(opt_state) if x.ndim]


def _left_out(state: TrainState) -> TrainState:
    """The state after an update that changed nothing."""
    counted = state.opt_state._replace(count=state.opt_state.count + 1)
    return state._replace(opt_state=counted, skipped=state.skipped + 1)


def missed_topology_step(state: TrainState, scheduled: int) -> bool:
    """Whether a topology step was skipped and has yet to be done: fewer than ``scheduled`` were."""
    return int(state.skipped) > 0 and int(state.opt_state.topology.done) < scheduled
