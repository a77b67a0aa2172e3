"""The JSON Schema of configs, by which editors complete and check them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

from dst.rules.fields import Check
from dst.train.config.docstrings import field_texts
from dst.train.config.schema import (
    Choice,
    Option,
    arms_of,
    choice_of,
    dump,
    fields_of,
    hints_of,
    is_optional,
)

_JSON = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}


def json_schema(hint: Any) -> dict[str, Any]:
    """The JSON Schema of a type; descriptions come from docstrings."""
    if choice := choice_of(hint):
        options = of_choice(choice)
        return {"anyOf": [*options["anyOf"], {"type": "null"}]} if is_optional(hint) else options
    if hint is Any:
        return {}
    if get_origin(hint) is Annotated:
        ranges = [dict(x.schema) for x in hint.__metadata__ if isinstance(x, Check)]
        return {k: v for part in (json_schema(get_args(hint)[0]), *ranges) for k, v in part.items()}
    if dataclasses.is_dataclass(hint):
        return _object_schema(hint, {})
    if get_origin(hint) is Literal:
        return {"enum": list(get_args(hint))}
    arms = arms_of(hint)
    if len(arms) > 1:
        return {"anyOf": [json_schema(arm) for arm in arms]}
    kind = get_origin(hint) or hint
    if kind is tuple:
        return {"type": "array", "items": json_schema(get_args(hint)[0])}
    if kind is Mapping:
        return {"type": "object", "additionalProperties": json_schema(get_args(hint)[1])}
    return {"type": _JSON[hint]}


def of_choice(choice: Choice) -> dict[str, Any]:
    """One of the objects; or the bare name, where all fields have defaults."""
    arms: list[dict[str, Any]] = []
    bare: list[str] = []
    for name, option in choice.options.items():
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
    if choice.offers is not None:
        path = {"type": "string", "pattern": ":"}
        arms.append({"type": "object", "properties": {"import": path}, "required": ["import"]})
    return {"anyOf": ([{"enum": bare}] if bare else []) + arms}


def _object_schema(cls: Any, defaults: Mapping[str, Any]) -> dict[str, Any]:
    hints, texts = hints_of(cls), field_texts(cls)
    properties, required = {}, []
    for f in fields_of(cls):
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
