"""Continual learning: one network learns several tasks one after the other, and is judged on all
that it has learned so far. Every study is a directory of ordinary runs.

    study = dst.studies.continual.load("configs/digits/continual.yaml", ["continual.tasks=2"])
    result = dst.studies.continual.run(study, "runs/digits-continual")
    print(dst.studies.continual.table(result))

Names are loaded when they are first used, so that a bad config is refused before heavy imports.
"""

from __future__ import annotations

from typing import Any

from dst.core import extras, lazy

extras.check("train")

_HOMES = lazy.homes(
    {
        "config": ("Continual", "PackNet", "Piggyback", "Sequential", "Study", "SupSup", "dump")
        + ("load",),
        "inference": ("entropy_slopes",),
        "metrics": ("average_accuracy", "backward_transfer", "forgetting"),
        "packnet": ("pack",),
        "report": ("write_report",),
        "study": ("read", "resume", "run", "table"),
        "tasks": ("task",),
    }
)

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    return lazy.load(__name__, _HOMES, name)
