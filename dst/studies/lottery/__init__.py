"""Lottery tickets: iterative magnitude pruning with its controls, random search over masks, and
linear mode connectivity. Every study is a directory of ordinary runs.

    study = dst.studies.lottery.load("configs/digits/lottery.yaml", ["lottery.rounds=5"])
    result = dst.studies.lottery.run(study, "runs/digits-lottery")
    print(dst.studies.lottery.table(result))

Names are loaded when they are first used, so that a bad config is refused before heavy imports.
"""

from __future__ import annotations

import importlib
from typing import Any

from dst.core import extras

extras.check("train")

_MODULES = {
    "config": ("Connectivity", "RandomSearch", "Study", "Tickets", "dump", "is_study", "load"),
    "connectivity": ("Line", "instability", "line"),
    "pruning": ("prune", "random_masks", "remaining"),
    "report": ("write_report",),
    "search": ("best",),
    "study": ("read", "resume", "run", "table"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'dst.studies.lottery' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dst.studies.lottery.{_MODULE_OF[name]}"), name)
