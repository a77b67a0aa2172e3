"""A network as a function of inputs alone, that an attack may call as often as it likes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import lax

from dst.core.typing import Array


def as_function(model: Any) -> Callable[[Array], Array]:
    """The network as it is tested: running statistics, nothing random, nothing remembered.

    Of a :class:`flax.nnx.Module` a copy is called, in its mode of evaluation, and its weights are
    constants: no gradient reaches them. Any other callable is called as it is.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> norm = nnx.BatchNorm(2, rngs=nnx.Rngs(0))
      >>> [round(x, 3) for x in as_function(norm)(jnp.array([[1.0, 3.0]]))[0].tolist()]
      [1.0, 3.0]
      >>> norm.mean.get_value().tolist()  # nothing is remembered
      [0.0, 0.0]
    """
    from flax import nnx

    if not isinstance(model, nnx.Module):
        return model
    graph, state = nnx.split(model)
    state = jax.tree.map(lax.stop_gradient, state)

    def call(inputs: Array) -> Array:
        copy = nnx.merge(graph, state)
        copy.eval()
        return copy(inputs)

    return call
