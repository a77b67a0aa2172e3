"""Link prediction: how well the graph of a layer predicts a connection that it has not."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from dst.core.typing import Array, Bool, Float


def ch3_l3(present: Bool[Array, "*shape"], stacked: int = 0) -> Float[Array, "*shape"]:
    """The node-based score of every place: paths of length 3 in the bipartite graph of a layer.

    ``sum over k of h(r, k) B[k, c]``, and the same of the transposed graph, with ``h(r, k) = 1 /
    (1 + e)`` where rows r and k share a neighbour, and ``e`` the neighbours of k that r has not,
    less one.

    Args:
      present: bool ``[..., rows, columns]``, B.
      stacked: leading axes that enumerate layers.

    Returns:
      float32, 0 where there is no such path. Connections that are present have a score, too.

    Raises:
      ValueError: a layer that is no matrix.

    References:
      Zhang et al. 2025 (arXiv 2501.19107).

    Checked against: biomedical-cybernetics/Cannistraci-Hebb-training at 82b7f63,
    Transformer/dst_scheduler.py (``CH3_L3n_soft``); a table by hand,
    tests/methods/test_sampled_growth.py::test_ch3_l3_of_a_graph_by_hand.
    """
    if present.ndim - stacked != 2:
        raise ValueError(
            f"CHTs reads a layer as a graph between inputs and outputs: expected a matrix, got the "
            f"shape {present.shape[stacked:]}. Leave such leaves dense by overrides=."
        )
    graph = present.astype(jnp.float32)
    return _half(graph) + jnp.swapaxes(_half(jnp.swapaxes(graph, -1, -2)), -1, -2)


def _half(graph: Array) -> Array:
    exact = lax.Precision.HIGHEST
    shared = jnp.matmul(graph, jnp.swapaxes(graph, -1, -2), precision=exact)
    degrees = jnp.expand_dims(jnp.sum(graph, axis=-1), -2)
    others = jnp.maximum(jnp.broadcast_to(degrees, shared.shape) - shared - 1, 0)
    return jnp.matmul(jnp.where(shared > 0, 1 / (1 + others), 0), graph, precision=exact)
