"""What passes through a model on a few batches: statistics of every layer, and the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dst.activations.sites import Replacement, by_layer, check, copy, place, replace, sites
from dst.core.typing import Array, ArrayLike, PyTree


class Call(NamedTuple):
    """One call of an activation or of a layer, as statistics see it.

    Attributes:
      module: that is called.
      inputs: ``[batch, length, channels]``.
      outputs: ``[batch, length, channels]``.
      given: values of the layer that a method has passed on, or None.
    """

    module: Any
    inputs: Array
    outputs: Array
    given: Any


Statistic = Callable[[Call], Array]  # equal ones compare equal, so that programs are compiled once


class _Total(nnx.Variable):
    """float32: the sum of a statistic over the calls in one pass."""


class _Given(nnx.Variable):
    """What a method has passed on."""


class Probe(nnx.Module):
    """Calls what it stands for, and adds up a statistic of the calls.

    Args:
      former: a function or a module.
      statistic: a float array of each call.
      total: zeros of its shape; of stacked blocks with an axis of layers in front.
      given: arrays for the statistic, or None.
    """

    def __init__(self, former: Any, statistic: Statistic, total: Array, given: Any = None):
        self.former, self.statistic = former, statistic
        self.total = _Total(total)
        self.calls = _Total(jnp.zeros_like(total))
        self.given = nnx.data(None if given is None else _Given(jnp.asarray(given)))

    def __call__(self, x: Array) -> Array:
        y: Array = self.former(x)
        given = None if self.given is None else self.given.get_value()
        seen = self.statistic(Call(self.former, x, y, given))
        self.total.set_value(self.total.get_value() + seen)
        self.calls.set_value(self.calls.get_value() + 1)
        return y


def probe(
    model: Any,
    statistics: Mapping[str, Statistic],
    given: Mapping[str, np.ndarray] | None = None,
    shape: tuple[int, ...] = (),
    within: bool = False,
) -> Any:
    """A copy of a model that adds up statistics; its arrays are those of the model.

    Args:
      model: a decoder.
      statistics: by the name of their place.
      given: ``[layers, ...]`` for each of them.
      shape: of the statistics of one layer.
      within: whether layers are seen that a method has put something in the place of.
    """
    model = copy(model)
    zeros = jnp.zeros((model.layers, *shape) if model.scan else shape)
    for name, statistic in statistics.items():
        values = (given or {}).get(name)

        def new(former: Any, index: Any, statistic: Any = statistic, values: Any = values) -> Probe:
            return Probe(former, statistic, zeros, None if values is None else values[index])

        replace(model, name, new, within)
    return model


def totals(model: Any, name: str, within: bool = False) -> Array:
    """The mean of a statistic over the calls of each layer, ``[layers, ...]``, after one pass."""
    return by_layer(model, name, lambda x: x.total.get_value() / x.calls.get_value(), within)


class Calibration:
    """A model and the batches on which a method looks at it; the model stays as it is.

    Args:
      model: a :class:`dst.models.Decoder`.
      batches: of tokens, int ``[batch, length]``.

    Raises:
      ValueError: another model.
    """

    def __init__(self, model: Any, batches: Iterable[ArrayLike] = ()):
        check(model)
        self.model = model
        self.batches = [jnp.asarray(x) for x in batches]

    def behind(self, replacements: Mapping[str, Replacement]) -> Calibration:
        """The same batches, as they pass through the model with what a method puts in place."""
        model = copy(self.model)
        place(model, replacements)
        return Calibration(model, self.batches)

    @property
    def layers(self) -> int:
        """Number of blocks."""
        return int(self.model.layers)

    def outputs(self, name: str) -> int:
        """Number of channels that leave a matrix."""
        holder, attribute, _ = next(sites(self.model, name))
        return int(np.prod(getattr(holder, attribute).out_features))

    def by_layer(self, name: str, function: Callable[[Any], Array]) -> np.ndarray:
        """A function of what stands in a place, ``[layers, ...]``."""
        return np.asarray(by_layer(self.model, name, function))

    def means(
        self,
        statistics: Mapping[str, Statistic],
        given: Mapping[str, np.ndarray] | None = None,
        shape: tuple[int, ...] = (),
        within: bool = False,
    ) -> dict[str, np.ndarray]:
        """Means of statistics over the batches, float64 ``[layers, *shape]``.

        A batch counts as much as it has tokens.

        Args:
          statistics: by the name of their place: ``activation``, or of a matrix.
          given: ``[layers, ...]``, which each of them sees as ``call.given``.
          shape: of the statistics of one layer.
          within: whether layers are seen that a method has put something in the place of.

        Raises:
          ValueError: no batches, or statistics that are not finite.
        """
        self._needs_batches()
        names = tuple(statistics)
        graph, state = nnx.split(probe(self.model, statistics, given, shape, within))
        found = [_one_pass(graph, state, x, names, within) for x in self.batches]
        weights = [x.size for x in self.batches]
        means = {
            name: np.average([np.asarray(x[name], np.float64) for x in found], 0, weights)
            for name in names
        }
        for name, mean in means.items():
            if not np.isfinite(mean).all():
                layer = int(np.argwhere(~np.isfinite(mean))[0, 0])
                raise ValueError(
                    f"activations must be finite, those at {name} of layer {layer} are not. Does "
                    "the model predict this text without sparse activations?"
                )
        return means

    def loss(self) -> float:
        """Mean cross-entropy of the next token, in nats.

        Raises:
          ValueError: no batches.
        """
        self._needs_batches()
        graph, state = nnx.split(self.model)
        sums = [float(_cross_entropy(graph, state, x)) for x in self.batches]
        return sum(sums) / sum(x[:, 1:].size for x in self.batches)

    def _needs_batches(self) -> None:
        if not self.batches:
            raise ValueError(
                "this method looks at data: batches must hold at least one array of tokens "
                "[batch, length], got none."
            )


@partial(jax.jit, static_argnames=("graph", "names", "within"))
def _one_pass(
    graph: Any, state: PyTree, tokens: Array, names: tuple[str, ...], within: bool
) -> dict[str, Array]:
    model = nnx.merge(graph, state)
    model(tokens)
    return {name: totals(model, name, within) for name in names}


@partial(jax.jit, static_argnames="graph")
def _cross_entropy(graph: Any, state: PyTree, tokens: Array) -> Array:
    logits = nnx.merge(graph, state)(tokens)[:, :-1]
    logs = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.take_along_axis(logs, tokens[:, 1:, None], axis=-1).sum()
