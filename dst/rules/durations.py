"""Schedules and checks that several drop-and-grow methods share."""

from __future__ import annotations

from typing import Any

from dst.rules.accumulators import Accumulator, window
from dst.rules.schedule import Schedule, constant, cosine, linear, resolve
from dst.rules.scores import Score, accumulated, gradient
from dst.rules.structure import Unstructured


def drop_schedule(method: Any, steps: int | None, hint: str) -> Schedule:
    """The drop fraction as a schedule; it reaches its end where topology stops changing.

    Args:
      method: with the fields ``drop_fraction``, ``end_drop_fraction``, ``decay`` and ``stop``.
      steps: length of training in optimizer steps, where known.
      hint: what the paper says, for messages.

    Returns:
      A schedule of the optimizer step, with values in [0, 1].

    Raises:
      ValueError: a decay without an end.
    """
    if method.decay == "constant":
        return constant(method.drop_fraction)
    if method.stop is None:
        raise ValueError(
            f"decay={method.decay!r} needs an end: give `stop`, or use decay='constant'."
        )
    length = max(resolve("stop", method.stop, steps, hint), 1)
    curve = cosine if method.decay == "cosine" else linear
    return curve(method.drop_fraction, length, method.end_drop_fraction)


def by_gradient(accumulate: int, every: int) -> tuple[Score, Accumulator | None]:
    """Growth by the gradient of one step, or by the mean gradient of the last steps.

    Args:
      accumulate: how many steps; at least 1.
      every: steps between topology steps.

    Returns:
      The grow score, and the accumulator that it needs.

    Raises:
      ValueError: more steps than lie between topology steps.
    """
    if accumulate == 1:
        return gradient, None
    if accumulate > every:
        raise ValueError(
            f"accumulate must be at most every={every}, got {accumulate}: windows would overlap. "
            "Lower it, or raise `every`."
        )
    return accumulated, window(accumulate)


def require_unstructured(method: Any, why: str) -> None:
    """Raises ValueError unless the structure of a method is unstructured.

    Args:
      method: with the field ``structure``.
      why: what the method does that needs single weights, for the message.
    """
    if method.structure != Unstructured():
        raise ValueError(
            f"{type(method).__name__} {why}, so it cannot be used with {method.structure}. "
            "Leave `structure` out, or choose another method."
        )
