"""Argument checks with one form of message: what was expected, what was found, what to do."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from numbers import Real
from typing import Any

import numpy as np

from dst.core.text import shown

LARGEST = 2**31 - 1  # counts and linear indices are 32-bit


def is_number(value: Any) -> bool:
    """Whether a value is a finite number that a float can hold, and no boolean."""
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False


def fraction(name: str, value: Any, *, below_one: bool = False) -> None:
    """Raises unless ``value`` is a number in [0, 1], or in [0, 1) with ``below_one``."""
    interval = "[0, 1)" if below_one else "[0, 1]"
    good = is_number(value)
    if good and 0 <= value and (value < 1 if below_one else value <= 1):
        return
    hint = ""
    if good and 1 <= value <= 100:
        hint = (
            f" Did you mean {value / 100:g}?" if value > 1 else " An empty layer cannot be trained."
        )
    raise ValueError(f"{name} must be a number in {interval}, got {shown(value)}.{hint}")


def at_least_zero(name: str, value: Any) -> None:
    """Raises unless ``value`` is a finite number that is not negative."""
    good = is_number(value)
    if not good or value < 0:
        raise ValueError(f"{name} must be a finite number >= 0, got {shown(value)}.")


def above_zero(name: str, value: Any, *, at_most: float = math.inf) -> None:
    """Raises unless ``value`` is a finite number above 0, and no larger than ``at_most``."""
    good = is_number(value)
    if not good or not 0 < value <= at_most:
        bound = f" and <= {at_most:g}" if math.isfinite(at_most) else ""
        raise ValueError(f"{name} must be a finite number > 0{bound}, got {shown(value)}.")


def integer(name: str, value: Any, *, at_least: int, at_most: int = LARGEST) -> None:
    """Raises unless ``value`` is an integer from ``at_least`` to ``at_most``."""
    good = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if good and at_least <= value <= at_most:
        return
    bound = f" and <= {at_most}" if good and value > at_most else ""
    raise ValueError(f"{name} must be an integer >= {at_least}{bound}, got {shown(value)}.")


def not_empty(name: str, value: Any, *, at_most: int = LARGEST) -> None:
    """Raises unless a sequence has at least one entry, and no more than ``at_most``."""
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError(f"{name} must be a list of at least one entry, got {shown(value)}.")
    if len(value) > at_most:
        raise ValueError(f"{name} must have at most {at_most} entries, got {len(value)}.")


def one_of(name: str, value: Any, options: Iterable[str | None]) -> None:
    """Raises unless ``value`` is one of ``options``; names the nearest one."""
    options = list(options)
    if value not in options:
        raise unknown(name, value, options)


def unknown(
    name: str, value: Any, options: Iterable[str | None], otherwise: str = ""
) -> ValueError:
    """The error of a value that is none of ``options``; it names the nearest one.

    Args:
      name: of what is checked.
      value: that was found.
      options: that were expected.
      otherwise: a suggestion where none of them is near, as a sentence.
    """
    near = nearest(value, options := list(options)) or otherwise
    return ValueError(f"{name} must be one of {options}, got {shown(value)}.{near}")


def nearest(value: Any, options: Iterable[str | None]) -> str:
    """`` Did you mean 'x'?`` for the option nearest to ``value``, or nothing."""
    matches = difflib.get_close_matches(str(value), map(str, options), n=1, cutoff=0.5)
    return f" Did you mean {shown(matches[0])}?" if matches else ""
