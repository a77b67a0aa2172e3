"""SIGTERM and SIGINT: the first one asks a run to stop, a second one stops the process at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import jax

from dst.train.distributed import processes as hosts

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):
    """A signal has asked for a stop; what was done is kept, and can be continued."""


@dataclass
class Request:
    """Whether a signal has asked for a stop.

    Attributes:
      name: of the signal; None: there was none.
    """

    name: str | None = None

    def check(self) -> None:
        """Raises Stopped where a signal has come."""
        if self.name is not None:
            raise Stopped(f"stopped by {self.name}")


_current: Request | None = None


@contextmanager
def caught() -> Iterator[Request]:
    """Within this context signals are requests; afterwards they do what they did before.

    Contexts may lie in each other and share one request, so that a signal that stops a run also
    stops the study it belongs to. Python calls handlers in the main thread only: elsewhere, without
    a context in the main thread, signals are left alone.
    """
    global _current
    if _current is not None or threading.current_thread() is not threading.main_thread():
        yield _current or Request()
        return
    request = _current = Request()

    def handle(number: int, frame: FrameType | None) -> None:
        request.name = signal.Signals(number).name
        for second in _SIGNALS:  # ends the process without Python, which may be waiting for a step
            signal.signal(second, signal.SIG_DFL)
        # Not print: the signal may have come while something was being printed.
        text = f"{request.name}: stopping with a checkpoint; a second signal stops at once\n"
        os.write(2, text.encode())

    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield request
    finally:
        _current = None
        for number, handler in before.items():
            # None: a handler that was not set from Python, and cannot be from here.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def any_process_wants_to_stop(request: Request, agree: bool) -> bool:
    """Whether to stop at this step boundary.

    Several processes must stop after the same step, so they ask each other, and only where all do.

    Args:
      request: of this process; named after the fact where it came to another one.
      agree: whether all processes ask now. They wait for each other, and for their devices.
    """
    if jax.distributed.is_initialized():
        if not (agree and hosts.anywhere(request.name is not None)):
            return False
        request.name = request.name or "a signal to another process"
    return request.name is not None
