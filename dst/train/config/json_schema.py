"""The JSON Schema of configs, by which editors complete and check them."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, get_origin

from dst.train.config import strict
from dst.train.config.docstrings import field_texts
from dst.train.config.schema import Choice, Option, choice_of, dump, is_optional, nested

DRAFT = "http://json-schema.org/draft-07/schema#"  # what editors know best


def document(schema: Mapping[str, Any], title: str) -> dict[str, Any]:
    """A schema as a file of its own; what several keys may be stands in ``$defs`` once.

    Args:
      schema: of an object.
      title: what the object is.
    """
    found = Counter((key, json.dumps(arms)) for key, arms in _unions(schema))
    names = {text: key for (key, text), n in found.items() if n > 1 and len(text) > _SHORT}
    defs = {key: {"anyOf": json.loads(text)} for text, key in names.items()}
    if len(defs) < len(names):
        raise ValueError(f"{title}: two definitions have one name, of {sorted(names.values())}.")

    def referring(x: Any) -> Any:
        if isinstance(x, list):
            return [referring(y) for y in x]
        if not isinstance(x, Mapping):
            return x
        key = names.get(json.dumps(x.get("anyOf")))
        rest = {k: referring(v) for k, v in x.items() if key is None or k != "anyOf"}
        return rest if key is None else {"$ref": f"#/$defs/{key}", **rest}

    head = {"$schema": DRAFT, "title": title}
    return {**head, **referring(schema), "$defs": {**defs, **schema.get("$defs", {})}}


_SHORT = 200  # characters of a union that is written out wherever it occurs


def _unions(schema: Any) -> Iterator[tuple[str, Any]]:
    """Every key whose value is one of several, with the alternatives."""
    for key, entry in schema.get("properties", {}).items():
        if "anyOf" in entry:
            yield key, entry["anyOf"]
        yield from _unions(entry)
    for arm in schema.get("anyOf", ()):
        yield from _unions(arm)


def json_schema(hint: Any) -> dict[str, Any]:
    """The JSON Schema of a type; descriptions come from docstrings."""
    if choice := choice_of(hint):
        options = of_choice(choice)
        return {"anyOf": [*options["anyOf"], {"type": "null"}]} if is_optional(hint) else options
    if dataclasses.is_dataclass(hint):
        return _object_schema(hint, {})
    if not nested(hint):
        return strict.json_schema(hint, nested)
    if len(arms := strict.arms(hint)) > 1:
        return {"anyOf": [json_schema(arm) for arm in arms]}
    inner = json_schema(strict.item(hint))
    if (get_origin(hint) or hint) in strict.LISTS:
        return {"type": "array", "items": inner}
    return {"type": "object", "additionalProperties": inner}


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
    hints, texts = strict.hints(cls), field_texts(cls)
    properties, required = {}, []
    for f in strict.fields(cls):
        entry = json_schema(hints[f.name])
        if f.name in texts:
            entry["description"] = texts[f.name]
        if f.name in defaults:
            entry["default"] = dump(hints[f.name], defaults[f.name])
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
