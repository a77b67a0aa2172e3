"""The command line. Importing it loads nothing heavy: each command loads what it needs."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dst.cli import exits
from dst.core import extras

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command of ``dst`` and returns its exit code.

    Args:
      argv: arguments without the program's name; None: those of the process.

    Returns:
      0 done; 1 failed; 2 bad input; 75 stopped with a checkpoint, to be resumed; 130 interrupted.

    Example:
      >>> main(["train"])  # no config: stderr says so
      2
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments == ["--version"]:  # works without any extra
        from dst import __version__

        print(__version__)
        return exits.DONE
    try:
        from dst.cli import app
    except ModuleNotFoundError as error:
        named = extras.named(error)
        if not isinstance(named, extras.Missing):
            raise
        if arguments not in (["--help"], ["-h"]):
            return exits.missing(named)
        from dst.cli import bare_help

        print(bare_help.text(named))
        return exits.DONE
    return app.run(arguments)
