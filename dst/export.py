"""What leaves the program: masks as files that any tool can read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file


def save_masks(path: str | os.PathLike[str], masks: Mapping[str, Any]) -> None:
    """Writes bool masks by leaf path to a ``safetensors`` file, whole or not at all.

    Args:
      path: of the file.
      masks: bool arrays by leaf path, as :func:`dst.masks` returns them.

    Raises:
      ValueError: something that is no bool array.
    """
    arrays = {}
    for name, mask in masks.items():
        array = np.ascontiguousarray(mask)
        if array.dtype != bool:
            raise ValueError(f"mask {name!r} must be a bool array, got {array.dtype}.")
        arrays[name] = array
    target = Path(path)
    part = target.with_name(target.name + ".part")
    save_file(arrays, part, metadata={"format": "dst masks"})
    os.replace(part, target)


def load_masks(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads masks that :func:`save_masks` wrote: bool arrays by leaf path.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a file that holds no masks.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no mask file at {path}.")
    try:
        arrays = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file: {error}.") from error
    for name, array in arrays.items():
        if array.dtype != bool:
            raise ValueError(f"{path} holds {name!r} of type {array.dtype}, expected bool masks.")
    return arrays
