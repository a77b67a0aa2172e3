"""The sweep file, in the format of Weights & Biases: one file runs here and under its agents."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from dst.core import checks
from dst.core.text import short, shown
from dst.studies.sweep import command, distributions
from dst.studies.sweep.distributions import Distribution, Values
from dst.studies.sweep.spec import Hyperband, Keys, Metric, Sweep, SweepError, overrides_of
from dst.train.config import plain_data, yaml12
from dst.train.config import run as config
from dst.train.config.run import ConfigError

# Keys that only W&B reads.
THEIRS = ("program", "description", "project", "entity")
KEYS = ("name", "command", "method", "metric", "parameters", "early_terminate", "run_cap")
METHODS = ("grid", "random", "bayes")
_MANY = 100_000  # trials of a grid; more are a mistake

T = TypeVar("T", Metric, Hyperband)


def load(path: str | Path) -> Sweep:
    """Reads and checks a sweep file, and the config it names with every value of every parameter.

    Raises:
      SweepError: with the line.
    """
    path = Path(path)
    try:
        data = plain_data.read(path)
    except yaml12.Refused as error:
        raise SweepError(f"{path}{', ' if error.line else ': '}{error}") from error
    except ValueError as error:
        raise SweepError(f"{path}: {error}") from error
    line = yaml12.lines(path.read_text(encoding="utf-8"))

    @contextmanager
    def at(*keys: str | int) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise SweepError(f"{path}, line {line(keys)}: {error}") from error

    for key in data:
        with at(key):
            if key not in (*KEYS, *THEIRS):
                known = checks.nearest(key, KEYS)
                raise ValueError(f"a sweep has no {shown(key)}, only {list(KEYS)}.{known}")
    for key in ("command", "method", "parameters"):
        with at():
            if key not in data:
                raise ValueError(f"a sweep must have {shown(key)}, found {list(data)}.")
    with at("command"):
        program = command.read(data["command"], data.get("program"))
    with at("method"):
        checks.one_of("method", data["method"], METHODS)
    with at("metric"):
        metric = _section(Metric, "metric", data.get("metric", {"name": "loss"}))
        checks.one_of("metric.goal", metric.goal, ("minimize", "maximize"))
        program.check_metric(metric.name)
    with at("early_terminate"):
        early = _early(data.get("early_terminate"))
    with at("run_cap"):
        if "run_cap" in data:
            checks.integer("run_cap", data["run_cap"], at_least=1)
    with at("parameters"):
        if not isinstance(data["parameters"], Mapping) or not data["parameters"]:
            raise ValueError(f"parameters must be a mapping, got {shown(data['parameters'])}.")
    parameters: dict[Keys, Distribution] = {}
    places: dict[Keys, tuple[str, ...]] = {}
    for keys, given in _leaves(data["parameters"], ()):
        name = tuple(k for i, k in enumerate(keys) if i % 2 == 0)
        with at("parameters", *keys):
            if not isinstance(given, Mapping):
                raise ValueError(f"{short('.'.join(name))} must be a mapping, got {shown(given)}.")
            parameters[name] = distributions.read(given)
            if data["method"] == "grid":
                parameters[name].all()
        places[name] = ("parameters", *keys)
    with at("name"):
        name = data.get("name", path.stem)
        config.check_name(name)
    sweep = Sweep(
        path=path,
        name=name,
        command=program,
        method=data["method"],
        metric=metric,
        parameters=parameters,
        run_cap=data.get("run_cap"),
        early_terminate=early,
    )
    with at("method" if sweep.run_cap is None else "run_cap"):
        _check_count(sweep)
    _check_values(sweep, lambda name: at(*places[name]), at("command"))
    return sweep


def _section(cls: type[T], name: str, given: Any) -> T:
    if not isinstance(given, Mapping):
        raise ValueError(f"{name} must be a mapping, got {shown(given)}.")
    for key in given:
        checks.one_of(f"a key of {name}", key, [x.name for x in fields(cls)])
    for x in fields(cls):
        if x.default is MISSING and x.name not in given:
            raise ValueError(f"{name} must have {shown(x.name)}, found {shown(dict(given))}.")
    return cls(**given)


def _early(given: Any) -> Hyperband | None:
    if given is None:
        return None
    if not isinstance(given, Mapping) or given.get("type") != "hyperband":
        raise ValueError(f"early_terminate must have type: hyperband, got {shown(given)}.")
    if "min_iter" not in given and not {"max_iter", "s"} <= given.keys():
        raise ValueError(
            f"early_terminate must have min_iter, or max_iter and s, found {shown(dict(given))}."
        )
    # The number of brackets, `s`, and `strict` follow from the others in Optuna.
    rest = {k: v for k, v in given.items() if k not in ("type", "s", "strict")}
    early = _section(Hyperband, "early_terminate", rest)
    checks.integer("eta", early.eta, at_least=2)
    if "min_iter" not in given:
        checks.integer("max_iter", given["max_iter"], at_least=1)
        checks.integer("s", given["s"], at_least=0)
        early = replace(early, min_iter=max(1, given["max_iter"] // early.eta ** given["s"]))
    checks.integer("min_iter", early.min_iter, at_least=1)
    if early.max_iter is not None:
        checks.integer("max_iter", early.max_iter, at_least=early.min_iter)
    return early


def _leaves(parameters: Mapping[str, Any], keys: tuple[str, ...]) -> Iterator[tuple[Keys, Any]]:
    """Every parameter, by its keys in the file; nested ones stand below a key ``parameters``."""
    for key, value in parameters.items():
        if isinstance(value, Mapping) and isinstance(value.get("parameters"), Mapping):
            yield from _leaves(value["parameters"], (*keys, str(key), "parameters"))
        else:
            yield (*keys, str(key)), value


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


def _check_values(
    sweep: Sweep,
    at: Callable[[Keys], AbstractContextManager[None]],
    at_command: AbstractContextManager[None],
) -> None:
    """Loads the config with the first values of all parameters, then with each other value.

    Args:
      sweep: that is checked.
      at: a context whose errors name the line of a parameter.
      at_command: a context whose errors name the line of the command.
    """
    few = {
        name: x.values if isinstance(x, Values) else (x.at(0.0), x.at(1.0))
        for name, x in sweep.parameters.items()
    }

    def check(values: Mapping[Keys, Any]) -> None:
        sweep.command.check(overrides_of(values))

    first = {name: values[0] for name, values in few.items()}
    try:
        check(first)
    except ConfigError as error:  # of the parameter that it names, or of the last one added
        for name in first:
            if f": {'.'.join(name)} " in str(error):
                with at(name):
                    raise
        with at_command:
            check({})
        some: dict[Keys, Any] = {}
        for name, value in first.items():
            some[name] = value
            with at(name):
                check(some)
    for name, values in few.items():
        for value in values[1:]:
            with at(name):
                check({**first, name: value})
