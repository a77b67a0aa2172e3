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
MOST_TRIALS = 100_000  # trials; more are a mistake
_MOST_VALUES = 1000  # that a file lists: the config is loaded with each
MOST_BRACKETS = 30  # of Hyperband: each has at most half the evaluations of the next

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
    for key in THEIRS:
        with at(key):
            if not isinstance(data.get(key, ""), str):
                raise ValueError(f"{key} must be text, got {shown(data[key])}.")
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
            checks.integer("run_cap", data["run_cap"], at_least=1, at_most=MOST_TRIALS)
    with at("parameters"):
        if not isinstance(data["parameters"], Mapping) or not data["parameters"]:
            raise ValueError(f"parameters must be a mapping, got {shown(data['parameters'])}.")
    parameters: dict[Keys, Distribution] = {}
    places: dict[Keys, tuple[str, ...]] = {}
    dotted: dict[str, int] = {}
    for keys, given in _leaves(data["parameters"], ()):
        name = tuple(k for i, k in enumerate(keys) if i % 2 == 0)
        with at("parameters", *keys):
            _check_name(name, dotted)
            dotted[".".join(name)] = line(("parameters", *keys))
            parameters[name] = _parameter(".".join(name), given, data["method"] == "grid")
        places[name] = ("parameters", *keys)
    for one in places:
        with at(*places[one]):
            _check_overlap(".".join(one), {".".join(k): x for k, x in parameters.items()})
    with at("parameters"):
        listed = sum(len(x.values) for x in parameters.values() if isinstance(x, Values))
        if listed > _MOST_VALUES:
            raise ValueError(
                f"parameters must list at most {_MOST_VALUES} values, since each is checked, got "
                f"{listed}. Write a range as min and max."
            )
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
    early, key = _section(Hyperband, "early_terminate", rest), "early_terminate."
    checks.integer(f"{key}eta", early.eta, at_least=2)
    if "s" in given:
        checks.integer(f"{key}s", given["s"], at_least=0, at_most=MOST_BRACKETS)
    if not isinstance(given.get("strict", False), bool):
        raise ValueError(f"{key}strict must be true or false, got {shown(given['strict'])}.")
    if "min_iter" not in given:
        checks.integer(f"{key}max_iter", given["max_iter"], at_least=1)
        early = replace(early, min_iter=max(1, given["max_iter"] // early.eta ** given["s"]))
    checks.integer(f"{key}min_iter", early.min_iter, at_least=1)
    if early.max_iter is not None:
        checks.integer(f"{key}max_iter", early.max_iter, at_least=early.min_iter)
    return early


def _check_name(name: Keys, known: Mapping[str, int]) -> None:
    """Raises ValueError unless ``name=value`` can set a parameter that no other line has."""
    text = ".".join(name)
    if not all(text.split(".")) or "=" in text:
        raise ValueError(
            f"parameters must have the names of keys, such as method.sparsity, got {shown(text)}."
        )
    if text in known:
        raise ValueError(
            f"{short(text)} is given twice, first in line {known[text]}: dotted and nested names "
            "are the same. Take one out."
        )


def _check_overlap(name: str, parameters: Mapping[str, Distribution]) -> None:
    """Raises ValueError where the values of another parameter hold this one too."""
    keys = name.split(".")
    for i in range(1, len(keys)):
        around = parameters.get(".".join(keys[:i]))
        for value in around.values if isinstance(around, Values) else ():
            for key in keys[i:]:
                value = value.get(key, MISSING) if isinstance(value, Mapping) else MISSING
            if value is not MISSING:
                raise ValueError(
                    f"{short(name)} is given twice: values of {short('.'.join(keys[:i]))} hold it "
                    "too. Take it out of one of them."
                )


def _parameter(name: str, given: Any, grid: bool) -> Distribution:
    if not isinstance(given, Mapping):
        raise ValueError(f"{short(name)} must be a mapping, got {shown(given)}.")
    if "parameters" in given:
        raise ValueError(
            f"{short(name)} must have parameters alone, with at least one below, or none, got "
            f"{shown(dict(given))}."
        )
    try:
        found = distributions.read(given)
        if grid and (count := found.count()) > MOST_TRIALS:
            raise ValueError(
                f"a grid has at most {MOST_TRIALS} trials, and this parameter has {count} numbers. "
                "Raise q, narrow the range, or search at random."
            )
    except ValueError as error:
        raise ValueError(f"{short(name)}: {error}") from error
    return found


def _leaves(parameters: Mapping[str, Any], keys: tuple[str, ...]) -> Iterator[tuple[Keys, Any]]:
    """Every parameter, by its keys in the file; nested ones stand below a key ``parameters``."""
    for key, value in parameters.items():
        inner = value.get("parameters") if isinstance(value, Mapping) else None
        if isinstance(inner, Mapping) and inner and len(value) == 1:
            yield from _leaves(inner, (*keys, str(key), "parameters"))
        else:
            yield (*keys, str(key)), value


def _check_count(sweep: Sweep) -> None:
    if sweep.method != "grid":
        if sweep.run_cap is None:
            raise ValueError(f"method {sweep.method!r} must have run_cap, the number of trials.")
        return
    size = math.prod(x.count() for x in sweep.parameters.values())
    most = MOST_TRIALS if sweep.run_cap is None else sweep.run_cap
    if size > most:
        raise ValueError(
            f"the grid has {short(str(size))} trials, more than "
            f"{'run_cap, ' * (sweep.run_cap is not None)}{most}. Take values out, or raise run_cap."
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
