"""Random numbers by position: one hash of a key and an index, the same on every mesh."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dst.core.typing import Array, Float

_START = 0x9E3779B9  # zero would stay zero under the key zero
_FACTORS = 0x7FEB352D, 0x846CA68B


def uniform(key: Array, like: Array) -> Float[Array, "*shape"]:
    """float32 uniforms in [0, 1), multiples of 2^-24, of the shape and the sharding of an array.

    A number follows from the key and the position alone. Threefry, which gives the key, would take
    ten times as long for every weight.

    Args:
      key: of threefry, 64 bits.
      like: whose shape counts.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> [round(x, 3) for x in uniform(jax.random.key(0), jnp.zeros(4)).tolist()]
      [0.681, 0.137, 0.841, 0.522]

    References: the mixing function is "lowbias32" of Chris Wellons' hash-prospector (public
    domain), applied to the index and each half of the key.
    Checked against: NumPy, and statistics of inclusion, of pairs and across keys:
    tests/core/test_draws.py.
    """
    words = jax.random.key_data(key)
    within, outside = _places(like)
    mixed = _mixed((within + np.uint32(_START)) ^ words[..., 0])
    mixed = _mixed(mixed ^ words[..., 1])
    if outside is not None:
        mixed = _mixed(mixed ^ outside)
    return (mixed >> np.uint32(8)).astype(jnp.float32) * np.float32(2**-24)


def _mixed(x: Array) -> Array:
    """A bijection of uint32 in which every bit depends on all."""
    for shift, factor in zip((16, 15), _FACTORS, strict=True):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    return x ^ (x >> np.uint32(16))


def _places(like: Array) -> tuple[Array, Array | None]:
    """uint32 linear index over the last axes that have at most 2^32 places together, and over the
    axes before them where there are any."""
    inner = len(like.shape)
    while inner and math.prod(like.shape[inner - 1 :]) <= 2**32:
        inner -= 1
    last = _linear(like, range(inner, len(like.shape)))
    return last, _linear(like, range(inner)) if inner else None


def _linear(like: Array, axes: Sequence[int]) -> Array:
    sharding: Any = getattr(jax.typeof(like), "sharding", None)
    explicit = sharding is not None and bool(getattr(sharding.mesh, "explicit_axes", ()))
    placed = {"out_sharding": sharding} if explicit else {}
    index, stride = None, 1
    for axis in reversed(axes):
        place = lax.broadcasted_iota(jnp.uint32, like.shape, axis, **placed) * np.uint32(stride)
        index = place if index is None else index + place
        stride = stride * like.shape[axis] % 2**32
    return jnp.zeros(like.shape, jnp.uint32) if index is None else index
