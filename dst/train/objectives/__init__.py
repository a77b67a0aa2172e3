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

        An objective may have two more methods. ``figures(means) -> metrics`` computes scalars from
        the means over all examples, where a metric is no mean itself; then the metrics of ``loss``
        may be arrays. ``of(units) -> objective`` adapts it to the units of a data set's labels. And
        where it has ``arrays``, a pytree that is not None, such as the weights of a teacher, they
        are the last argument of ``loss``: what a compiled program reads should not be part of it.
        ``check(dataset)`` refuses a data set that does not suit it, before anything is written.
        ``softmax = False`` says that calling the network gives no logits that could be divided by a
        temperature, as GraSP asks.

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


def arrays(objective: Objective) -> tuple[PyTree, ...]:
    """What the loss takes beside model, batch and key: nothing, or the arrays of the objective."""
    found = getattr(objective, "arrays", None)
    return () if found is None else (found,)


def label_kind(section: Any) -> str | None:
    """The kind of labels that the objective of a config needs; None: any, or nothing is named."""
    return None if section is None or section.imported else REGISTRY[section.name].facts["labels"]


def learned(section: Any, default: str) -> str | None:
    """The kind of labels that a run learns; None: that of an objective of the user's own.

    Args:
      section: of the config; None: nothing is named.
      default: the objective of the data set.
    """
    return REGISTRY[default].facts["labels"] if section is None else label_kind(section)


def measured(objective: Objective, means: dict[str, Any]) -> dict[str, Any]:
    """The metrics of an objective, from the means of what its loss returned."""
    reduce = getattr(objective, "figures", None)
    return means if reduce is None else reduce(means)


def chosen(section: Any, dataset: Any) -> Objective:
    """The objective that a config names, or the one of the data set, in the units of its labels.

    Args:
      section: of the config; None: nothing is named.
      dataset: the :class:`dst.train.data.Dataset`.

    Raises:
      ValueError: a thing without ``loss(model, batch, key)``, or a data set that it refuses.
    """
    objective = _named(section, dataset.objective)
    adapt = getattr(objective, "of", None)
    objective = objective if adapt is None else adapt(dataset.units)
    if (check := getattr(objective, "check", None)) is not None:
        check(dataset)
    return objective


def check_labels(section: Any, default: str) -> None:
    """Refuses an objective that needs labels of another kind than a data set of ours has.

    Args:
      section: of the config; None: nothing is named.
      default: the objective of the data set.

    Raises:
      ValueError: with the objectives that fit.
    """
    kind = REGISTRY[default].facts["labels"]
    if label_kind(section) not in (None, kind):
        fit = [name for name, entry in REGISTRY.items() if entry.facts["labels"] == kind]
        raise ValueError(
            f"objective must be one of {fit} for the labels of this data set, got {section.name!r}."
        )


def _named(section: Any, default: str) -> Objective:
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
