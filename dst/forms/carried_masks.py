"""Flax models that carry masks: variables beside their parameters."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from flax import nnx

from dst.core.roles.nnx import owner
from dst.core.typing import ArrayLike

_SUFFIX = "_mask"
_OTHER_SUFFIX = "_sparsity_mask"  # where the module has an attribute of the first name
_CONTAINERS = (nnx.Dict, nnx.List)  # what they hold, users iterate over


class Mask(nnx.Variable):
    """bool array beside a parameter ``w``, as ``w_mask``: True where a connection is active.

    The metadata ``parameter`` is the path of the parameter from the module that holds the mask.
    """


def masks(model: nnx.Module) -> dict[str, np.ndarray]:
    """The masks that a model carries, by the leaf path of their parameter.

    Raises:
      ValueError: there are none.
    """
    carried = {}
    for path, variable in nnx.to_flat_state(nnx.state(model, Mask)):
        *around, name = map(str, path)
        inner_path = variable.get_metadata().get("parameter", name.removesuffix(_SUFFIX))
        carried["/".join([*around, inner_path])] = np.asarray(variable.get_value())
    if not carried:
        raise ValueError(
            "this model carries no masks. Create them with dst.nnx.Optimizer(model, ...), or use "
            "FromMasks(masks=...)."
        )
    return carried


def attach(model: nnx.Module, masks: Mapping[str, ArrayLike]) -> None:
    """Lets a model carry masks, in place of those that it has; parameters stay as they are.

    Args:
      model: an NNX module; changed in place.
      masks: bool arrays by the leaf path of their parameter, such as :func:`dst.load_masks` reads.

    Raises:
      ValueError: a path that is none of the model's, or a mask of another shape.
    """
    detach(model)
    shapes = {
        "/".join(map(str, key)): tuple(variable.get_value().shape)
        for key, variable in nnx.to_flat_state(nnx.state(model, nnx.Param))
    }
    for path, mask in masks.items():
        shape = shapes.get(path)
        if shape != jnp.shape(mask):
            found = "no such parameter" if shape is None else f"a parameter of shape {shape}"
            raise ValueError(
                f"masks: expected {path} of shape {jnp.shape(mask)} in the model, found {found}."
            )
        module, name, inner_path = holder(model, path)
        setattr(module, name, Mask(jnp.asarray(mask, bool), parameter=inner_path))


def detach(model: nnx.Module) -> None:
    """Removes all mask variables from a model, in place."""
    for _, module in nnx.iter_modules(model):
        for name, value in list(vars(module).items()):
            if isinstance(value, Mask):
                delattr(module, name)


def holder(model: nnx.Module, path: str) -> tuple[nnx.Module, str, str]:
    """The module that holds the mask of a parameter, the attribute, and the path from there."""
    segments = path.split("/")
    for n in range(len(segments) - 1, -1, -1):
        module, _ = owner(model, "/".join([*segments[:n], ""]))
        if not isinstance(module, nnx.Module) or isinstance(module, _CONTAINERS):
            continue
        for suffix in (_SUFFIX, _OTHER_SUFFIX):
            name, inner_path = "_".join(segments[n:]) + suffix, "/".join(segments[n:])
            there = getattr(module, name, None)
            own = isinstance(there, Mask) and there.get_metadata().get("parameter") == inner_path
            if own or not hasattr(module, name):
                return module, name, inner_path
        raise ValueError(
            f"{path}: its module has attributes {'_'.join(segments[n:])}{_SUFFIX} and "
            f"{name} of its own. Use attach_masks=False."
        )
    raise ValueError(
        f"{path} lies in a {type(model).__name__}, which cannot hold a mask beside it. Use "
        "attach_masks=False, or make it an attribute of a module."
    )
