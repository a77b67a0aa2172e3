"""Figures over repeated runs: the mean and its standard error."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import NamedTuple


class Spread(NamedTuple):
    """Attributes: ``mean``, and ``error``, the standard error of the mean."""

    mean: float
    error: float

    def words(self, digits: int = 2) -> str:
        """``98.00 ± 0.22``."""
        return f"{self.mean:.{digits}f} ± {self.error:.{digits}f}"


def spread(values: Iterable[float]) -> Spread:
    """Mean and standard error of at least two values, such as a figure's over seeds.

    >>> spread([97.0, 98.0, 99.0]).words()
    '98.00 ± 0.58'

    Raises:
      ValueError: fewer than two values.
    """
    figures = list(values)
    if len(figures) < 2:
        raise ValueError(f"a spread needs at least 2 values, got {len(figures)}. Run more seeds.")
    return Spread(statistics.mean(figures), statistics.stdev(figures) / len(figures) ** 0.5)
