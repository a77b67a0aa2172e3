"""The figures that say how well a network answers, and how they are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any


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


# What people ask for, the most telling first. A record's keys say which of them its objective
# has, so that a reader of records needs no config.
FIGURES = {
    "bits_per_byte": Figure("bits per byte", share=False, best=min),
    "adversarial_accuracy": Figure("adversarial accuracy", share=True, best=max),
    "accuracy": Figure("accuracy", share=True, best=max),
    "rmse": Figure("RMSE", share=False, best=min),
    "r2": Figure("R²", share=False, best=max),
    "f1": Figure("F1", share=True, best=max),
    "label_accuracy": Figure("accuracy per label", share=True, best=max),
}


# The same of a network whose weights are averages come after them.
SCORES = tuple(f"{prefix}{name}" for prefix in ("", "ema_") for name in (*FIGURES, "loss"))


def headline(names: Iterable[str]) -> str:
    """The one figure to show of those that a record has; ``loss`` where it has none."""
    names = set(names)
    return next((name for name in FIGURES if name in names), "loss")


def figure_of(name: str) -> Figure:
    """How a figure is shown; one that is not named here is a number to be lowered."""
    return FIGURES.get(name, Figure(name.replace("_", " "), share=False, best=min))


def score(figures: Mapping[str, Any]) -> float:
    """The headline of a record as a number of which more is better."""
    name = headline(figures)
    return float(figures[name]) * (1 if figure_of(name).best is max else -1)
