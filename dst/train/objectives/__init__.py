"""What is asked of a network: one objective per file, and the figures that say how well it answers.

An objective has ``loss(model, batch, key) -> (loss, metrics)``; a function of these three, and of
arguments with names, will do::

    # mine.py, beside the config: objective: {import: "mine:focal_loss", gamma: 2.0}
    def focal_loss(model, batch, key, *, gamma: float = 2.0):
        inputs, labels = batch
        nats = optax.softmax_cross_entropy_with_integer_labels(model(inputs), labels)
        loss = jnp.mean((1 - jnp.exp(-nats)) ** gamma * nats)
        return loss, {"accuracy": jnp.mean(jnp.argmax(model(inputs), -1) == labels)}
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

from dst.core.registry import Registry
from dst.core.typing import Array, PyTree

REGISTRY = Registry("objective", "dst.train.objectives")
OFFERS = ("model", "batch", "key")


@runtime_checkable
class Objective(Protocol):
    """What training minimises."""

    def loss(self, model: Any, batch: PyTree, key: Array) -> tuple[Array, dict[str, Array]]:
        """The loss of a batch, a scalar, and metrics, scalars by name; means over examples.

        Args:
          model: the network, to be called on inputs.
          batch: of the data set: ``(inputs, labels)`` with a leading axis of examples.
          key: a PRNG key of this update.
        """


class Function(NamedTuple):
    """An objective that is a function.

    Attributes:
      call: ``(model, batch, key) -> (loss, metrics)``.
    """

    call: Callable[..., tuple[Array, dict[str, Array]]]

    def loss(self, model: Any, batch: PyTree, key: Array) -> tuple[Array, dict[str, Array]]:
        """The loss of a batch, and metrics."""
        return self.call(model, batch, key)


def chosen(section: Any, default: str) -> Objective:
    """The objective that a config names, or the one of the data set.

    Args:
      section: of the config; None: nothing is named.
      default: a name of the registry.

    Raises:
      ValueError: a thing without ``loss(model, batch, key)``.
    """
    if section is None:
        return REGISTRY[default].load()()
    if not section.imported:
        return section.value
    arguments = {f.name: getattr(section.value, f.name) for f in fields(section.value)}
    factory = section.load()
    if not isinstance(factory, type) and set(OFFERS) <= set(inspect.signature(factory).parameters):
        return Function(partial(factory, **arguments))
    objective = factory(**arguments)
    if not isinstance(objective, Objective):
        raise ValueError(
            f"objective: {factory.__name__} must be a function of (model, batch, key), or give an "
            f"object with loss(model, batch, key), got {type(objective).__name__}."
        )
    return objective
