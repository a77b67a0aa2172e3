"""How good a state is on the test set."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import dst
from dst.core.typing import Array, Params, PyTree
from dst.train import objectives
from dst.train.objectives import Objective
from dst.train.state import Network, TrainState
from dst.train.step import Metrics

Scores = dict[str, np.float32]


def make(
    network: Network,
    objective: Objective,
    batches: Callable[[], Iterable[tuple[Array, Array]]],
    calibration: Callable[[], Iterable[Array]] | None = None,
) -> Callable[[TrainState], Scores]:
    """The evaluation.

    Args:
      network: see :func:`dst.train.state.modes`.
      objective: what it is judged by.
      batches: the whole test set, inputs and labels; read at every call.
      calibration: inputs from the training set over which BatchNorm's statistics are averaged
        again before every evaluation; None: the running statistics are used.

    Returns:
      ``evaluate(state) -> {metrics of the objective}``, of the means over all test labels; with a
      moving average also ``ema_loss`` and so on, of the average under the masks. The state is not
      changed: what calibration finds is used and forgotten.
    """

    @jax.jit
    def score(
        params: Params, carried: PyTree, inputs: Array, labels: Array, more: tuple[PyTree, ...]
    ) -> Metrics:
        model = network.merge(network.test, params, carried)
        key = jax.random.key(0, impl="threefry2x32")
        loss, metrics = objective.loss(model, (inputs, labels), key, *more)
        return {"loss": loss, **metrics}

    @jax.jit
    def statistics(params: Params, carried: PyTree, inputs: Array) -> PyTree:
        model = network.merge(network.calibrate, params, carried)
        model(inputs)
        return nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

    def calibrated(params: Params, carried: PyTree) -> PyTree:
        if calibration is None:
            return carried
        parts = [statistics(params, carried, inputs) for inputs in calibration()]
        mean = jax.tree.map(lambda *x: jnp.mean(jnp.stack(x), axis=0), *parts)
        return _replaced(carried, mean)

    more = objectives.arrays(objective)

    def mean_scores(params: Params, carried: PyTree) -> Scores:
        carried = calibrated(params, carried)
        parts, sizes = [], []
        for inputs, labels in batches():
            parts.append(score(params, carried, inputs, labels, more))
            sizes.append(labels.size)
        parts = jax.device_get(parts)
        means = {
            name: np.average([part[name] for part in parts], axis=0, weights=sizes)
            for name in parts[0]
        }
        figures = objectives.measured(objective, means)
        return {name: np.float32(value) for name, value in figures.items()}

    masked, whole = jax.jit(dst.apply_masks), jax.jit(lambda state: state.weights)

    def evaluate(state: TrainState) -> Scores:
        scores = mean_scores(whole(state), state.variables)
        if state.ema is not None:
            average = mean_scores(masked(state.ema, state.opt_state), state.variables)
            scores |= {f"ema_{name}": value for name, value in average.items()}
        return scores

    return evaluate


def _replaced(tree: PyTree, part: PyTree) -> PyTree:
    """Nested dictionaries with the leaves of ``part`` in the place of those of ``tree``."""
    if not isinstance(part, dict):
        return part
    return {**tree, **{k: _replaced(tree[k], v) for k, v in part.items()}}
