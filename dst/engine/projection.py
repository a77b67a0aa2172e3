"""Inactive weights set to zero, by the masks of an optimizer state."""

from __future__ import annotations

import jax.numpy as jnp

from dst.core import tree
from dst.core.typing import OptState, Tree
from dst.engine.masks import active
from dst.engine.state import masks_by_path


def apply_masks(params: Tree, opt_state: OptState) -> Tree:
    """Parameters with their inactive weights set to zero.

    Call it once after ``tx.init``, and on averages of parameters before they are evaluated.
    Without the first call only the first forward pass is dense: the first update applies the masks.

    Args:
      params: the tree of ``tx.init(params)``, or one of the same paths and shapes.
      opt_state: state of an optimizer that contains :func:`dst.sparsify`.

    Returns:
      A tree of the same shapes and dtypes.

    Raises:
      ValueError: no sparse state, or a mask without parameter.
    """
    masks = {p: active(m) for p, m in masks_by_path(opt_state).items()}
    paths, leaves, treedef = tree.flatten(params)
    missing = sorted(set(masks) - set(paths))
    if missing:
        raise ValueError(
            f"masks do not fit the parameters: no parameter at {missing}. "
            f"The parameters are at: {', '.join(paths)}."
        )
    for path, leaf in zip(paths, leaves, strict=True):
        if path in masks and masks[path].shape != leaf.shape:
            raise ValueError(
                f"masks do not fit the parameters: {path} has shape {leaf.shape}, its mask "
                f"{masks[path].shape}."
            )
    return treedef.unflatten(
        [
            jnp.where(masks[path], leaf, jnp.zeros_like(leaf)) if path in masks else leaf
            for path, leaf in zip(paths, leaves, strict=True)
        ]
    )
