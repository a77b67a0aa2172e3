"""Scores: one number per weight that ranks connections. One leaf in, one leaf out."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from dst._typing import Array, Bool, Float


class Connections(NamedTuple):
    """What a score may look at, for one leaf.

    Attributes:
      weight: parameters, float32; exactly 0 where inactive.
      grad: the raw (dense) gradient with respect to the weights in use, float32.
      active: the mask before this topology step.
      explored: connections that were ever active.
      key: a PRNG key of this leaf and this step.
    """

    weight: Float[Array, "*shape"]
    grad: Float[Array, "*shape"]
    active: Bool[Array, "*shape"]
    explored: Bool[Array, "*shape"]
    key: Array


Score = Callable[[Connections], Array]


def magnitude(leaf: Connections) -> Array:
    """``|w|``: the drop score of SET, RigL and GMP."""
    return jnp.abs(leaf.weight)


def gradient(leaf: Connections) -> Array:
    """``|dL/dw|``: the grow score of RigL; dense, so inactive connections have one too."""
    return jnp.abs(leaf.grad)


def random(leaf: Connections) -> Array:
    """Uniform in [0, 1): the grow score of SET; exact sampling without replacement."""
    return uniform(leaf.key, leaf.weight)


def random_unexplored(leaf: Connections) -> Array:
    """Random, but connections that were never active come first (ITOP's ``random_unfired``)."""
    return uniform(leaf.key, leaf.weight) + jnp.where(leaf.explored, 0.0, 1.0)


def uniform(key: Array, like: Array) -> Array:
    """float32 uniforms in [0, 1) in the shape, and on explicit meshes the sharding, of an array."""
    sharding = getattr(jax.typeof(like), "sharding", None)
    explicit = sharding is not None and bool(getattr(sharding.mesh, "explicit_axes", ()))
    if explicit:
        drawn = jax.random.uniform(key, like.shape, jnp.float32, out_sharding=sharding)
    else:
        drawn = jax.random.uniform(key, like.shape, jnp.float32)
    # The barrier: or the compiler draws again for everyone who looks at the numbers.
    return lax.optimization_barrier(drawn)
