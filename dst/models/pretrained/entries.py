"""Entries of ``config.json``: read with their types, and an error that names the file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dst.core import checks
from dst.core.text import shown
from dst.rules.fields import DEEPEST


@dataclass(frozen=True)
class Entries:
    """What a configuration says of a model.

    Attributes:
      source: the file, for messages.
      entries: by key, as JSON holds them. An entry that is null counts as missing.
    """

    source: str
    entries: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Entries:
        """The entries of a JSON file.

        Raises:
          FileNotFoundError: no such file.
          ValueError: no JSON object in it.
        """
        if not path.is_file():
            raise FileNotFoundError(f"expected {path.name} in {path.parent}, found none.")
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} must be JSON: {error}.") from error
        if not isinstance(entries, dict):
            raise ValueError(f"{path} must be a JSON object, got {shown(entries)}.")
        return cls(str(path), entries)

    def get(self, key: str, default: Any = None) -> Any:
        """An entry, or the default where it is missing; an error where there is no default.

        Raises:
          ValueError: it is missing, and there is no default.
        """
        value = self.entries.get(key)
        value = default if value is None else value
        if value is None:
            raise ValueError(f"{self.source} must have {key!r}, found none.")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        """An entry that counts something."""
        value = self.get(key, default)
        checks.integer(f"{self.source}: {key}", value, at_least=1)
        return value

    def layers(self, key: str) -> int:
        """An entry that counts layers; each is built by itself, so there is a largest number."""
        value = self.get(key)
        checks.integer(f"{self.source}: {key}", value, at_least=1, at_most=DEEPEST)
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """An entry that is a number above zero."""
        value = self.get(key, default)
        checks.above_zero(f"{self.source}: {key}", value)
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """An entry that is true or false.

        Raises:
          ValueError: it is something else.
        """
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise ValueError(f"{self.source}: {key} must be true or false, got {shown(value)}.")
        return value

    def demand(self, key: str, value: Any, *others: Any) -> None:
        """Raises unless an entry is missing or one of the values that the network can compute.

        Raises:
          ValueError: another value.
        """
        found = self.entries.get(key)
        if found is not None and found not in (value, *others):
            expected = " or ".join(json.dumps(x) for x in (value, *others))
            raise ValueError(
                f"{self.source}: {key} must be {expected}: nothing else is computed here, "
                f"got {shown(found)}."
            )
