"""A screen that may go away: ``dst train CONFIG | head``, or a full disk behind ``> log``."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import TextIO


class _Tolerant(io.TextIOBase):
    """Writes to a stream until that fails; from then on to nowhere.

    Args:
      name: of the stream.
      stream: that has a file.
    """

    def __init__(self, name: str, stream: TextIO):
        self._name, self._stream = name, stream

    def write(self, text: str) -> int:
        """As a stream does; never fails."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        """As a stream does; never fails."""
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """The number of its file."""
        return self._stream.fileno()

    def _give_up(self, error: OSError) -> None:
        # What the stream still holds, Python writes at its end: that must not fail again.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        if self._name == "stdout":
            text = f"warning: stdout: {error.strerror}. Training continues without a screen."
            print(text, file=sys.stderr, flush=True)


@contextmanager
def tolerated() -> Iterator[None]:
    """Within this context a stream that can no longer be written to ends nothing."""
    with ExitStack() as stack:
        for name, redirect in (("stderr", redirect_stderr), ("stdout", redirect_stdout)):
            stream = getattr(sys, name)
            try:
                stream.fileno()
            except (OSError, ValueError, AttributeError):  # no file: a notebook, a test
                continue
            stack.enter_context(redirect(_Tolerant(name, stream)))
        yield
        sys.stdout.flush()
