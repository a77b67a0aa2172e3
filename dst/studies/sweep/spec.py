"""The sweep file: that of Weights & Biases, so that one file runs here and under its agents."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, replace
from functools import reduce
from itertools import product
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from ruamel.yaml import YAML

from dst.core import checks
from dst.studies.sweep import distributions as space
from dst.studies.sweep.distributions import Distribution
from dst.train.config import overrides as plain
from dst.train.config import run as config
from dst.train.config.run import ConfigError
from dst.train.objectives.task import SCORES

ARGUMENTS = "${args_no_hyphens}"
# What W&B reads and has no meaning here.
_THEIRS = ("program", "description", "project", "entity")
_KEYS = ("name", "command", "method", "metric", "parameters", "early_terminate", "run_cap")
# What `summary.json` has as numbers; which scores there are depends on data and optimizer.
MEASURED = (
    *SCORES,
    *("sparsity", "sparsity_model", "explored", "training_cost", "forward_cost"),
    *("average_density", "topology_steps", "steps", "seconds"),
)
_MANY = 100_000  # trials of a grid: more are a mistake

Path_ = tuple[str, ...]


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
      max_iter: evaluations of a whole trial; None: found from the first ones.
      eta: of so many trials, one goes on.
    """

    min_iter: int = 1
    max_iter: int | None = None
    eta: int = 3


@dataclass(frozen=True)
class Sweep:
    """Trials of one config.

    Attributes:
      path: of the file.
      name: of the sweep.
      config: the config that the command trains.
      fixed: overrides of every trial.
      method: how trials are chosen.
      metric: what they are compared by.
      parameters: by path: ``("method", "sparsity")`` nested, ``("method.sparsity",)`` dotted.
      run_cap: number of trials; None: the whole grid.
      early_terminate: which trials end early; None: none.
    """

    path: Path
    name: str
    config: Path
    fixed: tuple[str, ...]
    method: Literal["grid", "random", "bayes"]
    metric: Metric
    parameters: Mapping[Path_, Distribution]
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
        found = zip(self.parameters.values(), point, strict=True)
        return self.overrides([x.at(float(u)) for x, u in found])

    def overrides(self, values: Sequence[Any]) -> tuple[str, ...]:
        """``key=value`` for these values of the parameters, written as W&B's agents write them."""
        return _overrides(dict(zip(self.parameters, values, strict=True)))

    def settings(self, overrides: Sequence[str]) -> dict[str, Any]:
        """The value of every parameter in these overrides, by dotted name."""
        data = plain.merged({}, *map(plain.override, overrides))

        def value(name: str) -> Any:
            return reduce(lambda found, key: found[key], name.split("."), data)

        return {name: value(name) for name in map(".".join, self.parameters)}


def load(path: str | Path) -> Sweep:
    """Reads and checks a sweep file, and the config it names with every value of every parameter.

    Raises:
      SweepError: with the line.
    """
    path = Path(path)
    try:
        data = plain.read(path)
    except ValueError as error:
        raise SweepError(f"{path}: {error}") from error
    line = _lines(path)

    @contextmanager
    def at(*keys: str | int) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise SweepError(f"{path}, line {line(keys)}: {error}") from error

    for key in data:
        with at(key):
            if key not in (*_KEYS, *_THEIRS):
                known = checks.nearest(key, _KEYS)
                raise ValueError(f"a sweep has no {key!r}, only {list(_KEYS)}.{known}")
    for key in ("command", "method", "parameters"):
        with at():
            if key not in data:
                raise ValueError(f"a sweep must have {key!r}, found {list(data)}.")
    with at("command"):
        base, fixed = _command(data["command"])
    with at("method"):
        checks.one_of("method", data["method"], ("grid", "random", "bayes"))
    with at("metric"):
        metric = _section(Metric, "metric", data.get("metric", {"name": "loss"}))
        checks.one_of("metric.goal", metric.goal, ("minimize", "maximize"))
        checks.one_of("metric.name", metric.name, MEASURED)
    with at("early_terminate"):
        early = _early(data.get("early_terminate"))
    with at("run_cap"):
        if "run_cap" in data:
            checks.integer("run_cap", data["run_cap"], at_least=1)
    with at("parameters"):
        if not isinstance(data["parameters"], Mapping) or not data["parameters"]:
            raise ValueError(f"parameters must be a mapping, got {data['parameters']!r}.")
    parameters: dict[Path_, Distribution] = {}
    places: dict[Path_, tuple[str, ...]] = {}
    for keys, given in _leaves(data["parameters"], ()):
        name = tuple(k for i, k in enumerate(keys) if i % 2 == 0)
        with at("parameters", *keys):
            if not isinstance(given, Mapping):
                raise ValueError(f"{'.'.join(name)} must be a mapping, got {given!r}.")
            parameters[name] = space.read(given)
            if data["method"] == "grid":
                parameters[name].all()
        places[name] = ("parameters", *keys)
    found = Sweep(
        path=path,
        name=str(data.get("name", path.stem)),
        config=base,
        fixed=fixed,
        method=data["method"],
        metric=metric,
        parameters=parameters,
        run_cap=data.get("run_cap"),
        early_terminate=early,
    )
    with at("method" if found.run_cap is None else "run_cap"):
        _check_count(found)
    _check_values(found, lambda name: at(*places[name]), at("command"))
    return found


