"""What a run is made of, built from its config before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
from flax import nnx

import dst
from dst import export
from dst._typing import Array
from dst.plan import Plan
from dst.train import costs, data, devices, evaluation, optim, state, step
from dst.train.config import Config, ConfigError
from dst.train.evaluation import Scores
from dst.train.schema import Section
from dst.train.state import TrainState
from dst.train.step import Metrics


class SetupError(ConfigError):
    """A config that is valid in itself and does not fit the data, the network or the machine."""


class Setup(NamedTuple):
    """The pieces that the loop puts together.

    Attributes:
      config: as given, with what pins the data set filled in; to be saved with the run.
      plan: the start table: every leaf, what it is and why.
      notes: what else to say at the start, in lines.
      fires: whether the update after ``count`` updates is a topology step.
      begin: the state before the first step.
      batch: the inputs and labels of the update after ``count`` updates.
      step: see :func:`dst.train.step.make`.
      evaluate: see :func:`dst.train.evaluation.make`.
      evaluate_halves: the same on the even and on the odd test examples: one half to choose by,
        the other to judge by.
      costs: what the run costs beside a dense one; found by tracing the network.
    """

    config: Config
    plan: Plan
    notes: tuple[str, ...]
    fires: Callable[[int], bool]
    begin: Callable[[], TrainState]
    batch: Callable[[int], tuple[Array, Array]]
    step: Callable[..., tuple[TrainState, Metrics]]
    evaluate: Callable[[TrainState], Scores]
    evaluate_halves: Callable[[TrainState], tuple[Scores, ...]]
    costs: Callable[[], costs.RunCosts]


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
    dataset = data.load(config.data)
    pinned = replace(config.data.value, **dataset.identity)
    test = list(dataset.test_batches())

    def build() -> nnx.Module:
        return state.network(config.model, dataset.shape, dataset.classes, config.seed)

    def begun() -> nnx.Module:
        model = build()
        if weights is not None:
            nnx.update(model, export.replaced(nnx.state(model, nnx.Param), weights))
        return model

    model = nnx.eval_shape(build)
    parts = config.optimizer.accumulate
    placement = devices.placement(config.mesh, size, parts, model)
    shapes = state.parameters(model)
    network = state.modes(model, placement.whole, config.train.compute)
    stacked = getattr(model, "stacked", {})  # networks that stack layers say where
    weights = dst.load_weights(start.weights) if start.weights else None
    if weights is not None:
        export.replaced(shapes, weights)  # refused before anything is written
    tx = dst.sparsify(
        optim.make(config.optimizer, steps, stacked, start.step),
        config.rule(),
        seed=config.seed,
        select=config.sparsify.select,
        overrides={k: {"sparsity": v.sparsity} for k, v in config.sparsify.overrides.items()},
        stacked={**stacked, **config.sparsify.stacked},
        initial=dst.load_masks(start.masks) if start.masks else config.sparsify.initial,
    )
    rate = optim.learning_rate(config.optimizer, steps, start.step)

    def begin() -> TrainState:
        with devices.host():
            model = begun()
        params = placement.put(state.parameters(model))
        return placement.put(state.initial(params, state.variables(model), tx, ema is not None))

    def batch(count: int) -> tuple[Array, Array]:
        found = dataset.batch(config.seed, count, size)
        return jax.device_put(data.in_parts(found, parts), placement.batch)

    plan = tx.plan(shapes)

    def calibration() -> Iterator[Array]:
        for count in range(config.train.recalibrate):
            yield from batch(count)[0]

    normalised = bool(jax.tree.leaves(nnx.state(model, nnx.BatchStat)))
    anew = calibration if normalised and config.train.recalibrate else None

    def judged(batches: Sequence[data.Batch]) -> Callable[[TrainState], Scores]:
        placed = [placement.spread(batch) for batch in batches]
        return evaluation.make(network, dataset.task, placed, anew)

    each = [judged([(x[i::2], y[i::2]) for x, y in test]) for i in (0, 1)]

    def halves(now: TrainState) -> tuple[Scores, ...]:
        return tuple(evaluate(now) for evaluate in each)

    return Setup(
        config=replace(config, data=Section(config.data.name, pinned)),
        plan=plan,
        notes=placement.notes,
        fires=tx.fires,
        begin=begin,
        batch=batch,
        step=step.make(
            network,
            dataset.task,
            tx,
            rate,
            ema,
            placement,
            skip=config.train.on_nonfinite == "skip",
        ),
        evaluate=judged(test),
        evaluate_halves=halves,
        costs=lambda: costs.measure(model, batch(0)[0], plan, tx.rule, steps),
    )
