"""A sweep as data: its config, its parameters, its trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from dst.studies.sweep.command import Script, Train
from dst.studies.sweep.distributions import Distribution
from dst.train.config import plain_data
from dst.train.config.run import ConfigError

Keys = tuple[str, ...]  # the path of a parameter in the config


class SweepError(ConfigError):
    """A sweep that cannot be run: the file, the line, what was expected, what was found."""


@dataclass(frozen=True)
class Metric:
    """What trials are compared by.

    Attributes:
      name: of a figure in ``summary.json``.
      goal: which one is better.
    """

    name: str
    goal: Literal["minimize", "maximize"] = "minimize"


@dataclass(frozen=True)
class Hyperband:
    """Trials that are behind end early (Li et al. 2018, JMLR 18; Optuna's pruner).

    Attributes:
      min_iter: evaluations before a trial may end.
      max_iter: evaluations of a whole trial; None: Optuna learns it from the first trials.
      eta: one trial of so many continues.
    """

    min_iter: int = 1
    max_iter: int | None = None
    eta: int = 3


@dataclass(frozen=True)
class Sweep:
    """Trials of one command.

    Attributes:
      path: of the file.
      name: of the sweep.
      command: what a trial runs.
      method: how trials are chosen.
      metric: what they are compared by.
      parameters: by path: ``("method", "sparsity")`` nested, ``("method.sparsity",)`` dotted.
      run_cap: number of trials; None: the whole grid.
      early_terminate: which trials end early; None: none.
    """

    path: Path
    name: str
    command: Train | Script
    method: Literal["grid", "random", "bayes"]
    metric: Metric
    parameters: Mapping[Keys, Distribution]
    run_cap: int | None = None
    early_terminate: Hyperband | None = None

    def trials(self) -> list[tuple[str, ...] | None]:
        """Overrides of every trial, in order; None where they are chosen from earlier results.

        A function of the file alone: random trials too.
        """
        if self.method == "grid":
            grid = product(*(x.all() for x in self.parameters.values()))
            return [self.overrides(values) for values in grid]
        count = cast(int, self.run_cap)
        if self.method == "bayes":
            return [None] * count
        draws = (np.random.default_rng([0, i]).random(len(self.parameters)) for i in range(count))
        return [self.at(draw.tolist()) for draw in draws]

    def at(self, point: Sequence[float]) -> tuple[str, ...]:
        """Overrides at a point of the unit cube."""
        pairs = zip(self.parameters.values(), point, strict=True)
        return self.overrides([x.at(float(u)) for x, u in pairs])

    def overrides(self, values: Sequence[Any]) -> tuple[str, ...]:
        """``key=value`` for these values of the parameters, written as W&B's agents write them."""
        return overrides_of(dict(zip(self.parameters, values, strict=True)))

    def settings(self, overrides: Sequence[str]) -> dict[str, Any]:
        """The value of every parameter in these overrides, by dotted name."""
        data = plain_data.merged({}, *map(plain_data.override, overrides))

        def value(name: str) -> Any:
            return reduce(lambda node, key: node[key], name.split("."), data)

        return {name: value(name) for name in map(".".join, self.parameters)}


def overrides_of(values: Mapping[Keys, Any]) -> tuple[str, ...]:
    """``key=value`` for values by path; those with common first keys are merged."""
    nested: dict[str, Any] = {}
    for path, value in values.items():
        for key in reversed(path):
            value = {key: value}
        nested = cast(dict, plain_data.merged(nested, value))
    return tuple(f"{key}={value}" for key, value in nested.items())
