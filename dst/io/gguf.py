"""GGUF files of llama.cpp: metadata, and tensors that are dequantised as they are read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from dst.core import extras
from dst.io.checkpoints import Tensor

with extras.required():
    import gguf


class Metadata(Mapping[str, Any]):
    """Entries of a GGUF file by key; each is decoded when asked for: vocabularies are long."""

    def __init__(self, fields: Mapping[str, Any]):
        self._fields = fields

    def __getitem__(self, key: str) -> Any:
        return self._fields[key].contents()

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


def open_gguf(path: str | os.PathLike[str]) -> tuple[Metadata, dict[str, Tensor]]:
    """Metadata and tensors of a GGUF file; nothing is dequantised yet.

    A tensor has the axes ``[outputs, inputs]`` and the type float32, whatever the file stores.

    Args:
      path: of the file.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a file that the package ``gguf`` cannot read.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no GGUF file at {path}.")
    stat = os.stat(path)
    return _opened(os.fspath(path), stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=1)  # a model and its tokenizer are read one after the other
def _opened(path: str, changed: int, size: int) -> tuple[Metadata, dict[str, Tensor]]:
    try:
        reader = gguf.GGUFReader(path)
        tensors = {x.name: _tensor(x) for x in reader.tensors}
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"{path} is no GGUF file that can be read: {error!r}.") from error
    return Metadata(reader.fields), tensors


def _tensor(found: Any) -> Tensor:
    shape = tuple(int(x) for x in reversed(found.shape))

    def read() -> np.ndarray:
        try:
            values = gguf.quants.dequantize(found.data, found.tensor_type)
        except NotImplementedError as error:
            kind = found.tensor_type.name
            raise ValueError(
                f"{found.name} has the type {kind}, which the package gguf does not dequantise. "
                "Use a file of another type, such as Q8_0 or F16."
            ) from error
        return np.asarray(values, np.float32).reshape(shape)

    return Tensor(shape, "F32", read)
