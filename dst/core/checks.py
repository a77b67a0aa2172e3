"""Argument checks with one form of message: what was expected, what was found, what to do."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from numbers import Real
from typing import Any

import numpy as np


def fraction(name: str, value: Any, *, below_one: bool = False) -> None:
    """Raises unless ``value`` is a number in [0, 1], or in [0, 1) with ``below_one``."""
    interval = "[0, 1)" if below_one else "[0, 1]"
    good = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if good and 0 <= value and (value < 1 if below_one else value <= 1):
        return
    hint = ""
    if good and 1 <= value <= 100:
        hint = (
            f" Did you mean {value / 100:g}?" if value > 1 else " An empty layer cannot be trained."
        )
    raise ValueError(f"{name} must be a number in {interval}, got {value!r}.{hint}")


def at_least_zero(name: str, value: Any) -> None:
    """Raises unless ``value`` is a finite number that is not negative."""
    good = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not good or value < 0:
        raise ValueError(f"{name} must be a finite number >= 0, got {value!r}.")


def above_zero(name: str, value: Any) -> None:
    """Raises unless ``value`` is a finite number above 0."""
    good = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not good or value <= 0:
        raise ValueError(f"{name} must be a finite number > 0, got {value!r}.")


def integer(name: str, value: Any, *, at_least: int) -> None:
    """Raises unless ``value`` is an integer of at least ``at_least``."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= at_least:
        return
    raise ValueError(f"{name} must be an integer >= {at_least}, got {value!r}.")


def not_empty(name: str, value: Any) -> None:
    """Raises unless a sequence has at least one entry."""
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError(f"{name} must be a list of at least one entry, got {value!r}.")


def one_of(name: str, value: Any, options: Iterable[str | None]) -> None:
    """Raises unless ``value`` is one of ``options``; names the nearest one."""
    options = list(options)
    if value in options:
        return
    raise ValueError(f"{name} must be one of {options}, got {value!r}.{nearest(value, options)}")


def nearest(value: Any, options: Iterable[str | None]) -> str:
    """`` Did you mean 'x'?`` for the option nearest to ``value``, or nothing."""
    matches = difflib.get_close_matches(str(value), map(str, options), n=1, cutoff=0.5)
    return f" Did you mean {matches[0]!r}?" if matches else ""
