"""Deployed trees as safetensors files: every matrix in its form."""

from __future__ import annotations

import json
import os
from typing import Any

import jax.numpy as jnp
import numpy as np

from dst.core import checks
from dst.core.typing import PyTree
from dst.forms.condensed import CondensedMatrix, condensed_of
from dst.forms.csr import CSRMatrix
from dst.forms.deploy import pattern_of
from dst.forms.matrix import DenseMatrix, Matrix, on_device
from dst.forms.nm import NMMatrix, nm_of
from dst.io.safetensors import read_arrays, write_arrays

_KEY = "dst deployed"  # the only one, as several have no order in files
_CONTAINERS = {"list": list, "tuple": tuple}


def save_deployed(path: str | os.PathLike[str], deployed: PyTree) -> None:
    """Writes what :func:`dst.deploy` returns to a ``safetensors`` file, whole or not at all.

    Arrays are named after leaf paths, as in ``hidden/kernel/values``. Indices take 1, 2 or 4 bytes,
    by the number of inputs. The metadata hold containers and forms as JSON.

    Args:
      path: of the file.
      deployed: a matrix, or dicts, lists and tuples of matrices and arrays, nested in any way.

    Raises:
      ValueError: another container, a key that is no string, two arrays of one path.
      OSError: the file could not be written.
    """
    arrays: dict[str, np.ndarray] = {}
    described = _described(deployed, "", arrays)
    write_arrays(path, arrays, {_KEY: json.dumps(described)})


def load_deployed(path: str | os.PathLike[str]) -> PyTree:
    """Reads what :func:`save_deployed` wrote, equal in every bit. It runs no code of the file.

    Returns:
      The same matrices in the same containers. Leaves that were arrays are arrays of NumPy.

    Raises:
      FileNotFoundError: no such file.
      ValueError: another file, one that is not whole, or one whose arrays are no such matrices.
    """
    arrays, metadata = read_arrays(path, "deployed")
    if _KEY not in metadata:
        raise ValueError(f"{path} holds no deployed matrices: dst.save_deployed did not write it.")
    try:
        return _restored(json.loads(metadata[_KEY]), arrays)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        text = f"{error}" if isinstance(error, ValueError) else f"{error!r}"
        raise ValueError(
            f"{path} cannot be read: {text:.300}. Write it again with dst.save_deployed."
        ) from error


def _described(node: Any, path: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """A node as JSON; its arrays are added to ``arrays``."""
    if isinstance(node, dict):
        if wrong := [key for key in node if not isinstance(key, str)]:
            raise ValueError(f"{path or 'deployed'}: keys must be strings, got {wrong[0]!r:.80}.")
        return {"dict": {key: _described(x, _join(path, key), arrays) for key, x in node.items()}}
    for name, container in _CONTAINERS.items():
        if type(node) is container:
            return {name: [_described(x, _join(path, i), arrays) for i, x in enumerate(node)]}
    if node is None:
        return {"none": []}
    form, parts = _parts(node, path)
    for part, values in parts.items():
        name = _join(path, part)
        if name in arrays:
            raise ValueError(f"two arrays have the path {name!r}: a key contains '/'. Rename it.")
        arrays[name] = np.ascontiguousarray(values).reshape(values.shape)  # it makes no scalars
    inputs = {"inputs": node.shape[0]} if isinstance(node, Matrix) else {}
    return {"form": form, "path": path, **inputs}


def _parts(node: Any, path: str) -> tuple[str, dict[str, Any]]:
    """The form of a leaf, and its arrays by name."""
    if isinstance(node, CondensedMatrix):
        return "condensed", {"values": node.values, "indices": _narrow(node.indices, node.inputs)}
    if isinstance(node, CSRMatrix):
        indices = _narrow(node.indices, node.inputs)
        return "csr", {"values": node.values, "indices": indices, "pointers": node.pointers}
    if isinstance(node, NMMatrix):
        return f"{node.n}:{node.m}", node.packed._asdict()
    if isinstance(node, DenseMatrix):
        return "dense", {"values": node.values}
    if not (hasattr(node, "shape") and hasattr(node, "dtype")):
        raise ValueError(
            f"{path or 'deployed'}: expected a deployed matrix, an array, a dict, a list or a "
            f"tuple, got {type(node).__name__}."
        )
    return "array", {"": node}


def _restored(node: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
    """The node that :func:`_described` wrote as JSON."""
    if "dict" in node:
        return {key: _restored(x, arrays) for key, x in node["dict"].items()}
    for name, container in _CONTAINERS.items():
        if name in node:
            return container(_restored(x, arrays) for x in node[name])
    if "none" in node:
        return None
    form, path = node["form"], node["path"]

    def part(name: str) -> np.ndarray:
        name = _join(path, name)
        if name not in arrays:
            raise ValueError(f"there is no array {name!r}")
        return arrays[name]

    if form == "array":
        return part("")
    values, inputs = part("values"), node["inputs"]
    checks.integer("inputs", inputs, at_least=0)
    if not jnp.issubdtype(values.dtype, jnp.floating):
        raise ValueError(f"{path}: values must be floating-point, got {values.dtype}")
    if form == "condensed":
        return condensed_of(values, part("indices"), inputs)
    if form == "csr":
        indices = part("indices")
        if indices.dtype.kind in "iu":
            indices = indices.astype(np.int32)
        return CSRMatrix(values, indices, part("pointers"), inputs)
    if form == "dense" and values.ndim == 2:
        return DenseMatrix(on_device(values))
    pattern = pattern_of(form)
    if pattern is None:
        raise ValueError(f"{path}: no form {form!r:.40}")
    return nm_of(values, part("indices"), *pattern)


def _narrow(indices: Any, inputs: int) -> np.ndarray:
    """Indices in the smallest type that holds all of them."""
    dtype = np.uint8 if inputs <= 2**8 else np.uint16 if inputs <= 2**16 else np.int32
    return np.asarray(indices).astype(dtype)


def _join(path: str, part: str | int) -> str:
    return f"{path}/{part}" if path and part != "" else f"{path}{part}" or "array"
