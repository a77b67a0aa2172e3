"""``dst report`` of one run: a directory becomes one HTML file that needs nothing else."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from dst.report import page, reading, sections, theme
from dst.report.contents import Run
from dst.report.finding import answer
from dst.report.neurons import sentence, unconnected
from dst.report.question import question, settings
from dst.report.tables import metrics_csv, single
from dst.report.tiles import tiles
from dst.train.records import run_dir

REPORT = run_dir.REPORT


def write_report(
    run_dir: str | os.PathLike[str], out: str | os.PathLike[str] | None = None
) -> Path:
    """Writes the report of a run, and its logged metrics as CSV beside it; returns its path.

    The report holds everything that it shows, and opens offline. It is written from the files of
    the run directory alone, whole or not at all. It names what is missing or damaged. The same
    files give the same report.

    Args:
      run_dir: the directory that ``dst train`` wrote.
      out: the file; None: ``<run_dir>/report.html``.

    Raises:
      FileNotFoundError: no such directory, or one without a file of a run.

    Example:
      >>> write_report("runs/digits-rigl")  # doctest: +SKIP
      PosixPath('runs/digits-rigl/report.html')
    """
    run = reading.read(run_dir)
    with theme.style():
        html = render(run, shlex.quote(str(run_dir)))
    target = Path(out or Path(run_dir) / REPORT)
    page.write(target.with_suffix(".csv"), metrics_csv(run))
    page.write(target, html)
    return target


def render(run: Run, path: str = "") -> str:
    """The report as HTML text; to be called under :func:`dst.report.theme.style`.

    Args:
      run: what its files hold.
      path: of the run directory, as commands take it.
    """
    layers, masks = run.layers(), sections.mask_view(run)
    return page.fill(
        "report.html.j2",
        run=run,
        answer=answer(run),
        question=question(run),
        single=single(run),
        compare=path if "train" in run.config else "",
        neurons=[str(x) for x in unconnected(run)],
        neurons_text=sentence(run),
        settings=settings(run),
        tiles=tiles(run),
        training=sections.training(run),
        exploration=sections.exploration(run),
        topology_steps=sections.topology_steps(run),
        layers=layers,
        sparse=[row for row in layers if row.sparse],
        matrices=[row for row in layers if row.sparse or len(row.shape) > 1],
        over_time=sections.per_layer(run, "sparsity", "Sparsity over time", "all sparse layers"),
        masks=masks,
        degrees=sections.degrees(run, masks),
        versions=_versions(run),
    )


def _versions(run: Run) -> str:
    versions = run.summary.get("versions")
    if isinstance(versions, Mapping):
        return ", ".join(f"{name} {version}" for name, version in versions.items())
    return versions if isinstance(versions, str) else ""
