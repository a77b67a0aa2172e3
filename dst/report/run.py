"""`dst report`: a run directory becomes one HTML file that needs nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from dst.report import page, reading, sections, theme
from dst.report.contents import Run
from dst.report.question import question, settings
from dst.report.tables import metrics_csv
from dst.report.tiles import tiles

REPORT = "report.html"


def write_report(
    run_dir: str | os.PathLike[str], out: str | os.PathLike[str] | None = None
) -> Path:
    """Writes the report of a run, whole or not at all, and returns its path; the logged metrics lie
    beside it as CSV.

    The report holds everything it shows: it asks for nothing from outside and opens offline. It is
    made from the files of the run directory alone; what is missing or damaged is named in it. The
    same files give the same report.

    Args:
      run_dir: the directory that ``dst train`` wrote.
      out: the file; None: ``<run_dir>/report.html``.

    Raises:
      FileNotFoundError: no such directory, or one that holds no file of a run.

    Example:
      >>> write_report("runs/digits-rigl")  # doctest: +SKIP
      PosixPath('runs/digits-rigl/report.html')
    """
    run = reading.read(run_dir)
    with theme.style():
        html = render(run)
    target = Path(out or Path(run_dir) / REPORT)
    page.write(target.with_suffix(".csv"), metrics_csv(run))
    page.write(target, html)
    return target


def render(run: Run) -> str:
    """The report as HTML text; to be called under :func:`dst.report.theme.style`."""
    layers, masks = run.layers(), sections.mask_view(run)
    return page.fill(
        "report.html.j2",
        run=run,
        question=question(run),
        settings=settings(run),
        tiles=tiles(run),
        training=sections.training(run),
        exploration=sections.exploration(run),
        exchange=sections.exchange(run),
        layers=layers,
        sparse=[row for row in layers if row.sparse],
        matrices=[row for row in layers if row.sparse or len(row.shape) > 1],
        over_time=sections.per_layer(run, "sparsity", "Sparsity over time", "all sparse layers"),
        masks=masks,
        degrees=sections.degrees(run, masks),
        versions=_versions(run),
    )


def _versions(run: Run) -> str:
    found = run.summary.get("versions")
    if isinstance(found, Mapping):
        return ", ".join(f"{name} {version}" for name, version in found.items())
    return found if isinstance(found, str) else ""
