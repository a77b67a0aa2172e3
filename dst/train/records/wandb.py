"""Weights & Biases: the logger, and what an agent of a W&B sweep says to the run it starts."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dst.core.files import write
from dst.inspect import mask_images as pixels
from dst.train.config.run import Config, to_dict

_WIDTH = 480  # of a picture, about
_PER_LAYER = ("density", "explored", "dropped", "grown")


def from_agent() -> list[str]:
    """Overrides that an agent's run begins with: it reports to W&B, unless ``WANDB_MODE`` says how
    much. Other runs have none."""
    if not _by_agent():
        return []
    return [f"wandb.mode={os.environ.get('WANDB_MODE', 'online')}"]


def own_name(name: str) -> str:
    """The name of a run's directory: of an agent's runs, which share a config, each has its own."""
    return f"{name}-{os.environ['WANDB_RUN_ID']}" if _by_agent() else name


def _by_agent() -> bool:
    """Whether an agent has started this process."""
    return {"WANDB_SWEEP_ID", "WANDB_RUN_ID"} <= os.environ.keys()


class WeightsAndBiases:
    """A W&B run. A run that is resumed goes on there under the identity it began with.

    Scores and masks have the names that ``summary.json`` and sweep files have (``accuracy``,
    ``sparsity``, ``explored``, ``churn``), layers theirs behind (``density/<layer>``), training
    stands in ``train/``. The service's step is the optimizer update.

    The service keeps what it was told: after a rollback, or where a killed run has been past its
    checkpoint, the first records of a step stay there, while ``metrics.jsonl`` has the later ones.

    Args:
      config: of the run.
      where: its directory.
    """

    def __init__(self, config: Config, where: Path):
        import wandb

        identity, agent = where / "wandb" / "id", _by_agent()
        identity.parent.mkdir(exist_ok=True)
        known = identity.read_text(encoding="utf-8") if identity.is_file() else uuid.uuid4().hex[:8]
        self._wandb = wandb
        self._run = wandb.init(
            # What an agent starts has its project, its id and its name from the agent.
            project=None if agent else config.wandb.project,
            id=None if agent else known,
            name=None if agent else config.name,
            resume="allow",
            mode=config.wandb.mode,
            dir=where,
            config=to_dict(config),
            # Without a network it would wait for ever; `wandb sync` sends what is on disk.
            settings=wandb.Settings(finish_timeout=300),
        )
        write(identity, self._run.id)
        for name in _PER_LAYER:  # one figure for each of many layers: no columns among the runs
            self._run.define_metric(f"{name}/*", summary="none")

    def log(self, line: Mapping[str, Any]) -> None:
        self._run.log(_named(line), step=line["step"])

    def show(self, step: int, path: str, mask: np.ndarray) -> None:
        connections, across, down = pixels.matrix(mask), "outputs", "inputs"
        if len(connections) > connections.shape[1]:  # the longer axis lies
            connections, across, down = connections.T, down, across
        found = {"mask": (connections, f"{across} from left to right, {down} from top to bottom")}
        grid = pixels.per_pixel(mask)
        if grid is not None:
            text = f"{grid.min()} to {grid.max()} connections per input pixel"
            found["input pixels"] = grid, text
        for name, (weight, text) in found.items():
            image = pixels.enlarged(pixels.mixed([(weight, pixels.ACTIVE)]), _WIDTH)
            picture = self._wandb.Image(image, caption=f"{path} at step {step}: {text}")
            self._run.log({f"pictures/{name}": picture}, step=step)

    def rewind(self, step: int) -> None:
        pass

    def close(self, summary: Mapping[str, Any] | None) -> None:
        if summary is None:
            self._run.finish(exit_code=1)
            return
        layers = summary["layers"]
        rows = [[str(v) if k == "shape" else v for k, v in row.items()] for row in layers]
        columns = ["layer" if name == "path" else name for name in layers[0]]
        self._run.log({"layers": self._wandb.Table(columns=columns, data=rows)})
        self._run.summary.update({k: v for k, v in summary.items() if isinstance(v, (int, float))})
        self._run.finish()


def _named(line: Mapping[str, Any]) -> dict[str, Any]:
    """A record as the service has it."""
    values = {k: v for k, v in line.items() if k not in ("kind", "step")}
    if line["kind"] == "train":
        return {f"train/{name}": value for name, value in values.items()}
    found = {}
    for name, value in values.items():
        kind, slash, layer = name.partition("/")
        if slash and kind == "sparsity":
            found[f"density/{layer}"] = round(1 - value, 9)
        else:
            found[name] = value
    return found
