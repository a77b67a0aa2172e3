"""One task after the other: each begins where the one before has ended."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import dst
from dst.rules.rule import Rule
from dst.studies import runs
from dst.studies.continual.sequence import Learned, Tasks, Weights, name_of
from dst.train import loop
from dst.train.config.run import Config
from dst.train.config.warm_start import Start
from dst.train.records import run_dir


def learn(tasks: Tasks, where: Path, number: int) -> Learned:
    """Trains a task, unless that has been done.

    Args:
      tasks: of the study.
      where: its directory; the task before has been learned there.
      number: of the task, from 1.
    """
    config = tasks.run(number, name_of(number))
    if number > 1:
        config = _continued(config, where / name_of(number - 1))
    run = where / name_of(number)
    figures = loop.finish(config, run)
    weights = dst.load_weights(runs.last_weights(config, run))

    def of(task: int) -> Weights:
        return weights

    return Learned(run, figures, of)


def _continued(config: Config, before: Path) -> Config:
    """The config of a run that begins with what another one has left.

    Where a method ramps its sparsity up, it begins without masks, as in the first task.
    """
    masks: Path | None = before / run_dir.MASKS_FINAL
    rule = config.rule()
    ramps = isinstance(rule, Rule) and rule.how_many.ramp is not None
    if config.method.name == "dense" or (ramps and rule.how_many.drop_to is None):  # type: ignore[union-attr]
        masks = None
        # Random connections would cut trained weights.
        config = replace(config, sparsify=replace(config.sparsify, initial="magnitude"))
    start = Start(
        weights=str(runs.last_weights(config, before)),
        masks=None if masks is None else str(masks),
    )
    return replace(config, start=start)
