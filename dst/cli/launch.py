"""``dst launch``: one run in several processes."""

from __future__ import annotations

from typing import Annotated

import typer

from dst.cli.exits import BAD_INPUT, fail
from dst.core.text import shown

_MOST = 1000  # each process has its own JAX
Processes = Annotated[
    int, typer.Option("--processes", "-n", metavar="N", min=1, max=_MOST, help="How many.")
]
Devices = Annotated[
    int | None,
    typer.Option(
        "--devices-per-process",
        metavar="K",
        min=1,
        max=_MOST,
        help="Fake CPU devices, to try a run out.",
    ),
]
Arguments = Annotated[
    list[str],
    typer.Argument(metavar="train|resume", help="The command, with all its arguments."),
]


def launch(processes: Processes, arguments: Arguments, devices: Devices = None) -> int:
    """Train or resume in several processes on this machine."""
    from dst.train.distributed.launch import launch as start

    if arguments[0] not in ("train", "resume"):
        return fail(
            f"dst launch: expected train or resume with its arguments, found {arguments[0]!r}. "
            f"Example: dst launch -n {processes} train CONFIG",
            BAD_INPUT,
        )
    if bad := [x for x in arguments if "\0" in x]:
        return fail(f"dst launch: an argument has no NUL in it, got {shown(bad[0])}.", BAD_INPUT)
    return start(arguments, processes, devices)
