"""A trial in training: reports what its run directory says to the storage."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from dst.studies.sweep.spec import Sweep
from dst.studies.sweep.storage import HEARTBEAT, Assignment
from dst.train.records import loggers, run_dir, summary


def trial_directory(where: Path, number: int) -> Path:
    """The run directory of a trial."""
    return where / "trials" / f"{number:05d}"


@dataclass
class Trial:
    """A trial of this worker.

    Attributes:
      sweep: that it belongs to.
      assignment: of the trial to this worker.
      run: its directory.
      behind: whether it should end early, because its metric is worse than that of other trials.
      silence: seconds for which this worker may be busy with something else.
    """

    sweep: Sweep
    assignment: Assignment
    run: Path
    behind: bool = False
    silence: float = 0.0
    _reported: int = 0  # evaluations that the storage knows
    _heartbeat: float = 0.0  # when the last one was

    @property
    def overrides(self) -> list[str]:
        """What the command of the trial has beside that of all."""
        one = self.assignment
        return self.sweep.command.overrides(self.sweep.name, one.number, one.overrides)

    @property
    def started(self) -> bool:
        """Whether there is something to resume."""
        return (self.run / run_dir.CONFIG).is_file()

    @property
    def in_use(self) -> bool:
        """Whether a process that outlived its worker still uses the directory."""
        try:
            run_dir.lock(self.run).close()
        except run_dir.DirectoryError:
            return True
        return False

    @property
    def log(self) -> Path:
        """What the run prints."""
        return self.run.with_suffix(".log")

    def look(self) -> None:
        """Sends a heartbeat every few seconds, and reports new evaluations, which may show that
        the trial is behind."""
        if time.monotonic() - self._heartbeat > HEARTBEAT:
            self.assignment.alive(self.silence)
            self._heartbeat = time.monotonic()
        if self.sweep.early_terminate is None or self.behind:
            return
        name = self.sweep.metric.name
        lines = loggers.read(self.run / run_dir.METRICS)
        values = [x[name] for x in lines if x["kind"] == "eval" and name in x]
        for value in values[self._reported :]:
            self._reported += 1
            self.behind = self.behind or self.assignment.behind(self._reported, float(value))

    def conclude(self) -> None:
        """Reports the metric of a trial that has ended."""
        figures = summary.read(self.run / run_dir.SUMMARY)
        if figures is None:
            self.assignment.failed(
                f"expected {run_dir.SUMMARY} in {self.run}, found none. A script writes it by "
                "dst.train.Recorder.finish."
            )
            return
        name = self.sweep.metric.name
        value = figures.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            numbers = [k for k, v in figures.items() if isinstance(v, int | float)]
            self.assignment.failed(f"metric.name must be one of {numbers}, got {name!r}.")
        else:
            self.assignment.done(float(value))
