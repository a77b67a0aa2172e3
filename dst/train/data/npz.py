"""Named arrays in a file of NumPy."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dst.core import checks
from dst.core.registry import named
from dst.train.data import files, labelled
from dst.train.data.dataset import Dataset, Pair

_BROKEN = (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error)


@named("npz:*", path=True)
@dataclass(frozen=True)
class Npz(labelled.WithTargets):
    """Named arrays of NumPy: `npz:digits.npz`, written by `np.savez`.

    Where the file has arrays such as `x_train`, `y_train`, `x_test` and `y_test`, they are the
    splits. Inputs become float32; inputs of 8 bits are images, and `[n, height, width]` of them get
    an axis of one channel.

    Attributes:
      inputs: name of the array of inputs, or the part before `_train` and `_test`.
      labels: name of the array of labels, likewise: integers or text `[n]` are classes, integers
        or booleans `[n, classes]` several classes each, floats `[n]` or `[n, targets]` quantities.
    """

    inputs: str = "x"
    labels: str = "y"

    def load(self, name: str, kind: str | None = None) -> Dataset:
        """The data set ``npz:path``."""
        return load(name.removeprefix("npz:"), self, kind)


def load(path: str, settings: Npz, kind: str | None = None) -> Dataset:
    """The data set of a file.

    Args:
      path: of the file.
      settings: how it is read.
      kind: of labels, as the objective of the config needs them; None: as they are.

    Raises:
      ValueError: no such file or array, Python objects, other data than the settings pin, or what
        :func:`dst.train.data.labelled.dataset` refuses.
    """
    file = files.file(path)
    sha256 = files.content(file)
    files.check(sha256, settings.sha256, path)
    made = labelled.dataset(_read(file, settings), settings, kind, path)
    return replace(made, identity={**made.identity, "sha256": sha256})


def _read(path: Path, settings: Npz) -> list[Pair]:
    with path.open("rb") as stream:
        try:
            opened: Any = np.load(stream, allow_pickle=False)
        except _BROKEN as error:
            raise ValueError(_broken(path, error)) from error
        return _parts(opened, path, settings)


def _parts(opened: Any, path: Path, settings: Npz) -> list[Pair]:
    if isinstance(opened, np.ndarray):
        raise ValueError(
            f"data: expected named arrays in {path}, found a single array. Save inputs and labels "
            "together: np.savez(file, x=inputs, y=labels)."
        )
    names = opened.files
    whole = settings.inputs in names or f"{settings.inputs}_train" not in names
    ends = [""] if whole else ["_train", "_test"]
    parts = []
    for end in ends:
        for key, name in (("inputs", settings.inputs), ("labels", settings.labels)):
            if name + end not in names:
                raise ValueError(
                    f"data.{key}: expected the array {name + end!r} in {path}, found {names}."
                    f"{checks.nearest(name + end, names)}"
                )
        x = _array(opened, settings.inputs + end, path)
        y = _array(opened, settings.labels + end, path)
        parts.append((labelled.numbers(x, f"the array {settings.inputs + end!r} of {path}"), y))
    return parts


def _array(opened: Any, name: str, path: Path) -> np.ndarray:
    try:
        return opened[name]
    except _BROKEN as error:
        if "allow_pickle" not in str(error):
            raise ValueError(_broken(path, error)) from error
        raise ValueError(
            f"data: the array {name!r} of {path} holds Python objects. They are not loaded, since "
            "that could run code. Save numbers, or text as array.astype(str)."
        ) from error


def _broken(path: Path, error: Exception) -> str:
    return f"data: expected named arrays, as np.savez writes them, in {path}: {error}"
