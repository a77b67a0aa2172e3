"""The terminal: a progress bar, and a line per evaluation."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dst.train.config.run import Config
from dst.train.objectives.figures import FIGURES

if TYPE_CHECKING:
    from rich.progress import Progress


class Screen:
    """A progress bar on a terminal, a line per evaluation elsewhere.

    Args:
      config: of the run, for its number of steps.
      where: its directory; not used.
      start: the step at which the run starts or resumes.
    """

    def __init__(self, config: Config, where: Path, start: int):
        self._steps, self._speed = config.train.steps, ""
        self._bar = _bar(self._steps, start) if sys.stdout.isatty() else None

    def log(self, step: int, kind: str, values: Mapping[str, int | float]) -> None:
        """As :meth:`dst.train.records.loggers.Logger.log`."""
        if kind == "train":
            self._speed = f"{values['steps_per_second']:.0f} steps/s"
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=step, speed=self._speed)
        if kind == "eval":
            scores = [f"test loss {values['loss']:.4f}"]
            named = ((x.words, values[name]) for name, x in FIGURES.items() if name in values)
            scores += [f"{words} {value:.4f}" for words, value in named]
            text = (
                f"step {step:>{len(str(self._steps))}} / {self._steps}  {'  '.join(scores)}  "
                f"sparsity {values['sparsity']:.4f}  explored {values['explored']:.4f}  "
                f"{self._speed}"
            )
            if self._bar:
                self._bar.console.print(text, highlight=False, soft_wrap=True)
            else:
                print(text, flush=True)

    def close(self, summary: Mapping[str, Any] | None) -> None:
        """As :meth:`dst.train.records.loggers.Logger.close`."""
        if self._bar:
            self._bar.stop()


def _bar(steps: int, start: int) -> Progress:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[speed]}"), TimeRemainingColumn()
    )
    bar.add_task("", total=steps, completed=start, speed="")
    bar.start()
    return bar
