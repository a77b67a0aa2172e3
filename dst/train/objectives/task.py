"""What is asked of a network, and the figures that tell how well it answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import optax

from dst.core.typing import Array, Float, Int


@dataclass(frozen=True)
class Task:
    """The right one of several classes, at every place where there is a label.

    Attributes:
      figures: what is logged, each a mean over all labels: ``loss`` (cross-entropy in nats, what
        training lowers), ``bits_per_byte`` (the loss in bits), ``accuracy`` (in [0, 1]).
    """

    figures: tuple[str, ...]

    def scores(
        self, logits: Float[Array, "*places classes"], labels: Int[Array, "*places"]
    ) -> dict[str, Array]:
        """The figures of a batch, float32 scalars by name, whatever the type of the logits."""
        logits = logits.astype(jnp.float32)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        found = {
            "loss": loss,
            "bits_per_byte": loss / math.log(2),
            "accuracy": jnp.mean(jnp.argmax(logits, axis=-1) == labels),
        }
        return {name: found[name] for name in self.figures}


CLASSES = Task(("loss", "accuracy"))
NEXT_BYTE = Task(("loss", "bits_per_byte", "accuracy"))


@dataclass(frozen=True)
class Figure:
    """How a figure is shown.

    Attributes:
      words: its name in a sentence.
      share: whether it is a fraction, shown in percent.
      best: ``min`` or ``max``.
    """

    words: str
    share: bool
    best: Callable


# What people ask for, the most telling first. A record's keys say which of them its task has, so
# that whoever reads records need not be told the task.
FIGURES = {
    "bits_per_byte": Figure("bits per byte", share=False, best=min),
    "accuracy": Figure("accuracy", share=True, best=max),
}


# The same of a network whose weights are averages come after them.
SCORES = tuple(f"{prefix}{name}" for prefix in ("", "ema_") for name in (*FIGURES, "loss"))


def headline(names: Iterable[str]) -> str:
    """The one figure to show of those that a record has; ``accuracy`` where it has none."""
    names = set(names)
    return next((name for name in FIGURES if name in names), "accuracy")


def score(figures: Mapping[str, Any]) -> float:
    """The headline of a record as a number of which more is better."""
    name = headline(figures)
    return float(figures[name]) * (1 if FIGURES[name].best is max else -1)
