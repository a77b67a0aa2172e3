"""The keyword arguments of a callable as a frozen dataclass, which is what a config is checked by.

What is imported is asked for its signature and annotations; what is registered is read from its
source, so that nothing is imported.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from dst.core.registry import Entry
from dst.core.text import shown
from dst.rules import fields

Parameter = tuple[str, Any, Any]  # name, type, default

_PLAIN = (bool, int, float, str, type(None), Any)


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
    thing: Callable[..., Any], offered: tuple[str, ...], shared: type | None, key: str
) -> type:
    """The keyword arguments of a callable as a frozen dataclass.

    Args:
      thing: a class or a function.
      offered: names of arguments that the program passes.
      shared: a dataclass of arguments that its config may have although it does not take them;
        the result is derived from it.
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
            raise ValueError(f"{key}: argument {shown(p.name)} must be one that can be named.")
        default = dataclasses.MISSING if p.default is p.empty else p.default
        taken.append((p.name, _readable(hints.get(p.name, Any)), default))
    return _dataclass(thing.__name__, taken, inspect.getdoc(thing), shared)


def arguments_of(entry: Entry, offered: Collection[str], shared: type | None = None) -> type:
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
    return _dataclass(entry.attribute, taken, doc, shared)


def _dataclass(
    name: str, parameters: Sequence[Parameter], doc: str | None, shared: type | None
) -> type:
    hints = {} if shared is None else get_type_hints(shared, include_extras=True)
    hints |= {field: hint for field, hint, _ in parameters}

    def __post_init__(self: Any) -> None:
        for field, hint in hints.items():
            fields.check(field, hint, getattr(self, field))

    columns: list[Any] = [
        (field, hint, dataclasses.field(default=_frozen(default), kw_only=True))
        for field, hint, default in parameters
    ]
    space = {"__post_init__": __post_init__, "__doc__": doc or name}
    bases = () if shared is None else (shared,)
    return dataclasses.make_dataclass(name, columns, bases=bases, frozen=True, namespace=space)


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
