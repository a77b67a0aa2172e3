"""From YAML and overrides to a checked config."""

from __future__ import annotations

from typing import Any

from dst.core import lazy

__all__ = ["Config", "ConfigError", "dump", "load", "to_dict"]


def __getattr__(name: str) -> Any:
    # On first use: parts of a config are imported by what the config as a whole imports.
    return lazy.load(__name__, dict.fromkeys(__all__, "run"), name)
