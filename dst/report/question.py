"""What a run asks, and the settings that define the question."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from dst.methods import METHODS
from dst.report.contents import Run, number
from dst.report.tiles import final
from dst.report.words import name_of, worded

_FIRST = 6  # settings of a method that are shown even where they are the defaults


def question(run: Run) -> str:
    """What the run asks, in one sentence: figure, model, data, method, sparsity."""
    data = name_of(run.section("data")) or "its data"
    start = f"What test {run.figure().words} does {model_words(run)} reach on {data}"
    if run.dense():
        return f"{start} when all of its weights are in use?"
    sparsity = number(run.section("method").get("sparsity"))
    if sparsity is None:
        sparsity = final(run, "sparsity")
    at = "" if sparsity is None else f" at {100 * sparsity:.4g} % sparsity"
    return f"{start} with {method_words(run)}{at}?"


def method_words(run: Run) -> str:
    """The method under its published name, which is that of its class; a preset as configured."""
    name = name_of(run.section("method"))
    return METHODS[name].__name__ if name in METHODS else name or "its method"


def pattern_words(run: Run) -> str:
    """The pattern of the zeros, ``unstructured`` or ``2:4``; empty where no config says it."""
    method = run.section("method")
    if name_of(method) == "dense":
        return "dense"
    structure = method.get("structure")
    sizes = structure if isinstance(structure, Mapping) else method
    if {"n", "m"} <= sizes.keys():
        return f"{sizes['n']}:{sizes['m']}"
    if structure is None:  # a method of one pattern has no such setting
        return f"that of {method_words(run)}" if method else ""
    return worded(structure)


def model_words(run: Run) -> str:
    """The model with its sizes, as ``mlp (hidden 300, 100)``."""
    return worded(run.section("model")) or "the model"


def settings(run: Run) -> list[str]:
    """The settings that define the question, as short labels."""
    method, optimizer = run.section("method"), run.section("optimizer")
    shown = {"method": name_of(method), **_defining(method)}
    shown |= {"optimizer": name_of(optimizer), "learning_rate": optimizer.get("learning_rate")}
    shown["seed"] = run.config.get("seed")
    return [
        f"{key.replace('_', ' ')} {worded(value)}"
        for key, value in shown.items()
        if value not in (None, "")
    ]


def _defining(method: Mapping[str, Any]) -> dict[str, Any]:
    """The first settings of a method, and those further down that are not the defaults.

    A method lists what its paper is about first, and what most methods have in common last.
    """
    cls = METHODS.get(name_of(method))
    parameters = inspect.signature(cls).parameters if cls else {}
    defaults = {key: _as_configured(x.default) for key, x in parameters.items()}
    given = {k: v for k, v in method.items() if k not in ("name", "import") and v is not None}
    first = list(given)[:_FIRST]
    return {k: v for k, v in given.items() if k in first or v != defaults.get(k, v)}


def _as_configured(default: Any) -> Any:
    """A default as it stands in a config: tuples are lists, structures have their names."""
    if isinstance(default, tuple):
        return list(default)
    plain = default is None or isinstance(default, bool | int | float | str)
    return default if plain else type(default).__name__.lower()
