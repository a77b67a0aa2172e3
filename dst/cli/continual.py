"""``dst continual``: several tasks, one after the other."""

from __future__ import annotations

from dst.cli import running
from dst.cli.parameters import Config, Directory, Overrides, Overwrite


def continual(
    config: Config,
    overrides: Overrides = None,
    directory: Directory = None,
    overwrite: Overwrite = False,
) -> int:
    """Continual learning: accuracy on every task so far, backward transfer, forgetting."""
    return running.new_study("continual", config, overrides, directory, overwrite)
