"""Registries: the names that configs use, and where the thing behind each name stands.

A file marks what it offers with ``@named("name")``. A registry reads the marks from the source of
a package, so names and arguments are known before anything heavy is imported, and a new method,
model or data set touches one file.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from dst.core import checks

T = TypeVar("T")


def named(name: str, **facts: Any) -> Callable[[T], T]:
    """Marks a class or a function as what a config calls ``name``.

    Args:
      name: unique within its registry; a pattern such as ``"tfds:*"`` where names are open.
      facts: literals that are known without importing the file, for example ``inputs="tokens"``.
    """
    return lambda thing: thing


@dataclass(frozen=True)
class Entry:
    """One name of a registry.

    Attributes:
      name: in configs.
      module: where the thing stands.
      attribute: its name there.
      facts: of its mark.
      node: its syntax tree.
    """

    name: str
    module: str
    attribute: str
    facts: Mapping[str, Any]
    node: ast.ClassDef | ast.FunctionDef = field(repr=False, compare=False)

    def load(self) -> Any:
        """The thing itself; imports its module."""
        return getattr(importlib.import_module(self.module), self.attribute)


class Registry(Mapping[str, Entry]):
    """The names that a package offers, in the order of its files.

    Args:
      kind: what is named, for messages: ``method``, ``model``.
      packages: dotted names of packages; their files are read, not imported.

    Example:
      >>> methods = Registry("method", "dst.methods")
      >>> methods["rigl"].load().__name__
      'RigL'
    """

    def __init__(self, kind: str, *packages: str):
        self.kind, self.packages = kind, packages

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """All entries by name.

        Raises:
          ValueError: two things of one name.
        """
        entries: dict[str, Entry] = {}
        for package, file in self._files():
            module = f"{package}.{file.stem}"
            for entry in _entries(module, ast.parse(file.read_text(encoding="utf-8"))):
                if entry.name in entries:
                    other = entries[entry.name].module
                    raise ValueError(f"{self.kind} {entry.name!r} stands in {other} and {module}.")
                entries[entry.name] = entry
        return entries

    def _files(self) -> Iterator[tuple[str, Path]]:
        for package in self.packages:
            spec = importlib.util.find_spec(package)
            places = (spec and spec.submodule_search_locations) or []
            files = (f for p in places for f in Path(p).glob("*.py") if f.stem[0] != "_")
            yield from ((package, file) for file in sorted(files))

    def __getitem__(self, name: str) -> Entry:
        checks.one_of(self.kind, name, self.entries)
        return self.entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def _entries(module: str, tree: ast.Module) -> Iterator[Entry]:
    for node in tree.body:
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            continue
        for mark in node.decorator_list:
            if isinstance(mark, ast.Call) and getattr(mark.func, "id", "") == "named":
                facts = {str(k.arg): ast.literal_eval(k.value) for k in mark.keywords}
                name = ast.literal_eval(mark.args[0])
                yield Entry(name, module, node.name, facts, node)
