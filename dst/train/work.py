"""The training loop as a generator: it yields optimizer updates and receives their results.

So whoever drives a loop decides how updates are computed, and where the state lies between them.
:func:`drive` calls the compiled step of the run. The vectorised engine of sweeps drives several
loops, computes their updates together, and keeps their states in one.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import Any, NamedTuple, Protocol

from dst.core.typing import Array
from dst.train.state import TrainState
from dst.train.step import Metrics


class Held(Protocol):
    """Where the training state of a run lies between two updates."""

    @property
    def state(self) -> TrainState:
        """The state. Nothing may keep it: the next update donates its buffers."""


class Alone(NamedTuple):
    """The state of a run that trains alone."""

    state: TrainState


# Of `Setup.step`, and of `Setup.steps`, with the state as it is held.
Result = tuple[Held, Metrics] | tuple[Held, Metrics, Array]


class Work(NamedTuple):
    """What the training loop wants next.

    Attributes:
      call: of ``Setup.step`` or ``Setup.steps`` as :func:`update` has it; returns a
        :data:`Result`. Positional: the held state, inputs, labels. By keyword: ``topology`` of
        ``step``, or ``n`` of ``steps``.
      settle: returns when no checkpoint of the run is being written. Orbax can write one checkpoint
        per process at a time, so a driver of several loops calls it before it continues another.
    """

    call: partial[Any]
    settle: Callable[[], None]


# Receives the result of each call, and returns the figures of the run.
Loop = Generator[Work, Any, dict[str, Any] | None]


def update(step: Callable[..., tuple[Any, ...]]) -> Callable[..., Any]:
    """``Setup.step`` or ``Setup.steps`` for a held state."""

    def call(held: Held, *batch: Any, **how: Any) -> tuple[Any, ...]:
        state, *figures = step(held.state, *batch, **how)
        return Alone(state), *figures

    return call


def drive(loop: Loop) -> dict[str, Any] | None:
    """Runs a single loop to its end, and returns its figures."""
    result = None
    try:
        while True:
            result = loop.send(result).call()
    except StopIteration as end:
        return end.value
    finally:
        loop.close()  # after an error of the call, the loop still closes its files
