"""Runs from Python: train what a config describes, and look at what a run directory holds."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from flax import nnx

import dst
import dst.nnx
from dst.core import extras
from dst.train import loop, setup, state
from dst.train.config import run as configs
from dst.train.data import load
from dst.train.records import checkpoint, fallback, json_lines, run_dir, summary

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, init=False)
class Run:
    """A run directory of the trainer or of a :class:`dst.train.Recorder`.

    Attributes:
      directory: where it lies.

    Raises:
      DirectoryError: it is no run directory.

    Example:
      >>> run = Run("runs/digits-rigl")  # doctest: +SKIP
      >>> run.figures["accuracy"], run.frame("eval").plot(x="step", y="loss")  # doctest: +SKIP
    """

    directory: Path

    def __init__(self, directory: str | os.PathLike[str]):
        object.__setattr__(self, "directory", Path(directory))
        run_dir.check_run(self.directory)

    @property
    def config(self) -> configs.Config:
        """The resolved config. A Recorder's has settings of your own: read ``config.yaml``.

        Raises:
          ConfigError: settings that are none of the trainer's.
        """
        return configs.load(self.directory / run_dir.CONFIG)

    @property
    def figures(self) -> dict[str, Any] | None:
        """What ``summary.json`` holds; None for a run that has not ended."""
        return summary.read(self.directory / run_dir.SUMMARY)

    @property
    def records(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``: ``step``, ``kind`` and numbers by name."""
        return json_lines.read(self.directory / run_dir.METRICS)

    def frame(self, kind: str | None = None) -> pandas.DataFrame:
        """The records as a pandas data frame, one row each.

        Args:
          kind: ``"train"``, ``"eval"`` or ``"topology"``; None: all.

        Raises:
          ModuleNotFoundError: pandas is not installed.
        """
        with extras.required():
            import pandas
        rows = [row for row in self.records if kind in (None, row["kind"])]
        return pandas.DataFrame(rows).dropna(axis="columns", how="all")

    @property
    def masks(self) -> dict[str, np.ndarray]:
        """bool masks at the end, by leaf path; those of the start while there is no end."""
        for name in (run_dir.MASKS_FINAL, run_dir.MASKS_INITIAL):
            if (self.directory / name).is_file():
                return dst.load_masks(self.directory / name)
        raise run_dir.DirectoryError(
            f"{self.directory} holds no masks: the run has not begun. `dst resume` trains it."
        )

    @cached_property
    def _restored(self) -> tuple[int, state.TrainState]:
        checkpoints = self.directory / run_dir.CHECKPOINTS
        step = checkpoint.newest_whole(checkpoints)
        if step is None:
            raise run_dir.DirectoryError(
                f"{checkpoints} holds no checkpoint. A Recorder writes none: restore your own."
            )
        pieces = setup.make(self.config)
        return fallback.restore(checkpoints, step, pieces.begin(), other=pieces.other_form)

    @property
    def step(self) -> int:
        """Updates done before the newest checkpoint."""
        return self._restored[0]

    def model(self, *, average: bool = False, attach_masks: bool = True) -> nnx.Module:
        """The network with the weights of the newest checkpoint.

        Args:
          average: whether its weights are the moving average, with inactive ones set to zero.
          attach_masks: whether it carries its masks, as :class:`dst.nnx.Optimizer` attaches them.

        Raises:
          DirectoryError: there is no checkpoint.
          ValueError: ``average`` of a run that keeps none.
        """
        config, (_, last) = self.config, self._restored
        params = last.weights
        if average:
            if last.ema is None:
                raise ValueError(
                    f"{self.directory} keeps no average: expected optimizer.ema in its config, "
                    "found null. Leave `average` out."
                )
            params = dst.apply_masks(last.ema, last.opt_state)
        dataset = load(config.data)
        model = state.network(config.model, dataset.shape, dataset.classes, config.seed)
        nnx.update(model, params, last.variables)
        if attach_masks:
            dst.nnx.attach(model, dst.masks(last.opt_state))
        model.eval()
        return model


def run(
    config: str | os.PathLike[str] | Mapping[str, Any] | configs.Config,
    overrides: Sequence[str] = (),
    *,
    where: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> Run:
    """Trains what a config describes: ``dst train`` from Python.

    Args:
      config: a YAML file, the same as nested dictionaries, or a resolved config.
      overrides: ``key=value`` with dotted keys.
      where: the run directory; None: ``runs/<name>``.
      overwrite: whether an earlier run in that directory is replaced.

    Returns:
      The run, when it has ended.

    Raises:
      ConfigError, DirectoryError, SetupError: before training.
      Diverged: a loss is not finite, and ``train.on_nonfinite`` says to stop.
      Stopped: by SIGTERM or SIGINT, with a checkpoint.

    Example:
      >>> import dst.train
      >>> run = dst.train.run("configs/digits/rigl.yaml", ["seed=1"])  # doctest: +SKIP
      >>> run.figures["accuracy"], run.masks["out/kernel"].mean()  # doctest: +SKIP
    """
    if not isinstance(config, configs.Config):
        config = configs.load(config, overrides)
    elif overrides:
        raise configs.ConfigError("overrides: expected none beside a resolved config.")
    directory = Path(where) if where is not None else Path("runs") / config.name
    loop.train(config, directory, overwrite=overwrite)
    return Run(directory)
