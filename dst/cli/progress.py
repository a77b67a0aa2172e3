"""One line of a terminal that says how far a long work is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def line(what: str) -> Iterator[Callable[[int, int], None]]:
    """Gives ``progress(done, total)``, which writes a line of stderr again and again.

    The line disappears at the end. Where stderr is no terminal, nothing is written.

    Args:
      what: is counted.
    """
    terminal = sys.stderr.isatty()

    def progress(done: int, total: int) -> None:
        if terminal:
            print(f"\r{what}: {done} / {total}", end="", file=sys.stderr, flush=True)

    try:
        yield progress
    finally:
        if terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
