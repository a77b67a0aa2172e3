"""From YAML and overrides to a checked config."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["Config", "ConfigError", "dump", "load", "to_dict"]


def __getattr__(name: str) -> Any:
    # On first use: parts of a config are imported by what the config as a whole imports.
    if name not in __all__:
        raise AttributeError(f"module 'dst.train.config' has no attribute {name!r}")
    return getattr(importlib.import_module("dst.train.config.run"), name)
