"""Whether settings differ by more than chance: paired means with Tukey's intervals, or a fit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy.special import fdtrc
from scipy.stats import studentized_range

from dst.report.groups import LEAST, SEED, Group, text_of


@dataclass(frozen=True)
class Contrast:
    """Levels of one setting, compared at equal values of all others.

    Attributes:
      levels: values of the setting.
      means: float ``[levels]``, each over the same seeds and the same values of other settings.
      half: half the width of the 95 % intervals of the differences between levels. They hold for
        all pairs at once (Tukey); for two levels this is Student's paired interval. None: there
        are too few runs.
      n: how many runs of each level are compared.
      values: float ``[levels, n]``: what is paired; None: levels have different seeds.
      unit: what is paired: ``seed``, or ``setting`` where few seeds repeat many other settings.
    """

    levels: tuple[Any, ...]
    means: np.ndarray
    half: float | None
    n: int
    values: np.ndarray | None = None
    unit: str = "seed"

    def clear(self, i: int, j: int, least: float) -> bool:
        """Whether two levels differ by more than chance.

        Without an interval all pairs of runs must agree.

        Args:
          i, j: the levels.
          least: the smallest difference that counts.
        """
        distance = abs(float(self.means[i] - self.means[j]))
        if distance <= least * 1.001:  # figures are stored in float32
            return False
        if self.half is not None:
            return distance > self.half
        pairs = self._pairs(i, j)
        return bool((pairs > 0).all() or (pairs < 0).all())

    def within(self, i: int, j: int) -> float:
        """How far apart two levels are at most: the end of the interval, or the farthest pair."""
        if self.half is not None:
            return abs(float(self.means[i] - self.means[j])) + self.half
        return float(np.abs(self._pairs(i, j)).max())

    def _pairs(self, i: int, j: int) -> np.ndarray:
        assert self.values is not None  # levels are unpaired only where there are enough runs
        return self.values[i] - self.values[j]


def contrast(groups: Sequence[Group], key: str, name: str) -> Contrast | None:
    """Compares the values of a setting.

    Args:
      groups: of runs; those without the setting or without the figure do not count.
      key: the setting.
      name: of the figure.

    Returns:
      None where no two values were run with otherwise equal settings.
    """
    cells: dict[tuple[Any, ...], dict[str, dict[str, float]]] = {}
    levels: dict[str, Any] = {}
    for group in groups:
        if key not in group.settings or not group.values(name).size:
            continue
        level = text_of(group.settings, key)
        levels[level] = group.settings[key]
        others = tuple((k, text_of(group.settings, k)) for k in group.settings if k != key)
        for seed, value in _by_seed(group, name).items():
            cells.setdefault(others, {}).setdefault(level, {})[seed] = value
    if len(levels) < 2:
        return None
    complete = [cell for cell in cells.values() if len(cell) == len(levels)]
    if not complete:
        return None
    names = tuple(levels.values())
    shared = [set.intersection(*(set(x) for x in cell.values())) for cell in complete]
    seeds = sorted(set.intersection(*shared))
    if len(seeds) < LEAST and len(complete) == 1:
        alone = [np.array(list(complete[0][level].values())) for level in levels]
        if min(x.size for x in alone) >= LEAST:
            return _unpaired(names, alone)
    if not seeds:
        return None
    # [levels, settings, seeds]
    values = np.array([[[cell[k][s] for s in seeds] for cell in complete] for k in levels])
    if len(seeds) < LEAST <= len(complete):
        return paired(names, values.mean(axis=2), "setting")
    return paired(names, values.mean(axis=1), "seed")


def _by_seed(group: Group, name: str) -> Mapping[str, float]:
    """A figure by seed: the mean of runs that repeat one."""
    found: dict[str, list[float]] = {}
    for trial in group.trials:
        if (value := trial.figure(name)) is not None:
            found.setdefault(text_of(trial.settings, SEED), []).append(value)
    return {seed: float(np.mean(values)) for seed, values in found.items()}


def paired(levels: tuple[Any, ...], values: np.ndarray, unit: str) -> Contrast:
    """Compares levels that share their seeds.

    Args:
      levels: their names.
      values: float ``[levels, n]``.
      unit: what the columns are: ``seed`` or ``setting``.
    """
    k, n = values.shape
    means = values.mean(axis=1)
    half = None
    if n >= LEAST:
        rest = values - means[:, None] - values.mean(axis=0) + values.mean()
        half = _tukey(float((rest**2).sum()), k, (k - 1) * (n - 1), n)
    return Contrast(levels, means, half, n, values, unit)


def _unpaired(levels: tuple[Any, ...], values: Sequence[np.ndarray]) -> Contrast:
    n = min(x.size for x in values)
    means = np.array([x.mean() for x in values])
    inside = sum(float(((x - x.mean()) ** 2).sum()) for x in values)
    half = _tukey(inside, len(values), sum(x.size - 1 for x in values), n)
    return Contrast(levels, means, half, n)


def _tukey(squares: float, levels: int, freedom: int, n: int) -> float:
    return _studentized(levels, freedom) * math.sqrt(squares / freedom / n)


@cache
def _studentized(levels: int, freedom: int) -> float:
    return float(studentized_range.ppf(0.95, levels, freedom))


@dataclass(frozen=True)
class Effect:
    """What a fitted quadratic surface says of one setting.

    Attributes:
      key: the setting.
      size: how much the fit changes over the values that were run.
      best: the value at which the fit is highest.
      p: chance of so large an effect where there is none, over all settings (Bonferroni).
    """

    key: str
    size: float
    best: Any
    p: float


def fitted(groups: Sequence[Group], keys: Sequence[str], name: str) -> list[Effect]:
    """Effects of settings that were drawn at random, so that no two runs are otherwise equal.

    The figure is fitted by least squares: a number enters with its square, by its logarithm where
    its values are far apart; a text enters as it is. Each setting is tested by what the fit
    loses without it (F test).

    Returns:
      The largest effect first; empty where there are too few runs for a fit.
    """
    known = [x for x in groups if all(k in x.settings for k in keys) and x.values(name).size]
    figure = np.array([x.mean(name) for x in known], dtype=float)
    if len(known) <= LEAST:
        return []
    several = [key for key in keys if len({str(x.settings[key]) for x in known}) > 1]
    columns = {key: _columns([x.settings[key] for x in known]) for key in several}
    whole = np.column_stack([np.ones(len(known)), *columns.values()])
    freedom = len(known) - whole.shape[1]
    if freedom < LEAST or np.linalg.matrix_rank(whole) < whole.shape[1]:
        return []
    weights, left = _least_squares(whole, figure)
    effects, first = [], 1
    for key, part in columns.items():
        width = part.shape[1]
        others = np.delete(whole, range(first, first + width), axis=1)
        lost = _least_squares(others, figure)[1] - left
        ratio = lost / width / max(left / freedom, 1e-300)
        p = min(1.0, float(fdtrc(width, freedom, max(ratio, 0.0))) * len(keys))
        curve = part @ weights[first : first + width]
        best = known[int(np.argmax(curve))].settings[key]
        size = min(float(np.ptp(curve)), float(np.ptp(figure)))  # a fit may overshoot
        effects.append(Effect(key, size, best, p))
        first += width
    return sorted(effects, key=lambda x: -x.size)


def _columns(values: Sequence[Any]) -> np.ndarray:
    if all(isinstance(x, int | float) and not isinstance(x, bool) for x in values):
        numbers = np.array(values, dtype=float)
        if numbers.min() > 0 and numbers.max() > 10 * numbers.min():
            numbers = np.log(numbers)
        unit = (numbers - numbers.mean()) / (numbers.std() or 1.0)
        return unit[:, None] ** np.array([1, 2])[: len(set(values)) - 1]
    names = sorted({str(x) for x in values})
    return np.array([[str(x) == name for name in names[1:]] for x in values], dtype=float)


def _least_squares(columns: np.ndarray, figure: np.ndarray) -> tuple[np.ndarray, float]:
    weights = np.linalg.lstsq(columns, figure, rcond=None)[0]
    return weights, float(((figure - columns @ weights) ** 2).sum())
