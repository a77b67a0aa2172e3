"""The training program: one run, from a YAML file to its records.

``config`` reads the file, ``data`` gives batches, ``objectives`` gives the loss, ``setup`` builds
the pieces of a run, ``step`` is one optimizer update, ``loop`` trains. ``records`` holds what a run
writes: checkpoints, metrics, its summary. ``distributed`` holds meshes and several processes.

From Python, :func:`run` trains what a config describes, :class:`Run` opens a run directory, and
:class:`Recorder` writes one for a loop of your own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dst.core import extras, lazy

extras.check("train")

if TYPE_CHECKING:
    from dst.train.recorder import Recorder
    from dst.train.runs import Run, run
    from dst.train.script import arguments

__all__ = ["Recorder", "Run", "arguments", "run"]

# Loaded when they are first used: a config is read without loading Flax and Orbax.
_HOMES = {"Recorder": "recorder", "Run": "runs", "arguments": "script", "run": "runs"}


def __getattr__(name: str) -> Any:
    return lazy.load(__name__, _HOMES, name)
