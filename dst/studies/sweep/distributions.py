"""What a parameter of a sweep may be: one value, several, or a distribution.

Each is its quantile function: a number in [0, 1) chooses the value. So random search draws uniform
numbers, and Bayesian search works in the unit cube, where the prior is flat.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from statistics import NormalDist
from typing import Any

from dst.core import checks
from dst.core.text import shown


@dataclass(frozen=True)
class Values:
    """One of several values.

    Attributes:
      values: any plain data.
      probabilities: of each; None: all are equal.
    """

    values: tuple[Any, ...]
    probabilities: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("values must hold at least one value, got none.")
        if self.probabilities is None:
            return
        good = len(self.probabilities) == len(self.values)
        good = good and all(checks.is_number(p) and p >= 0 for p in self.probabilities)
        if not good or abs(sum(self.probabilities) - 1) > 1e-6:
            raise ValueError(
                f"probabilities must be {len(self.values)} numbers >= 0 whose sum is 1, "
                f"got {shown(list(self.probabilities))}."
            )

    @property
    def constant(self) -> bool:
        """Whether there is a single value."""
        return len(self.values) == 1

    def at(self, u: float) -> Any:
        """The value at a quantile."""
        n = len(self.values)
        bounds = list(accumulate(self.probabilities or [1 / n] * n))
        return next((x for x, b in zip(self.values, bounds, strict=True) if u < b), self.values[-1])

    def count(self) -> int:
        """How many values a grid has."""
        return len(self.values)

    def all(self) -> tuple[Any, ...]:
        """The values of a grid."""
        return self.values


@dataclass(frozen=True)
class Range:
    """A distribution of numbers.

    Attributes:
      quantile: number in (0, 1) to number.
      q: numbers are rounded to its multiples; None: no rounding.
      bounds: smallest and largest number; None: a grid cannot count the numbers.

    Raises:
      ValueError: numbers that are not finite, or a ``q`` with more multiples than a float can tell
        apart, or with less than two.
    """

    quantile: Callable[[float], float]
    q: float | None = None
    bounds: tuple[float, float] | None = None
    constant = False

    def __post_init__(self) -> None:
        try:
            ends = [self.quantile(u) for u in _ENDS]
        except OverflowError:
            ends = [math.inf]
        if not all(map(checks.is_number, ends)):
            raise ValueError(
                f"numbers must stay below {sys.float_info.max:.2g}, and here they do not. "
                "Narrow the distribution: min and max, or mu and sigma."
            )
        least = max(map(abs, ends)) / _EXACT
        if self.q is not None and self.q < least:
            raise ValueError(
                f"q must be at least {least:.2g} for numbers up to {max(map(abs, ends)):.2g}, "
                f"got {shown(self.q)}."
            )
        if self.q is not None and self.bounds and self.q > self.bounds[1] - self.bounds[0]:
            raise ValueError(f"q must be at most max - min, got {shown(self.q)}.")

    def at(self, u: float) -> float:
        """The number at a quantile."""
        return self._rounded(self.quantile(min(max(u, _ENDS[0]), _ENDS[1])))

    def count(self) -> int:
        """How many numbers a grid has.

        Raises:
          ValueError: there are infinitely many.
        """
        numbers = self._multiples()
        return numbers.stop - numbers.start

    def all(self) -> tuple[float, ...]:
        """The numbers of a grid; as :meth:`count`."""
        return tuple(self._rounded(i * self.q) for i in self._multiples())  # type: ignore[operator]

    def _multiples(self) -> range:
        if self.q is None or self.bounds is None:
            raise ValueError("a grid must have values, int_uniform or q_uniform, got a continuum.")
        low, high = (round(x / self.q) for x in self.bounds)
        return range(low, high + 1)

    def _rounded(self, x: float) -> float:
        if self.q is None:
            return x
        return round(x / self.q) * self.q if isinstance(self.q, int) else _decimal(x, self.q)


Distribution = Values | Range
_ENDS = 1e-12, 1 - 1e-12  # the quantiles that are drawn
_EXACT = 2**53  # integers up to it are floats
_LARGEST_EXPONENT = 708  # of numbers that floats hold in full


def read(given: Mapping[str, Any]) -> Distribution:
    """The distribution that a parameter of a sweep file describes.

    Args:
      given: with ``value``; ``values`` and perhaps ``probabilities``; or ``distribution`` and
        its numbers, as W&B names them. ``min`` and ``max`` alone are uniform: of integers where
        both are.

    Raises:
      ValueError: a key is missing, unknown, or no number.
    """
    name = given.get("distribution", guess(given))
    checks.one_of("distribution", name, KEYS)
    needed, optional = KEYS[name]
    for key in given:
        if key != "distribution" and key not in (*needed, *optional):
            raise ValueError(f"{name} has no {shown(key)}, only {[*needed, *optional]}.")
    if missing := [key for key in needed if key not in given]:
        raise ValueError(f"{name} must have {shown(missing[0])}, found {list(given)}.")
    if name == "constant":
        return Values((given["value"],))
    if name.startswith("categorical"):
        for key in (k for k in ("values", "probabilities") if k in given):
            if not isinstance(given[key], list):
                raise ValueError(f"{key} must be a list, got {shown(given[key])}.")
        probabilities = given.get("probabilities")
        return Values(tuple(given["values"]), probabilities and tuple(probabilities))
    numbers = {k: v for k, v in given.items() if k != "distribution"}
    for key, value in numbers.items():
        if not checks.is_number(value):
            raise ValueError(f"{key} must be a finite number, got {shown(value)}.")
    return _range(name, numbers)


_INTERVAL, _NORMAL = (("min", "max"), ()), ((), ("mu", "sigma"))
# The keys that each must have, and may have.
KEYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "constant": (("value",), ()),
    "categorical": (("values",), ()),
    "categorical_w_probabilities": (("values", "probabilities"), ()),
    "int_uniform": _INTERVAL,
    "uniform": _INTERVAL,
    "log_uniform": _INTERVAL,
    "log_uniform_values": _INTERVAL,
    "q_uniform": (("min", "max"), ("q",)),
    "q_log_uniform": (("min", "max"), ("q",)),
    "q_log_uniform_values": (("min", "max"), ("q",)),
    "normal": _NORMAL,
    "log_normal": _NORMAL,
    "q_normal": ((), ("mu", "sigma", "q")),
    "q_log_normal": ((), ("mu", "sigma", "q")),
}


def guess(given: Mapping[str, Any]) -> str:
    """The distribution that the keys of a parameter mean without ``distribution``."""
    if "value" in given:
        return "constant"
    if "values" in given:
        return "categorical_w_probabilities" if "probabilities" in given else "categorical"
    ends = [given.get("min"), given.get("max")]
    return "int_uniform" if all(type(x) is int for x in ends) else "uniform"


def _range(name: str, numbers: Mapping[str, Any]) -> Range:
    kind = name.removeprefix("q_")
    q = numbers.get("q", 1) if name.startswith("q_") else None
    if q is not None and q <= 0:
        raise ValueError(f"q must be above 0, got {shown(q)}.")
    if kind in ("normal", "log_normal"):
        mu, sigma = numbers.get("mu", 0), numbers.get("sigma", 1)
        if sigma <= 0:
            raise ValueError(f"sigma must be above 0, got {shown(sigma)}.")
        bell = NormalDist(mu, sigma).inv_cdf
        return Range(bell if kind == "normal" else lambda u: math.exp(bell(u)), q)
    low, high = numbers["min"], numbers["max"]
    if not low < high:
        raise ValueError(f"min must be below max, got {shown(low)} and {shown(high)}.")
    if kind == "int_uniform":
        if type(low) is not int or type(high) is not int or max(abs(low), abs(high)) > _EXACT:
            raise ValueError(
                f"min and max must be integers from -{_EXACT} to {_EXACT}, got {shown(low)} and "
                f"{shown(high)}."
            )
        return Range(lambda u: math.floor(low + u * (high - low + 1)), 1, (low, high))
    if kind == "uniform":
        return Range(lambda u: low + u * (high - low), q, (low, high))
    if kind == "log_uniform_values":
        if low <= 0:
            raise ValueError(f"min must be above 0, got {shown(low)}.")
        low, high = math.log(low), math.log(high)
    elif max(abs(low), abs(high)) > _LARGEST_EXPONENT:
        raise ValueError(
            f"min and max must lie in -{_LARGEST_EXPONENT} to {_LARGEST_EXPONENT}, since numbers "
            f"are exp(min) to exp(max), got {shown(low)} and {shown(high)}. log_uniform_values "
            "takes the numbers themselves."
        )
    return Range(lambda u: math.exp(low + u * (high - low)), q)


def _decimal(x: float, q: float) -> float:
    """The multiple of ``q`` nearest to ``x`` as people would write it: .3, not .30000000000004."""
    return float(f"{round(x / q) * q:.12g}")
