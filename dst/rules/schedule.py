"""When topology changes (``Cadence``), and how much (schedules of a step).

Schedules are Optax schedules: functions of a step. Given a Python integer they compute on the
host in double or exact arithmetic, which is how count tables are made.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
import numpy as np

from dst.core import checks

Schedule = Callable[[Any], Any]
Duration = int | str

FOREVER = 2**31 - 1


def constant(value: float) -> Schedule:
    """The same value at every step."""
    return lambda count: value


def cosine(value: float, steps: int, floor: float = 0.0) -> Schedule:
    """``floor + (value - floor) / 2 * (1 + cos(pi t / steps))``, constant afterwards.

    The drop fraction of RigL (arXiv 1911.11134, section 3) without floor, over the steps until
    topology stops; of SNFS and ITOP with floor 0.005 over all training steps.

    Args:
      value: at step 0.
      steps: at which the floor is reached; at least 1.
      floor: value at the end.
    """
    checks.integer("steps of a cosine", steps, at_least=1)

    def schedule(count: Any) -> Any:
        if isinstance(count, (int, np.integer)):
            x = min(int(count), steps) / steps
            return floor + (value - floor) / 2 * (1 + math.cos(math.pi * x))
        y = jnp.minimum(count, steps) / steps
        return floor + (value - floor) / 2 * (1 + jnp.cos(jnp.pi * y))

    return schedule


def linear(value: float, steps: int, floor: float = 0.0) -> Schedule:
    """A straight line from ``value`` at step 0 to ``floor`` at ``steps``, constant afterwards."""
    checks.integer("steps of a line", steps, at_least=1)

    def schedule(count: Any) -> Any:
        if isinstance(count, (int, np.integer)):
            return floor + (value - floor) * (1 - min(int(count), steps) / steps)
        return floor + (value - floor) * (1 - jnp.minimum(count, steps) / steps)

    return schedule


def cubic(final: float, start: int, end: int, initial: float = 0.0) -> Schedule:
    """``final + (initial - final) (1 - x)^3``, x from 0 at ``start`` to 1 at ``end``.

    The sparsity of gradual magnitude pruning (arXiv 1710.01878, equation 1). On the host the
    result is an exact fraction of the decimal numbers that were given.
    """

    def curve(x: Any) -> Any:
        if isinstance(x, Fraction):
            return exact(final) + (exact(initial) - exact(final)) * (1 - x) ** 3
        return final + (initial - final) * (1 - x) ** 3

    return _between(start, end, curve)


def ramp(final: float, start: int, end: int, initial: float = 0.0) -> Schedule:
    """A straight line from ``initial`` at ``start`` to ``final`` at ``end``; exact on the host."""

    def curve(x: Any) -> Any:
        if isinstance(x, Fraction):
            return exact(final) + (exact(initial) - exact(final)) * (1 - x)
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
        raise ValueError(f"end of the ramp must not lie before its start {start}, got {end}.")

    def schedule(count: Any) -> Any:
        if isinstance(count, (int, np.integer)):
            done = max(0, min(int(count) - start, end - start))
            return curve(Fraction(1) if count >= end else Fraction(done, max(end - start, 1)))
        y = jnp.clip((count - start) / max(end - start, 1), 0.0, 1.0)
        return curve(jnp.where(count >= end, 1.0, y))

    return schedule


def exact(value: Any) -> Fraction:
    """The fraction that a decimal number stands for: 0.9 is 9/10, not the nearest double."""
    return value if isinstance(value, Fraction) else Fraction(repr(float(value)))


@dataclass(frozen=True)
class Cadence:
    """Optimizer steps at which topology changes: ``first, first + every, ...``, and ``last``.

    Attributes:
      first: count of the first topology step.
      every: distance in optimizer steps.
      last: count of the last one; part of the set even when off the grid. ``FOREVER``: no end.
    """

    first: int
    every: int
    last: int = FOREVER

    def __post_init__(self) -> None:
        checks.integer("first topology step", self.first, at_least=0)
        checks.integer("every", self.every, at_least=1)
        if self.last < self.first:
            raise ValueError(
                f"the schedule never fires: its first topology step would be {self.first}, "
                f"its last {self.last}. Lower `start` or `every`, or raise `stop`."
            )

    def fires(self, count: int) -> bool:
        """Whether topology changes at the update that follows ``count`` updates."""
        if not self.first <= count <= self.last:
            return False
        return (count - self.first) % self.every == 0 or count == self.last

    def steps(self) -> list[int]:
        """All topology steps; only for schedules that end."""
        steps = list(range(self.first, self.last + 1, self.every))
        return steps if steps[-1] == self.last else [*steps, self.last]

    @property
    def endless(self) -> bool:
        """Whether topology never stops changing."""
        return self.last == FOREVER


def duration(name: str, value: Any) -> None:
    """Raises unless ``value`` is a number of steps or a percentage such as ``"75%"``."""
    if isinstance(value, str):
        try:
            share = float(value.removesuffix("%")) if value.endswith("%") else math.nan
        except ValueError:
            share = math.nan
        if 0 <= share <= 100:
            return
    elif isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= 0:
        return
    raise ValueError(f"{name} must be a number of steps or a percentage as '75%', got {value!r}.")


def resolve(name: str, value: Duration, steps: int | None, rule: str) -> int:
    """A duration in optimizer steps.

    Args:
      name: of the argument, for messages.
      value: steps, or a percentage of ``steps``.
      steps: length of training in optimizer steps, where known.
      rule: what the paper says, for the message when a percentage cannot be resolved.
    """
    duration(name, value)
    if not isinstance(value, str):
        return int(value)
    if steps is None:
        raise ValueError(
            f"{name}={value!r} needs the length of training: pass steps= to sparsify, or give "
            f"{name} in steps. {rule}"
        )
    return int(Fraction(value.removesuffix("%")) * steps / 100)


def cadence(
    every: Duration,
    start: Duration | None,
    stop: Duration | None,
    steps: int | None,
    rule: str,
    include_stop: bool = False,
) -> Cadence:
    """The cadence of a method: from ``start`` (default: after one interval) to before ``stop``.

    Args:
      every: interval; steps or percent.
      start: first topology step; None: after one interval, so never at step 0.
      stop: topology steps lie before it; None: no end.
      steps: length of training, where known.
      rule: what the paper says, for messages.
      include_stop: the last topology step is ``stop`` itself, on the grid or not.
    """
    interval = resolve("every", every, steps, rule)
    checks.integer("every", interval, at_least=1)
    first = interval if start is None else resolve("start", start, steps, rule)
    if stop is None:
        return Cadence(first, interval)
    end = resolve("stop", stop, steps, rule)
    if include_stop:
        return Cadence(first, interval, end)
    last = first + (end - 1 - first) // interval * interval
    if last < first:
        raise ValueError(
            f"the schedule never fires: the first topology step would be {first}, but topology "
            f"stops before {end}. Lower `start` ({start}) or `every` ({every}), or raise `stop`."
        )
    return Cadence(first, interval, last)


def compute_window(
    sparsity: float, curve: str, first: float = 0.25, last: float = 0.75
) -> tuple[float, float]:
    """The fractions of all steps at which shares ``first`` and ``last`` of the compute are spent.

    Args:
      sparsity: at the end, in [0, 1).
      curve: of the pruning between the two.
      first, last: of the compute, which goes with the number of active weights.
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
