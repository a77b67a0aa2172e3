"""``dst methods``: which methods there are, and what one of them does."""

from __future__ import annotations

import inspect
import re
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
    """By kind, two lines per method: its names and what it does; the evidence."""
    from dst.methods import KINDS, REGISTRY

    first = max(map(len, known))
    second = max(len(f"dst.{method.__name__}") for method in known.values())
    groups: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for name, method in known.items():
        python = f"dst.{method.__name__}"
        groups[REGISTRY[name].facts["kind"]].append(
            f"  {name:{first}}  {python:{second}}  {' '.join(_summary(method).split())}\n"
            f"  {'':{first}}  {_evidence(method)}"
        )
    return "\n\n".join("\n".join([kind, *lines]) for kind, lines in groups.items())


def _evidence(method: Any) -> str:
    """What the method was checked against first, and the file of tests: out of its docstring."""
    text = " ".join((inspect.getdoc(method) or "").split())
    against = text.partition("Checked against: ")[2]
    first = re.split(r"[;,.:] | \(", against, maxsplit=1)[0].rstrip(".")
    (file, *_) = re.findall(r"tests/[\w/]+\.py", against)
    return f"checked against {first}; {file}"


def _settings(method: Any) -> str:
    """The hyper-parameters with their defaults: ``sparsity, drop_fraction=0.3``."""
    return ", ".join(
        name if x.default is x.empty else f"{name}={x.default!r}"
        for name, x in inspect.signature(method).parameters.items()
    )


def _summary(method: Any) -> str:
    """The first paragraph of a docstring."""
    return (inspect.getdoc(method) or "").partition("\n\n")[0]
