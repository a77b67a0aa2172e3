"""Plain data against the fields of a dataclass: types and ranges by pydantic, messages of our own.

Nothing is converted except integers to floats and lists to tuples: ``true`` is no number and
``"1"`` no integer.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pydantic

from dst.core import checks
from dst.core.text import short, shown
from dst.rules.fields import Check

LISTS, MAPPINGS = (tuple, list, Sequence), (dict, Mapping)
_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a finite number",
    str: "a string",
    type(None): "null",
}
# Keys of earlier versions, and what they may be called now.
_RENAMED = {
    "regrown": ("regrow_value",),
    "floor": ("end_drop_fraction", "min_active"),
}
# JSON Schema's words for ranges, and pydantic's.
_BOUNDS = {
    "minimum": "ge",
    "maximum": "le",
    "exclusiveMinimum": "gt",
    "exclusiveMaximum": "lt",
    "minItems": "min_length",
    "maxItems": "max_length",
}
_STRICT = pydantic.ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
# What a type may be that is read by its own rules and may be anything here; None: it has none.
Nested = Callable[[Any], str | None]


class UnknownKey(ValueError):
    """A key that its section does not have.

    Attributes:
      section: dotted; empty: the config itself.
      name: of the key.
      known: the keys of the section.
      near: a suggestion from among them, as a sentence; empty: none is near.
    """

    def __init__(self, section: str, name: str, known: Sequence[str]):
        self.section, self.name, self.known = section, name, known
        self.near = checks.nearest(name, known)
        super().__init__(self.message(self.near))

    def message(self, suggestion: str) -> str:
        """What is wrong, with a suggestion."""
        key = f"{self.section}.{self.name}" if self.section else self.name
        owner = self.section or "A config"
        return f"{key} is no known key.{suggestion} {owner} has the keys {self.known}."


@cache
def hints(cls: Any) -> dict[str, Any]:
    """The types of a dataclass's fields, ranges included."""
    return get_type_hints(cls, include_extras=True)


def fields(cls: Any) -> list[dataclasses.Field]:
    """The fields that a constructor takes."""
    return [f for f in dataclasses.fields(cls) if f.init]


