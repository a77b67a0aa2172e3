"""What a W&B sweep agent sets for the runs that it starts."""

from __future__ import annotations

import os


def overrides() -> list[str]:
    """Of the config of a run that an agent started, for ``wandb.mode``; [] for other runs.

    Such a run reports to W&B as ``WANDB_MODE`` says, by default online.
    """
    if not started():
        return []
    return [f"wandb.mode={os.environ.get('WANDB_MODE', 'online')}"]


def own_name(name: str) -> str:
    """The name of a run's directory. Runs of an agent share a config, and each needs its own."""
    return f"{name}-{os.environ['WANDB_RUN_ID']}" if started() else name


def started() -> bool:
    """Whether an agent has started this process."""
    return {"WANDB_SWEEP_ID", "WANDB_RUN_ID"} <= os.environ.keys()
