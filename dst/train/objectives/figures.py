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
