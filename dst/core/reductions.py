"""Counts and sums over weights that come out the same on one device and on many."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from dst.core.typing import Array, Float

_PIECE, _MOST_PIECES = 2**18, 16
_FIELD, _FIELDS = 10, 3  # bits of a counter, counters in an int32
_MOST_PACKED = 64  # pieces


def totals(chosen: Sequence[Array], axes: tuple[int, ...]) -> list[Array]:
    """int32 counts of several masks of one shape over the same axes. All ways are exact.

    One variadic reduction reads the array once and is several times faster than separate sums,
    but a partitioned one gathers its partial results array by array. Sums become all-reduces,
    which the compiler merges over all arrays of a pass. On CPUs a variadic reduction that keeps the
    last axis is not vectorised, a sum is: there three counters share one integer.
    """
    if jax.device_count() > 1:
        return [jnp.sum(c, axis=axes, dtype=jnp.int32) for c in chosen]
    pieces, packed = _pieces(chosen, axes)
    count = _count_packed if packed else _count_part
    parts = [count(part, axes) for part in pieces]
    return [sum(counts[1:], counts[0]) for counts in zip(*parts, strict=True)]


def _count_part(chosen: Sequence[Array], axes: tuple[int, ...]) -> list[Array]:
    if len(chosen) == 1:  # outside of `jit`, too, this is compiled once
        return [jnp.sum(chosen[0], axis=axes, dtype=jnp.int32)]
    counts = lax.reduce(
        [c.astype(jnp.int32) for c in chosen],
        [jnp.int32(0)] * len(chosen),
        lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True)),
        axes,
    )
    return list(counts)


def _count_packed(chosen: Sequence[Array], axes: tuple[int, ...]) -> list[Array]:
    """Of masks with fewer than 2^10 entries in every count."""
    counts = []
    for first in range(0, len(chosen), _FIELDS):
        masks = chosen[first : first + _FIELDS]
        fields = [c.astype(jnp.int32) << (_FIELD * i) for i, c in enumerate(masks)]
        both = jnp.sum(sum(fields[1:], fields[0]), axis=axes, dtype=jnp.int32)
        counts += [(both >> (_FIELD * i)) & (2**_FIELD - 1) for i in range(len(masks))]
    return counts


def _pieces(chosen: Sequence[Array], axes: tuple[int, ...]) -> tuple[list[Sequence[Array]], bool]:
    """Large arrays in pieces, on CPUs: there a reduction runs on one core, several side by side;
    and whether the counts of each piece can share integers."""
    shape = chosen[0].shape
    if jax.default_backend() != "cpu" or not axes or not chosen[0].size:
        return [chosen], False
    shares = len(chosen) > 1 and len(shape) - 1 not in axes  # keeps the last axis
    axis = max(axes, key=lambda a: shape[a]) if shares else axes[0]
    length, others = shape[axis], math.prod(shape[a] for a in axes) // shape[axis]
    n = min(max(chosen[0].size // _PIECE, 1), _MOST_PIECES, length)
    packed = False
    if shares and others < 2**_FIELD:
        least = -(-length // ((2**_FIELD - 1) // others))
        packed, n = (True, max(n, least)) if least <= _MOST_PACKED else (False, n)
    edges = [length * i // n for i in range(n + 1)]
    if n == 1:
        return [chosen], packed
    return [
        [lax.slice_in_dim(c, low, high, axis=axis) for c in chosen]
        for low, high in itertools.pairwise(edges)
    ], packed


def exact_sum(x: Float[Array, "*shape"], axes: Sequence[int]) -> Array:
    """The sum over axes, the same bit for bit in whatever order devices add.

    Floating-point sums depend on their order, so on the mesh; integer sums do not. Numbers are
    cut to integers relative to the power of two below the largest of their sum, and added in
    limbs that cannot overflow. The error is at most 2^-28 of the largest number per summand
    (2^-20 where an axis has a million entries), below that of an ordinary float32 sum.

    Args:
      x: float32.
      axes: to sum over; every one at most 2^24 long.

    Returns:
      float32, without those axes. Where the largest magnitude is not finite, the ordinary sum.
    """
    axes = tuple(axes)
    if not axes:
        return x
    longest = max(x.shape[a] for a in axes)
    limb = min(15, 31 - longest.bit_length())
    if limb < 7:
        raise ValueError(f"axis of {longest} entries: exact sums go over at most 2^24 each.")
    largest = jnp.max(jnp.abs(x), axis=axes, keepdims=True, initial=0.0)
    finite = jnp.isfinite(largest)
    exponent = lax.bitcast_convert_type(largest, jnp.uint32) & jnp.uint32(0x7F800000)
    scale = lax.bitcast_convert_type(exponent, jnp.float32)  # of subnormal numbers: 0
    usable = finite & (scale > 0)
    scale = jnp.where(usable, scale, 1.0)
    whole = jnp.where(usable, x / scale, 0.0) * jnp.float32(2.0 ** (2 * limb - 2))
    low = whole.astype(jnp.int32)
    limbs = [low & jnp.int32(2**limb - 1), low >> limb, jnp.zeros_like(low)]
    for axis in axes:
        limbs = [jnp.sum(n, axis=axis, keepdims=True, dtype=jnp.int32) for n in limbs]
        for i in (0, 1):
            limbs[i + 1] = limbs[i + 1] + (limbs[i] >> limb)
            limbs[i] = limbs[i] & jnp.int32(2**limb - 1)
    # Powers of two: no rounding but that of the additions, whatever is fused.
    base = jnp.float32(2.0**limb)
    low, middle, high = (n.astype(jnp.float32) for n in limbs)
    exact = (high * base + middle) * base + low
    exact = exact * jnp.float32(2.0 ** (2 - 2 * limb)) * scale
    total = jnp.where(usable, exact, jnp.sum(x, axis=axes, keepdims=True))
    return jnp.squeeze(total, axes)
