"""A run: from its first step, or its newest checkpoint, to its summary.

:func:`train` and :func:`resume` build the pieces, ``_run`` handles divergence and signals, and
``_steps`` is the training loop. All of them are generators inside; see :mod:`dst.train.work`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import dst
from dst.core.files import write, write_json
from dst.train import setup
from dst.train.config import resume_overrides
from dst.train.config.run import Config, dump, enclosed, load
from dst.train.data.stream import Batches
from dst.train.distributed import processes, signals
from dst.train.distributed.signals import Stopped
from dst.train.nonfinite import Diverged, Rollback, Watch
from dst.train.objectives.figures import score
from dst.train.point import Point, first, newest, restored, save_arrays, trained
from dst.train.records import checkpoint, run_dir, summary
from dst.train.records.compile_time import CompileTime
from dst.train.records.costs import RunCosts
from dst.train.records.loggers import Loggers
from dst.train.setup import Setup
from dst.train.step import missed_topology_step, observe
from dst.train.work import Alone, Loop, Update, Wait, Work, drive, update

__all__ = ["Diverged", "Stopped", "finish", "resume", "resuming", "train", "training"]

Make = Callable[[Config], Setup]
Report = Callable[[Path], object]


def train(
    config: Config,
    where: Path,
    *,
    overwrite: bool = False,
    until: int | None = None,
    make: Make | None = None,
    report: Report | None = None,
) -> dict[str, Any] | None:
    """Trains a new run.

    Args:
      config: of the run.
      where: its directory.
      overwrite: whether an earlier run in that directory is replaced.
      until: stop after this many steps, with a checkpoint, as if interrupted; None: at the end.
      make: builds the pieces from the config; None: :func:`dst.train.setup.make`.
      report: writes the report of a finished run, given its directory; None: none is written.

    Returns:
      The figures of ``summary.json``; None for a run that stopped before its end.

    Raises:
      ConfigError, DirectoryError: before anything is written.
      Diverged: a loss is not finite, and ``train.on_nonfinite`` says to stop or cannot help.
      Stopped: by SIGTERM or SIGINT, with a checkpoint.
      CheckpointError: the last checkpoint could not be written.
    """
    return drive(training(config, where, overwrite, until, make, report))


def training(
    config: Config,
    where: Path,
    overwrite: bool = False,
    until: int | None = None,
    make: Make | None = None,
    report: Report | None = None,
    donated: bool = True,
) -> Loop:
    """:func:`train` as a generator, for a driver of several runs.

    Args:
      config, where, overwrite, until, make, report: as in :func:`train`.
      donated: whether an update takes the buffers of the state that the loop holds.
    """
    processes.join(config.hosts)
    processes.decided(lambda: run_dir.check_free(where, overwrite))
    pieces = (make or setup.make)(config)
    kept, files = enclosed(pieces.config)
    new = partial(run_dir.create, where, dump(kept), overwrite, files)
    with processes.held(new), signals.caught() as request:
        return (yield from _run(pieces, where, None, until, request, report, donated))


def resume(
    where: Path,
    overrides: Sequence[str] = (),
    *,
    changed: bool = False,
    until: int | None = None,
    make: Make | None = None,
    report: Report | None = None,
) -> dict[str, Any] | None:
    """Continues a run at its newest undamaged checkpoint, bit for bit as if it had never stopped.

    Args:
      where: its directory.
      overrides: ``key=value``; the run continues with them, and they are saved in its config.
      changed: whether they may change the mathematics; see
        :mod:`dst.train.config.resume_overrides`.
      until, make, report: as in :func:`train`. Result and errors are the same, too.
    """
    return drive(resuming(where, overrides, changed, until, make, report))


def resuming(
    where: Path,
    overrides: Sequence[str] = (),
    changed: bool = False,
    until: int | None = None,
    make: Make | None = None,
    report: Report | None = None,
    donated: bool = True,
) -> Loop:
    """:func:`resume` as a generator, for a driver of several runs; see :func:`training`."""
    run_dir.check_run(where)
    processes.join(load(where / run_dir.CONFIG, overrides).hosts)
    with processes.held(partial(run_dir.lock, where)), signals.caught() as request:
        saved = newest(where)
        done = saved.figures is not None
        applied = partial(resume_overrides.applied, where, overrides, changed)
        config = applied(saved.config, done)
        if saved.figures is not None:
            print(f"{where} has finished; nothing is left to do")
            print(summary.table(saved.figures))
            _write(report, where)
            return saved.figures
        pieces = (make or setup.make)(config)
        point = None if saved.step is None else restored(pieces, where, saved.step)
        if point is not None and point.step != saved.step:  # it has a config of its own
            applied(trained(where, point.step), False)
        if overrides:  # they are saved only once the checkpoint is known to fit them
            text = dump(enclosed(pieces.config)[0])
            processes.decided(lambda: write(where / run_dir.CONFIG, text))
        return (yield from _run(pieces, where, point, until, request, report, donated))


def finish(config: Config, where: Path) -> dict[str, Any]:
    """The figures of a finished run. A run that is not finished is trained or resumed first.

    Args:
      config: of the run; a run that has started keeps the config in its directory.
      where: its directory.
    """
    if (figures := summary.read(where / run_dir.SUMMARY)) is not None:
        return figures
    with signals.caught() as request:
        request.check()  # a signal that came between two runs of a study
        print(f"\n{where.name}")
        started = (where / run_dir.CONFIG).is_file()
        figures = resume(where) if started else train(config, where)
    assert figures is not None  # None needs `until`
    return figures


def _run(
    pieces: Setup,
    where: Path,
    at: Point | None,
    until: int | None,
    request: signals.Request,
    report: Report | None,
    donated: bool,
) -> Loop:
    """Trains until the end, a signal, or a divergence that no rollback can undo."""
    start_time, settings = time.perf_counter(), pieces.config.train
    checkpoints = where / run_dir.CHECKPOINTS
    stop = settings.steps if until is None else min(until, settings.steps)
    print(pieces.plan, *pieces.notes, sep="\n")
    costs = pieces.costs()
    rollback = Rollback(settings.on_nonfinite, checkpoints, pieces.other_form)
    with (
        CompileTime() as compiling,
        checkpoint.Writer(checkpoints, settings.keep, settings.keep_best, donated) as writer,
    ):
        if new := at is None:
            at = first(pieces, where)
            writer.save(at.step, at.state, at.position)
        with Loggers(pieces.config, where, at.step) as loggers:
            if new:
                loggers.show(at.step, at.state.opt_state, always=True)
            while at.step < stop:
                try:
                    with closing(pieces.batches(at.drawn)) as batches:
                        yield from _steps(
                            pieces, where, at, stop, batches, costs, writer, loggers, request
                        )
                    break
                except Diverged as error:
                    writer.wait()
                    before = at.step
                    at.step, state = rollback.to(error, at.state)
                    at.held = Alone(state)
                    at.drawn -= before - error.step  # the first batch after the bad one
                    loggers.rewind(at.step)
            yield Wait(writer.finish)
            if at.step < stop:
                raise Stopped(f"stopped by {request.name} after step {at.step} of {stop}")
            if stop < settings.steps:
                return None
            loggers.show(at.step, at.state.opt_state, always=True)
            seconds = time.perf_counter() - start_time
            last = at.state._replace(opt_state=processes.gathered(at.state.opt_state))

            def conclude() -> dict[str, Any]:
                about = (settings.steps, seconds, compiling.seconds, pieces.test_labels)
                figures = summary.make(last, loggers.records(), *about)
                sparsities = {row["path"]: row["sparsity"] for row in figures["layers"]}
                return figures | costs.figures(sparsities)

            figures = processes.decided(conclude)
            # Before loggers close: they may take the files of the run.
            save_arrays(where / run_dir.MASKS_FINAL, dst.save_masks, dst.masks(last.opt_state))
            processes.decided(lambda: write_json(where / run_dir.SUMMARY, figures))
            loggers.finish(figures)
            _write(report, where)

    print(summary.table(figures))
    return figures


def _write(report: Report | None, where: Path) -> None:
    """Writes the report of a finished run. Of several processes, the first one does."""
    if report is not None:
        processes.decided(lambda: str(report(where)))


def _steps(
    pieces: Setup,
    where: Path,
    at: Point,
    stop: int,
    batches: Batches,
    costs: RunCosts,
    writer: checkpoint.Writer,
    loggers: Loggers,
    request: signals.Request,
) -> Generator[Work, Any, None]:
    """The training loop. It ends with a checkpoint, at ``stop`` or after a signal."""
    settings = pieces.config.train
    log_every = settings.interval("log_every")
    eval_every = settings.interval("eval_every")
    save_every = settings.interval("checkpoint_every")
    snapshots, most = settings.snapshot_steps(), settings.most_per_call()

    def pauses(step: int) -> bool:
        """Whether a call has to end after this step."""
        every = (log_every, eval_every, save_every)
        scheduled = any(step % n == 0 for n in every) or pieces.fires(step)
        return scheduled or step == stop or step in snapshots

    one, several = update(pieces.step), update(pieces.steps)

    watch = Watch(settings.on_nonfinite, at.state)
    scheduled = sum(map(pieces.fires, range(at.step)))  # topology steps, skipped ones included
    missed = missed_topology_step(at.state, scheduled)
    logged, since = at.step, time.perf_counter()
    leaving = False
    while not leaving:
        fires = pieces.fires(at.step)
        topology, scheduled = fires or missed, scheduled + fires
        if topology or most == 1:
            n, batch = 1, next(batches)
            at.held, metrics = yield Update(partial(one, at.held, *batch, topology=topology))
            losses = metrics["loss"]
        else:
            n = _uninterrupted(at.step, most, pauses)
            taken = batches.take(n)
            at.held, metrics, losses = yield Update(partial(several, at.held, *taken, n=n))
        watch.add(range(at.step + 1, at.step + 1 + n), losses, metrics)
        at.step, at.drawn = at.step + n, at.drawn + n

        logs_now, saves, rank = at.step % log_every == 0, at.step % save_every == 0, None
        leaving = at.step == stop or signals.any_process_wants_to_stop(request, agree=logs_now)
        if topology:
            loggers.log(at.step, "topology", observe(at.state))
            loggers.show(at.step, at.state.opt_state)
            missed = missed_topology_step(at.state, scheduled)
        if logs_now:
            watch.check()
            speed = (at.step - logged) / (time.perf_counter() - since)
            loggers.log(at.step, "train", metrics | {"steps_per_second": np.float32(speed)})
            logged, since = at.step, time.perf_counter()
        if at.step % eval_every == 0 or at.step == settings.steps or (saves and settings.keep_best):
            scores = pieces.evaluate(at.state)
            watch.check({at.step: scores["loss"]})
            cost = costs.forward(at.state.opt_state)
            loggers.log(at.step, "eval", scores | observe(at.state) | cost)
            rank = score(scores)
        if at.step in snapshots:  # before the checkpoint: a resumed run starts after this step
            save_arrays(where / run_dir.weights(at.step), dst.save_weights, at.state.weights)
        if saves or leaving:
            watch.check()
            watch.check_weights(at.step, at.state)
            writer.save(at.step, at.state, at.position, rank)


def _uninterrupted(begin: int, most: int, pauses: Callable[[int], bool]) -> int:
    """How many updates one call may make from a step on, at least one."""
    return next((n for n in range(1, most) if pauses(begin + n)), most)
