"""Trials that train together in one program, where they can share one; the others as processes.

The training loop of each trial is a generator (:mod:`dst.train.work`). The engine continues one
after the other until each wants an update, computes all these updates together, and sends each
trial its own result. The states lie together between updates. All else is the trial's own: input,
records, evaluation, checkpoints, its end.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import ExitStack, closing, redirect_stderr, redirect_stdout
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, TextIO

import jax

from dst.report.run import write_report
from dst.studies.sweep.command import vectorisable
from dst.studies.sweep.engines import groups
from dst.studies.sweep.engines.batch import Program
from dst.studies.sweep.engines.groups import Candidate, PlainData
from dst.studies.sweep.engines.merge import Different
from dst.studies.sweep.engines.processes import POLL, Workers
from dst.studies.sweep.spec import Sweep
from dst.studies.sweep.storage import Assignment, Entry, Storage
from dst.studies.sweep.trial import Trial, trial_directory
from dst.train import loop
from dst.train.config import run as config
from dst.train.config.run import Config, ConfigError
from dst.train.distributed import signals
from dst.train.records import run_dir
from dst.train.setup import Setup
from dst.train.state import TrainState
from dst.train.work import Result, Work

# While it compiles, this process does nothing else. Other workers wait so many seconds longer
# before they count its trials as lost.
SILENCE = 600.0


class Vectorised:
    """Trains trials batch after batch. Trials that fit into no batch train as processes do.

    Args:
      sweep: that is run.
      storage: of the sweep.
      where: the directory of the sweep.
      batch: trials in a program, at most.
      workers: processes for the others.
      report: gets a line on every batch, and on why trials are not in one.
    """

    def __init__(
        self,
        sweep: Sweep,
        storage: Storage,
        where: Path,
        batch: int,
        workers: int,
        report: Callable[[str], None],
    ):
        self._command = vectorisable(sweep.command)
        self._sweep, self._storage, self._where, self._report = sweep, storage, where, report
        self._batch, self._workers = batch, workers
        self._patterns: dict[tuple[str, ...], PlainData] = {}
        settings: Any = jax.config
        if not settings.jax_compilation_cache_dir:  # trials share what each computes alone
            jax.config.update("jax_compilation_cache_dir", str(where / "compiled"))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

    def run(self, request: signals.Request, show: Callable[[], None]) -> None:
        """As :meth:`dst.studies.sweep.engines.processes.Workers.run`."""
        while request.name is None and (assignments := self._assignments()):
            batches, alone = self._batches([self._trial(x) for x in assignments], show)
            for batch in batches:
                self._train(batch, show)
            if alone:
                next_one = partial(next, rest := iter(alone), None)
                Workers(self._sweep, next_one, self._where, self._workers).run(request, show)
                for assignment in rest:  # a signal came first
                    assignment.release()
        show()

    def _trial(self, assignment: Assignment) -> Trial:
        run = trial_directory(self._where, assignment.number)
        return Trial(self._sweep, assignment, run, silence=SILENCE)

    def _assignments(self) -> list[Assignment]:
        """Trials that perhaps fit into one batch: their configs differ in numbers only."""
        assignments: list[Assignment] = []

        def fits(entry: Entry) -> bool:
            if entry.overrides is None:
                return False
            return self._pattern(entry.overrides) == self._pattern(assignments[0].overrides)

        while len(assignments) < self._batch:
            some = assignments and self._sweep.method != "bayes"
            assignment = self._storage.assign(fits if some else None)
            if assignment is None:
                break
            assignments.append(assignment)
        return assignments

    def _pattern(self, overrides: tuple[str, ...]) -> PlainData:
        if overrides not in self._patterns:
            settings = self._command.load(overrides)
            self._patterns[overrides] = groups.without_numbers(config.to_dict(settings))
        return self._patterns[overrides]

    def _batches(
        self, trials: list[Trial], show: Callable[[], None]
    ) -> tuple[list[list[Candidate]], list[Assignment]]:
        """Batches of trials that share a program, and the trials that are in none."""
        alone: list[tuple[str, Assignment]] = []
        candidates: list[Candidate] = []
        made: dict[str, Setup] = {}

        def alive() -> None:
            show()
            for trial in trials:
                trial.look()

        for trial in trials:
            alive()
            try:
                candidates.append(groups.candidate(trial, self._command, made))
            except (Different, ConfigError) as error:  # of an error, processes say more
                alone.append((str(error), trial.assignment))
        compatible = groups.grouped(candidates, alive)
        alone += [(why, group[0].trial.assignment) for why, group in compatible if len(group) == 1]
        for why, members in groupby(alone, lambda x: x[0]):
            self._report(f"not merged: {_listed(x.number for _, x in members)}: {why}")
        batches = [
            part
            for _, group in compatible
            if len(group) > 1
            for part in groups.by_topology_steps(group)
        ]
        return batches, [assignment for _, assignment in alone]

    def _train(self, batch: list[Candidate], show: Callable[[], None]) -> None:
        """Trains a batch until all its trials have ended, and the storage knows how."""
        program = Program([x.trace for x in batch if x.trace])
        self._report(f"one program: {_listed(x.trial.assignment.number for x in batch)}")
        looked = 0.0
        with ExitStack() as stack:
            trials = [stack.enter_context(closing(BatchedTrial(x))) for x in batch]
            results: Mapping[int, Result | Exception | None]
            results = dict.fromkeys(range(len(trials)))
            while results:
                work = {}
                for i, result in results.items():
                    if (wanted := trials[i].advance(result)) is not None:
                        work[i] = wanted
                    if time.monotonic() - looked > POLL:
                        show()
                        for trial in trials:
                            trial.look()
                        looked = time.monotonic()
                results = program.results(work)


class BatchedTrial:
    """A trial that trains together with others.

    Args:
      candidate: the trial, and the pieces of its run.
    """

    def __init__(self, candidate: Candidate):
        self._trial, self._loop = candidate.trial, _loop(candidate)
        self._log: TextIO | None = None
        self._ended = False

    def advance(self, result: Result | Exception | None) -> Work | None:
        """Continues the training loop until it wants something.

        Args:
          result: of what it wanted, or the exception that it raised; None: there was none.

        Returns:
          What the loop wants. None: the trial has ended, and the storage knows how.
        """
        try:
            if self._log is None:
                self._trial.run.parent.mkdir(parents=True, exist_ok=True)
                self._log = self._trial.log.open("a", encoding="utf-8")
            with redirect_stdout(self._log), redirect_stderr(self._log):
                if self._trial.behind:
                    self._loop.close()
                    end = self._trial.assignment.pruned
                else:
                    return self._send(result)
        except StopIteration as stop:
            end = stop.value
        except OSError as error:  # of the log
            end = partial(self._trial.assignment.failed, str(error))
        self.close()
        end()
        return None

    def look(self) -> None:
        """As :meth:`dst.studies.sweep.trial.Trial.look`, until the trial has ended."""
        if not self._ended:
            self._trial.look()

    def close(self) -> None:
        """Ends the training loop where it stands."""
        self._ended = True
        self._loop.close()
        if self._log is not None:
            self._log.close()

    def _send(self, result: Result | Exception | None) -> Work:
        return (
            self._loop.throw(result) if isinstance(result, Exception) else self._loop.send(result)
        )


def _loop(candidate: Candidate) -> Generator[Work, Any, Callable[[], None]]:
    """The training loop of a trial; returns what tells the storage how it ended."""
    trial, begin = candidate.trial, candidate.pieces.begin

    def first() -> TrainState:
        state, candidate.state = candidate.state, None  # the run frees its buffers
        return begin() if state is None else state

    def make(_: Config) -> Setup:
        return candidate.pieces._replace(begin=first)

    try:
        if (trial.run / run_dir.SUMMARY).is_file():
            return trial.conclude
        if trial.started:
            yield from loop.resuming(trial.run, make=make, report=write_report, donated=False)
        else:
            settings = candidate.pieces.config
            yield from loop.training(
                settings, trial.run, make=make, report=write_report, donated=False
            )
    except signals.Stopped as reason:
        print(reason)
        return trial.assignment.release
    except Exception as error:
        traceback.print_exc()
        return partial(trial.assignment.failed, f"{type(error).__name__}: {error}")
    return trial.conclude


def _listed(numbers: Iterable[int]) -> str:
    listed = list(numbers)
    return f"trial{'s' * (len(listed) > 1)} {', '.join(map(str, listed))}"
