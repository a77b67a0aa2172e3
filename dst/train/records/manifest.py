"""What a checkpoint says of itself: its step, its score, its leaves and the sums of its files.

A manifest is written last, and has a sum of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from dst.core.files import write_json
from dst.core.text import shown
from dst.core.typing import PyTree

NAME = "manifest.json"
Misfits = Mapping[str, tuple[str, str]]  # expected and found, by the name of a leaf
_SUM = "sum"
_KEYS = {"step", "score", "leaves", "sha256"}


def read(path: Path, step: int) -> dict[str, Any]:
    """The manifest of a checkpoint.

    Args:
      path: directory of the checkpoint.
      step: of the checkpoint.

    Raises:
      OSError: there is none.
      ValueError: it is not what was written, or that of another step.
    """
    data = json.loads((path / NAME).read_text(encoding="utf-8"))
    if not isinstance(data, dict) or data.keys() - {_SUM} != _KEYS:
        raise ValueError("it has other keys")
    # Checkpoints of earlier versions have no sum.
    if _SUM in data and _signed({k: data[k] for k in data if k != _SUM}) != data:
        raise ValueError("it is not what was written")
    if data["step"] != step:
        raise ValueError(f"it is that of step {shown(data['step'])}")
    return data


def write(path: Path, step: int, score: float | None, leaves: Mapping[str, str]) -> None:
    """Writes the manifest of a checkpoint whose other files are written.

    Args:
      path: directory of the checkpoint.
      step: of the checkpoint.
      score: how good its state is; None: unknown.
      leaves: as :func:`leaves` has them.
    """
    data = {"step": step, "score": score, "leaves": leaves, "sha256": sums(path)}
    write_json(path / NAME, _signed(data))


def leaves(state: PyTree, **names: Any) -> dict[str, str]:
    """Type and shape of every leaf, by its path as ``jax.tree_util.keystr`` names it."""
    listed = jax.tree.leaves_with_path(state)
    return {jax.tree_util.keystr(path, **names): f"{x.dtype} {list(x.shape)}" for path, x in listed}


def unequal(expected: Mapping[str, str], found: Mapping[str, str]) -> Misfits:
    """The leaves that differ."""
    return {
        name: (expected.get(name, "absent"), found.get(name, "none"))
        for name in sorted({*expected, *found})
        if expected.get(name) != found.get(name)
    }


def first(misfits: Misfits) -> str:
    """The first of the leaves that differ, in words."""
    name, (expected, found) = next(iter(misfits.items()))
    return f"{name} must be {expected}, found {found}"


def sums(path: Path) -> dict[str, str]:
    """SHA-256 of every file but the manifest, by its name inside the checkpoint."""
    digests = {}
    for file in sorted(p for p in path.rglob("*") if p.is_file() and p != path / NAME):
        with file.open("rb") as data:
            digest = hashlib.file_digest(data, "sha256").hexdigest()
        digests[file.relative_to(path).as_posix()] = digest
    return digests


def _signed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with its own SHA-256."""
    text = json.dumps(manifest, sort_keys=True)
    return {**manifest, _SUM: hashlib.sha256(text.encode()).hexdigest()}
