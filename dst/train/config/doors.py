"""Doors: things of the user's own in a config, by import path.

``model: {import: "my_package.nets:make_vit", depth: 6}`` calls ``make_vit(depth=6, ...)``. A module
is looked for beside the config first, then on Python's path. :mod:`dst.train.config.signatures`
says which keys it may have. Importing runs code: use configs of people that you trust.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from dst.core import checks
from dst.core.text import short, shown

_BESIDE: ContextVar[Path] = ContextVar("_BESIDE", default=Path())
_LONGEST_NAME = 200  # of a module; file systems allow about 255 bytes


class DoorError(ValueError):
    """A module that cannot be imported under its name."""


@contextmanager
def beside(config: Path) -> Iterator[None]:
    """Within this context modules are looked for beside a config first."""
    token = _BESIDE.set(config.parent)
    try:
        yield
    finally:
        _BESIDE.reset(token)


def resolve(path: Any, key: str) -> tuple[Callable[..., Any], str]:
    """What an import path names, and the path under which every process finds it.

    Args:
      path: ``module:attribute``, or ``file.py:attribute`` relative to the config.
      key: dotted, for messages.

    Raises:
      ValueError: no such form, module or attribute; or an import that fails.
    """
    name, _, attribute = path.rpartition(":") if isinstance(path, str) else ("", "", "")
    if not name or not attribute.isidentifier():
        raise ValueError(
            f"{key} must be 'module:name' or 'file.py:name', for example 'my_package.nets:make', "
            f"got {shown(path)}."
        )
    file = _file(name)
    if file is not None:
        name = str(file)
    elif name.endswith(".py"):
        raise ValueError(f"{key} names the file {name}; expected it in {_BESIDE.get().resolve()}.")
    module = _imported(name, file, key)
    if not callable(thing := getattr(module, attribute, None)):
        known = [n for n, x in vars(module).items() if callable(x) and n[0] != "_"]
        raise ValueError(
            f"{key} must name a class or a function of {name}, which has no {shown(attribute)}."
            f"{checks.nearest(attribute, known)}"
        )
    return thing, f"{name}:{attribute}"


def _file(name: str) -> Path | None:
    """The file of a module that lies beside the config; None: it is on Python's path."""
    folder = _BESIDE.get()
    if name.endswith(".py"):
        file = folder / name
        return file.resolve() if file.is_file() else None
    parts = name.split(".")
    places = (folder.joinpath(*parts).with_suffix(".py"), folder.joinpath(*parts, "__init__.py"))
    alone = len(parts) == 1  # of a package, Python's path has the folder above
    if not alone or len(name) > _LONGEST_NAME:
        return None
    return next((f.resolve() for f in places if f.is_file()), None)


def _imported(name: str, file: Path | None, key: str) -> types.ModuleType:
    try:
        return importlib.import_module(name) if file is None else _from_file(file, key)
    except ModuleNotFoundError as error:
        if file is None and name.startswith(error.name or "\0"):
            raise ValueError(
                f"{key}: no module {shown(name)}, neither in {_BESIDE.get().resolve()} nor on "
                "Python's path. Install it, or put it beside the config."
            ) from error
        raise ValueError(
            f"{key}: {short(name)} needs the module {error.name!r}, found none."
        ) from error
    except DoorError:
        raise
    except Exception as error:
        kind = type(error).__name__
        raise ValueError(f"{key}: importing {name} failed with {kind}: {error}") from error


def _from_file(file: Path, key: str) -> types.ModuleType:
    package = file.stem == "__init__"
    name, root = (file.parent.name, file.parent.parent) if package else (file.stem, file.parent)
    if (loaded := sys.modules.get(name)) is not None:
        origin = getattr(loaded, "__file__", None) or "Python itself"
        if Path(origin).resolve() == file:
            return loaded
        raise DoorError(
            f"{key}: a module {shown(name)} is loaded already, from {origin}. Rename {file}."
        )
    if str(root) not in sys.path:  # last: what stands beside the file shadows no package
        sys.path.append(str(root))
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None  # a file that ends with .py has both
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
