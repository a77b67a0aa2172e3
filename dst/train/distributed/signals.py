"""Signals: the first one requests a stop, a second one ends the process at once.

SIGTERM and SIGINT stop a run; so do SIGUSR1 and SIGHUP, which schedulers send before the time of a
job is over. A process that ignores SIGHUP, as under ``nohup``, goes on ignoring it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import jax

from dst.train.distributed import processes

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


class Stopped(Exception):
    """A signal requested a stop. The run has a checkpoint and can be resumed."""


@dataclass
class Request:
    """Whether a signal requested a stop.

    Attributes:
      name: the signal's name; None: there was no signal.
    """

    name: str | None = None

    def check(self) -> None:
        """Raises Stopped after a signal."""
        if self.name is not None:
            raise Stopped(f"stopped by {self.name}")


_current: Request | None = None


@contextmanager
def caught() -> Iterator[Request]:
    """Within this context a signal is a request; afterwards the earlier handlers are back.

    Nested contexts share one request, so that a signal that stops a run also stops its study.
    Python calls signal handlers in the main thread only. In another thread, unless the main thread
    is in such a context, signals are not caught.
    """
    global _current
    if _current is not None or threading.current_thread() is not threading.main_thread():
        yield _current or Request()
        return
    request = _current = Request()

    def handle(number: int, frame: FrameType | None) -> None:
        request.name = signal.Signals(number).name
        for second in heard:  # ends the process without Python, which may wait for a step
            signal.signal(second, signal.SIG_DFL)
        # Not `print`: the signal may have interrupted one.
        text = f"{request.name}: stopping with a checkpoint; a second signal stops at once\n"
        os.write(2, text.encode())

    heard = [n for n in _SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in heard}
    try:
        yield request
    finally:
        _current = None
        for number, handler in before.items():
            # None: the handler was not set from Python and cannot be restored from Python.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def any_process_wants_to_stop(request: Request, agree: bool) -> bool:
    """Whether to stop after this step.

    Several processes must stop after the same step. So they exchange requests, at steps where all
    of them do.

    Args:
      request: of this process; gets a name where another process received the signal.
      agree: whether all processes exchange requests now. They wait for each other.
    """
    if jax.distributed.is_initialized():
        if not (agree and processes.any_process(request.name is not None)):
            return False
        request.name = request.name or "a signal to another process"
    return request.name is not None
