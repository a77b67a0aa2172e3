"""What a run is made of, built from its config before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

import dst
from dst.core.typing import Array, Params, PyTree
from dst.engine.plan import Plan
from dst.io import safetensors
from dst.train import data, evaluation, memory, objectives, optimizer, state, step
from dst.train.config.run import Config, ConfigError
from dst.train.data import stream
from dst.train.distributed import mesh
from dst.train.evaluation import Scores
from dst.train.records import costs
from dst.train.state import TrainState
from dst.train.step import Metrics


class SetupError(ConfigError):
    """A config that is valid in itself and does not fit the data, the network or the machine."""


class Setup(NamedTuple):
    """The pieces that the loop puts together.

    Attributes:
      config: as given, with what pins the data set filled in; to be saved with the run.
      labels: kind of the labels that are learned, as objectives name it; None: that of an objective
        of the user's own.
      plan: the start table: every leaf, what it is and why.
      notes: what else to say at the start, in lines.
      fires: whether the update after ``count`` updates is a topology step.
      begin: the state before the first step.
      batches: the training batches from the one after ``count`` updates on, to be closed; their
        position is the count. See :class:`dst.train.data.stream.Batches`.
      step: see :func:`dst.train.step.make`.
      steps: see :func:`dst.train.step.several`.
      evaluate: see :func:`dst.train.evaluation.make`.
      evaluate_halves: the same on the even and on the odd test examples: one half to choose by,
        the other to judge by.
      costs: what the run costs beside a dense one; from a trace of the network.
      test_labels: how many labels the test set has; scores are means over them.
    """

    config: Config
    labels: str | None
    plan: Plan
    notes: tuple[str, ...]
    fires: Callable[[int], bool]
    begin: Callable[[], TrainState]
    batches: Callable[[int], stream.Batches]
    step: Callable[..., tuple[TrainState, Metrics]]
    steps: Callable[..., tuple[TrainState, Metrics, Array]]
    evaluate: Callable[[TrainState], Scores]
    evaluate_halves: Callable[[TrainState], tuple[Scores, ...]]
    costs: Callable[[], costs.RunCosts]
    test_labels: int


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
    steps, size, ema = config.train.steps, config.data.value.batch_size, config.optimizer.value.ema
    start = config.start
    dataset = data.load(config.data, objectives.label_kind(config.objective))
    most = max(len(dataset.train) // size, 1)
    if config.train.recalibrate > most:
        raise ValueError(
            f"train.recalibrate must be at most {most}, the batches in one pass through the "
            f"training examples, got {config.train.recalibrate}."
        )
    if not config.data.imported:
        objectives.check_labels(config.objective, dataset.objective)
    pinned = replace(config.data.value, **dataset.identity)
    objective = objectives.chosen(config.objective, dataset)

    def build() -> nnx.Module:
        return state.network(config.model, dataset.shape, dataset.classes, config.seed)

    def initial() -> nnx.Module:
        model = build()
        if weights is not None:
            nnx.update(model, safetensors.replaced(nnx.state(model, nnx.Param), weights))
        return model

    model = nnx.eval_shape(build)
    parts = config.optimizer.value.accumulate
    placement = mesh.placement(config.mesh, size, parts, model)
    shapes = state.parameters(model)
    network = state.modes(model, placement.whole, config.train.compute)
    stacked = getattr(model, "stacked", {})  # networks that stack layers say where
    weights = dst.load_weights(start.weights) if start.weights else None
    if weights is not None:
        safetensors.replaced(shapes, weights)  # refused before anything is written
    tx = dst.sparsify(
        optimizer.make(config.optimizer, steps, stacked, start.step),
        config.rule(),
        seed=config.seed,
        select=config.sparsify.select,
        overrides={k: {"sparsity": v.sparsity} for k, v in config.sparsify.overrides.items()},
        stacked={**stacked, **config.sparsify.stacked},
        axes=config.sparsify.axes,
        roles=dst.roles(model),
        initial=dst.load_masks(start.masks) if start.masks else config.sparsify.initial,
        scale=config.sparsify.scale,
        form=config.sparsify.form,
    )
    if tx.packed is not None and ema is not None:
        raise ValueError(
            "optimizer.ema must be null where sparsify.form is packed: an average over several "
            "topologies is no packed array."
        )
    rate = optimizer.learning_rate(config.optimizer.value, steps, start.step)

    def begin() -> TrainState:
        with mesh.host():
            model = initial()
            params = state.parameters(model)
            if weights is None:
                params = dst.scale_init(params, tx)
        params = placement.put(params)
        return placement.put(state.initial(params, state.variables(model), tx, ema is not None))

    def sized(params: Params, carried: PyTree) -> TrainState:
        return state.initial(params, carried, tx, ema is not None)

    shape = (parts, size // parts)

    def batches(count: int) -> stream.Batches:
        return stream.Batches(
            dataset, config.seed, shape, placement.batch, count, config.train.most_per_call()
        )

    plan = tx.plan(shapes)
    memory.check(jax.eval_shape(sized, shapes, state.variables(model)))
    one = jax.ShapeDtypeStruct((1, *dataset.shape), dataset.dtype)

    def calibration() -> Iterator[Array]:
        with closing(batches(0)) as reader:
            for inputs, _ in islice(reader, config.train.recalibrate):
                yield from inputs

    normalised = bool(jax.tree.leaves(nnx.state(model, nnx.BatchStat)))
    recalibrate = calibration if normalised and config.train.recalibrate else None

    def judged(first: int = 0, every: int = 1) -> Callable[[TrainState], Scores]:
        def test() -> Iterator[tuple[Array, Array]]:
            for inputs, labels in stream.testing(dataset):
                yield placement.spread((inputs[first::every], labels[first::every]))

        # What fits into memory is put on the devices once.
        kept = None if dataset.threads else list(test())
        return evaluation.make(
            network, objective, test if kept is None else lambda: kept, recalibrate
        )

    one_update = step.make(
        network,
        objective,
        tx,
        rate,
        ema,
        placement,
        skip=config.train.on_nonfinite == "skip",
    )
    each = [judged(i, 2) for i in (0, 1)]

    def halves(now: TrainState) -> tuple[Scores, ...]:
        return tuple(evaluate(now) for evaluate in each)

    return Setup(
        config=replace(config, data=replace(config.data, value=pinned)),
        labels=objectives.learned(config.objective, dataset.objective),
        plan=plan,
        notes=placement.notes,
        fires=tx.fires,
        begin=begin,
        batches=batches,
        step=one_update,
        steps=step.several(one_update),
        evaluate=judged(),
        evaluate_halves=halves,
        costs=lambda: costs.measure(model, one, plan, steps),
        test_labels=len(dataset.test) * dataset.test.take(np.zeros(1, int))[1].size,
    )
