"""The configuration reference, from the JSON Schema that `dst schema` prints."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from typing import Any, get_type_hints

from dst.methods import METHODS, PRESETS
from dst.rules.allocation import Allocator
from dst.rules.structure import Structure
from dst.studies.continual import config as continual
from dst.studies.lottery import config as lottery
from dst.train.config import json_schema, schema
from dst.train.config import recipes as recipe
from dst.train.config.run import METHOD, Config

PAPER = re.compile(r"arXiv (\d{4}\.\d{5})")
_WORDS = {"integer": "integer", "number": "number", "string": "string", "boolean": "true or false"}
_ALLOCATION, _STRUCTURE = (schema.choice_of(x) for x in (str | Allocator, Structure))
# What only the user knows, as an example shows it where a method has no default for it.
_YOURS = {
    "sparsity": 0.9,
    "backward_sparsity": 0.8,
    "every": 100,
    "lift": "50%",
    "exchanged": 600,
    "expected": 0.9,
    "penalty": 1e-6,
}
_METHODS = json_schema.of_choice(METHOD)["anyOf"]
_SHARED = {"allocation": _ALLOCATION, "structure": _STRUCTURE}


def page() -> str:
    """All sections and keys of a config: type, default, meaning."""
    parts = [
        "(configuration)=\n# Configuration",
        "```{include} ../intro/configuration.md\n```",
        "## Top level",
        _table(json_schema.json_schema(Config)),
    ]
    hints = get_type_hints(Config, include_extras=True)
    for field in dataclasses.fields(Config):
        hint = hints[field.name]
        choice = schema.choice_of(hint)
        if choice is None and not dataclasses.is_dataclass(hint):
            continue
        parts.append(f"(config-{field.name})=\n## {field.name}")
        if choice is None:
            parts += [summary(hint, whole=True), _table(json_schema.json_schema(hint))]
        elif choice is METHOD:
            parts.append("One of the [methods](methods/index.md). Which keys each has:")
            parts.append(_DOOR)
            for name in choice.options:
                title = f"(config-method-{name})=\n### {name}"
                parts += [title, f"[What it does](methods/{name}.md).", method(name)]
        else:
            parts += _options(choice)
    for name, choice in _SHARED.items():
        parts.append(f"(config-{name})=\n## {name.capitalize()}s")
        parts.append(
            f"What `{name}` of a method may be: a name, or a mapping with `name` and keys."
        )
        parts += _options(choice)
    for study in (lottery, continual):
        key = study.KEY
        parts.append(f"(config-{key})=\n## {key}\n\nOnly for `dst {key}`: what the study does.")
        parts += _arms(study.json_schema())
    parts.append("(config-strategy)=\n### Strategies")
    parts += [x.replace("### ", "#### ", 1) for x in _options(continual.STRATEGY)]
    return "\n\n".join(parts) + "\n"


def method(name: str) -> str:
    """The keys of a method in a config, after the shortest way to write it."""
    given = json_schema.defaults(METHOD.options[name])
    shown = [f"{k}: {v}" for k, v in _YOURS.items() if given.get(k, "") in ("required", None)]
    shortest = ", ".join([f"name: {name}", *shown])
    arm = next(x for x in _METHODS if _name(x) == name)
    return f"```yaml\nmethod: {{{shortest}}}\n```\n\n{_table(arm)}"


def method_object(name: str) -> Any:
    """The class or function of a method in Python."""
    return PRESETS.get(name) or METHODS[name]


def recipes() -> str:
    """What each recipe fills in, and where each value is from."""
    parts = ["(recipes)=\n# Recipes", _markdown(inspect.getdoc(recipe) or "").partition("\n\n")[2]]
    for name, settings in recipe.RECIPES.items():
        rows = ["| key | value | for methods that | source |", "|---|---|---|---|"]
        words = {
            recipe.EXCHANGE: "exchange connections",
            recipe.GRADUAL: "prune gradually",
            recipe.OTHER: "do neither",
        }
        for x in settings:
            kinds = "" if len(x.kinds) == len(words) else ", or ".join(words[k] for k in x.kinds)
            rows.append(
                f"| `{x.key}` | `{json.dumps(x.value)}` | {kinds} | {cell(_markdown(x.source))} |"
            )
        parts.append(f"## {name}\n\n" + "\n".join(rows))
    return "\n\n".join(parts) + "\n"


def summary(thing: Any, *, whole: bool = False) -> str:
    """The first sentence of a docstring; with ``whole`` all before its first titled section."""
    text = re.split(r"\n\n(?=[A-Z][^\n:]*:(?:\n|\s))", inspect.getdoc(thing) or "")[0]
    first = " ".join(text.partition("\n\n")[0].split())
    return _markdown(text if whole else re.split(r"(?<=\.)\s", first)[0])


_DOOR = (
    "Or something of your own: a mapping with `import`, which is `module:name` or `file.py:name`, "
    "and its keyword arguments as keys."
)


def _options(choice: schema.Choice) -> list[str]:
    parts = [] if choice.offers is None else [_DOOR]
    for arm in json_schema.of_choice(choice)["anyOf"]:
        if (name := _name(arm)) in choice.options:
            option = choice.options[name]
            parts += [f"### {name}", summary(option.about or option.type, whole=True), _table(arm)]
    return parts


def _arms(found: dict[str, Any]) -> list[str]:
    parts = []
    for arm in found.get("anyOf", [found]):
        if "properties" in arm:
            parts += [f"### {_name(arm)}"] if _name(arm) else []
            parts.append(_table(arm))
    return parts


def _name(arm: dict[str, Any]) -> str | None:
    """The name that tells an object of a choice from the others."""
    given = arm.get("properties", {}).get("name", {})
    if "pattern" in given:
        return re.sub(r"\\(.)", r"\1", given["pattern"].removeprefix("^")) + "*"
    return given.get("const")


def _table(found: dict[str, Any]) -> str:
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, entry in found["properties"].items():
        if key == "name" and _name(found):
            continue
        section = _is_section(entry)
        default = "required"
        if "default" in entry:
            default = "its own" if section and isinstance(entry["default"], dict) else ""
            default = default or f"`{json.dumps(entry['default'])}`"
        kind = f"[{_place(key)}](#config-{_place(key)})" if section else _type(entry)
        text = _markdown(entry.get("description", ""))
        rows.append(f"| `{key}` | {cell(kind)} | {cell(default)} | {cell(text)} |")
    return "\n".join(rows) if len(rows) > 2 else "No keys."


def _is_section(entry: dict[str, Any]) -> bool:
    return "properties" in entry or any("properties" in x for x in entry.get("anyOf", ()))


def _place(key: str) -> str:
    """The section that describes what a key holds: ``initial_allocation`` is an allocation."""
    return next((name for name in _SHARED if key.endswith(name)), key)


def _type(entry: dict[str, Any]) -> str:
    if "enum" in entry:
        return ", ".join(f"`{x}`" for x in entry["enum"])
    if "anyOf" in entry:
        # dst.rules.schedule.Duration is int | str, in this order.
        return " or ".join(map(_type, entry["anyOf"])).replace("integer or string", "duration")
    if "prefixItems" in entry:
        return f"list of {len(entry['prefixItems'])}: {_type(entry['prefixItems'][0])}"
    if entry["type"] == "array":
        return f"list: {_type(entry['items'])}"
    if entry["type"] == "object" and isinstance(inner := entry.get("additionalProperties"), dict):
        keys = ", ".join(f"`{k}`" for k in inner.get("properties", ()))
        return f"mapping of patterns to {keys or _type(inner)}"
    return _WORDS.get(entry["type"], entry["type"])


def cell(text: str) -> str:
    """Markdown as it stands in a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def _markdown(text: str) -> str:
    """Docstrings in reStructuredText as Markdown: code, roles, papers."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text)
    text = text.replace("``", "`").replace("<", "&lt;")
    return PAPER.sub(r"[\g<0>](https://arxiv.org/abs/\1)", text)