def _command(command: Any) -> tuple[Path, tuple[str, ...]]:
    words = command if isinstance(command, list) else [command]
    if "train" not in words or words[-1] != ARGUMENTS or len(words) < words.index("train") + 3:
        raise ValueError(
            f"command must read [dst, train, CONFIG, {ARGUMENTS!r}], with overrides before the "
            f"last if you like, got {words}."
        )
    base, *fixed = words[words.index("train") + 1 : -1]
    if options := [x for x in fixed if str(x).startswith("-")]:
        raise ValueError(
            f"command must have no option such as {options[0]!r}: directories are "
            "those of the sweep."
        )
    for text in fixed:
        plain.override(str(text))
    return Path(base), tuple(map(str, fixed))


def _section(cls: type, name: str, given: Any) -> Any:
    if not isinstance(given, Mapping):
        raise ValueError(f"{name} must be a mapping, got {given!r}.")
    for key in given:
        checks.one_of(f"a key of {name}", key, [x.name for x in fields(cls)])
    for x in fields(cls):
        if x.default is MISSING and x.name not in given:
            raise ValueError(f"{name} must have {x.name!r}, found {dict(given)}.")
    return cls(**given)


def _early(given: Any) -> Hyperband | None:
    if given is None:
        return None
    if not isinstance(given, Mapping) or given.get("type") != "hyperband":
        raise ValueError(f"early_terminate must have type: hyperband, got {given!r}.")
    if "min_iter" not in given and not {"max_iter", "s"} <= given.keys():
        raise ValueError(
            f"early_terminate must have min_iter, or max_iter and s, found {dict(given)}."
        )
    # The number of brackets, `s`, and `strict` follow from the others in Optuna.
    rest = {k: v for k, v in given.items() if k not in ("type", "s", "strict")}
    found = _section(Hyperband, "early_terminate", rest)
    checks.integer("eta", found.eta, at_least=2)
    if "min_iter" not in given:
        checks.integer("max_iter", found.max_iter, at_least=1)
        checks.integer("s", given["s"], at_least=0)
        found = replace(found, min_iter=max(1, found.max_iter // found.eta ** given["s"]))
    checks.integer("min_iter", found.min_iter, at_least=1)
    if found.max_iter is not None:
        checks.integer("max_iter", found.max_iter, at_least=found.min_iter)
    return found


def _leaves(parameters: Mapping[str, Any], keys: tuple[str, ...]) -> Iterator[tuple[Path_, Any]]:
    """Every parameter, by its keys in the file; nested ones stand below a key ``parameters``."""
    for key, given in parameters.items():
        if isinstance(given, Mapping) and isinstance(given.get("parameters"), Mapping):
            yield from _leaves(given["parameters"], (*keys, str(key), "parameters"))
        else:
            yield (*keys, str(key)), given


def _check_count(sweep: Sweep) -> None:
    if sweep.method != "grid":
        if sweep.run_cap is None:
            raise ValueError(f"method {sweep.method!r} must have run_cap, the number of trials.")
        return
    size = math.prod(len(x.all()) for x in sweep.parameters.values())
    most = _MANY if sweep.run_cap is None else sweep.run_cap
    if size > most:
        raise ValueError(
            f"the grid has {size} trials, more than {'run_cap, ' * (sweep.run_cap is not None)}"
            f"{most}. Take values out, or raise run_cap."
        )


def _check_values(sweep: Sweep, at: Any, command: Any) -> None:
    """The config with the first values of all parameters; then with each of the other values
    alone."""
    few = {
        name: x.values if isinstance(x, space.Values) else (x.at(0.0), x.at(1.0))
        for name, x in sweep.parameters.items()
    }

    def check(values: Mapping[Path_, Any]) -> None:
        config.load(sweep.config, [*sweep.fixed, *_overrides(values)])

    first = {name: values[0] for name, values in few.items()}
    try:
        check(first)
    except ConfigError as error:  # which one is to blame: what it names, or what came last
        for name in first:
            if f": {'.'.join(name)} " in str(error):
                with at(name):
                    raise
        with command:
            check({})
        some: dict[Path_, Any] = {}
        for name, value in first.items():
            some[name] = value
            with at(name):
                check(some)
    for name, values in few.items():
        for value in values[1:]:
            with at(name):
                check({**first, name: value})


def _overrides(values: Mapping[Path_, Any]) -> tuple[str, ...]:
    nested: dict[str, Any] = {}
    for path, value in values.items():
        for key in reversed(path):
            value = {key: value}
        nested = cast(dict, plain.merged(nested, value))
    return tuple(f"{key}={value}" for key, value in nested.items())


def _lines(path: Path) -> Any:
    """A function from keys to the line of the file in which they stand."""
    top: Any = YAML().load(path.read_text(encoding="utf-8"))

    def line(keys: Sequence[Any]) -> int:
        node: Any = top
        found = 1
        for key in keys:
            if key not in node:
                break
            found = node.lc.key(key)[0] + 1
            node = node[key]
        return found

    return line
