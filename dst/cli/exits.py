"""How a command ends: its exit code, and one message instead of a traceback."""

from __future__ import annotations

import functools
import select
import sys
from collections.abc import Callable

from dst.core import extras

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
RESUME = 75  # EX_TEMPFAIL of sysexits.h: try again

CODES = """Exit codes: 0 done; 1 failed; 2 bad input; 75 stopped by SIGTERM or SIGINT with a
checkpoint, `dst resume` continues (a second signal stops at once, without one); 130 interrupted
before training began."""


def fail(message: object, code: int) -> int:
    """Prints an error to stderr and returns the exit code."""
    print(f"error: {message}", file=sys.stderr)
    return code


def missing(error: ModuleNotFoundError) -> int:
    """Says what to install for a module that is missing; a module of ``dst`` is a defect."""
    named = extras.named(error)
    if not isinstance(named, extras.Missing):
        raise error
    return fail(named, BAD_INPUT)


def guarded(command: Callable[..., int]) -> Callable[..., int]:
    """A command whose expected errors become a message and an exit code."""

    @functools.wraps(command)
    def run(*args: object, **options: object) -> int:
        try:
            from dst.train.config.run import ConfigError
            from dst.train.distributed.processes import HostsError
            from dst.train.records.run_dir import DirectoryError

            code = command(*args, **options)
            sys.stdout.flush()  # here, where its errors are answered
            return code
        except ModuleNotFoundError as error:
            return missing(error)
        except KeyboardInterrupt:
            return fail("interrupted; `dst resume` continues the run", INTERRUPTED)
        except OSError as error:  # no space, no permission: the message names the file
            if isinstance(error, BrokenPipeError) and _reader_has_gone():
                raise  # typer ends quietly
            return fail(error, FAILED)
        except (ConfigError, DirectoryError, HostsError) as error:
            return fail(error, BAD_INPUT)

    return run


def _reader_has_gone() -> bool:
    """Whether nobody reads stdout any more: ``dst schema | head``."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return bool(poll.poll(0))
