"""The JSON Schema of sweep files, by which editors complete and check them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dst.studies.sweep import command, distributions, file
from dst.studies.sweep.spec import Hyperband, Metric
from dst.train.config.json_schema import json_schema as of_type

_TEXT = {"type": "string"}
_VALUES = {
    "value": {"description": "The value of every trial."},
    "values": {"type": "array", "minItems": 1},
    "probabilities": {"type": "array", "items": {"type": "number", "minimum": 0}},
}
_DISTRIBUTION, _PARAMETER = ({"$ref": f"#/$defs/{x}"} for x in ("distribution", "parameter"))


def json_schema(config: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a sweep of runs.

    Args:
      config: the JSON Schema of their config, which gives the names of parameters. Others are
        allowed too: patterns of leaves, and arguments of networks that users import.
    """
    programs = [*command.INTERPRETERS, "${program}"]
    trained = {"properties": {"command": {"contains": {"const": "train"}}}}
    measured = {"properties": {"name": {"enum": list(command.MEASURED)}}}
    early = of_type(Hyperband)
    early["properties"] = {
        "type": {"const": "hyperband"},
        **early["properties"],
        "s": {
            "type": "integer",
            "minimum": 0,
            "maximum": file.MOST_BRACKETS,
            "description": "brackets; with max_iter.",
        },
        "strict": {"type": "boolean"},
    }
    early |= {
        "required": ["type"],
        "anyOf": [{"required": ["min_iter"]}, {"required": ["max_iter", "s"]}],
    }
    properties = {
        "name": {"type": "string", "description": "of the sweep, and of its directory."},
        "command": {
            "type": "array",
            "items": _TEXT,
            "contains": {"const": command.ARGUMENTS},
            "anyOf": [{"contains": {"enum": ["train"]}}, {"contains": {"enum": programs}}],
            "description": f"[dst, train, CONFIG, {command.ARGUMENTS!r}] or [python, SCRIPT, "
            f"{command.ARGUMENTS!r}]; overrides of every trial may stand before the last one.",
        },
        "method": {"enum": list(file.METHODS), "description": "how trials are chosen."},
        "metric": of_type(Metric),
        "parameters": {
            "type": "object",
            "minProperties": 1,
            "description": "keys of the config, dotted or nested, and what each may be.",
            "properties": {**_nested(config), **dict(_dotted(config, ""))},
            "additionalProperties": _PARAMETER,
        },
        "early_terminate": early,
        "run_cap": {
            "type": "integer",
            "minimum": 1,
            "maximum": file.MOST_TRIALS,
            "description": "number of trials; a grid needs none.",
        },
    }
    return {
        "type": "object",
        "properties": {**properties, **dict.fromkeys(file.THEIRS, _TEXT)},
        "required": ["command", "method", "parameters"],
        "additionalProperties": False,
        "if": trained,  # a script may measure anything
        "then": {"properties": {"metric": measured}},
        "$defs": {
            "parameter": _parameter({}),
            "distribution": {"anyOf": [_distribution(x) for x in distributions.KEYS]},
        },
    }


def _distribution(name: str) -> dict[str, Any]:
    """The parameter of one distribution; its name may be missing where its keys tell it."""
    needed, optional = distributions.KEYS[name]
    numbers = {"type": "integer" if name == "int_uniform" else "number"}
    guesses = [distributions.guess(dict.fromkeys(needed, x)) for x in (1, 0.5)]
    named = [] if name in guesses else ["distribution"]
    return {
        "type": "object",
        "properties": {
            "distribution": {"const": name},
            **{key: _VALUES.get(key, numbers) for key in (*needed, *optional)},
        },
        "required": [*named, *needed],
        "additionalProperties": False,
    }


def _parameter(inner: Mapping[str, Any]) -> dict[str, Any]:
    """A distribution, or parameters one level further down, of which some names are known."""
    below = {
        "type": "object",
        "minProperties": 1,
        "properties": inner,
        "additionalProperties": _PARAMETER,
    }
    nested = {
        "type": "object",
        "properties": {"parameters": below},
        "required": ["parameters"],
        "additionalProperties": False,
    }
    return {"anyOf": [_DISTRIBUTION, nested]}


def _nested(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of an object, by key."""
    found = {}
    for key, (entry, text) in _keys(schema).items():
        inner = _nested(entry)
        found[key] = {**(_parameter(inner) if inner else _PARAMETER), **text}
    return found


def _dotted(schema: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """The parameters below the keys of an object, by dotted key."""
    for key, (entry, text) in _keys(schema).items():
        if prefix:
            yield prefix + key, {**_PARAMETER, **text}
        yield from _dotted(entry, f"{prefix}{key}.")


def _keys(schema: Mapping[str, Any]) -> dict[str, tuple[Mapping[str, Any], dict[str, str]]]:
    """The keys of an object, or of all objects that it may be."""
    found: dict[str, tuple[Mapping[str, Any], dict[str, str]]] = {}
    for arm in (*schema.get("anyOf", ()), schema):
        for key, entry in arm.get("properties", {}).items():
            words = entry.get("description")
            found.setdefault(key, (entry, {"description": words} if words else {}))
    return found
