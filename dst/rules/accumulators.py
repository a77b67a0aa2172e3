"""Memories of raw gradients that methods share."""

from __future__ import annotations

import jax.numpy as jnp

from dst.core.typing import Array
from dst.rules.rule import Memory, Seen


def momentum(beta: float) -> Memory:
    """``m = beta m + g`` of the raw gradient: dense, where the optimizer's own is zero off-mask."""

    def observe(memory: Array, seen: Seen) -> Array:
        return jnp.float32(beta) * memory + seen.grad

    return Memory(jnp.zeros_like, observe)


def window(steps: int) -> Memory:
    """The mean raw gradient over the last ``steps`` steps up to and with the topology step."""

    def observe(memory: Array, seen: Seen) -> Array:
        inside = seen.left < steps
        before = jnp.where(seen.left == steps - 1, jnp.zeros_like(memory), memory)
        return jnp.where(inside, before + seen.grad / jnp.float32(steps), memory)

    return Memory(jnp.zeros_like, observe, steps)
