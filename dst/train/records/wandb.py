"""Weights & Biases: the logger, and what a W&B sweep agent sets for the runs that it starts."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dst.core.files import write
from dst.inspect import mask_images
from dst.train.config.run import Config, to_dict

_WIDTH = 480  # of a picture, about
_PER_LAYER = ("density", "explored", "dropped", "grown")


def from_agent() -> list[str]:
    """Config overrides of a run that an agent started, which set ``wandb.mode``; [] for others.

    Such a run reports to W&B as ``WANDB_MODE`` says, by default online.
    """
    if not _by_agent():
        return []
    return [f"wandb.mode={os.environ.get('WANDB_MODE', 'online')}"]


def own_name(name: str) -> str:
    """The name of a run's directory. Runs of an agent share a config, and each needs its own."""
    return f"{name}-{os.environ['WANDB_RUN_ID']}" if _by_agent() else name


def _by_agent() -> bool:
    """Whether an agent has started this process."""
    return {"WANDB_SWEEP_ID", "WANDB_RUN_ID"} <= os.environ.keys()


class WeightsAndBiases:
    """A W&B run. A resumed run continues there under its first identity.

    Scores and masks have the names of ``summary.json`` and sweep files (``accuracy``, ``sparsity``,
    ``explored``, ``churn``), layers have their path (``density/<layer>``), and records of training
    are under ``train/``. The service's step is the optimizer update.

    The service never deletes a record. After a rollback or a kill it keeps the first records of a
    repeated step, while ``metrics.jsonl`` has the later ones.

    Args:
      config: of the run.
      where: its directory.
      start: the step at which the run starts or resumes; not used.
    """

    def __init__(self, config: Config, where: Path, start: int):
        import wandb

        identity, agent = where / "wandb" / "id", _by_agent()
        identity.parent.mkdir(exist_ok=True)
        known = identity.read_text(encoding="utf-8") if identity.is_file() else uuid.uuid4().hex[:8]
        self._wandb = wandb
        self._run = wandb.init(
            # An agent sets the project, the id and the name of its runs.
            project=None if agent else config.wandb.project,
            id=None if agent else known,
            name=None if agent else config.name,
            resume="allow",
            mode=config.wandb.mode,
            dir=where,
            config=to_dict(config),
            # Without a network it would wait for ever; `wandb sync` sends the files later.
            settings=wandb.Settings(finish_timeout=300),
        )
        write(identity, self._run.id)
        for name in _PER_LAYER:  # one figure per layer: too many columns for the table of runs
            self._run.define_metric(f"{name}/*", summary="none")

    def log(self, step: int, kind: str, values: Mapping[str, int | float]) -> None:
        """As :meth:`dst.train.records.loggers.Logger.log`."""
        self._run.log(_named(kind, values), step=step)

    def show(self, step: int, path: str, mask: np.ndarray) -> None:
        """Logs a picture of the mask, and one of the connections of each input pixel."""
        connections, across, down = mask_images.matrix(mask), "outputs", "inputs"
        if len(connections) > connections.shape[1]:  # the longer axis is horizontal
            connections, across, down = connections.T, down, across
        pictures = {
            "mask": (connections, f"{across} from left to right, {down} from top to bottom")
        }
        grid = mask_images.per_pixel(mask)
        if grid is not None:
            text = f"{grid.min()} to {grid.max()} connections per input pixel"
            pictures["input pixels"] = grid, text
        for name, (weight, text) in pictures.items():
            image = mask_images.enlarged(mask_images.mixed([(weight, mask_images.ACTIVE)]), _WIDTH)
            picture = self._wandb.Image(image, caption=f"{path} at step {step}: {text}")
            self._run.log({f"pictures/{name}": picture}, step=step)

    def close(self, summary: Mapping[str, Any] | None) -> None:
        """As :meth:`dst.train.records.loggers.Logger.close`."""
        if summary is None:
            self._run.finish(exit_code=1)
            return
        layers = summary["layers"]
        rows = [[str(v) if k == "shape" else v for k, v in row.items()] for row in layers]
        columns = ["layer" if name == "path" else name for name in layers[0]]
        self._run.log({"layers": self._wandb.Table(columns=columns, data=rows)})
        self._run.summary.update({k: v for k, v in summary.items() if isinstance(v, (int, float))})
        self._run.finish()


def _named(kind: str, values: Mapping[str, int | float]) -> dict[str, int | float]:
    """The values of a record by their names in W&B."""
    if kind == "train":
        return {f"train/{name}": value for name, value in values.items()}
    named = {}
    for name, value in values.items():
        figure, slash, layer = name.partition("/")
        if slash and figure == "sparsity":
            named[f"density/{layer}"] = round(1 - value, 9)
        else:
            named[name] = value
    return named
