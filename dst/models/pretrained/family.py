"""A family of architectures: a table of names, from which loading and saving both follow."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import jax
import numpy as np
from flax import nnx

from dst.core import tree
from dst.io.checkpoints import Tensor
from dst.models.pretrained.entries import Entries

_SHOWN = 5  # tensors of each kind in a message
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Family:
    """Architectures that one network computes.

    Attributes:
      name: for messages.
      types: what ``model_type`` of ``config.json`` may be.
      network: the class of the models.
      names: the leaf of each tensor; both may have ``{layer}``. A leaf that ends in ``kernel`` has
        the axes ``[inputs, outputs]``, its tensor ``[outputs, inputs]``.
      left_out: patterns of tensors that are no weights of the network.
      prefixes: of names, which some files have and others have not.
      build: makes a model from the entries of its configuration, the names of its tensors, and
        whether its blocks are stacked.
      describe: the entries of a model.
    """

    name: str
    types: tuple[str, ...]
    network: type[nnx.Module]
    names: Mapping[str, str]
    build: Callable[[Entries, Mapping[str, Tensor], bool], nnx.Module]
    describe: Callable[[Any], dict[str, Any]]
    left_out: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()

    def tensors(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors that are weights of the network, without the prefix of their names."""
        kept = {}
        for name, tensor in found.items():
            for prefix in self.prefixes:
                name = name.removeprefix(prefix)
            name = re.sub(r"(LayerNorm\.)gamma$", r"\1weight", name)  # of the first checkpoints
            name = re.sub(r"(LayerNorm\.)beta$", r"\1bias", name)
            if not any(fnmatchcase(name, pattern) for pattern in self.left_out):
                kept[name] = tensor
        return kept

    def places(self, params: Any) -> dict[str, Place]:
        """Where each tensor lies in the parameters of a model, by the tensor's name.

        Args:
          params: the state of a model's parameters, of arrays or of shapes.

        Raises:
          ValueError: a leaf that the table does not name.
        """
        names = {leaf: name for name, leaf in self.names.items()}
        paths, leaves, _ = tree.flatten(params)
        places: dict[str, Place] = {}
        for path, leaf in zip(paths, leaves, strict=True):
            shape, transposed = tuple(leaf.shape), path.endswith("/kernel")
            one = re.match(r"blocks/(\d+)/", path)
            if one:
                pattern = names.get(re.sub(r"/\d+/", "/{layer}/", path, count=1))
                layers: list[tuple[int | None, int]] = [(None, int(one[1]))]
            elif path.startswith("blocks/"):  # stacked: the first axis counts layers
                pattern = names.get(path.replace("blocks/", "blocks/{layer}/", 1))
                layers, shape = [(i, i) for i in range(shape[0])], shape[1:]
            else:
                pattern, layers = names.get(path), [(None, 0)]
            if pattern is None:
                raise ValueError(
                    f"{path} has no name among the tensors of a {self.name} model. Layers that "
                    "were replaced come back by dst.activations.remove and dst.nnx.unpack."
                )
            for index, layer in layers:
                file_shape = shape[::-1] if transposed else shape
                place = Place(path, index, file_shape, transposed)
                places[pattern.format(layer=layer)] = place
        return places


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in a model.

    Attributes:
      path: of the leaf.
      layer: its index on the first axis, where the leaf has all layers; else None.
      shape: of the tensor in files.
      transposed: whether the leaf has the axes the other way round.
    """

    path: str
    layer: int | None
    shape: tuple[int, ...]
    transposed: bool

    def turned(self, array: np.ndarray) -> np.ndarray:
        """The array of the file as the leaf holds it, and the other way round."""
        return array.T if self.transposed else array


def check(
    source: str, family: Family, expected: Mapping[str, Place], found: Mapping[str, Tensor]
) -> None:
    """Raises unless the tensors are those of the model, in shape and type.

    Raises:
      ValueError: with the missing, the extra and the mis-shaped ones.
    """
    missing = [f"{n} {list(p.shape)}" for n, p in expected.items() if n not in found]
    extra = [f"{n} {list(t.shape)}" for n, t in found.items() if n not in expected]
    both = [(n, p, found[n]) for n, p in expected.items() if n in found]
    other = [
        f"{n} must be {list(p.shape)}, found {list(t.shape)}"
        for n, p, t in both
        if p.shape != t.shape
    ]
    types = [f"{n} is {t.dtype}" for n, _, t in both if t.dtype not in DTYPES]
    parts = [
        ("missing", missing),
        ("not of this model", extra),
        ("of another shape", other),
        (f"of a type other than {', '.join(DTYPES)}", types),
    ]
    if wrong := [f"{kind}: {_some(names)}" for kind, names in parts if names]:
        raise ValueError(
            f"{source}: the tensors are not those of the {family.name} model that its file "
            f"describes. {'. '.join(wrong)}. Is the configuration that of these weights?"
        )


def _some(names: list[str]) -> str:
    rest = len(names) - _SHOWN
    return "; ".join(names[:_SHOWN]) + (f"; and {rest} more" if rest > 0 else "")


def shapes(model_of: Callable[[], nnx.Module]) -> tuple[Any, Any]:
    """Graph and parameters of a model, as shapes: nothing is allocated."""
    return nnx.split(nnx.eval_shape(model_of))


def parameters(model: nnx.Module) -> dict[str, jax.Array]:
    """The parameters of a model by leaf path."""
    paths, leaves, _ = tree.flatten(nnx.state(model, nnx.Param))
    return dict(zip(paths, leaves, strict=True))
