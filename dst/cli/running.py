"""What commands that train share: errors of a run, and the report at its end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dst.cli.exits import BAD_INPUT, DONE, FAILED, RESUME, fail
from dst.cli.report import of_run, write
from dst.cli.screen import tolerated

Report = Callable[[Path], object]


@tolerated()
def run(where: Path, source: str, start: Callable[[Any, Report], Any]) -> int:
    """Starts or resumes a run with the training loop, which writes its report.

    Args:
      where: the run directory.
      source: names the config in messages.
      start: called with the module :mod:`dst.train.loop`, and with what writes the report.
    """
    # Only now, with a config that is known to be good: this loads Flax and Orbax.
    from dst.train import loop
    from dst.train.distributed import processes
    from dst.train.records import run_dir

    code = _finish(where, source, lambda: start(loop, of_run))
    if code == DONE and processes.first():
        print(f"report: {where / run_dir.REPORT}")
    return code


def new_study(
    key: str,
    config: Path,
    overrides: Sequence[str] | None,
    directory: Path | None,
    overwrite: bool,
) -> int:
    """Reads the config of a study and starts it; as :func:`study`."""
    from dst.studies import directories
    from dst.train.config.run import source
    from dst.train.records import run_dir

    changes = overrides or []
    settings = directories.package(key).load(config, changes)
    if settings.config.hosts.coordinator is not None:
        return fail("hosts.coordinator must be null: a study runs in one process", BAD_INPUT)
    where = directory or Path("runs") / settings.config.name
    run_dir.check_free(where, overwrite)
    return study(
        where,
        source(config, changes),
        key,
        lambda package: package.run(settings, where, overwrite=overwrite),
    )


@tolerated()
def study(where: Path, source: str, key: str, start: Callable[[Any], Any]) -> int:
    """Starts or resumes a study, prints its table, and writes its report; as :func:`run`.

    Args:
      where, source: as of :func:`run`.
      key: of :data:`dst.studies.directories.PACKAGES`.
      start: called with the package of the study.
    """
    from dst.studies import directories

    study = directories.package(key)
    code = _finish(where, source, lambda: print(f"\n{study.table(start(study))}"))
    return code or write(where)


def _finish(where: Path, source: str, train: Callable[[], Any]) -> int:
    from dst.train.distributed import processes
    from dst.train.loop import Diverged, Stopped
    from dst.train.records.checkpoint import CheckpointError
    from dst.train.setup import SetupError

    try:
        train()
    except SetupError as error:
        return fail(f"{source}: {error}", BAD_INPUT)
    except Diverged as error:
        return fail(error, FAILED)
    except CheckpointError as error:
        return fail(f"{error}\nOnce it can be written, `dst resume {where}` continues.", FAILED)
    except Stopped as reason:
        if processes.first():
            print(f"{reason}; `dst resume {where}` continues", file=sys.stderr)
        return RESUME
    return DONE
