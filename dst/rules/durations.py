"""Field checks and the drop fraction that drop-and-grow methods share."""

from __future__ import annotations

from typing import Any

from dst.core import checks
from dst.rules.schedule import Duration, Schedule, constant, cosine, duration, linear, resolve
from dst.rules.structure import Unstructured

DECAYS = ("constant", "cosine", "linear")


def check_cadence(
    every: Duration | None,
    start: Duration | None,
    stop: Duration | None,
    include_stop: bool = False,
) -> None:
    """Raises unless the three are steps or percentages, where given, in a possible order."""
    for name, value in (("every", every), ("start", start), ("stop", stop)):
        if value is not None:
            duration(name, value)
    if every in (0, "0%"):
        raise ValueError(f"every must be at least one step, got {every!r}.")
    if isinstance(start, int) and isinstance(stop, int) and start >= stop + include_stop:
        raise ValueError(
            f"the schedule never fires: start={start} does not lie before stop={stop}. "
            "Lower `start` or raise `stop`."
        )


def check_drop(method: Any) -> None:
    """Raises unless the drop fraction of a method and its decay make sense."""
    checks.fraction("drop_fraction", method.drop_fraction)
    checks.fraction("floor", method.floor)
    checks.one_of("decay", method.decay, DECAYS)
    if method.stop is None and method.decay != "constant":
        raise ValueError(
            f"decay={method.decay!r} needs an end: give `stop`, or use decay='constant'."
        )


def drop_schedule(method: Any, steps: int | None, rule: str) -> Schedule:
    """The drop fraction over time: it reaches the floor where topology stops changing."""
    if method.decay == "constant":
        return constant(method.drop_fraction)
    end = max(resolve("stop", method.stop, steps, rule), 1)
    curve = cosine if method.decay == "cosine" else linear
    return curve(method.drop_fraction, end, method.floor)


def check_accumulate(accumulate: int, every: Duration) -> None:
    """Raises unless the gradients of ``accumulate`` steps fit between topology steps."""
    checks.integer("accumulate", accumulate, at_least=1)
    if isinstance(every, int) and accumulate > every:
        raise ValueError(
            f"accumulate must be at most every={every}, got {accumulate}: windows would overlap. "
            "Lower it, or raise `every`."
        )


def require_unstructured(method: Any, why: str) -> None:
    """Raises where a method cannot work with the structure it was given."""
    if method.structure != Unstructured():
        raise ValueError(
            f"{type(method).__name__} {why}, so it cannot be used with {method.structure}. "
            "Leave `structure` out, or choose another method."
        )
