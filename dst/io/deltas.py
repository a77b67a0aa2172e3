"""Deltas as safetensors files, which know by its SHA-256 the model that they belong to."""

from __future__ import annotations

import json
import os

import numpy as np

from dst.forms.deltas import Change, Delta
from dst.io.safetensors import read_arrays, write_arrays

_KEY = "dst delta"
_PARTS = ("indices", "changes", "before")


def save_delta(path: str | os.PathLike[str], delta: Delta) -> None:
    """Writes a delta to a ``safetensors`` file, whole or not at all.

    Arrays are ``<leaf path>/indices``, ``/changes`` and ``/before``, as in
    :class:`dst.forms.deltas.Change`. The metadata has the SHA-256 of the base.

    Args:
      path: of the file.
      delta: of :func:`dst.delta`.

    Raises:
      OSError: the file could not be written.
    """
    arrays = {
        f"{name}/{part}": np.ascontiguousarray(getattr(change, part))
        for name, change in delta.leaves.items()
        for part in _PARTS
    }
    about = json.dumps({"base": delta.base, "leaves": list(delta.leaves)})
    write_arrays(path, arrays, {_KEY: about})


def load_delta(path: str | os.PathLike[str]) -> Delta:
    """Reads a delta that :func:`save_delta` wrote.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a file that holds no delta.
    """
    arrays, metadata = read_arrays(path, "delta")
    try:
        about = json.loads(metadata[_KEY])
        base, names = str(about["base"]), list(about["leaves"])
        leaves = {n: Change(*(arrays[f"{n}/{part}"] for part in _PARTS)) for n in names}
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path} holds no delta: {error}. Write it by dst.save_delta.") from error
    for name, x in leaves.items():
        lengths = {len(part) if part.ndim == 1 else -1 for part in x}
        ascending = x.indices.dtype.kind in "ui" and bool(
            (np.diff(x.indices.astype(int)) > 0).all()
        )
        if len(lengths) > 1 or -1 in lengths or not ascending or x.changes.dtype != np.float64:
            raise ValueError(
                f"{path} holds no delta: {name} must have ascending indices, float64 changes and "
                "values before, equally many."
            )
    return Delta(base, leaves)
