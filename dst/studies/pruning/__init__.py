"""A pretrained model is pruned: read, judged, pruned stage by stage, judged again, written.

    result = dst.studies.pruning.run(Settings("SmolLM2-135M", "wanda", 0.5), "pruned")
    print(dst.studies.pruning.table(result))

Names are loaded when they are first used, so that bad settings are refused before heavy imports.
"""

from __future__ import annotations

from typing import Any

from dst.core import extras, lazy

extras.check("pretrained")

_HOMES = lazy.homes(
    {
        "curves": ("curve", "knee"),
        "job": ("Job", "run"),
        "report": ("curve_answer", "curve_table", "table", "write_report"),
        "settings": ("Settings",),
    }
)

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    return lazy.load(__name__, _HOMES, name)
