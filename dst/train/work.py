"""The training loop as a generator: it yields what is to be done and receives the results.

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


class Update(NamedTuple):
    """One update, or several.

    Attributes:
      call: of ``Setup.step`` or ``Setup.steps`` as :func:`update` has it; returns a
        :data:`Result`. Positional: the held state, inputs, labels. By keyword: ``topology`` of
        ``step``, or ``n`` of ``steps``.
    """

    call: partial[Any]


class Wait(NamedTuple):
    """Something that takes time and changes no state: a driver of several loops continues the
    others first.

    Attributes:
      call: returns when it is done; its result is sent.
    """

    call: Callable[[], Any]


Work = Update | Wait

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
