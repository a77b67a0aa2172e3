"""The roles of arrays in Equinox modules, which are pytrees themselves."""

from __future__ import annotations

from typing import Any

import equinox
import jax
from equinox import nn

from dst.core.roles.role import Role
from dst.core.typing import PyTree

_NORMS = (nn.BatchNorm, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.SpectralNorm, nn.WeightNorm)
_DENSE = (*_NORMS, nn.Embedding, nn.PReLU)
_CELLS = (nn.GRUCell, nn.LSTMCell)


def roles(tree: PyTree) -> dict[str, Role]:
    """The roles by leaf path, as far as modules of Equinox hold them."""
    found = {}
    for key_path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]:
        owner, name = _owner(tree, key_path)
        if owner is not None and (role := _role(owner, name)) is not None:
            found[jax.tree_util.keystr(key_path, simple=True, separator="/")] = role
    return found


def _owner(node: Any, key_path: tuple[Any, ...]) -> tuple[Any, str]:
    """The module that has the array, and its attribute; None where there is no such module."""
    for key in key_path[:-1]:
        match key:
            case jax.tree_util.GetAttrKey(name=name):
                node = getattr(node, name)
            case jax.tree_util.SequenceKey(idx=place) | jax.tree_util.DictKey(key=place):
                node = node[place]
            case _:
                return None, ""
    named = key_path and isinstance(node, equinox.Module)
    return (node, key_path[-1].name) if named else (None, "")


def _role(module: equinox.Module, name: str) -> Role | None:
    kind = f"equinox.{type(module).__name__}"
    if isinstance(module, _DENSE):
        return Role(kind, sparse=False)
    if isinstance(module, nn.Linear):
        return Role(kind, "o i", sparse=name == "weight")
    if isinstance(module, (nn.Conv, nn.ConvTranspose)):
        axes = " ".join("oi" + "k" * module.num_spatial_dims)
        if 1 < module.groups == module.in_channels:
            return Role(f"{kind}, depthwise", axes, sparse=False)
        return Role(kind, axes, sparse=name == "weight")
    if isinstance(module, _CELLS):
        return Role(kind, "o i", sparse=name.startswith("weight"))
    return None
