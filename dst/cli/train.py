"""``dst train``: from a config to a run directory with its report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from dst.cli.parameters import Config, Directory, Overrides, Overwrite
from dst.cli.running import Report, run


def train(
    config: Config,
    overrides: Overrides = None,
    directory: Directory = None,
    overwrite: Overwrite = False,
) -> int:
    """Train what a config describes."""
    from dst.train.config import run as configs
    from dst.train.config.lint import advice
    from dst.train.distributed import processes
    from dst.train.records import run_dir, wandb_agent

    changes = overrides or []
    settings = configs.load(config, [*wandb_agent.overrides(), *changes])
    where = directory or Path("runs") / wandb_agent.own_name(settings.name)
    processes.join(settings.hosts)
    processes.decided(lambda: run_dir.check_free(where, overwrite))
    for warning in advice(settings) if processes.first() else ():
        print(f"warning: {warning}", file=sys.stderr)
    source = configs.source(config, changes)

    def start(loop: Any, report: Report) -> object:
        return loop.train(settings, where, overwrite=overwrite, report=report)

    return run(where, source, start)
