"""Tensors of a model directory: one ``safetensors`` file, or several with an index."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dst.core import extras
from dst.core.files import write_json

with extras.required():
    from safetensors import SafetensorError, safe_open
    from safetensors.numpy import save_file

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = 5_000_000_000  # bytes


@dataclass(frozen=True)
class Tensor:
    """A tensor that is read, or computed, only when asked for.

    Attributes:
      shape: of the array.
      dtype: of the array, as safetensors names it: ``F32``, ``F16``, ``BF16``, ``I64``.
      read: returns it.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


def open_directory(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a model directory by name; none is read yet.

    Args:
      path: of a directory with ``model.safetensors``, or with files of which
        ``model.safetensors.index.json`` is the index. Pickles are never read: they can run code.

    Raises:
      FileNotFoundError: neither, or a file that the index names is missing.
      ValueError: a file that is no safetensors file, or an index that does not fit its files.
    """
    folder = Path(path)
    if (folder / SINGLE).is_file():
        return _open_file(folder / SINGLE)
    if not (folder / INDEX).is_file():
        pickles = sorted(x.name for x in folder.glob("*.bin"))
        hint = f" {pickles[0]} is a pickle, which can run code: it is not read." if pickles else ""
        raise FileNotFoundError(f"expected {SINGLE} or {INDEX} in {folder}, found neither.{hint}")
    tensors: dict[str, Tensor] = {}
    index = _index(folder / INDEX)
    files = sorted(set(index.values()))
    for file in files:
        if Path(file).name != file:
            raise ValueError(f"{folder / INDEX} must name files beside it, got {file!r}.")
        if not (folder / file).is_file():
            raise FileNotFoundError(f"{folder / INDEX} names {file}, which is missing.")
    for file in files:
        found = _open_file(folder / file)
        if wrong := sorted(found.keys() ^ {n for n, other in index.items() if other == file}):
            raise ValueError(
                f"{folder / INDEX} and {file} differ: only one of both has {wrong[0]!r}."
            )
        tensors |= found
    return tensors


def _index(path: Path) -> dict[str, str]:
    try:
        names = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} must be JSON with a weight_map: {error!r}.") from error
    if not isinstance(names, dict) or not all(isinstance(x, str) for x in names.values()):
        raise ValueError(f"{path}: weight_map must have a file name for each tensor.")
    return names


def _open_file(path: Path) -> dict[str, Tensor]:
    try:
        file = safe_open(path, "np")
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file: {error}.") from error

    def reader(name: str) -> Callable[[], np.ndarray]:
        return lambda: file.get_tensor(name)

    slices = {name: file.get_slice(name) for name in file.keys()}
    return {
        name: Tensor(tuple(x.get_shape()), x.get_dtype(), reader(name))
        for name, x in slices.items()
    }


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], *, shard: int = SHARD
) -> None:
    """Writes tensors as one ``safetensors`` file, or as several of at most ``shard`` bytes.

    One file is in memory at a time. The metadata are those of PyTorch, which is what other
    libraries ask for.

    Args:
      path: of a directory, which exists.
      tensors: by name, in the order in which they are written.
      shard: bytes; a larger tensor is a file of its own.

    Raises:
      OSError: a file could not be written.
    """
    folder, parts, sizes = Path(path), [[]], [0]  # type: tuple[Path, list[list[str]], list[int]]
    for name, tensor in tensors.items():
        size = _bytes(tensor)
        if parts[-1] and sizes[-1] + size > shard:
            parts.append([])
            sizes.append(0)
        parts[-1].append(name)
        sizes[-1] += size
    files = [SINGLE]
    if len(parts) > 1:
        files = [f"model-{i:05}-of-{len(parts):05}.safetensors" for i in range(1, len(parts) + 1)]
    for file, names in zip(files, parts, strict=True):
        arrays: dict[str, Any] = {n: np.ascontiguousarray(tensors[n].read()) for n in names}
        try:
            save_file(arrays, folder / file, metadata={"format": "pt"})
        except SafetensorError as error:  # of the system, for example of a full disk
            raise OSError(f"{folder / file} was not written: {error}") from error
    if len(parts) > 1:
        where = {name: file for file, part in zip(files, parts, strict=True) for name in part}
        write_json(folder / INDEX, {"metadata": {"total_size": sum(sizes)}, "weight_map": where})


def _bytes(tensor: Tensor) -> int:
    bits = int(tensor.dtype.lstrip("ABFIOLU"))
    return int(np.prod(tensor.shape, dtype=np.int64)) * bits // 8
