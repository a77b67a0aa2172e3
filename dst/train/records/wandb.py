"""Weights & Biases: the logger."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from dst.core.files import write
from dst.inspect import mask_images
from dst.train.config.run import Config, to_dict
from dst.train.objectives.figures import FIGURES, SCORES
from dst.train.records import json_lines, run_dir, wandb_agent, wandb_artifacts

_WIDTH = 480  # of a picture, about
_PER_LAYER = ("density", "explored", "dropped", "grown")
_STEP = "step"  # optimizer updates: the x axis of every chart


def _best(figure: str) -> Callable:
    return FIGURES[figure].best if figure in FIGURES else min  # of losses


_BEST = {name: _best(name.removeprefix("ema_")) for name in SCORES}


class WeightsAndBiases:
    """A W&B run. A resumed run continues there under its first identity. One process may have many.

    Scores and masks have the names of ``summary.json`` and sweep files (``accuracy``, ``sparsity``,
    ``explored``, ``churn``), layers have their path (``density/<layer>``), and records of training
    are under ``train/``. All are charted over ``step``, the optimizer update.

    The service never deletes a row, and takes rows in ascending order only. A run that was rolled
    back or killed repeats steps. These go into new rows, so that W&B has both records of a step.
    The directory ``wandb`` of the run keeps the number of the last row.

    Args:
      config: of the run.
      where: its directory.
      start: the step at which the run starts or resumes.

    Raises:
      ValueError: ``wandb.resume`` is ``"must"``, and W&B has no run of this directory.
    """

    def __init__(self, config: Config, where: Path, start: int):
        import wandb

        (folder := where / "wandb").mkdir(exist_ok=True)
        identity, self._last_row, agent = folder / "id", folder / "row", wandb_agent.started()
        known = identity.read_text(encoding="utf-8") if identity.is_file() else None
        settings = config.wandb
        if settings.resume == "must" and known is None and not agent:
            raise ValueError(
                f"wandb.resume is 'must', and {identity} does not name a run to continue. Use "
                "'allow' for a new run"
            )
        self._wandb, self._config, self._where, self._agent = wandb, config, where, agent
        self._step, self._row = -1, start - 1
        with suppress(OSError, ValueError):  # none yet, or damaged
            self._row = int(self._last_row.read_text(encoding="utf-8"))
        self._defined: set[str] = set()
        # Without a network it would wait for ever; `wandb sync` sends the files later.
        client = wandb.Settings(finish_timeout=300)
        if sys.stdout is not sys.__stdout__:  # what the process prints is not of this run alone
            client.console = "off"
        self._run = wandb.init(
            # An agent sets the entity, the project, the id and the name of its runs.
            entity=None if agent else settings.entity,
            project=None if agent else settings.project,
            id=None if agent else known or uuid.uuid4().hex[:8],
            name=settings.name or (None if agent else config.name),
            group=settings.group,
            job_type=settings.job_type,
            tags=settings.tags or None,
            notes=settings.notes,
            resume=settings.resume,
            mode=settings.mode,
            dir=where,
            config=to_dict(config),
            reinit="create_new",
            settings=client,
        )
        write(identity, self._run.id)

    def log(self, step: int, kind: str, values: Mapping[str, int | float]) -> None:
        """As :meth:`dst.train.records.loggers.Logger.log`."""
        self._send(step, _named(kind, values))

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
            self._send(step, {f"pictures/{name}": picture})

    def rewind(self, step: int) -> None:
        """As :class:`dst.train.records.loggers.Logger` says: the next record has a new row."""
        self._step = -1

    def close(self, summary: Mapping[str, Any] | None) -> None:
        """As :meth:`dst.train.records.loggers.Logger.close`."""
        if summary is None:
            self._run.finish(exit_code=1)
            return
        layers = summary["layers"]
        rows = [[str(v) if k == "shape" else v for k, v in row.items()] for row in layers]
        columns = ["layer" if name == "path" else name for name in layers[0]]
        table = self._wandb.Table(columns=columns, data=rows)
        self._send(summary["steps"], {"layers": table}, commit=True)
        numbers = {k: v for k, v in summary.items() if isinstance(v, (int, float))}
        self._run.summary.update(numbers | self._best_values(numbers))
        wandb_artifacts.log(self._run, self._config, self._where)
        self._run.finish()

    def _send(self, step: int, values: dict[str, Any], commit: bool | None = None) -> None:
        """Adds values to the row of this step, or begins one."""
        for name in values.keys() - self._defined:
            # By their full names: of two patterns that fit a name, W&B takes any.
            self._run.define_metric(name, step_metric=_STEP, summary=self._aggregate(name))
            self._defined.add(name)
        if step != self._step:
            self._step, self._row = step, max(self._row + 1, step)
            write(self._last_row, str(self._row))
        self._run.log({**values, _STEP: step}, step=self._row, commit=commit)

    def _aggregate(self, name: str) -> str | None:
        """What W&B's summary holds of a metric."""
        if name.partition("/")[0] in _PER_LAYER and "/" in name:
            return "none"  # one figure per layer: too many columns for the table of runs
        # The pages of an agent's sweep want the metric as one number.
        return f"{_BEST[name].__name__},last" if name in _BEST and not self._agent else None

    def _best_values(self, last: Mapping[str, float]) -> dict[str, dict[str, float]]:
        """The best and the last value of every score, over all parts of a resumed run."""
        records = json_lines.read(self._where / run_dir.METRICS)
        values = {
            name: [x[name] for x in records if x["kind"] == "eval" and name in x]
            for name in _BEST.keys() & last.keys()
            if not self._agent
        }
        return {
            name: {_BEST[name].__name__: _BEST[name](own), "last": last[name]}
            for name, own in values.items()
            if own
        }


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
