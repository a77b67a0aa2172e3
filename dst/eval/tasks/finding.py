"""Tasks by their names, and by the paths of their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dst.core import checks
from dst.core.registry import Registry
from dst.eval.tasks.lines import read
from dst.eval.tasks.task import Task

REGISTRY = Registry("task", "dst.eval.tasks")  # of those that are made from a seed


def find(name: str, items: int | None = None, seed: int = 0, normalize: str = "nothing") -> Task:
    """The task of a name, or of a file whose name ends in ``.jsonl``.

    Args:
      name: of a task of the registry, or a path, as :func:`read` takes it.
      items: how many are made, >= 2; None: 200, of ``retrieval`` 100. A file has its own.
      seed: of the items, >= 0. The same seed makes the same items.
      normalize: ``nothing``, ``tokens`` or ``bytes``, as for :class:`MultipleChoice`.

    Raises:
      FileNotFoundError: no such file.
      ValueError: an unknown name, an ill-formed file, or more items than there is text for.

    Example:
      >>> find("arithmetic-2", items=4).items[0].choices
      (' 148', ' 138', ' 128', ' 118')
    """
    if Path(name).suffix == ".jsonl":
        return read(name, normalize)
    if name not in REGISTRY.entries:
        file = " Name a file of your own as FILE.jsonl."
        raise checks.unknown("task", name, REGISTRY, file)
    checks.integer("seed", seed, at_least=0)
    entry = REGISTRY[name]
    options: dict[str, Any] = {"seed": seed}
    if items is not None:
        checks.integer("items", items, at_least=2)
        options["items"] = items
    if entry.facts["judges"] == "decoder":
        options["normalize"] = normalize
    made: Task = entry.load()(**options)
    return made
