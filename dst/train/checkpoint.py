"""Checkpoints: Orbax's files, under a manifest of SHA-256 sums that is written last.

Orbax writes atomically but does not notice bits that flip in its files later. A checkpoint whose
files differ from its manifest is damaged, and the one before it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from dst.train import directory

_MANIFEST = "manifest.json"
_STATE = "state"


def save(where: Path, step: int, state: Any, keep: int) -> None:
    """Writes the checkpoint of a step and removes those that are no longer needed.

    Args:
      where: the directory of all checkpoints.
      step: optimizer updates done.
      state: pytree of arrays.
      keep: how many checkpoints stay, the new one included.
    """
    target = where.absolute() / f"{step:09d}"
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(part / _STATE, state)
    directory.write_json(part / _MANIFEST, {"step": step, "sha256": _sums(part)})
    shutil.rmtree(target, ignore_errors=True)
    os.replace(part, target)

    # Later ones are here only if they were found damaged: this run came from an earlier one.
    for old in [n for n in steps(where) if n > step] + [n for n in steps(where) if n <= step][
        :-keep
    ]:
        shutil.rmtree(where / f"{old:09d}")


def steps(where: Path) -> list[int]:
    """Steps that have a checkpoint, damaged or not, in ascending order."""
    found = where.iterdir() if where.is_dir() else []
    return sorted(int(p.name) for p in found if p.name.isdecimal())


def damage(where: Path, step: int) -> str | None:
    """What is wrong with the checkpoint of a step; None where it is whole."""
    path = where / f"{step:09d}"
    try:
        recorded = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its manifest cannot be read ({error})"
    found = _sums(path)
    wrong = [n for n in sorted({*recorded, *found}) if recorded.get(n) != found.get(n)]
    return f"{wrong[0]} is not what was written" if wrong else None


def restore(where: Path, step: int, like: Any) -> Any:
    """The state saved at a step.

    Args:
      where: the directory of all checkpoints.
      step: whose checkpoint is read; check it with :func:`damage` first.
      like: a state of the same structure, shapes and placement; only these are used.
    """
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
    )
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(where.absolute() / f"{step:09d}" / _STATE, target)


def _sums(path: Path) -> dict[str, str]:
    """SHA-256 of every file but the manifest, by its name inside the checkpoint."""
    files = sorted(p for p in path.rglob("*") if p.is_file() and p != path / _MANIFEST)
    return {
        p.relative_to(path).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files
    }
