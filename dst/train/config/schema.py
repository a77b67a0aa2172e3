"""From plain data to frozen dataclasses and back, strictly; and the JSON Schema of the same types.

The types are those of the dataclasses themselves: ``bool``, ``int``, ``float``, ``str``, ``None``,
``Literal``, unions, ``tuple[x, ...]``, ``Mapping[str, x]``, dataclasses, and sections that are
one of several dataclasses (:class:`Choice`). Nothing is converted except integers to floats:
``true`` is no number and ``"1"`` no integer.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from dst.core import checks
from dst.rules.allocation import Allocator, ErdosRenyi, Global, Uniform
from dst.rules.structure import (
    NM,
    Block,
    ConstantFanIn,
    InputChannel,
    OutputChannel,
    Structure,
    Unstructured,
)

_PLAIN = {
    bool: "true or false",
    int: "an integer",
    float: "a finite number",
    str: "a string",
    type(None): "null",
}
_JSON = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}


@dataclass(frozen=True)
class Section:
    """A dataclass under the name it has in configs; two names may share a class."""

    name: str
    value: Any


@dataclass(frozen=True)
class Option:
    """One dataclass of a choice.

    Attributes:
      type: the dataclass.
      defaults: those that differ from its own.
      about: the object whose docstring describes the option; None: the dataclass.
    """

    type: type
    defaults: Mapping[str, Any] = field(default_factory=dict)
    about: Any = None


@dataclass(frozen=True)
class Choice:
    """A section that is one of several dataclasses, told apart by its key ``name``.

    Attributes:
      options: by name, or by pattern (``tfds:*``) where names are not known here. A bare name
        stands for the option with its defaults.
      named: whether reading keeps the name, as a :class:`Section`.
      bare: whether a bare name is left as it is, where the Python API takes names too.
    """

    options: Mapping[str, Option]
    named: bool = True
    bare: bool = False

    def entry(self, name: Any) -> Any:
        """The key of ``options`` that a name belongs to; the name itself where there is none."""
        return next((key for key in self.options if fnmatchcase(str(name), key)), name)

    def read(self, value: Any, key: str) -> Any:
        """The dataclass that a mapping or a bare name describes."""
        given = {"name": value} if isinstance(value, str) else value
        if not isinstance(given, Mapping) or "name" not in given:
            raise ValueError(
                f"{key} must be a mapping with the key 'name', one of {list(self.options)}, "
                f"got {value!r}."
            )
        entry = self.entry(given["name"])
        checks.one_of(f"{key}.name", entry, self.options)
        if self.bare and given is not value:
            return value
        option = self.options[entry]
        fields = {k: v for k, v in given.items() if k != "name"}
        found = _read_fields(option.type, fields, key, option.defaults)
        return Section(given["name"], found) if self.named else found

    def dump(self, value: Any) -> Any:
        """Plain data that :meth:`read` turns into ``value`` again."""
        if isinstance(value, Section):
            return {"name": value.name, **dump(type(value.value), value.value)}
        if isinstance(value, str):
            return value
        for name, option in self.options.items():
            if type(value) is option.type and all(
                getattr(value, k) == v for k, v in option.defaults.items()
            ):
                bare = _by_default(option.type) and value == option.type(**option.defaults)
                return name if bare else {"name": name, **dump(option.type, value)}
        raise TypeError(f"{value!r} has no name in configs.")

    def json_schema(self) -> dict[str, Any]:
        """One of the objects; or the bare name, where all fields have defaults."""
        arms: list[dict[str, Any]] = []
        bare: list[str] = []
        for name, option in self.options.items():
            arm = _object_schema(option.type, option.defaults)
            named: dict[str, Any] = {"const": name}
            if name.endswith("*"):
                named = {"type": "string", "pattern": "^" + re.escape(name[:-1])}
            arm["properties"] = {"name": named, **arm["properties"]}
            if not arm["required"] and name.endswith("*"):
                arms.append(named)
            elif not arm["required"]:
                bare.append(name)
            arm["required"] = ["name", *arm["required"]]
            arms.append(arm)
        return {"anyOf": ([{"enum": bare}] if bare else []) + arms}


# Fields of the methods that hold code in the Python API and have names in configs.
_CHOICES: dict[Any, Choice] = {
    str | Allocator: Choice(
        {
            "uniform": Option(Uniform),
            "er": Option(ErdosRenyi, {"kernel": False}),
            "erk": Option(ErdosRenyi),
            "global": Option(Global),
            "lamp": Option(Global, {"score": "lamp"}),
        },
        named=False,
        bare=True,
    ),
    Structure: Choice(
        {
            "unstructured": Option(Unstructured),
            "nm": Option(NM),
            "block": Option(Block),
            "constant-fan-in": Option(ConstantFanIn),
            "output-channel": Option(OutputChannel),
            "input-channel": Option(InputChannel),
        },
        named=False,
    ),
}


def _by_default(cls: Any) -> bool:
    """Whether every field has a default."""
    fields = dataclasses.fields(cls)
    return all(
        f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING
        for f in fields
    )


def read(hint: Any, value: Any, key: str) -> Any:
    """The value of type ``hint`` that plain data describes.

    Args:
      hint: a type, as it stands in a dataclass.
      value: plain data: mappings, lists, strings, numbers, booleans, None.
      key: dotted, for messages.

    Raises:
      ValueError: what was expected at which key, what was found, the nearest valid name.
    """
    if choice := _choice(hint):
        return choice.read(value, key)
    if get_origin(hint) is Annotated:
        return read(get_args(hint)[0], value, key)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ValueError(f"{key or 'a config'} must be {_words(hint)}, got {value!r}.")
        return _read_fields(hint, value, key, {})
    if get_origin(hint) is Literal:
        checks.one_of(key, value, get_args(hint))
        return value
    for arm in _arms(hint):
        kind = get_origin(arm) or arm
        if kind is Literal and value in get_args(arm):
            return value
        if kind is tuple and isinstance(value, (list, tuple)):
            item = get_args(arm)[0]
            return tuple(read(item, x, f"{key}[{i}]") for i, x in enumerate(value))
        if kind is Mapping and isinstance(value, Mapping):
            item = get_args(arm)[1]
            return {str(k): read(item, v, f"{key}.{k}") for k, v in value.items()}
        if kind is float and type(value) in (int, float) and math.isfinite(value):
            return float(value)
        if type(value) is kind and kind is not float:
            return value
    expected = " or ".join(_words(arm) for arm in _arms(hint))
    raise ValueError(f"{key} must be {expected}, got {value!r}.")


def dump(hint: Any, value: Any) -> Any:
    """Plain data from which :func:`read` makes ``value`` again."""
    if choice := _choice(hint):
        return choice.dump(value)
    if dataclasses.is_dataclass(value):
        hints = _hints(type(value))
        return {f.name: dump(hints[f.name], getattr(value, f.name)) for f in _fields(type(value))}
    if isinstance(value, Mapping):
        return {k: dump(type(v), v) for k, v in value.items()}
    if isinstance(value, tuple):
        return [dump(type(x), x) for x in value]
    return value


def json_schema(hint: Any) -> dict[str, Any]:
    """The JSON Schema of a type; descriptions come from docstrings."""
    if choice := _choice(hint):
        return choice.json_schema()
    if get_origin(hint) is Annotated:
        return json_schema(get_args(hint)[0])
    if dataclasses.is_dataclass(hint):
        return _object_schema(hint, {})
    if get_origin(hint) is Literal:
        return {"enum": list(get_args(hint))}
    arms = _arms(hint)
    if len(arms) > 1:
        return {"anyOf": [json_schema(arm) for arm in arms]}
    kind = get_origin(hint) or hint
    if kind is tuple:
        return {"type": "array", "items": json_schema(get_args(hint)[0])}
    if kind is Mapping:
        return {"type": "object", "additionalProperties": json_schema(get_args(hint)[1])}
    return {"type": _JSON[hint]}


def _read_fields(cls: Any, given: Mapping, key: str, defaults: Mapping[str, Any]) -> Any:
    hints, fields, prefix = _hints(cls), _fields(cls), f"{key}." if key else ""
    names = [f.name for f in fields]
    for name in given:
        if name not in names:
            raise ValueError(
                f"{prefix}{name} is no known key.{checks.nearest(name, names)} "
                f"{key or 'A config'} has the keys {names}."
            )
    for f in fields:
        required = f.default is f.default_factory is dataclasses.MISSING
        if required and f.name not in {*given, *defaults}:
            raise ValueError(f"{prefix}{f.name} is missing; {_words(hints[f.name])} is expected.")
    values = {name: read(hints[name], value, prefix + name) for name, value in given.items()}
    try:
        return cls(**{**defaults, **values})
    except ValueError as error:
        # The checks of a dataclass name its own field first; here it becomes the dotted key.
        own = re.split(r"[\s=:[]", str(error), maxsplit=1)[0] in names
        raise ValueError(f"{prefix}{error}" if own or not key else f"{key}: {error}") from error


def _object_schema(cls: Any, defaults: Mapping[str, Any]) -> dict[str, Any]:
    hints, texts = _hints(cls), field_texts(cls)
    properties, required = {}, []
    for f in _fields(cls):
        entry = json_schema(hints[f.name])
        if f.name in texts:
            entry["description"] = texts[f.name]
        if f.name in defaults:
            entry["default"] = defaults[f.name]
        elif f.default is not dataclasses.MISSING:
            entry["default"] = dump(hints[f.name], f.default)
        elif f.default_factory is dataclasses.MISSING:
            required.append(f.name)
        properties[f.name] = entry
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def defaults(option: Option) -> dict[str, Any]:
    """Every field of an option with its default as plain data; ``"required"`` where it has none."""
    entries = _object_schema(option.type, option.defaults)["properties"]
    return {name: entry.get("default", "required") for name, entry in entries.items()}


def field_texts(cls: Any) -> dict[str, str]:
    """What the docstring of a class says of each field, on one line."""
    text = paragraphs(cls).get("Args") or paragraphs(cls).get("Attributes") or ""
    entries = re.split(r"\n(?=\S[^:\n]*: )", text)
    found: dict[str, str] = {}
    for names, _, words in (entry.partition(": ") for entry in entries):
        found |= {name.strip(): " ".join(words.split()) for name in names.split(",")}
    return found


def paragraphs(thing: Any) -> dict[str, str]:
    """The titled sections of a docstring (``Args``, ``References``, ``Checked against``, ...)."""
    title = r"^(Args|Attributes|Example|References|Raises|Checked against|Differs from[^:\n]*):"
    parts = re.split(title, inspect.getdoc(thing) or "", flags=re.MULTILINE)
    return {
        name: inspect.cleandoc(text) for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def _choice(hint: Any) -> Choice | None:
    if get_origin(hint) is Annotated:
        return next((x for x in get_args(hint) if isinstance(x, Choice)), None)
    try:
        return _CHOICES.get(hint)
    except TypeError:  # a type that has no hash is none of ours
        return None


def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def _fields(cls: Any) -> list[dataclasses.Field]:
    return [f for f in dataclasses.fields(cls) if f.init]


def _arms(hint: Any) -> tuple[Any, ...]:
    arms = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return tuple(get_args(x)[0] if get_origin(x) is Annotated else x for x in arms)


def _words(hint: Any) -> str:
    if choice := _choice(hint):
        return f"one of {list(choice.options)}"
    if dataclasses.is_dataclass(hint):
        return "a mapping with the keys " + str([f.name for f in _fields(hint)])
    if get_origin(hint) is Literal:
        return f"one of {list(get_args(hint))}"
    kind = get_origin(hint) or hint
    if kind is tuple:
        return "a list"
    if kind is Mapping:
        return "a mapping"
    return _PLAIN[kind] if kind in _PLAIN else " or ".join(_words(x) for x in _arms(hint))
