"""How sparsity grows while a network is pruned gradually: ramps over optimizer steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
import numpy as np

from dst.core import checks
from dst.rules.schedule import NeverFires, Schedule, exact


def cubic(final: float, start: int, end: int, initial: float = 0.0) -> Schedule:
    """``final + (initial - final) (1 - x)^3``, x from 0 at ``start`` to 1 at ``end``.

    The sparsity of gradual magnitude pruning (arXiv 1710.01878, equation 1). On the host the
    result is an exact fraction: 0.9 stands for 9/10.

    Raises:
      NeverFires: ``end`` lies before ``start``.
    """

    last, span = exact(final), exact(initial) - exact(final)

    def curve(x: Any) -> Any:
        if isinstance(x, Fraction):
            return last + span * (1 - x) ** 3
        return final + (initial - final) * (1 - x) ** 3

    return _between(start, end, curve)


def ramp(final: float, start: int, end: int, initial: float = 0.0) -> Schedule:
    """A straight line from ``initial`` at ``start`` to ``final`` at ``end``; exact on the host."""

    last, span = exact(final), exact(initial) - exact(final)

    def curve(x: Any) -> Any:
        if isinstance(x, Fraction):
            return last + span * (1 - x)
        return final + (initial - final) * (1 - x)

    return _between(start, end, curve)


def geometric(final: float, start: int, end: int, initial: float = 0.0) -> Schedule:
    """``1 - (1 - initial) ((1 - final) / (1 - initial))^x``, x from 0 at ``start`` to 1 at
    ``end``: the same share of the remaining weights goes in every step."""
    rate = (1 - final) / (1 - initial)

    def curve(x: Any) -> Any:
        if isinstance(x, Fraction):
            return exact(final) if x == 1 else 1 - (1 - initial) * rate ** float(x)
        return 1 - (1 - initial) * rate**x

    return _between(start, end, curve)


def _between(start: int, end: int, curve: Callable[[Any], Any]) -> Schedule:
    if end < start:
        raise NeverFires(f"end of the ramp must not lie before its start {start}, got {end}.")

    def schedule(count: Any) -> Any:
        if isinstance(count, (int, np.integer)):
            done = max(0, min(int(count) - start, end - start))
            return curve(Fraction(1) if count >= end else Fraction(done, max(end - start, 1)))
        y = jnp.clip((count - start) / max(end - start, 1), 0.0, 1.0)
        return curve(jnp.where(count >= end, 1.0, y))

    return schedule


CURVES = {"cubic": cubic, "linear": ramp, "geometric": geometric}


def share_of(sparsity_at: Schedule, final: float) -> Schedule:
    """A sparsity schedule divided by the final sparsity; exact on the host."""

    whole = exact(final)

    def share(count: Any) -> Any:
        return exact(sparsity_at(count)) / whole if whole else Fraction(1)

    return share


def below(name: str, first: float, final: float) -> None:
    """Raises ValueError where the first sparsity of a ramp exceeds its final one."""
    if first > final:
        raise ValueError(
            f"{name} {first} exceeds the final sparsity {final}: pruned weights do not come back. "
            "Lower it."
        )


def compute_window(
    sparsity: float, curve: str, first: float = 0.25, last: float = 0.75
) -> tuple[float, float]:
    """The fractions of all steps after which shares of the training compute are spent.

    Args:
      sparsity: at the end, in [0, 1).
      curve: of the pruning between the two: ``cubic``, ``linear`` or ``geometric``.
      first, last: shares of the compute, in [0, 1]; a step costs in proportion to its active
        weights.
    """
    checks.fraction("sparsity", sparsity, below_one=True)
    if sparsity == 0:
        return first, last
    density = {
        "cubic": 1 - 0.75 * sparsity,
        "linear": 1 - 0.5 * sparsity,
        "geometric": -sparsity / math.log1p(-sparsity),
    }[curve]
    cost = 1 / (first + (last - first) / density + (1 - last) / (1 - sparsity))
    return first * cost, first * cost + (last - first) * cost / density
