"""Soft top-k: every unit gets a share between 0 and 1, and the shares of a group sum up to k.

That is the regularised transport of units to "kept" and "dropped". Its plan has one unknown per
group: ``m = sigmoid(z - u)``, where u makes the sum k.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from dst.core.typing import Array
from dst.rules.latent import LatentLeaf
from dst.rules.layout import Layout

_HALVINGS = 32  # of an interval of less than 2^8: below the rounding of float32


def soft_top_k(z: Array, k: Array, layout: Layout) -> Array:
    """Shares of the units of every group.

    Args:
      z: float32, values per unit times the sharpness beta.
      k: float32, the sum of every group, with group axes as those of ``z`` and others of length 1.
      layout: of the units.

    Returns:
      float32 in [0, 1], 1 throughout where k is the size of a group.
    """
    axes = _inside(z, layout)
    edge = jnp.log(jnp.float32(max(layout.units, 1)))
    low = jnp.min(z, axes, keepdims=True) - edge  # here the sum is at least n - 1
    high = jnp.max(z, axes, keepdims=True) + edge  # and here at most 1

    def halved(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = low + (high - low) / 2
        many = jnp.sum(jax.nn.sigmoid(z - middle), axes, keepdims=True) > k
        return jnp.where(many, middle, low), jnp.where(many, high, middle)

    low, high = lax.fori_loop(0, _HALVINGS, halved, (low, high))
    return jnp.where(k < layout.units, jax.nn.sigmoid(z - (low + (high - low) / 2)), 1.0)


def pulled_back(share: Array, grad: Array, layout: Layout) -> Array:
    """The gradient for ``z``, from the shares and the gradient for them.

    The sum of a group is fixed, so ``m (1 - m) (g - c)``, where c is the mean of g with the weights
    ``m (1 - m)``.
    """
    axes, slope = _inside(share, layout), share * (1 - share)
    whole = jnp.sum(slope, axes, keepdims=True)
    mean = jnp.sum(slope * grad, axes, keepdims=True) / jnp.where(whole > 0, whole, 1.0)
    return slope * (grad - mean)


def shares(leaf: LatentLeaf, beta: Any) -> Array:
    """The shares of the units of a leaf, by the mean size of their weights; k are active."""
    layout = leaf.layout
    sizes, units = layout.pool(jnp.abs(leaf.latent)), layout.units_of(leaf.active)
    k = jnp.sum(units, _inside(units, layout), jnp.float32, keepdims=True)
    return soft_top_k(beta / layout.unit_size * sizes, k, layout)


def spread(units: Array, leaf: LatentLeaf) -> Array:
    """One number per weight, from one per unit."""
    return leaf.layout.spread(units, leaf.latent)


def through(leaf: LatentLeaf, beta: Any, grad: Array) -> Array:
    """The gradient for the weights ``w``, from that for ``w m`` with their shares ``m``."""
    m, layout = shares(leaf, beta), leaf.layout
    pull = pulled_back(m, layout.pool(grad * leaf.latent), layout) * beta / layout.unit_size
    return grad * spread(m, leaf) + spread(pull, leaf) * jnp.sign(leaf.latent)


def _inside(x: Array, layout: Layout) -> tuple[int, ...]:
    return tuple(a for a in range(x.ndim) if a not in layout.group_axes)
