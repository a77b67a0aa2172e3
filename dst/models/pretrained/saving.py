"""A model as a directory in the form of Hugging Face."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from dst.core.files import write_json
from dst.io.checkpoints import SHARD, Tensor, write_tensors
from dst.models.pretrained import tokenizing
from dst.models.pretrained.family import DTYPES, Family, Place, parameters
from dst.models.pretrained.loading import FAMILIES

_LETTERS = {name: letters for letters, name in DTYPES.items()}


def save(
    path: str | os.PathLike[str],
    model: Any,
    *,
    tokenizer: str | os.PathLike[str] | None = None,
    shard: int = SHARD,
) -> None:
    """Writes a model as a directory that :func:`load` and other libraries read.

    ``config.json`` has the sizes of the model, and the other entries of the file that it was
    loaded from. Weights keep their types. A tied token table is written once. Zeros stay zeros.
    The directory is written whole or not at all.

    Args:
      path: of the directory; new, or empty.
      model: a :class:`dst.models.Decoder` or :class:`dst.models.Encoder`.
      tokenizer: directory or GGUF file whose tokenizer is written, too; None: none is.
      shard: bytes of a weight file; a larger model has several, and an index.

    Raises:
      FileExistsError: something is at the path.
      ValueError: another model, a type that such directories do not have, or a tokenizer that
        cannot be read.
      OSError: the directory could not be written.

    Example:
      >>> save("pruned", load("SmolLM2-135M"), tokenizer="SmolLM2-135M")  # doctest: +SKIP

    Checked against: tests/models/pretrained/test_directories.py; transformers, which opens such a
    directory in PyTorch and computes the same logits: tests/models/pretrained/test_transformers.py.
    """
    target = Path(path)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise FileExistsError(f"{target} must be a new or an empty directory. Choose another name.")
    family = _family(model)
    params = parameters(model)
    places = family.places(nnx.state(model, nnx.Param))
    tensors = {name: _tensor(place, params[place.path]) for name, place in places.items()}
    entries = {**json.loads(model.config or "{}"), **_entries(family, model, params)}

    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
    part.mkdir(parents=True)
    try:
        write_tensors(part, tensors, shard=shard)
        write_json(part / "config.json", entries)
        if tokenizer is not None:
            tokenizing.copy(Path(tokenizer), part)
        part.replace(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _family(model: Any) -> Family:
    for family in FAMILIES:
        if isinstance(model, family.network):
            return family
    known = ", ".join(f"dst.models.{x.network.__name__}" for x in FAMILIES)
    raise ValueError(f"a model that can be saved is one of {known}, got {type(model).__name__}.")


def _tensor(place: Place, leaf: Any) -> Tensor:
    if leaf.dtype.name not in _LETTERS:
        raise ValueError(
            f"{place.path} must be one of {', '.join(_LETTERS)}, got {leaf.dtype.name}."
        )

    def read() -> np.ndarray:
        return place.turned(np.asarray(leaf if place.layer is None else leaf[place.layer]))

    return Tensor(place.shape, _LETTERS[leaf.dtype.name], read)


def _entries(family: Family, model: Any, params: dict[str, Any]) -> dict[str, Any]:
    found = json.loads(model.config or "{}")
    entries = family.describe(model)
    for key in ("model_type", "architectures"):  # Mistral's network is LLaMA's
        entries[key] = found.get(key, entries[key])
    kind = params["embedding/embedding"].dtype.name
    return {**entries, "torch_dtype": kind, **({"dtype": kind} if "dtype" in found else {})}
