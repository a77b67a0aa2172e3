"""Labels in the shape of what a network gives."""

from __future__ import annotations

import jax.numpy as jnp

from dst.core.typing import Array


def as_outputs(labels: Array, outputs: Array, objective: str) -> Array:
    """Labels ``[n]`` or ``[n, outputs]`` as float32 ``[n, outputs]``.

    Raises:
      ValueError: other sizes than those of the outputs.
    """
    if outputs.ndim != 2 or labels.size != outputs.size:
        raise ValueError(
            f"objective {objective} needs a label for each output of the network, got outputs "
            f"{outputs.shape} and labels {labels.shape}."
        )
    return labels.astype(jnp.float32).reshape(outputs.shape)
