"""Masks and weights as safetensors files, which any tool can read."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from dst.core import extras, tree
from dst.core.files import whole
from dst.core.typing import ArrayLike, Params

with extras.required():
    from safetensors import SafetensorError, safe_open
    from safetensors.numpy import load_file, save_file

_PACKED = "dst masks, one bit each"  # the only key, as several have no order in files


def save_masks(
    path: str | os.PathLike[str], masks: Mapping[str, ArrayLike], *, packed: bool = False
) -> None:
    """Writes bool masks by leaf path to a ``safetensors`` file, whole or not at all.

    Args:
      path: of the file.
      masks: bool arrays by leaf path, as :func:`dst.masks` returns them.
      packed: one bit per weight instead of one byte: uint8, the first weight in the highest bit,
        the shapes as JSON in the metadata. Other tools must unpack them; :func:`load_masks` reads
        both forms.

    Raises:
      ValueError: a mask that is no bool array.
      OSError: the file could not be written.
    """
    arrays = {}
    for name, mask in masks.items():
        array = np.ascontiguousarray(mask)
        if array.dtype != bool:
            raise ValueError(f"mask {name!r} must be a bool array, got {array.dtype}.")
        arrays[name] = array
    if not packed:
        write_arrays(path, arrays, {"format": "dst masks"})
        return
    shapes = {name: array.shape for name, array in arrays.items()}
    bits = {name: np.packbits(array) for name, array in arrays.items()}
    write_arrays(path, bits, {_PACKED: json.dumps(shapes)})


def load_masks(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads masks that :func:`save_masks` wrote: bool arrays by leaf path.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a file with arrays that are no masks.
    """
    arrays, metadata = read_arrays(path, "mask")
    if _PACKED in metadata:
        return _unpacked(path, arrays, metadata[_PACKED])
    for name, array in arrays.items():
        if array.dtype != bool:
            raise ValueError(
                f"{path} contains {name!r} of type {array.dtype}, expected bool masks."
            )
    return arrays


def _unpacked(
    path: str | os.PathLike[str], bits: Mapping[str, np.ndarray], described: str
) -> dict[str, np.ndarray]:
    try:
        shapes = {name: tuple(map(int, x)) for name, x in json.loads(described).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} says no shapes of its packed masks: {error}.") from error
    masks = {}
    for name, array in bits.items():
        shape = shapes.get(name, (-1,))
        size = math.prod(shape)
        if array.dtype != np.uint8 or min(shape, default=0) < 0 or array.shape != (-(-size // 8),):
            raise ValueError(
                f"{path} contains {name!r} of type {array.dtype} and shape {array.shape}, expected "
                f"the bits of a mask of shape {shape}."
            )
        masks[name] = np.unpackbits(array, count=size).astype(bool).reshape(shape)
    return masks


def save_weights(path: str | os.PathLike[str], params: Params) -> None:
    """Writes the parameters by leaf path to a ``safetensors`` file, whole or not at all.

    Args:
      path: of the file.
      params: any pytree of arrays; every leaf is written in its own type. Of an NNX model the
        parameters are written.

    Raises:
      OSError: the file could not be written.
    """
    paths, leaves, _ = tree.flatten(tree.parameters(params))
    arrays = {name: np.ascontiguousarray(x) for name, x in zip(paths, leaves, strict=True)}
    write_arrays(path, arrays, {"format": "dst weights"})


def load_weights(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads weights that :func:`save_weights` wrote: arrays by leaf path.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a file that is no safetensors file.
    """
    return read_arrays(path, "weight")[0]


def replaced(params: Params, weights: Mapping[str, np.ndarray]) -> Params:
    """A tree like ``params`` whose leaves are the weights of the same path.

    Args:
      params: a pytree of arrays.
      weights: arrays by leaf path, as :func:`load_weights` returns them.

    Raises:
      ValueError: other leaves, shapes or types than those of ``params``.
    """
    paths, leaves, treedef = tree.flatten(params)
    if weights.keys() != set(paths):
        raise ValueError(
            f"weights do not fit the parameters: only one of both has "
            f"{sorted(weights.keys() ^ set(paths))}. Were they saved from another model?"
        )
    for name, leaf in zip(paths, leaves, strict=True):
        weight = weights[name]
        if weight.shape != leaf.shape or weight.dtype != leaf.dtype:
            raise ValueError(
                f"weights do not fit the parameters: {name} must be {leaf.dtype}{leaf.shape}, "
                f"got {weight.dtype}{weight.shape}. Were they saved from another model?"
            )
    return treedef.unflatten([jnp.asarray(weights[name]) for name in paths])


def write_arrays(
    path: str | os.PathLike[str], arrays: dict[str, np.ndarray], metadata: dict[str, str]
) -> None:
    """Writes arrays and texts to a safetensors file, whole or not at all.

    Raises:
      OSError: the file could not be written.
    """
    with whole(path) as part:
        try:
            save_file(arrays, part, metadata=metadata)
        except SafetensorError as error:  # of the system, for example of a full disk
            raise OSError(f"{path} was not written: {error}") from error


def read_arrays(
    path: str | os.PathLike[str], kind: str
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays and texts of a safetensors file.

    Args:
      path: of the file.
      kind: what it holds, for messages.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a file that is no safetensors file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no {kind} file at {path}.")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
        return load_file(path), metadata
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file: {error}.") from error
