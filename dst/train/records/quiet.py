"""What Orbax and TensorStore print of a failure, beside the exception that they raise.

Whoever catches the exception says it in one sentence. They print more, for every array: log
records with tracebacks; what the garbage collector finds in results that nobody asked for; and a
traceback from each thread of TensorStore that reports to an event loop that Orbax has closed.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import threading
from typing import Any

_LOGGERS = ("absl", "asyncio")
_ORBAX = f"{os.sep}orbax{os.sep}"
_lock = threading.Lock()
_within = 0  # how many contexts are open
_print: Any = None  # the hook before ours


class Quiet:
    """Within this context they print nothing, in any thread. Contexts may overlap.

    Attributes:
      failed: set it to True after a failure: the garbage is collected before the context ends.
    """

    failed = False

    def __enter__(self) -> Quiet:
        global _within, _print
        with _lock:
            _within += 1
            for name in _LOGGERS:
                logging.getLogger(name).addFilter(_not_theirs)
            # It stays: such a thread may report after the context, and two owners of a hook cannot
            # take it back in any order.
            if _print is None:
                _print, sys.unraisablehook = sys.unraisablehook, _unraisable
        return self

    def __exit__(self, *_: object) -> None:
        global _within
        if self.failed:
            gc.collect()
        with _lock:
            _within -= 1
            for name in _LOGGERS if _within == 0 else ():
                logging.getLogger(name).removeFilter(_not_theirs)


def first_line(error: Exception) -> str:
    """What an exception says first; theirs go on for pages."""
    return str(error).partition("\n")[0] or type(error).__name__


def _not_theirs(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    # Of results that nobody asked for: asyncio's messages.
    unasked = "exception was never retrieved" in text or "destroyed but it is pending" in text
    return _ORBAX not in record.pathname and not unasked


def _unraisable(it: sys.UnraisableHookArgs) -> None:
    reported = it.object is None and isinstance(it.exc_value, RuntimeError)
    code = getattr(it.object, "cr_code", None)  # of a coroutine
    if reported and str(it.exc_value) == "Event loop is closed":
        return
    if code is not None and _ORBAX in code.co_filename:
        return
    _print(it)
