"""``dst report``: the HTML report of a run, a sweep, a study, or of several runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from dst.cli.exits import BAD_INPUT, DONE, fail

EPILOG = """Reports are single HTML files that open offline. Those of sweeps and of several runs
have their data beside them, as CSV."""

Paths = Annotated[
    list[Path],
    typer.Argument(
        metavar="DIR",
        help="A directory that train, sweep or a study wrote; several: runs and sweeps, compared.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.html",
        help="report.html in DIR unless given; of several, comparison.html here.",
    ),
]


def report(paths: Paths, out: Out = None) -> int:
    """Report on a run, a sweep or a study, or compare several."""
    from dst.report import collect

    collect.check(paths, out)
    if len(paths) == 1 and not collect.is_sweep(paths[0]):
        return write(paths[0], out)
    for path in paths:
        if study_of(path):
            return fail(f"{path} is a study: `dst report {path}` shows it alone", BAD_INPUT)
    return compare(paths, out)


def compare(paths: Sequence[Path], out: Path | None = None) -> int:
    """Writes the report of a sweep, or of several runs."""
    from dst.report import many

    print(f"report: {many.write_report(paths, out)}")
    return DONE


def write(where: Path, out: Path | None = None) -> int:
    """Writes the report of a run or a study."""
    if key := study_of(where):
        from dst.studies import directories

        written = directories.package(key).write_report(where, out=out)
    else:
        from dst.report.run import write_report

        written = write_report(where, out=out)
    print(f"report: {written}")
    return DONE


def of_run(where: Path) -> None:
    """Writes the report of a run that has finished, for the training loop."""
    from dst.report.run import write_report  # only at the end: this loads Matplotlib

    write_report(where)


def study_of(where: Path) -> str | None:
    """The study that a directory holds, by its key; None: that of a run."""
    from dst.studies import directories

    return directories.kind(where)
