"""Where activations of a decoder become sparse, and what is put there and taken away again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from flax import nnx

from dst.core.typing import Array
from dst.models.decoder import Decoder
from dst.models.decoder_block import SwiGLU

ACTIVATION = "activation"  # of the gate; the others are matrices
_PARTS = {
    **dict.fromkeys(("query", "key", "value", "output"), "attention"),
    **dict.fromkeys((ACTIVATION, "gate", "up", "down"), "feed_forward"),
}
MATRICES = tuple(name for name in _PARTS if name != ACTIVATION)

Index: TypeAlias = Any  # of an array of layers: an integer, or all of it where blocks are stacked


class Sparse(nnx.Module):
    """What stands in the place of an activation or of a layer.

    Attributes:
      former: the activation or the layer that was there.
    """

    def __init__(self, former: Any):
        self.former = former


class Replacement(NamedTuple):
    """What a method puts in one place of every block.

    Attributes:
      make: ``make(former)``, or ``make(former, values)`` with the values of the layer.
      values: ``[layers, ...]``, or None.
    """

    make: Callable[..., Sparse]
    values: np.ndarray | None = None


def check(model: Any) -> None:
    """Raises unless a model is a decoder whose blocks have a SwiGLU.

    Raises:
      ValueError: another model.
    """
    if not isinstance(model, Decoder):
        found = type(model).__name__
    else:
        parts = [x.feed_forward for x in _blocks(model)]
        others = [type(x).__name__ for x in parts if not isinstance(x, SwiGLU)]
        if not others:
            return
        found = f"blocks with {others[0]}"
    raise ValueError(
        "sparse activations need a dst.models.Decoder whose blocks have a dst.models.decoder."
        f"SwiGLU, got {found}."
    )


def _blocks(model: Decoder) -> list[Any]:
    return [model.blocks] if model.scan else list(model.blocks)


def sites(model: Any, name: str, within: bool = False) -> Iterator[tuple[Any, str, Index]]:
    """The holder, the attribute and the index of a place in every block.

    Args:
      model: a decoder.
      name: ``activation``, or of a matrix.
      within: whether it is the former layer, where a method has put something in its place.
    """
    for index, block in enumerate(_blocks(model)):
        holder, attribute = getattr(block, _PARTS[name]), name
        while within and isinstance(inner := getattr(holder, attribute), Sparse):
            holder, attribute = inner, "former"
        yield holder, attribute, slice(None) if model.scan else index


def by_layer(
    model: Any, name: str, function: Callable[[Any], Array], within: bool = False
) -> Array:
    """A function of what stands in a place, ``[layers, ...]``; of stacked blocks it gives all."""
    found = [function(getattr(holder, x)) for holder, x, _ in sites(model, name, within)]
    return found[0] if model.scan else jnp.stack(found)


def replace(
    model: Any, name: str, make: Callable[[Any, Index], nnx.Module], within: bool = False
) -> None:
    """Puts ``make(former, index)`` in one place of every block; what blocks share stays shared."""
    done: dict[tuple[int, str], Any] = {}
    for holder, attribute, index in list(sites(model, name, within)):
        if (id(holder), attribute) not in done:
            done[id(holder), attribute] = new = make(getattr(holder, attribute), index)
            setattr(holder, attribute, nnx.data(new))


def place(model: Any, replacements: Mapping[str, Replacement]) -> None:
    """Puts in place what a method has chosen; the model is changed."""
    for name, (make, values) in replacements.items():

        def new(former: Any, index: Index, make: Any = make, values: Any = values) -> Sparse:
            return make(former) if values is None else make(former, values[index])

        replace(model, name, new)


def copy(model: Any) -> Any:
    """The same arrays in new modules."""
    return nnx.merge(*nnx.split(model))


def remove(model: Any) -> None:
    """Puts back the activations and layers that :func:`apply` replaced; the model is changed.

    A model without any stays as it is. Weights that were trained meanwhile stay trained.

    Args:
      model: a :class:`dst.models.Decoder`.

    Example:
      >>> from dst.activations import TopK, apply
      >>> model = Decoder((8,), 16, width=8, layers=1, heads=2, hidden=8, rngs=nnx.Rngs(0))
      >>> _ = apply(model, TopK(0.5))
      >>> remove(model)
      >>> model.blocks[0].feed_forward.activation is nnx.silu
      True
    """
    for _, holder in list(nnx.iter_modules(model)):
        for name, child in list(vars(holder).items()):
            if isinstance(child, Sparse):
                former = child.former
                while isinstance(former, Sparse):
                    former = former.former
                module = isinstance(former, nnx.Module)
                setattr(holder, name, nnx.data(former) if module else nnx.static(former))
