"""Stages that are finished, on disk: a pruning that was stopped goes on after them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dst.core import extras
from dst.core.files import whole, write_json
from dst.core.typing import Array, PyTree

_PLAN = "pruning.json"


@dataclass(frozen=True)
class Pruned:
    """What became of one matrix.

    Attributes:
      name: the leaf path, with the slice of a stacked leaf.
      sparsity: share of its weights that are zero.
      error: ``|X dW|^2 / |X W|^2`` over the calibration rows; None without a Gram matrix.
      seconds: that the method took.
    """

    name: str
    sparsity: float
    error: float | None
    seconds: float


class Solved(NamedTuple):
    """A matrix that was pruned: weights and mask ``[groups, inputs, outputs]``."""

    weight: Array
    mask: Array
    pruned: Pruned


class Finished:
    """A directory with the results of finished stages, one file each, written whole or not at all.

    Args:
      directory: made if there is none.
      identity: of the pruning, by what it is made of. Stages of another one are refused.

    Raises:
      ValueError: the directory holds stages of another pruning.
    """

    def __init__(self, directory: str | os.PathLike[str], identity: Mapping[str, str]):
        self._directory = Path(directory)
        self._directory.mkdir(parents=True, exist_ok=True)
        plan = self._directory / _PLAN
        if not plan.exists():
            write_json(plan, dict(identity))
        try:
            found = json.loads(plan.read_text(encoding="utf-8"))
            other = sorted(k for k in identity if found.get(k) != identity[k])
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{plan} cannot be read: {error}. Delete {directory}.") from error
        if other:
            raise ValueError(
                f"{directory} holds stages of another pruning: another {', another '.join(other)}. "
                "Name another directory, or delete it."
            )

    def read(self, number: int, names: Sequence[str]) -> list[Solved] | None:
        """The matrices of a stage; None where it is not finished.

        Raises:
          ValueError: a file that cannot be read.
        """
        path = self._path(number)
        if not path.exists():
            return None
        with extras.required():
            from safetensors import SafetensorError, safe_open
        try:
            with safe_open(path, framework="flax") as file:
                records = json.loads(file.metadata()["matrices"])
                if [x["name"] for x in records] != list(names):
                    raise ValueError(f"expected {', '.join(names)}")
                return [_solved(file, i, Pruned(**x)) for i, x in enumerate(records)]
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} holds no finished stage: {error}. Delete it; it is computed again."
            ) from error

    def write(self, number: int, stage: Sequence[Solved]) -> None:
        """Writes the matrices of a stage.

        Raises:
          OSError: the file could not be written.
        """
        with extras.required():
            from safetensors import SafetensorError
            from safetensors.flax import save_file
        arrays: dict[str, Any] = {}
        for i, solved in enumerate(stage):
            arrays[f"{i}/weight"] = solved.weight
            arrays[f"{i}/mask"] = jnp.packbits(solved.mask)
        records = json.dumps([asdict(solved.pruned) for solved in stage])
        path = self._path(number)
        with whole(path) as part:
            try:
                save_file(arrays, str(part), metadata={"matrices": records})
            except SafetensorError as error:  # of the system, for example of a full disk
                raise OSError(f"{path} was not written: {error}") from error

    def _path(self, number: int) -> Path:
        return self._directory / f"stage_{number:04d}.safetensors"


def _solved(file: Any, number: int, pruned: Pruned) -> Solved:
    weight = file.get_tensor(f"{number}/weight")
    bits = file.get_tensor(f"{number}/mask")
    mask = jnp.unpackbits(bits, count=weight.size).astype(bool).reshape(weight.shape)
    return Solved(weight, mask, pruned)


def digest(values: PyTree) -> str:
    """The SHA-256 of all arrays of a tree, with their shapes and types."""
    sha256 = hashlib.sha256()
    for leaf in jax.tree.leaves(values):
        array = np.asarray(leaf)
        sha256.update(f"{array.dtype}{array.shape}".encode())
        sha256.update(array.tobytes())
    return sha256.hexdigest()
