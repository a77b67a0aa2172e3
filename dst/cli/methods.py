"""``dst methods``: which methods there are, and what one of them does."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer

from dst.cli.exits import BAD_INPUT, DONE, fail

Name = Annotated[
    str | None, typer.Argument(metavar="NAME", help="Describe this method; all unless given.")
]


def methods(name: Name = None) -> int:
    """List the methods, or describe one: formula, settings, paper."""
    from dst.core import checks
    from dst.methods import METHODS, PRESETS

    known: dict[str, Any] = {**METHODS, **PRESETS}
    if name is None:
        print(_listed(known))
        return DONE
    try:
        checks.one_of("NAME", name, known)
    except ValueError as error:
        return fail(f"dst methods: {error}", BAD_INPUT)
    method = known[name]
    print(f"{name}: dst.{method.__name__}({_settings(method)})\n\n{inspect.getdoc(method)}")
    return DONE


def _listed(known: dict[str, Any]) -> str:
    """One line per method: its name in configs, its name in Python, what it does."""
    rows = [
        (name, f"dst.{method.__name__}", " ".join(_summary(method).split()))
        for name, method in known.items()
    ]
    first, second = (max(len(row[i]) for row in rows) for i in (0, 1))
    return "\n".join(f"{a:{first}}  {b:{second}}  {c}" for a, b, c in rows)


def _settings(method: Any) -> str:
    """The hyper-parameters with their defaults: ``sparsity, drop_fraction=0.3``."""
    return ", ".join(
        name if x.default is x.empty else f"{name}={x.default!r}"
        for name, x in inspect.signature(method).parameters.items()
    )


def _summary(method: Any) -> str:
    """The first paragraph of a docstring."""
    return (inspect.getdoc(method) or "").partition("\n\n")[0]
