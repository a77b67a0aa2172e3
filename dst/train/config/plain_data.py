"""YAML files and ``key=value`` overrides as plain data."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dst.core import checks
from dst.core.text import shown
from dst.train.config import yaml12


def read(path: Path) -> Mapping[str, Any]:
    """The mapping in a YAML 1.2 file.

    Raises:
      ValueError: no such file, something that is no mapping, or as
        :func:`dst.train.config.yaml12.load`.
    """
    if not path.is_file():
        near = [p.name for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        raise ValueError(f"expected a YAML file, found none.{checks.nearest(path.name, near)}")
    try:
        text = path.read_text(encoding="utf-8")
    except ValueError as error:
        raise ValueError(f"this is no valid YAML: {error}") from error
    data = yaml12.load(text)
    if not isinstance(data, Mapping):
        raise ValueError(f"expected a mapping of keys to values, found {shown(data)}.")
    return data


def override(text: str) -> Mapping[str, Any]:
    """``a.b=c`` as ``{"a": {"b": c}}``; the value is a Python literal or else YAML.

    >>> override("train.steps=100"), override("optimizer={'name': 'sgd', 'clip': None}")
    ({'train': {'steps': 100}}, {'optimizer': {'name': 'sgd', 'clip': None}})

    Raises:
      ValueError: no ``key=value``, or a value that is neither.
    """
    key, separator, value = text.partition("=")
    if not separator or not all(key.split(".")):
        raise ValueError(f"an override must read key=value, got {shown(text)}.")
    data = _value(text, value)
    for part in reversed(key.split(".")):
        data = {part: data}
    return data


def _value(text: str, value: str) -> Any:
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        pass  # no literal, or one too deep for the parser
    try:
        return yaml12.load(value)
    except ValueError as error:
        raise ValueError(
            f"the value of {shown(text)} is neither YAML nor a Python literal: {error}"
        ) from error


def merged(base: Any, *changes: Any) -> Any:
    """``base`` with changes put over it, one after the other; mappings merge key by key."""
    for change in changes:
        if isinstance(base, Mapping) and isinstance(change, Mapping):
            both = {k: merged(base[k], v) if k in base else v for k, v in change.items()}
            base = {**base, **both}
        else:
            base = change
    return base


def to_yaml(data: Any) -> str:
    """Plain data as YAML text."""
    return yaml12.dump(data)
