"""``dst resume``: continues a run or a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dst.cli import running
from dst.cli.exits import BAD_INPUT, fail
from dst.cli.parameters import Overrides
from dst.cli.report import study_of

Run = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A directory that train wrote.")]
Changed = Annotated[
    bool,
    typer.Option(
        "--changed",
        help="Continue although more changes than devices, logging, intervals or checkpoints.",
    ),
]


def resume(run: Run, overrides: Overrides = None, changed: Changed = False) -> int:
    """Continue a run at its newest checkpoint."""
    from dst.train.records import run_dir

    run_dir.check_run(run)
    changes = overrides or []
    source = str(run / run_dir.CONFIG)
    key = study_of(run)
    if key is None:

        def start(loop: Any, report: running.Report) -> object:
            return loop.resume(run, changes, changed=changed, report=report)

        return running.run(run, source, start)
    if changes:
        return fail(
            f"{run} is a study, and its runs share one config. Start a new one to change "
            f"{changes[0]!r}.",
            BAD_INPUT,
        )
    return running.study(run, source, key, lambda study: study.resume(run))