def arms(hint: Any) -> tuple[Any, ...]:
    """The types of a union; a single type is its only one."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def item(hint: Any, i: int = 0) -> Any:
    """The type of what is in a list at a place, or in a mapping."""
    inner = get_args(hint) or (Any, Any)
    if get_origin(hint) in MAPPINGS:
        return inner[1]
    fixed = get_origin(hint) is tuple and inner[-1] is not Ellipsis
    return inner[min(i, len(inner) - 1)] if fixed else inner[0]


def validated(
    cls: Any, given: Mapping[str, Any], key: str, optional: frozenset[str], nested: Nested
) -> dict[str, Any]:
    """The values of a mapping, checked against the fields of a dataclass.

    Args:
      cls: the dataclass.
      given: plain data by field.
      key: dotted, of the mapping; for messages.
      optional: fields without a default that may be missing all the same.
      nested: which types are left as they are.

    Raises:
      ValueError: which key, what was expected, what was found, the nearest valid name.
    """
    try:
        read = _model(cls, optional, nested).model_validate(given)
    except pydantic.ValidationError as error:
        raise _refusal(cls, given, key, error, nested) from error
    by_alias = type(read).model_fields
    return {str(by_alias[x].alias): getattr(read, x) for x in read.model_fields_set}


def json_schema(hint: Any, nested: Nested) -> dict[str, Any]:
    """The JSON Schema of a type that holds no nested one."""
    return _untitled(pydantic.TypeAdapter(_plain(hint, nested), config=_STRICT).json_schema())


def words(hint: Any, nested: Nested) -> str:
    """What a value may be, for messages."""
    if known := nested(hint):
        return known
    if get_origin(hint) is Annotated:
        return words(get_args(hint)[0], nested)
    if get_origin(hint) is Literal:
        return f"one of {list(get_args(hint))}"
    if len(arms(hint)) > 1:
        return " or ".join(words(x, nested) for x in arms(hint))
    kind = get_origin(hint) or hint
    kinds = {**dict.fromkeys(LISTS, "a list"), **dict.fromkeys(MAPPINGS, "a mapping"), **_WORDS}
    return kinds.get(kind, "a value")


@cache
def _model(cls: Any, optional: frozenset[str], nested: Nested) -> type[pydantic.BaseModel]:
    own: dict[str, Any] = {}
    for i, f in enumerate(fields(cls)):
        required = f.default is f.default_factory is dataclasses.MISSING
        default = ... if required and f.name not in optional else None
        # Names of fields are free: an alias may be called `json` or `copy`, an attribute may not.
        own[f"field_{i}"] = (
            _plain(hints(cls)[f.name], nested),
            pydantic.Field(default, alias=f.name),
        )
    return pydantic.create_model(cls.__name__, __config__=_STRICT, **own)


def _plain(hint: Any, nested: Nested) -> Any:
    """The type as pydantic reads it; Any where it is nested, or nothing that plain data can be."""
    if nested(hint) is not None:
        return Any
    if get_origin(hint) is Annotated:
        inner, *more = get_args(hint)
        bounds = [pydantic.Field(**_bounds(x)) for x in more if isinstance(x, Check)]
        return Annotated[(_plain(inner, nested), *bounds)] if bounds else _plain(inner, nested)
    if len(arms(hint)) > 1:
        return Union[tuple(_plain(x, nested) for x in arms(hint))]  # noqa: UP007 (of a tuple)
    kind = get_origin(hint) or hint
    if kind in LISTS:
        inner = get_args(hint) or (Any,)
        items: Any = tuple(_plain(x, nested) for x in inner if x is not Ellipsis)
        if kind is not tuple or inner[-1] is Ellipsis:
            items = (*items, ...)
        return Annotated[tuple[items], pydantic.Strict(False)]  # of a list, too
    if kind in MAPPINGS:
        return Mapping[str, _plain(item(hint), nested)]  # type: ignore[misc]
    return hint if kind is Literal or kind in _WORDS else Any


def _bounds(check: Check) -> dict[str, Any]:
    return {_BOUNDS[word]: bound for word, bound in check.schema}


def _refusal(
    cls: Any, given: Mapping[str, Any], key: str, error: pydantic.ValidationError, nested: Nested
) -> ValueError:
    every = error.errors(include_url=False)
    errors = {x["type"]: x for x in reversed(every) if len(x["loc"]) == 1}  # the first of each
    if x := errors.get("extra_forbidden"):
        name, names = short(str(x["loc"][0])), [f.name for f in fields(cls)]
        for new in set(_RENAMED.get(name, ())) & set(names):
            prefix = f"{key}." if key else ""
            return ValueError(f"{prefix}{name} is now called {new}. Rename the key.")
        return UnknownKey(key, name, names)
    return ValueError(_message(cls, given, key, errors, every, nested))


def _message(
    cls: Any, given: Mapping[str, Any], key: str, errors: Any, every: Any, nested: Nested
) -> str:
    """What is wrong with the value of a known key.

    Args:
      cls, given, key, nested: as of :func:`validated`.
      errors: pydantic's, the first of each kind that is about a field as a whole.
      every: all of pydantic's errors.
    """
    prefix, own = f"{key}." if key else "", hints(cls)
    if x := errors.get("missing"):
        name = str(x["loc"][0])
        return f"{prefix}{name} is missing; {words(own[name], nested)} is expected."
    first, *inner = every[0]["loc"]
    key, hint, value = f"{prefix}{first}", own[str(first)], given[str(first)]
    for token in inner:
        listed = isinstance(value, list | tuple) and token in range(len(value))
        if not listed and not (isinstance(value, Mapping) and token in value):
            break  # the name of an arm of a union
        key = f"{key}[{token}]" if listed else f"{key}.{short(str(token))}"
        kinds = LISTS if listed else MAPPINGS
        bare = [get_args(x)[0] if get_origin(x) is Annotated else x for x in arms(hint)]
        holder = next((x for x in bare if (get_origin(x) or x) in kinds), Any)
        hint, value = item(holder, int(token) if listed else 0), value[token]
    for mark in (x for arm in arms(hint) for x in getattr(arm, "__metadata__", ())):
        if isinstance(mark, Check) and _comparable(value):
            try:
                mark.check(key, value)
            except ValueError as out:
                return str(out)
    options = [x for arm in arms(hint) if get_origin(arm) is Literal for x in get_args(arm)]
    if isinstance(value, list | tuple) and (get_origin(hint) or hint) is tuple:
        inner_types = get_args(hint)
        if inner_types and inner_types[-1] is not Ellipsis and len(inner_types) != len(value):
            return f"{key} must have {len(inner_types)} entries, got {shown(value)}."
    near = checks.nearest(value, options) if options else ""
    return f"{key} must be {words(hint, nested)}, got {shown(value)}.{near}"


def _comparable(value: Any) -> bool:
    """Whether a value has a range at all: a finite number, or a list."""
    return type(value) in (int, list, tuple) or type(value) is float and math.isfinite(value)


def _untitled(schema: Any) -> Any:
    """Without the titles that pydantic adds."""
    if isinstance(schema, dict):
        return {k: _untitled(v) for k, v in schema.items() if k != "title"}
    return [_untitled(x) for x in schema] if isinstance(schema, list) else schema
