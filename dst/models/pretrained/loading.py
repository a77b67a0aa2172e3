"""A pretrained model from its files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx

from dst.core import checks, tree
from dst.io.checkpoints import Tensor, open_directory
from dst.models.pretrained import gguf
from dst.models.pretrained.bert import BERT
from dst.models.pretrained.entries import Entries
from dst.models.pretrained.family import Family, Place, check
from dst.models.pretrained.llama import LLAMA

FAMILIES = (LLAMA, BERT)


def load(
    path: str | os.PathLike[str],
    *,
    dtype: Literal["float32", "float16", "bfloat16"] | None = None,
    scan: bool = False,
) -> Any:
    """A pretrained language model as a Flax NNX module.

    A directory in the form of Hugging Face has ``config.json`` and the weights as ``safetensors``,
    in one file or in several. Read are LLaMA, Mistral and Qwen2 as :class:`dst.models.Decoder`,
    BERT as :class:`dst.models.Encoder`. A GGUF file of the architecture ``llama`` is dequantised.
    Nothing that a file holds is run: no pickle, no code, no template.

    Args:
      path: of a directory, or of a GGUF file.
      dtype: of all weights; None: each as its file has it. Those of GGUF files are float32.
      scan: whether the blocks of a decoder are one module with a leading axis of layers.

    Raises:
      FileNotFoundError: no such directory or file, or one without its parts.
      ValueError: an architecture, an entry or a type that is not known here; tensors that are
        missing, too many, or of another shape than the configuration says.

    Example:
      >>> model = load("SmolLM2-135M")  # doctest: +SKIP
      >>> model(jnp.zeros((1, 4), int)).shape  # doctest: +SKIP
      (1, 4, 49152)

    Checked against: a second forward pass in NumPy with the tensors of the file,
    tests/models/test_smollm2.py and tests/models/test_encoder.py.
    """
    if dtype is not None:
        checks.one_of("dtype", dtype, ("float32", "float16", "bfloat16"))
    entries, tensors = _open(Path(path))
    family = _family(entries)
    tensors = _untied(entries, family.tensors(tensors))
    abstract = nnx.eval_shape(lambda: family.build(entries, tensors, scan))
    graph, params = nnx.split(abstract)
    places = family.places(params)
    check(entries.source, family, places, tensors)

    paths, _, treedef = tree.flatten(params)
    parts: dict[str, list[str]] = {leaf: [] for leaf in paths}
    for name, place in places.items():
        parts[place.path].append(name)
    leaves = [_leaf([(places[n], tensors[n]) for n in parts[leaf]], dtype) for leaf in paths]
    model: Any = nnx.merge(graph, treedef.unflatten(leaves))
    model.config = json.dumps(dict(entries.entries))
    return model


def _leaf(parts: list[tuple[Place, Tensor]], dtype: str | None) -> Any:
    arrays = [place.turned(tensor.read()) for place, tensor in parts]
    whole = arrays[0] if parts[0][0].layer is None else np.stack(arrays)
    return jnp.asarray(whole, dtype)


def _open(path: Path) -> tuple[Entries, dict[str, Tensor]]:
    if path.is_dir():
        return Entries.read(path / "config.json"), open_directory(path)
    if not path.exists():
        raise FileNotFoundError(f"expected a directory or a GGUF file, found nothing at {path}.")
    return gguf.read(path)


def _family(entries: Entries) -> Family:
    known = {kind: family for family in FAMILIES for kind in family.types}
    kind = entries.get("model_type")
    checks.one_of(f"{entries.source}: model_type", kind, known)
    if "quantization_config" in entries.entries:
        raise ValueError(
            f"{entries.source}: weights must be plain numbers, found a quantization_config. Load "
            "the model that was quantized."
        )
    return known[kind]


def _untied(entries: Entries, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without an output head that repeats the token table, as some files do.

    Raises:
      ValueError: tied tables that differ.
    """
    kept, table, head = dict(tensors), "model.embed_tokens.weight", "lm_head.weight"
    if {table, head} <= kept.keys() and entries.entries.get("tie_word_embeddings"):
        if not np.array_equal(kept[table].read(), kept.pop(head).read()):
            raise ValueError(
                f"{entries.source}: tie_word_embeddings is true, but {table} and {head} differ. "
                "Which is meant? Set it to false to use both."
            )
    return kept
