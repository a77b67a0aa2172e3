"""YAML files and ``key=value`` overrides as plain data."""

from __future__ import annotations

import ast
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from dst.core import checks
from dst.core.text import shown

_DEEP = "nested too deeply"
_MOST = 100_000  # values in a file


def read(path: Path) -> Mapping[str, Any]:
    """The mapping in a YAML 1.2 file.

    Raises:
      ValueError: no such file, no YAML, a key given twice, or something that is no mapping.
    """
    if not path.is_file():
        near = [p.name for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        raise ValueError(f"expected a YAML file, found none.{checks.nearest(path.name, near)}")
    try:
        data = _yaml().load(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"this is {_DEEP}.") from error
    except (YAMLError, ValueError) as error:  # no text, no YAML, a date that is none
        raise ValueError(f"this is no valid YAML: {error}") from error
    _check_aliases(data)
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
        data = _yaml().load(value)
    except (YAMLError, RecursionError, ValueError) as error:
        reason = _DEEP if isinstance(error, RecursionError) else "neither YAML nor a Python literal"
        raise ValueError(f"the value of {shown(text)} is {reason}.") from error
    _check_aliases(data)
    return data


def _check_aliases(data: Any) -> None:
    """Raises ValueError where aliases repeat so much, or themselves, that nothing can read it."""
    sizes: dict[int, int] = {}  # of containers, with what aliases repeat in them

    def size(node: Any) -> int:
        if not isinstance(node, (Mapping, list)):
            return 1
        if id(node) not in sizes:
            sizes[id(node)] = _MOST + 1  # of a node inside of itself
            inner = node.values() if isinstance(node, Mapping) else node
            sizes[id(node)] = 1 + sum(map(size, inner))
        return sizes[id(node)]

    if size(data) > _MOST:
        raise ValueError(f"aliases stand for more than {_MOST} values. Write them out.")


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
    yaml: Any = _yaml()
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    text = io.StringIO()
    yaml.dump(data, text)
    return text.getvalue()


def _yaml() -> YAML:
    return YAML(typ="safe", pure=True)  # YAML 1.2: 1e-3 is a number, `no` is a string
