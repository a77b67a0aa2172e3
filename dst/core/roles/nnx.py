"""The roles of parameters in Flax NNX modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flax import nnx

from dst.core.roles.role import Role

_NORMS = (nnx.BatchNorm, nnx.LayerNorm, nnx.RMSNorm, nnx.GroupNorm, nnx.InstanceNorm)
_DENSE = (*_NORMS, nnx.SpectralNorm, nnx.WeightNorm, nnx.Embed, nnx.LoRA, nnx.PReLU)
_KERNELS = (nnx.Linear, nnx.LinearGeneral, nnx.Conv, nnx.ConvTranspose, nnx.Einsum)


def roles(model: nnx.Module, wrt: Any = nnx.Param) -> dict[str, Role]:
    """The roles of the variables ``wrt`` by leaf path, as far as modules say them.

    Modules of Flax are known. Others say it of their kernel in a class attribute ``kernel_role``.
    """
    found = {}
    for key, _ in nnx.to_flat_state(nnx.state(model, wrt)):
        path = "/".join(map(str, key))
        if path and (role := _role(*owner(model, path))) is not None:
            found[path] = role
    return found


def _role(module: Any, name: str) -> Role | None:
    if (said := _said(module)) is not None:
        return said if name == "kernel" else Role(said.kind, sparse=False)
    kind = f"nnx.{type(module).__name__}"
    if isinstance(module, _DENSE) or (isinstance(module, _KERNELS) and name == "bias"):
        return Role(kind, sparse=False)
    if not isinstance(module, _KERNELS) or name != "kernel":
        return None
    if isinstance(module, nnx.Conv) and 1 < module.feature_group_count == module.in_features:
        return Role(f"{kind}, depthwise", axes(module), sparse=False)
    if "vocab" in (module.kernel.get_metadata().get("out_sharding") or ()):
        return Role(f"{kind}, of logits over a vocabulary", axes(module), sparse=False)
    return Role(kind, axes(module))


def _said(module: Any) -> Role | None:
    role = getattr(type(module), "kernel_role", None)
    return role if isinstance(role, Role) else None


def axes(module: nnx.Module) -> str | None:
    """The meaning of a module's kernel axes: ``"k k i o"`` for a 2-D convolution.

    Known are Linear, LinearGeneral (and so MultiHeadAttention), Conv, ConvTranspose, Einsum and
    ``dst.nnx.BlockLinear``; None for others.
    """
    if (said := _said(module)) is not None:
        return said.axes
    if isinstance(module, nnx.Linear):
        return "i o"
    if isinstance(module, nnx.LinearGeneral):
        return " ".join(["i"] * _rank(module.in_features) + ["o"] * _rank(module.out_features))
    if isinstance(module, (nnx.Conv, nnx.ConvTranspose)):
        return of_convolution(module)
    if isinstance(module, nnx.Einsum):
        return of_einsum(module.einsum_str)
    return None


def of_convolution(module: Any) -> str:
    """The axes of a convolution of Flax: of Linen and NNX alike."""
    ends = ["i", "o"]
    if getattr(module, "transpose_kernel", False):
        ends.reverse()
    return " ".join(["k"] * _rank(module.kernel_size) + ends)


def of_einsum(equation: str) -> str | None:
    """The axes of the second operand of an einsum; None where an ellipsis hides some."""
    inputs, output = equation.split("->")
    labels = inputs.split(",")[1].strip()
    return None if "." in labels else " ".join("o" if x in output else "i" for x in labels)


def _rank(features: object) -> int:
    return len(features) if isinstance(features, (tuple, list)) else 1


def owner(model: Any, path: str) -> tuple[Any, str]:
    """The object that has a parameter as attribute, and the name of the attribute."""
    *segments, name = path.split("/")
    for segment in segments:
        if isinstance(model, Mapping) and segment in model:
            model = model[segment]
        elif hasattr(model, segment):
            model = getattr(model, segment)
        else:
            model = model[int(segment)]
    return model, name
