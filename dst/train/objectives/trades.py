"""TRADES (Zhang et al. 2019): the loss of clean inputs, and how far an attack moves the answers."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dst.core.typing import Array, Float


def divergences(
    clean: Float[Array, "n *places classes"], attacked: Float[Array, "n *places classes"]
) -> Float[Array, " n"]:
    """``KL(softmax(clean) || softmax(attacked))`` of every input in nats, a mean over its places.

    The loss of TRADES is ``cross_entropy(clean, labels) + beta mean(divergences)``. Gradients reach
    both sides, as in the authors' code.

    Args:
      clean: logits of the inputs.
      attacked: logits of the same inputs after an attack.

    Example:
      >>> clean = jnp.log(jnp.array([[0.5, 0.5], [0.9, 0.1]]))
      >>> attacked = jnp.log(jnp.array([[0.5, 0.5], [0.5, 0.5]]))
      >>> [round(x, 3) for x in divergences(clean, attacked).tolist()]
      [0.0, 0.368]

    References:
      Zhang et al. 2019, "Theoretically Principled Trade-off between Robustness and Accuracy"
      (arXiv 1901.08573).
    """
    p = jax.nn.log_softmax(clean.astype(jnp.float32))
    q = jax.nn.log_softmax(attacked.astype(jnp.float32))
    nats = jnp.sum(jnp.exp(p) * (p - q), axis=-1)
    return jnp.mean(nats, axis=tuple(range(1, nats.ndim)))
