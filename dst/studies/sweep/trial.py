"""A trial in training: what its run directory says, told to the book."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from dst.studies.sweep.spec import Sweep
from dst.studies.sweep.storage import BEAT, Claim
from dst.train.records import loggers as logs
from dst.train.records import run_dir as directory


def trial_directory(where: Path, number: int) -> Path:
    """The run directory of a trial."""
    return where / "trials" / f"{number:05d}"


@dataclass
class Trial:
    """A trial of this worker.

    Attributes:
      sweep: that it belongs to.
      claim: on it.
      run: its directory.
      behind: whether it was asked to end because it is behind.
    """

    sweep: Sweep
    claim: Claim
    run: Path
    behind: bool = False
    _told: int = 0  # evaluations that the book knows
    _seen: float = 0.0

    @property
    def overrides(self) -> list[str]:
        """Of the sweep's config, all of them."""
        name = f"name={self.sweep.name}-{self.claim.number:05d}"
        return [*self.sweep.fixed, *self.claim.overrides, name]

    @property
    def begun(self) -> bool:
        """Whether there is something to resume."""
        return (self.run / directory.CONFIG).is_file()

    @property
    def in_use(self) -> bool:
        """Whether a process that outlived its worker still has the directory."""
        try:
            directory.lock(self.run).close()
        except directory.DirectoryError:
            return True
        return False

    @property
    def log(self) -> Path:
        """What the run prints."""
        return self.run.with_suffix(".log")

    def look(self) -> None:
        """Says every few seconds that somebody is at it, and compares new evaluations with those
        of other trials."""
        if time.monotonic() - self._seen > BEAT:
            self.claim.alive()
            self._seen = time.monotonic()
        if self.sweep.early_terminate is None or self.behind:
            return
        name = self.sweep.metric.name
        lines = logs.read(self.run / directory.METRICS)
        found = [x[name] for x in lines if x["kind"] == "eval" and name in x]
        for value in found[self._told :]:
            self._told += 1
            self.behind = self.behind or self.claim.behind(self._told, float(value))

    def conclude(self) -> None:
        """The trial is over: its figures are there."""
        figures = json.loads((self.run / directory.SUMMARY).read_text(encoding="utf-8"))
        name = self.sweep.metric.name
        value = figures.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            numbers = [k for k, v in figures.items() if isinstance(v, int | float)]
            self.claim.failed(f"metric.name must be one of {numbers}, got {name!r}.")
        else:
            self.claim.done(float(value))
