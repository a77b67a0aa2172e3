"""SET's choice as its text describes it: positive and negative weights are dropped apart."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import jax.numpy as jnp

from dst.core import checks
from dst.core.selection import top_k_masks
from dst.core.typing import Array
from dst.rules.schedule import exact
from dst.rules.scores import Connections


def keep_by_sign(drop_fraction: float) -> Callable[[Connections], Array]:
    """Keeps all active weights but a fraction of each sign: those closest to zero are dropped.

    Counts are exact: ``floor(n * fraction)`` in integers, for fractions of up to four decimals.
    A weight that is exactly zero counts as positive.

    Args:
      drop_fraction: of each sign, in [0, 1].

    Returns:
      From the inputs of a score to the bool mask of the weights that stay.

    Raises:
      ValueError: a fraction outside of [0, 1].
    """
    share: Fraction = exact(drop_fraction).limit_denominator(10_000)
    checks.fraction("drop_fraction", drop_fraction)

    def keep(leaf: Connections) -> Array:
        positive = leaf.active & (leaf.weight >= 0)
        negative = leaf.active & (leaf.weight < 0)
        size = jnp.abs(leaf.weight)
        kept = []
        for side in (positive, negative):
            n = jnp.sum(side, dtype=jnp.int32)
            whole, rest = n // share.denominator, n % share.denominator
            dropped = whole * share.numerator + rest * share.numerator // share.denominator
            kept.append(n - dropped)
        chosen = top_k_masks([size, size], kept, [positive, negative], [(), ()])
        return chosen[0] | chosen[1]

    return keep
