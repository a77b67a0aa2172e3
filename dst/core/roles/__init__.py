"""What the modules of a model say of its leaves: one file per library.

A module knows which of its arrays is the kernel of a product, and what the axes of it mean. A name
such as ``patch_embed/kernel`` only suggests it.
"""

from __future__ import annotations

import sys
from typing import Any

from dst.core.roles.role import Role
from dst.core.typing import PyTree

__all__ = ["Role", "in_tree", "roles"]


def roles(model: Any, *inputs: PyTree, **options: Any) -> dict[str, Role]:
    """The roles of a model's parameters by leaf path, for ``dst.sparsify(..., roles=...)``.

    Embeddings, norms, adapters and depthwise convolutions stay dense; kernels of linear layers,
    attention and convolutions are sparse and their axes are known. Modules of the user's own say
    nothing: there, the names of leaves decide. :class:`dst.nnx.Optimizer` asks by itself, and
    Equinox modules are asked wherever they are the parameters.

    Args:
      model: a Flax NNX or Linen module, or a pytree of Equinox modules.
      inputs: of a call of a Linen module: arrays or shapes; the module is only traced.
      options: of that call, for example ``train=False``.

    Raises:
      ValueError: something else than a model of these libraries.

    Example:
      >>> import dst, jax, jax.numpy as jnp
      >>> from flax import linen
      >>> attention = linen.MultiHeadDotProductAttention(num_heads=2)
      >>> dst.roles(attention, jax.ShapeDtypeStruct((1, 4, 8), jnp.float32))["out/kernel"].axes
      'i i o'
    """
    if (flax := sys.modules.get("flax.nnx")) and isinstance(model, flax.Module):
        from dst.core.roles import nnx

        return nnx.roles(model)
    if (flax := sys.modules.get("flax.linen")) and isinstance(model, flax.Module):
        from dst.core.roles import linen

        return linen.roles(model, *inputs, **options)
    if found := in_tree(model):
        return found
    raise ValueError(
        f"expected a model of Flax NNX, Flax Linen or Equinox, got {type(model).__name__}. Of "
        "other parameters say axes= and select=."
    )


def in_tree(params: PyTree) -> dict[str, Role]:
    """The roles that a parameter tree itself tells: of Equinox modules; empty for other trees."""
    if "equinox" not in sys.modules:  # who has a module has imported it
        return {}
    from dst.core.roles import equinox

    return equinox.roles(params)
