"""A pretrained model is pruned: read, judged, pruned stage by stage, judged again, written.

    result = dst.studies.pruning.run(Settings("SmolLM2-135M", "wanda", 0.5), "pruned")
    print(dst.studies.pruning.table(result))

Names are loaded when they are first used, so that bad settings are refused before heavy imports.
"""

from __future__ import annotations

import importlib
from typing import Any

from dst.core import extras

extras.check("pretrained")

_MODULES = {
    "curves": ("curve", "knee"),
    "job": ("Job", "run"),
    "report": ("curve_answer", "curve_table", "table", "write_report"),
    "settings": ("Settings",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'dst.studies.pruning' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dst.studies.pruning.{_MODULE_OF[name]}"), name)
