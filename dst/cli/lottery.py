"""``dst lottery``: studies of lottery tickets."""

from __future__ import annotations

from dst.cli import running
from dst.cli.parameters import Config, Directory, Overrides, Overwrite


def lottery(
    config: Config,
    overrides: Overrides = None,
    directory: Directory = None,
    overwrite: Overwrite = False,
) -> int:
    """Lottery tickets, random search over masks, linear connectivity."""
    return running.new_study("lottery", config, overrides, directory, overwrite)
