"""The roles of parameters in Flax Linen modules."""

from __future__ import annotations

from typing import Any

import jax
from flax import linen

from dst.core.roles.nnx import of_convolution, of_einsum
from dst.core.roles.role import Role
from dst.core.typing import PyTree

_NORMS = (linen.BatchNorm, linen.LayerNorm, linen.RMSNorm, linen.GroupNorm, linen.InstanceNorm)
_DENSE = (*_NORMS, linen.SpectralNorm, linen.WeightNorm, linen.Embed, linen.PReLU)
_KERNELS = (linen.Dense, linen.DenseGeneral, linen.Conv, linen.ConvTranspose, linen.Einsum)


def roles(model: linen.Module, *inputs: PyTree, **options: Any) -> dict[str, Role]:
    """The roles by path below ``params``, and by path from it: both trees are in use.

    Args:
      model: is traced once, by ``jax.eval_shape`` of its ``init``.
      inputs: arrays or shapes.
      options: of the call.
    """
    modules: dict[tuple[str, ...], linen.Module] = {}

    def note(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        modules[tuple(map(str, context.module.path))] = context.module
        return call(*args, **kwargs)

    def shapes(*inputs: PyTree) -> PyTree:
        keys = {name: jax.random.key(0) for name in ("params", "dropout")}
        with linen.intercept_methods(note):
            return model.init(keys, *inputs, **options)

    params = jax.eval_shape(shapes, *inputs).get("params", {})
    found: dict[str, Role] = {}
    for key_path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        *around, name = (str(getattr(key, "key", getattr(key, "name", key))) for key in key_path)
        if (role := _role(modules.get(tuple(around)), name, leaf.shape)) is not None:
            path = "/".join([*around, name])
            found |= {path: role, f"params/{path}": role}
    return found


def _role(module: linen.Module | None, name: str, shape: tuple[int, ...]) -> Role | None:
    kind = f"linen.{type(module).__name__}"
    if isinstance(module, _DENSE) or (isinstance(module, _KERNELS) and name == "bias"):
        return Role(kind, sparse=False)
    if not isinstance(module, _KERNELS) or name != "kernel":
        return None
    if isinstance(module, linen.Dense):
        return Role(kind, "i o")
    if isinstance(module, linen.DenseGeneral):
        inputs = len(module.axis) if isinstance(module.axis, (tuple, list)) else 1
        outputs = len(module.features) if isinstance(module.features, (tuple, list)) else 1
        return Role(kind, None if module.batch_dims else " ".join("i" * inputs + "o" * outputs))
    if isinstance(module, linen.Einsum):
        return Role(kind, module.einsum_str and of_einsum(module.einsum_str))
    if getattr(module, "feature_group_count", 1) > 1 and shape[-2] == 1:
        return Role(f"{kind}, depthwise", of_convolution(module), sparse=False)
    return Role(kind, of_convolution(module))
