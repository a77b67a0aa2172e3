"""``dst continual``: several tasks, one after the other."""

from __future__ import annotations

from pathlib import Path

from dst.cli import running
from dst.cli.exits import BAD_INPUT, fail
from dst.cli.parameters import Config, Directory, Overrides, Overwrite


def continual(
    config: Config,
    overrides: Overrides = None,
    directory: Directory = None,
    overwrite: Overwrite = False,
) -> int:
    """Continual learning: accuracy on every task so far, backward transfer, forgetting."""
    from dst.studies.continual import config as configs
    from dst.train.config.run import source
    from dst.train.records import run_dir

    changes = overrides or []
    settings = configs.load(config, changes)
    if settings.config.hosts.coordinator is not None:
        return fail("hosts.coordinator must be null: a study runs in one process", BAD_INPUT)
    where = directory or Path("runs") / settings.config.name
    run_dir.check_free(where, overwrite)
    return running.study(
        where,
        source(config, changes),
        configs.KEY,
        lambda study: study.run(settings, where, overwrite=overwrite),
    )
