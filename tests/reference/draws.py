"""The numbers of ``dst.core.draws`` in NumPy."""

from __future__ import annotations

import jax
import numpy as np


def mixed(x: np.ndarray) -> np.ndarray:
    """Wellons' lowbias32 of uint64 arrays below 2^32."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) % 2**32
    x = ((x ^ (x >> 15)) * 0x846CA68B) % 2**32
    return x ^ (x >> 16)


def uniforms(key: jax.Array, shape: tuple[int, ...]) -> np.ndarray:
    """float32 uniforms by position."""
    first, second = (np.uint64(x) for x in np.asarray(jax.random.key_data(key)))
    places = np.arange(np.prod(shape, dtype=int), dtype=np.uint64)
    numbers = mixed(mixed((places + np.uint64(0x9E3779B9)) % 2**32 ^ first) ^ second) >> 8
    return (numbers.astype(np.float64) / 2**24).astype(np.float32).reshape(shape)
