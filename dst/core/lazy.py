"""Names of a package that are loaded when they are first used."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any


def homes(modules: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The module of every name.

    Args:
      modules: names by the module of the package that defines them.

    Example:
      >>> homes({"job": ["Job", "run"]})
      {'Job': 'job', 'run': 'job'}
    """
    return {name: module for module, names in modules.items() for name in names}


def load(package: str, where: Mapping[str, str], name: str) -> Any:
    """What a name of a package stands for; a package's ``__getattr__`` returns it.

    Args:
      package: its ``__name__``.
      where: of :func:`homes`.
      name: that is asked for.

    Raises:
      AttributeError: no such name.
    """
    if name not in where:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{package}.{where[name]}"), name)
