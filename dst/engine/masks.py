"""Masks in an optimizer state: one byte per sparse weight, and the keys of random choices."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dst.core.reductions import totals
from dst.core.typing import Array
from dst.engine.plan import LeafPlan

ACTIVE = np.uint8(1)
EXPLORED = np.uint8(2)
AGE_SHIFT = np.uint8(2)
OLD = np.uint8(63)  # the largest age in six bits: such weights need no correction


def active(mask: Array) -> Array:
    """bool, of the shape of ``mask``: which weights are active."""
    return (mask & ACTIVE) != 0


def explored(mask: Array) -> Array:
    """bool, of the shape of ``mask``: which weights were ever active."""
    return (mask & EXPLORED) != 0


def age(mask: Array) -> Array:
    """uint8, at most 63: topology steps since a weight was grown."""
    return mask >> AGE_SHIFT


def first_masks(chosen: Array) -> Array:
    """Mask bytes of the connections that a run starts with."""
    return chosen.astype(jnp.uint8) * (ACTIVE | EXPLORED) | np.uint8(OLD << AGE_SHIFT)


def next_masks(mask: Array, chosen: Array, fresh: Array) -> Array:
    """Mask bytes after a topology step: ``chosen`` are active, ``fresh`` have just been grown."""
    older = jnp.minimum(age(mask) + np.uint8(1), OLD)
    ages = jnp.where(fresh, np.uint8(0), older)
    now = chosen.astype(jnp.uint8)
    return now | (mask & EXPLORED) | (now * EXPLORED) | (ages << AGE_SHIFT)


def count_active(plan: LeafPlan, chosen: Array) -> Array:
    """int32 active weights per stacked slice."""
    axes = tuple(range(len(plan.layout.counts), chosen.ndim))
    return totals([chosen], axes)[0]


def keys(paths: Sequence[str], seed: Array, draw: Array | int) -> list[Array]:
    """One PRNG key per leaf. It depends on the path, the seed and the draw, on nothing else."""
    key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), draw)
    return [jax.random.fold_in(key, zlib.crc32(path.encode())) for path in paths]
