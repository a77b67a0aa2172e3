"""What a run is made of, built from its config before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import cache, partial
from itertools import islice
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

import dst
from dst.core.typing import Array
from dst.engine.plan import Plan
from dst.io import safetensors
from dst.train import data, evaluation, memory, objectives, optimizer, state, step
from dst.train.config.run import Config, ConfigError
from dst.train.data import stream
from dst.train.distributed import mesh
from dst.train.evaluation import Scores
from dst.train.records import costs
from dst.train.records.fallback import Form
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
      other_form: how states are saved where ``sparsify.form`` is the other one; None: not at all.
      batches: the training batches from the one after ``count`` updates on, to be closed; their
        position is the count. See :class:`dst.train.data.stream.Batches`.
      step: see :func:`dst.train.step.make`.
      steps: see :func:`dst.train.step.several`.
      evaluate: see :func:`dst.train.evaluation.make`.
      evaluate_halves: the same on the even and on the odd test examples: one half to choose by,
        the other to judge by.
      costs: what the run costs beside a dense one; from a trace of the network.
      test_labels: how many labels the test set has; scores are means over them.
      seeded: the pieces for a config that differs in seed and name only. Data, network and compiled
        functions are shared: to them, the seed is data.
    """

    config: Config
    labels: str | None
    plan: Plan
    notes: tuple[str, ...]
    fires: Callable[[int], bool]
    begin: Callable[[], TrainState]
    other_form: Callable[[], Form | None]
    batches: Callable[[int], stream.Batches]
    step: Callable[..., tuple[TrainState, Metrics]]
    steps: Callable[..., tuple[TrainState, Metrics, Array]]
    evaluate: Callable[[TrainState], Scores]
    evaluate_halves: Callable[[TrainState], tuple[Scores, ...]]
    costs: Callable[[], costs.RunCosts]
    test_labels: int
    seeded: Callable[[Config], Setup]


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

    def build(seed: int) -> nnx.Module:
        return state.network(config.model, dataset.shape, dataset.classes, seed)

    def initial(seed: int) -> nnx.Module:
        model = build(seed)
        if weights is not None:
            nnx.update(model, safetensors.replaced(nnx.state(model, nnx.Param), weights))
        return model

    model = nnx.eval_shape(partial(build, config.seed))
    parts = config.optimizer.value.accumulate
    placement = mesh.placement(config.mesh, size, parts, model)
    shapes = state.parameters(model)
    network = state.modes(model, placement.whole, config.train.compute)
    stacked = getattr(model, "stacked", {})  # networks that stack layers say where
    weights = dst.load_weights(start.weights) if start.weights else None
    if weights is not None:
        safetensors.replaced(shapes, weights)  # refused before anything is written

    derivative = getattr(getattr(config.rule(), "which", None), "derivative", None)
    if derivative and derivative.temperature != 1 and not getattr(objective, "softmax", True):
        raise ValueError(
            f"method.temperature must be 1 where the objective divides no logits, got "
            f"{derivative.temperature:g}. Set method.temperature=1, or choose another objective."
        )

    def transformation(seed: int, form: str = config.sparsify.form) -> dst.SparseTransformation:
        inner = optimizer.make(config.optimizer, steps, stacked, start.step, shapes)
        if start.trained:
            inner = dst.train_only(inner, dst.load_masks(start.trained))
        return dst.sparsify(
            inner,
            config.rule(),
            seed=seed,
            select=config.sparsify.select,
            overrides={k: {"sparsity": v.sparsity} for k, v in config.sparsify.overrides.items()},
            stacked={**stacked, **config.sparsify.stacked},
            axes=config.sparsify.axes,
            roles=dst.roles(model),
            initial=dst.load_masks(start.masks) if start.masks else config.sparsify.initial,
            scale=config.sparsify.scale,
            form=form,
        )

    tx = transformation(config.seed)
    if tx.packed is not None and ema is not None:
        raise ValueError(
            "optimizer.ema must be null where sparsify.form is packed: an average over several "
            "topologies is no packed array."
        )
    rate = optimizer.learning_rate(config.optimizer.value, steps, start.step)

    def begin(seed: int) -> TrainState:
        tx = transformation(seed)
        with mesh.host():
            model = initial(seed)
            params = state.parameters(model)
            if weights is None:
                params = dst.scale_init(params, tx)
        params = placement.put(params)
        return placement.put(state.initial(params, state.variables(model), tx, ema is not None))

    def sized(tx: dst.SparseTransformation) -> TrainState:
        begin = partial(state.initial, tx=tx, ema=ema is not None)
        return jax.eval_shape(begin, shapes, state.variables(model))

    def other_form() -> Form | None:
        try:
            there = transformation(config.seed, "packed" if tx.packed is None else "masked")
            like = sized(there)
        except ValueError:  # the packed form is not for this method or optimizer
            return None
        packed = there if tx.packed is None else tx
        return Form(placement.shapes(like), lambda x: placement.put(state.converted(x, packed)))

    shape = (parts, size // parts)

    def batches(seed: int, count: int) -> stream.Batches:
        most = config.train.most_per_call()
        return stream.Batches(dataset, seed, shape, placement.batch, count, most)

    plan = tx.plan(shapes)
    memory.check(sizes := sized(tx))
    if tx.packed is not None:
        placement = placement.with_packed(sizes.opt_state.masks)
    one = jax.ShapeDtypeStruct((1, *dataset.shape), dataset.dtype)

    def calibration(seed: int) -> Iterator[Array]:
        with closing(batches(seed, 0)) as reader:
            for inputs, _ in islice(reader, config.train.recalibrate):
                yield from inputs

    normalised = bool(jax.tree.leaves(nnx.state(model, nnx.BatchStat)))

    def judge(first: int = 0, every: int = 1) -> Callable[[int], Callable[[TrainState], Scores]]:
        """The evaluation of some test examples, by seed: it chooses what recalibrates."""

        def test() -> Iterator[tuple[Array, Array]]:
            for inputs, labels in stream.testing(dataset):
                yield placement.spread((inputs[first::every], labels[first::every]))

        # What fits into memory is put on the devices once.
        kept = None if dataset.threads else list(test())
        read = test if kept is None else lambda: kept
        if normalised and config.train.recalibrate:
            return lambda seed: evaluation.make(
                network, objective, read, partial(calibration, seed)
            )
        evaluate = evaluation.make(network, objective, read)
        return lambda seed: evaluate

    one_update = step.make(
        network,
        objective,
        tx,
        rate,
        ema,
        placement,
        skip=config.train.on_nonfinite == "skip",
    )
    several_updates = step.several(one_update)
    whole, each = judge(), [judge(i, 2) for i in (0, 1)]
    measured = cache(partial(costs.measure, model, one, plan, steps))
    test_labels = len(dataset.test) * dataset.test.take(np.zeros(1, int))[1].size

    def seeded(config: Config) -> Setup:
        halves = [evaluate(config.seed) for evaluate in each]
        return Setup(
            config=replace(config, data=replace(config.data, value=pinned)),
            labels=objectives.learned(config.objective, dataset.objective),
            plan=plan,
            notes=placement.notes,
            fires=tx.fires,
            begin=partial(begin, config.seed),
            other_form=cache(other_form),
            batches=partial(batches, config.seed),
            step=one_update,
            steps=several_updates,
            evaluate=whole(config.seed),
            evaluate_halves=lambda now: tuple(evaluate(now) for evaluate in halves),
            costs=measured,
            test_labels=test_labels,
            seeded=seeded,
        )

    return seeded(config)
