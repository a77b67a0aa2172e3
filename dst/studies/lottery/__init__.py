"""Lottery tickets: iterative magnitude pruning with its controls, random search over masks, and
linear mode connectivity. Every study is a directory of ordinary runs.

    study = dst.studies.lottery.load("configs/digits/lottery.yaml", ["lottery.rounds=5"])
    result = dst.studies.lottery.run(study, "runs/digits-lottery")
    print(dst.studies.lottery.table(result))

Names are loaded when they are first used, so that a bad config is refused before heavy imports.
"""

from __future__ import annotations

from typing import Any

from dst.core import extras, lazy

extras.check("train")

_HOMES = lazy.homes(
    {
        "config": ("Connectivity", "RandomSearch", "Study", "Tickets", "dump", "load"),
        "connectivity": ("Line", "instability", "line"),
        "pruning": ("prune", "random_masks", "remaining"),
        "report": ("write_report",),
        "search": ("best",),
        "study": ("read", "resume", "run", "table"),
    }
)

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    return lazy.load(__name__, _HOMES, name)
