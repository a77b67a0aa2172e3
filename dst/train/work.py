"""The training loop as a generator: it yields optimizer updates and receives their results.

So whoever drives a loop decides how updates are computed. :func:`drive` calls the compiled step of
the run. The vectorised engine of sweeps drives several loops and computes their updates together.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import Any, NamedTuple

from dst.core.typing import Array
from dst.train.state import TrainState
from dst.train.step import Metrics

# Of `Setup.step`, and of `Setup.steps`.
Result = tuple[TrainState, Metrics] | tuple[TrainState, Metrics, Array]


class Work(NamedTuple):
    """What the training loop wants next.

    Attributes:
      call: of ``Setup.step`` or ``Setup.steps``; returns a :data:`Result`. Positional: state,
        inputs, labels. By keyword: ``topology`` of ``step``, or ``n`` of ``steps``.
      settle: returns when no checkpoint of the run is being written. Orbax can write one checkpoint
        per process at a time, so a driver of several loops calls it before it continues another.
    """

    call: partial[Any]
    settle: Callable[[], None]


# Receives the result of each call, and returns the figures of the run.
Loop = Generator[Work, Any, dict[str, Any] | None]


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
