"""SmuPar: initial weights and learning rates by the density of the fan-in."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from dst.core import tree
from dst.core.typing import Array, Params
from dst.engine.flat import Flat
from dst.engine.state import SparsifyState
from dst.engine.transformation import SparseTransformation

SCALES = ("smupar",)


def scale_init(params: Params, tx: SparseTransformation) -> Params:
    """Initial weights with the variance that ``scale`` of :func:`dst.sparsify` asks for.

    A weight of a layer whose density is ``d`` at the start is divided by the square root of ``d``,
    so that outputs of the sparse layer have the variance that those of the dense one had. Call it
    once, on new weights, before ``tx.init``. Trained weights are none of its business.

    Args:
      params: a tree of new weights, drawn with a variance for the dense fan-in, as initializers of
        Flax do.
      tx: what :func:`dst.sparsify` returned. Without ``scale``, weights stay as they are.

    Returns:
      A tree of the same shapes and dtypes.

    Example:
      >>> import dst, jax.numpy as jnp, optax
      >>> tx = dst.sparsify(optax.adam(1e-3), dst.Static(sparsity=0.75), scale="smupar")
      >>> float(dst.scale_init({"w": jnp.ones((8, 8))}, tx)["w"][0, 0])
      2.0

    References:
      Dey et al. 2024, "Sparse maximal update parameterization" (arXiv 2405.15743), table 1.
    """
    if tx.scale is None:
        return params
    plan = tx.plan(params)
    paths, leaves, treedef = tree.flatten(params)
    scaled = []
    for path, leaf in zip(paths, leaves, strict=True):
        if (sparse := plan.sparse.get(path)) is not None:
            active = sparse.initial.astype(np.float64) * sparse.layout.weights_per_count
            factor = np.sqrt(sparse.leaf.layer_size / active)
            factor = factor.reshape(factor.shape + (1,) * (leaf.ndim - factor.ndim))
            leaf = leaf * jnp.asarray(factor, leaf.dtype)
        scaled.append(leaf)
    return treedef.unflatten(scaled)


def scale_updates(
    scale: str | None, flat: Flat, state: SparsifyState, updates: list[Array]
) -> list[Array]:
    """The updates of all sparse leaves, divided by the density of their layers at this step.

    That is the learning rate of SmuPar. What an optimizer adds to its update, as decoupled weight
    decay does, is divided too, as it is where a learning rate per layer is given to AdamW.
    """
    if scale is None:
        return updates
    factors = [
        jnp.float32(plan.leaf.layer_size) / jnp.maximum(active, 1).astype(jnp.float32)
        for plan, active in zip(flat.plans, flat.of(state.active), strict=True)
    ]
    return [u * f.astype(u.dtype) for u, f in zip(updates, flat.spread(factors), strict=True)]
