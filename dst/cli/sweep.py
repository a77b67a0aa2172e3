"""``dst sweep``: the trials of a sweep file, and their report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from dst.cli.exits import DONE, FAILED, RESUME
from dst.cli.report import compare

File = Annotated[Path, typer.Argument(metavar="FILE", help="A sweep in the format of W&B.")]
Directory = Annotated[
    Path | None,
    typer.Option("--dir", metavar="DIR", help="Its directory; runs/<name> unless given."),
]
Engine = Annotated[
    Literal["processes", "vectorised"],
    typer.Option(help="A process per trial; or one program for all that differ in numbers only."),
]
Workers = Annotated[int, typer.Option(metavar="N", help="Processes at a time.")]
Batch = Annotated[int, typer.Option(metavar="N", help="Trials in one program, at most.")]
Storage = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        envvar="DST_STORAGE",  # a password on the command line is seen by every user of a machine
        help="A database; a journal file in the directory unless given.",
    ),
]


def sweep(
    file: File,
    directory: Directory = None,
    engine: Engine = "processes",
    workers: Workers = 1,
    batch: Batch = 16,
    storage: Storage = None,
) -> int:
    """Run the trials of a W&B sweep file, or continue with them."""
    from dst.studies import sweep as sweeps
    from dst.train.distributed.signals import Stopped

    spec = sweeps.load(file)
    where = directory or Path("runs") / spec.name
    try:
        results = sweeps.run(
            spec, where, engine=engine, workers=workers, batch=batch, storage=storage
        )
    except Stopped as reason:
        print(f"{reason}; the same command continues", file=sys.stderr)
        return RESUME
    failed = [trial for trial in results["trials"] if trial["state"] == "failed"]
    for trial in failed:
        print(f"error: trial {trial['number']}: {trial['error']}", file=sys.stderr)
    if results["best"] is not None:
        best = results["trials"][results["best"]]
        print(
            f"best: trial {best['number']}, {results['metric']} {best['value']:.6g}, "
            f"{' '.join(best['overrides'])}"
        )
    print(f"results: {where / sweeps.RESULTS}")
    compare([where])
    return FAILED if failed else DONE
