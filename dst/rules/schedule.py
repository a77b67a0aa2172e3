"""When topology changes (``UpdateSchedule``), and how much (schedules of a step).

Schedules are Optax schedules: functions of a step. For a Python integer they compute on the host,
in double precision or exactly. Tables of counts are computed that way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, SupportsFloat

import jax.numpy as jnp
import numpy as np

from dst.core import checks
from dst.core.text import shown

Schedule = Callable[[Any], Any]
Duration = int | str

FOREVER = checks.LARGEST
MANY = 100_000  # topology steps: each has a row in the tables of a plan


def constant(value: float) -> Schedule:
    """The same value at every step."""
    return lambda count: value


def cosine(value: float, steps: int, end: float = 0.0) -> Schedule:
    """``end + (value - end) / 2 * (1 + cos(pi t / steps))``, constant afterwards.

    The drop fraction of RigL (arXiv 1911.11134, section 3) with ``end=0``, over the steps until
    topology stops; of SNFS and ITOP with ``end=0.005`` over all training steps.

    Args:
      value: at step 0.
      steps: at which ``end`` is reached; at least 1.
      end: from ``steps`` on.
    """
    checks.integer("steps of a cosine", steps, at_least=1)

    def schedule(count: Any) -> Any:
        if isinstance(count, (int, np.integer)):
            x = min(int(count), steps) / steps
            return end + (value - end) / 2 * (1 + math.cos(math.pi * x))
        y = jnp.minimum(count, steps) / steps
        return end + (value - end) / 2 * (1 + jnp.cos(jnp.pi * y))

    return schedule


def linear(value: float, steps: int, end: float = 0.0) -> Schedule:
    """A straight line from ``value`` at step 0 to ``end`` at ``steps``, constant afterwards."""
    checks.integer("steps of a line", steps, at_least=1)

    def schedule(count: Any) -> Any:
        if isinstance(count, (int, np.integer)):
            return end + (value - end) * (1 - min(int(count), steps) / steps)
        return end + (value - end) * (1 - jnp.minimum(count, steps) / steps)

    return schedule


_DENOMINATOR, _ROUNDING = 4096, Fraction(4, 10**16)  # of quotients; two units in the last place


def exact(value: SupportsFloat) -> Fraction:
    """The number that a double stands for: 0.9 is 9/10, and ``1 - 2 / 3`` is 1/3.

    A double within rounding of a quotient of small integers is that quotient; any other one is the
    decimal number that Python prints.
    """
    if isinstance(value, Fraction):
        return value
    decimal = Fraction(repr(float(value)))
    quotient = decimal.limit_denominator(_DENOMINATOR)
    return quotient if abs(quotient - decimal) < _ROUNDING else decimal


class NeverFires(ValueError):
    """A schedule ends before it begins."""


class Unresolved(ValueError):
    """A rule lacks something: the length of training, an interval or masks."""


@dataclass(frozen=True)
class UpdateSchedule:
    """Optimizer steps at which topology changes: ``first, first + every, ...``, and ``last``.

    Attributes:
      first: count of the first topology step.
      every: distance in optimizer steps.
      last: count of the last one, on the grid of ``every`` or not. ``FOREVER``: no end.

    Raises:
      NeverFires: ``last`` lies before ``first``.
    """

    first: int
    every: int
    last: int = FOREVER

    def __post_init__(self) -> None:
        checks.integer("first topology step", self.first, at_least=0)
        checks.integer("every", self.every, at_least=1)
        if self.last < self.first:
            raise NeverFires(
                f"the schedule never fires: its first topology step would be {self.first}, "
                f"its last {self.last}. Lower `start` or `every`, or raise `stop`."
            )

    def fires(self, count: int) -> bool:
        """Whether topology changes at the update that follows ``count`` updates."""
        if not self.first <= count <= self.last:
            return False
        return (count - self.first) % self.every == 0 or count == self.last

    def steps(self) -> list[int]:
        """The counts of all topology steps, for schedules that end.

        Raises:
          ValueError: as :meth:`check_length`.
        """
        self.check_length()
        steps = list(range(self.first, self.last + 1, self.every))
        return steps if steps[-1] == self.last else [*steps, self.last]

    def check_length(self) -> None:
        """Raises ValueError where a schedule that ends has more than 100,000 topology steps: each
        has a row in the tables of a plan."""
        count = (self.last - self.first) // self.every + 1
        if not self.endless and count > MANY:
            raise ValueError(
                f"every={self.every} gives {count} topology steps until {self.last}, more than "
                f"{MANY}. Raise `every`, or lower `stop`."
            )

    @property
    def endless(self) -> bool:
        """Whether topology never stops changing."""
        return self.last == FOREVER


def duration(name: str, value: Any) -> None:
    """Raises ValueError unless ``value`` is a number of steps or a percentage as ``"75%"``."""
    if isinstance(value, str):
        try:
            share = float(value.removesuffix("%")) if value.endswith("%") else math.nan
        except ValueError:
            share = math.nan
        if 0 <= share <= 100:
            return
    elif isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= 0:
        checks.integer(name, value, at_least=0)
        return
    raise ValueError(
        f"{name} must be a number of steps or a percentage as '75%', got {shown(value)}."
    )


def resolve(name: str, value: Duration, steps: int | None, hint: str) -> int:
    """A duration in optimizer steps.

    Args:
      name: of the argument, for messages.
      value: steps, or a percentage of ``steps``.
      steps: length of training in optimizer steps, where known.
      hint: what the paper says, for the message when a percentage cannot be resolved.

    Raises:
      Unresolved: a percentage, and no length of training.
      ValueError: neither steps nor a percentage.
    """
    duration(name, value)
    if not isinstance(value, str):
        return int(value)
    if steps is None:
        raise Unresolved(
            f"{name}={shown(value)} needs the length of training: pass steps= to sparsify, or give "
            f"{name} in steps. {hint}"
        )
    return int(Fraction(value.removesuffix("%")) * steps / 100)


def window(start: Duration, stop: Duration, steps: int | None, hint: str) -> tuple[int, int]:
    """The optimizer steps at which a phase begins and ends.

    Arguments are those of :func:`update_schedule`.

    Raises:
      NeverFires: the phase does not begin before it ends.
    """
    first, last = resolve("start", start, steps, hint), resolve("stop", stop, steps, hint)
    if first >= last:
        raise NeverFires(
            f"the phase never takes place: start={first} does not lie before stop={last}. "
            "Lower `start` or raise `stop`."
        )
    return first, last


def update_schedule(
    every: Duration | None,
    start: Duration | None,
    stop: Duration | None,
    steps: int | None,
    hint: str,
    include_stop: bool = False,
) -> UpdateSchedule:
    """The update schedule of a method: from ``start`` to before ``stop``.

    Args:
      every: interval; steps or percent. None: not known, an error.
      start: first topology step; None: after one interval, so never at step 0.
      stop: topology steps lie before it; None: no end.
      steps: length of training, where known.
      hint: what the paper says, for messages.
      include_stop: the last topology step is ``stop`` itself, on the grid or not.

    Raises:
      Unresolved: an interval or the length of training is missing.
      NeverFires: there is no step at which topology changes.
    """
    if every is None:
        raise Unresolved(f"every is missing: the interval between topology steps. {hint}")
    interval = resolve("every", every, steps, hint)
    checks.integer("every", interval, at_least=1)
    first = interval if start is None else resolve("start", start, steps, hint)
    if stop is None:
        return UpdateSchedule(first, interval)
    end = resolve("stop", stop, steps, hint)
    if include_stop:
        return UpdateSchedule(first, interval, end)
    last = first + (end - 1 - first) // interval * interval
    if last < first:
        raise NeverFires(
            f"the schedule never fires: the first topology step would be {first}, but topology "
            f"stops at stop={end}. Lower start={start} or every={every}, or raise `stop`."
        )
    return UpdateSchedule(first, interval, last)
