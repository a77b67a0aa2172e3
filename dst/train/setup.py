"""What a run is made of, built from its config before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
from flax import nnx

import dst
from dst import export
from dst._typing import Array
from dst.plan import Plan
from dst.train import data, optim, state, step
from dst.train.config import Config, ConfigError
from dst.train.state import TrainState
from dst.train.step import Metrics


class SetupError(ConfigError):
    """A config that is valid in itself and does not fit the data, the network or the machine."""


class Setup(NamedTuple):
    """The pieces that the loop puts together.

    Attributes:
      plan: the start table: every leaf, what it is and why.
      fires: whether the update after ``count`` updates is a topology step.
      begin: the state before the first step.
      batch: the images and labels of the update after ``count`` updates.
      step: see :func:`dst.train.step.make`.
      evaluate: loss and accuracy of a state on the test set.
      evaluate_halves: the same on the even and on the odd test examples: one half to choose by,
        the other to judge by.
    """

    plan: Plan
    fires: Callable[[int], bool]
    begin: Callable[[], TrainState]
    batch: Callable[[int], tuple[Array, Array]]
    step: Callable[..., tuple[TrainState, Metrics]]
    evaluate: Callable[[TrainState], Metrics]
    evaluate_halves: Callable[[TrainState], tuple[Metrics, ...]]


def make(config: Config) -> Setup:
    """Builds data, network, optimizer and compiled functions.

    Raises:
      SetupError: what the config asks for does not fit the data, the network or the machine.
    """
    try:
        return _make(config)
    except ValueError as error:
        raise SetupError(str(error)) from error


def _make(config: Config) -> Setup:
    steps, size, ema = config.train.steps, config.data.value.batch_size, config.optimizer.ema
    start = config.start
    placement = state.placement(config.mesh, size, config.optimizer.accumulate)
    dataset = data.load(config.data)
    test = jax.device_put((dataset.test.images, dataset.test.labels), placement.state)

    def network() -> nnx.Module:
        return state.network(config.model, dataset.shape, dataset.classes, config.seed)

    def first_network() -> nnx.Module:
        model = network()
        if weights is not None:
            nnx.update(model, export.replaced(nnx.state(model, nnx.Param), weights))
        return model

    graphdef, shapes = nnx.split(nnx.eval_shape(network), nnx.Param)
    weights = dst.load_weights(start.weights) if start.weights else None
    if weights is not None:
        export.replaced(shapes, weights)  # refused before anything is written
    tx = dst.sparsify(
        optim.make(config.optimizer, steps, start.step),
        config.rule(),
        seed=config.seed,
        select=config.sparsify.select,
        overrides={k: {"sparsity": v.sparsity} for k, v in config.sparsify.overrides.items()},
        stacked=config.sparsify.stacked,
        initial=dst.load_masks(start.masks) if start.masks else config.sparsify.initial,
    )
    rate = optim.learning_rate(config.optimizer, steps, start.step)
    evaluate = step.make_evaluate(graphdef)

    def begin() -> TrainState:
        return jax.device_put(state.initial(first_network(), tx, ema is not None), placement.state)

    def batch(count: int) -> tuple[Array, Array]:
        found = dataset.batch(config.seed, count, size)
        return jax.device_put(found.in_parts(config.optimizer.accumulate), placement.batch)

    return Setup(
        plan=tx.plan(nnx.to_pure_dict(shapes)),
        fires=tx.fires,
        begin=begin,
        batch=batch,
        step=step.make(graphdef, tx, rate, ema),
        evaluate=lambda now: evaluate(now, *test),
        evaluate_halves=lambda now: tuple(evaluate(now, *(x[i::2] for x in test)) for i in (0, 1)),
    )
