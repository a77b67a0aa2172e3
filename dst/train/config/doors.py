"""Doors: things of the user's own in a config, by import path.

``model: {import: "my_package.nets:make_vit", depth: 6}`` calls ``make_vit(depth=6, ...)``. The keys
are the keyword arguments of what is imported, checked against its signature and annotations. A
module is looked for beside the config first, then on Python's path. Importing runs code: use
configs of people that you trust.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import inspect
import sys
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from dst.core import checks
from dst.core.registry import Entry
from dst.rules import fields

_BESIDE: ContextVar[Path] = ContextVar("_BESIDE", default=Path())


class DoorError(ValueError):
    """A module that cannot be imported under its name."""


_PLAIN = (bool, int, float, str, type(None), Any)


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
            f"got {path!r}."
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
            f"{key} must name a class or a function of {name}, which has no {attribute!r}."
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
    return next((f.resolve() for f in places if alone and f.is_file()), None)


def _imported(name: str, file: Path | None, key: str) -> types.ModuleType:
    try:
        return importlib.import_module(name) if file is None else _from_file(file, key)
    except ModuleNotFoundError as error:
        if file is None and name.startswith(error.name or "\0"):
            raise ValueError(
                f"{key}: no module {name!r}, neither in {_BESIDE.get().resolve()} nor on Python's "
                "path. Install it, or put it beside the config."
            ) from error
        raise ValueError(f"{key}: {name} needs the module {error.name!r}, found none.") from error
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
            f"{key}: a module {name!r} is loaded already, from {origin}. Rename {file}."
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


Parameter = tuple[str, Any, Any]  # name, type, default


def parameters(thing: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """What a class or a function is called with, by name."""
    known = dict(inspect.signature(_function(thing)).parameters)
    if isinstance(thing, type):
        known.pop(next(iter(known)))  # self
    return known


def _function(thing: Callable[..., Any]) -> Callable[..., Any]:
    # The signature of a class can be that of its metaclass, which takes anything.
    return thing.__init__ if isinstance(thing, type) else thing  # type: ignore[misc]


@cache  # equal configs have equal types
def arguments(
    thing: Callable[..., Any], offered: tuple[str, ...], extra: tuple[Parameter, ...], key: str
) -> type:
    """The keyword arguments of a callable as a frozen dataclass.

    Args:
      thing: a class or a function.
      offered: names of arguments that the program passes.
      extra: arguments that its config may have although it does not take them.
      key: dotted, for messages.

    Raises:
      ValueError: an argument that has no name.
    """
    try:
        hints = get_type_hints(_function(thing), include_extras=True)
    except Exception:  # names that only a type checker sees: plain data is taken as it is
        hints = {}
    taken: list[Parameter] = []
    for p in parameters(thing).values():
        if p.name in offered or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            continue
        if p.kind is p.POSITIONAL_ONLY:
            raise ValueError(f"{key}: argument {p.name!r} must be one that can be named.")
        default = dataclasses.MISSING if p.default is p.empty else p.default
        taken.append((p.name, _readable(hints.get(p.name, Any)), default))
    names = {n for n, *_ in taken}
    taken += [p for p in extra if p[0] not in names]
    return _dataclass(thing.__name__, taken, inspect.getdoc(thing))


def arguments_of(entry: Entry, offered: Collection[str]) -> type:
    """The same of a registered class, read from its source: nothing is imported."""
    names = {**vars(fields), "Literal": Literal, "Sequence": Sequence, "Any": Any}
    node: Any = entry.node
    if isinstance(node, ast.ClassDef):
        doc = ast.get_docstring(node)
        node = next(x for x in node.body if getattr(x, "name", "") == "__init__")
    else:
        doc = ast.get_docstring(node)
    taken: list[Parameter] = []
    for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        if argument.arg in offered:
            continue
        hint = eval(ast.unparse(argument.annotation), names)  # our own source
        value = dataclasses.MISSING if default is None else ast.literal_eval(default)
        taken.append((argument.arg, _readable(hint), value))
    return _dataclass(entry.attribute, taken, doc)


def _dataclass(name: str, parameters: Sequence[Parameter], doc: str | None) -> type:
    def __post_init__(self: Any) -> None:
        for field, hint, _ in parameters:
            fields.check(field, hint, getattr(self, field))

    required = [p for p in parameters if p[2] is dataclasses.MISSING]
    optional = [p for p in parameters if p[2] is not dataclasses.MISSING]
    columns: list[Any] = [(n, hint) for n, hint, _ in required]
    columns += [(n, hint, dataclasses.field(default=_frozen(value))) for n, hint, value in optional]
    space = {"__post_init__": __post_init__, "__doc__": doc or name}
    return dataclasses.make_dataclass(name, columns, frozen=True, namespace=space)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _readable(hint: Any) -> Any:
    """The type as a config can hold it: sequences are tuples, what is no plain data is Any."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return Annotated[_readable(inner[0]), *hint.__metadata__]
    if origin in (Union, types.UnionType):
        arms = [_readable(x) for x in inner]
        return Any if Any in arms else Union[tuple(arms)]  # noqa: UP007
    if origin in (list, tuple) or origin is not None and issubclass_(origin, Sequence):
        return tuple[_readable(inner[0]) if inner else Any, ...]  # type: ignore[misc]
    if hint in (list, tuple):
        return tuple[Any, ...]
    if origin is dict or origin is not None and issubclass_(origin, Mapping):
        return Mapping[str, _readable(inner[1]) if len(inner) > 1 else Any]  # type: ignore[misc]
    if origin is Literal or hint in _PLAIN:
        return hint
    return hint if dataclasses.is_dataclass(hint) else Any


def issubclass_(thing: Any, kind: type) -> bool:
    """``issubclass`` that also takes what is no class."""
    return isinstance(thing, type) and issubclass(thing, kind)
