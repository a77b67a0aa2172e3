"""Trials as processes of this machine, each in an ordinary run directory."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from dst.studies.sweep.spec import Sweep
from dst.studies.sweep.storage import Assignment
from dst.studies.sweep.trial import Trial, trial_directory
from dst.train.distributed import signals
from dst.train.records import run_dir

STOPPED = 75  # the exit code of a run that has written a checkpoint for a signal
POLL = 0.2  # seconds


class Workers:
    """Processes that train trials until none is left.

    Args:
      sweep: that is run.
      assign: assigns the next trial; None: there is none now.
      where: the directory of the sweep.
      count: how many trials train at a time.
    """

    def __init__(
        self, sweep: Sweep, assign: Callable[[], Assignment | None], where: Path, count: int
    ):
        self._sweep, self._assign, self._where, self._count = sweep, assign, where, count
        # None: another process still uses the directory.
        self._trials: list[tuple[Trial, subprocess.Popen | None]] = []

    def run(self, request: signals.Request, show: Callable[[], None]) -> None:
        """Trains trials until none is left, or until a signal.

        Args:
          request: of the signal; then trials are stopped with a checkpoint and released.
          show: called several times a second.
        """
        try:
            while self._step(request):
                show()
                time.sleep(POLL)
            show()
        finally:
            self._stop()

    def _step(self, request: signals.Request) -> bool:
        """Looks after the trials once; False when this worker has nothing more to do."""
        if request.name is not None:
            self._stop()
        waiting, self._trials = self._trials, []
        for trial, process in waiting:
            self._look_after(trial, process)
        while request.name is None and len(self._trials) < self._count:
            if (assignment := self._assign()) is None:
                break
            run = trial_directory(self._where, assignment.number)
            self._look_after(Trial(self._sweep, assignment, run), None)
        return bool(self._trials)

    def _look_after(self, trial: Trial, process: subprocess.Popen | None) -> None:
        if process is None and (trial.run / run_dir.SUMMARY).is_file():
            trial.conclude()
            return
        if process is None:
            process = self._start(trial)
        elif (code := process.poll()) is not None:
            self._end(trial, code)
            return
        behind = trial.behind
        trial.look()
        if trial.behind and not behind and process is not None:
            process.terminate()
        self._trials.append((trial, process))

    def _start(self, trial: Trial) -> subprocess.Popen | None:
        """Trains or resumes. None: a process that outlived its worker still trains this trial."""
        if trial.started and trial.in_use:
            return None
        command = self._sweep.command
        words = command.words(trial.run, trial.overrides, trial.started)
        trial.run.parent.mkdir(parents=True, exist_ok=True)
        environment = {
            # Trials that differ in values only share their compiled programs.
            "JAX_COMPILATION_CACHE_DIR": str(self._where / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
            **os.environ,
            **command.environment(trial.run),
        }
        with trial.log.open("a", encoding="utf-8") as log:
            return subprocess.Popen(
                words,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches it once: from here
            )

    def _end(self, trial: Trial, code: int) -> None:
        if trial.behind:
            trial.assignment.pruned()
        elif code == STOPPED:
            trial.assignment.release()
        elif code != 0:
            trial.assignment.failed(_last_words(trial.log, code))
        else:
            trial.conclude()

    def _stop(self) -> None:
        """Stops all trials with a checkpoint, and releases them."""
        for _, process in self._trials:
            if process is not None:
                process.send_signal(signal.SIGTERM)
        for trial, process in self._trials:
            code = STOPPED if process is None else process.wait()
            # A trial without a checkpoint yet starts again.
            self._end(trial, STOPPED if code in (-signal.SIGTERM, 130) else code)
        self._trials.clear()


def _last_words(log: Path, code: int) -> str:
    """The error of a process, from what it printed."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [x for x in lines if x.startswith("error: ")] or [x for x in lines if x.strip()]
    how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"{how}: {errors[-1] if errors else 'no message'}"
