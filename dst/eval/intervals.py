"""Confidence intervals: of a share, and of figures and their differences by the bootstrap."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from dst.core import checks
from dst.core.typing import Int

_AT_ONCE = 2**22  # counts that are alive together

Statistic = Callable[[Int[np.ndarray, "resamples items"]], np.ndarray]


def wilson(share: float, count: int, *, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share; it lies within [0, 1], and is right near its ends, too.

    ``(p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)``.

    Args:
      share: of the items, in [0, 1].
      count: of the items, >= 1.
      level: of confidence, in (0, 1).

    Raises:
      ValueError: a value outside of its range.

    Example:
      >>> [round(x, 4) for x in wilson(0.5, 100)]
      [0.4038, 0.5962]

    References: Wilson 1927, Probable inference, the law of succession, and statistical inference.
    Checked against: scipy.stats.binomtest, tests/eval/test_intervals.py.
    """
    checks.fraction("share", share)
    checks.integer("count", count, at_least=1)
    z = NormalDist().inv_cdf((1 + _level(level)) / 2)
    half = z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    middle, scale = share + z**2 / (2 * count), 1 + z**2 / count
    return max((middle - half) / scale, 0.0), min((middle + half) / scale, 1.0)


def bootstrap(
    statistic: Statistic, items: int, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """The percentile interval of a statistic under resampling of its items.

    A resample draws as many items as there are, with replacement. It is given by how often it has
    each item. A difference of two models is *paired* when one statistic reads the outcomes of both
    with the same counts: then what makes an item hard for both models cancels.

    Args:
      statistic: from counts ``[resamples, items]`` to one figure for each resample. Figures that
        are no number are left out.
      items: how many, >= 1.
      level: of confidence, in (0, 1).
      resamples: how many, >= 1.
      seed: of NumPy's generator, >= 0.

    Returns:
      both ends of the interval; NaN if no resample has a figure.

    Raises:
      ValueError: a value outside of its range.

    Example:
      >>> one, other = np.array([1, 1, 0, 1]), np.array([1, 1, 0, 1])
      >>> bootstrap(lambda counts: counts @ (one - other) / 4, 4)
      (0.0, 0.0)

    References: Efron 1979, Bootstrap methods; Koehn 2004, Statistical significance tests for
      machine translation evaluation, for pairs of models.
    Checked against: the normal approximation of a mean of differences, and single resamples:
      tests/eval/test_intervals.py.
    """
    checks.integer("items", items, at_least=1)
    checks.integer("resamples", resamples, at_least=1)
    checks.integer("seed", seed, at_least=0)
    ends = (1 - _level(level)) / 2, (1 + level) / 2
    random, found = np.random.default_rng(seed), []
    rows = max(_AT_ONCE // items, 1)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = random.integers(0, items, (count, items))
        drawn += items * np.arange(count)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=count * items).reshape(count, items)
        found.append(np.asarray(statistic(counts), np.float64))
    figures = np.concatenate(found)
    figures = figures[~np.isnan(figures)]
    if not len(figures):
        return math.nan, math.nan
    low, high = np.quantile(figures, ends)
    return float(low), float(high)


def _level(level: float) -> float:
    checks.above_zero("level", level)
    checks.fraction("level", level, below_one=True)
    return level
