"""A run: from its first step, or its newest checkpoint, to its summary."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

import dst
from dst.core.files import write, write_json
from dst.train import setup
from dst.train.config import resume_overrides as changes
from dst.train.config.run import Config, dump, enclosed, load
from dst.train.data.stream import Batches
from dst.train.distributed import processes as hosts
from dst.train.distributed import signals
from dst.train.distributed.signals import Stopped
from dst.train.nonfinite import Diverged, Rollback, Watch
from dst.train.objectives.task import score
from dst.train.records import checkpoint, summary
from dst.train.records import loggers as logs
from dst.train.records import run_dir as directory
from dst.train.records.costs import RunCosts
from dst.train.setup import Setup
from dst.train.state import TrainState
from dst.train.step import observe, owes

__all__ = ["Diverged", "Stopped", "finish", "resume", "train"]

Make = Callable[[Config], Setup]


@dataclass
class Point:
    """Where a run stands.

    Attributes:
      step: optimizer updates done.
      state: after them; nobody else holds it, since every step gives its buffers away.
      drawn: batches drawn so far; more than ``step`` once a rollback has passed some by.
    """

    step: int
    state: TrainState
    drawn: int


def train(
    config: Config,
    where: Path,
    *,
    overwrite: bool = False,
    until: int | None = None,
    make: Make | None = None,
) -> dict[str, Any] | None:
    """Trains a new run.

    Args:
      config: of the run.
      where: its directory.
      overwrite: whether a run that is already there is replaced.
      until: stop after this many steps, with a checkpoint, as if interrupted; None: at the end.
      make: builds the pieces from the config; None: :func:`dst.train.setup.make`.

    Returns:
      The figures of ``summary.json``; None for a run that stopped before its end.

    Raises:
      ConfigError, DirectoryError: before anything is written.
      Diverged: a loss that is not finite, where ``train.on_nonfinite`` has no answer left.
      Stopped: by SIGTERM or SIGINT, with a checkpoint.
      CheckpointError: the last checkpoint could not be written.
    """
    hosts.join(config.hosts)
    hosts.decided(lambda: directory.check_free(where, overwrite))
    made = (make or setup.make)(config)
    kept, files = enclosed(made.config)
    new = partial(directory.create, where, dump(kept), overwrite, files)
    with hosts.held(new), signals.caught() as request:
        return _run(made, where, None, until, request)


def resume(
    where: Path,
    overrides: Sequence[str] = (),
    *,
    changed: bool = False,
    until: int | None = None,
    make: Make | None = None,
) -> dict[str, Any] | None:
    """Continues a run at its newest whole checkpoint, bit for bit as if it had never stopped.

    Args:
      where: its directory.
      overrides: ``key=value``; the run goes on with them and its config is saved with them.
      changed: whether they may change the mathematics; see :mod:`resume_overrides`.
      until, make: as for :func:`train`, as are result and errors.
    """
    directory.check_run(where)
    hosts.join(load(where / directory.CONFIG, overrides).hosts)
    with hosts.held(partial(directory.lock, where)), signals.caught() as request:
        made = (make or setup.make)(changes.applied(where, overrides, changed))
        point = _newest(made, where)
        if overrides:  # now that they are known to fit the checkpoint
            text = dump(enclosed(made.config)[0])
            hosts.decided(lambda: write(where / directory.CONFIG, text))
        return _run(made, where, point, until, request)


def finish(config: Config, where: Path) -> dict[str, Any]:
    """The figures of a finished run; before, it is trained, or continued where it stopped.

    Args:
      config: of the run; one that is already there keeps its own.
      where: its directory.
    """
    if (where / directory.SUMMARY).is_file():
        return json.loads((where / directory.SUMMARY).read_text(encoding="utf-8"))
    with signals.caught() as request:
        request.check()  # a signal that came between two runs of a study
        print(f"\n{where.name}")
        begun = (where / directory.CONFIG).is_file()
        figures = resume(where) if begun else train(config, where)
    assert figures is not None  # only `until` leaves a run without
    return figures


def _run(
    made: Setup, where: Path, at: Point | None, until: int | None, request: signals.Request
) -> dict[str, Any] | None:
    """Trains until the end, a signal, or a divergence to which the config has no answer."""
    began, settings, saved = time.perf_counter(), made.config.train, where / directory.CHECKPOINTS
    stop = settings.steps if until is None else min(until, settings.steps)
    print(made.plan, *made.notes, sep="\n")
    costs = made.costs()
    rollback = Rollback(settings.on_nonfinite, saved)
    with checkpoint.Writer(saved, settings.keep, settings.keep_best) as writer:
        if new := at is None:
            at = _first(made, where)
            writer.save(at.step, at.state, _position(at))
        with logs.Loggers(made.config, where, at.step) as told:
            if new:
                told.show(at.step, at.state.opt_state, always=True)
            while at.step < stop:
                try:
                    with closing(made.batches(at.drawn)) as batches:
                        _steps(made, where, at, stop, batches, costs, writer, told, request)
                    break
                except Diverged as error:
                    writer.wait()
                    at.step, before = rollback.to(error), at.step
                    at.drawn -= before - error.step  # the first batch after the bad one
                    at.state = checkpoint.restore(saved, at.step, at.state)
                    told.rewind(at.step)
            writer.finish()
            if at.step < stop:
                raise Stopped(f"stopped by {request.name} after step {at.step} of {stop}")
            if stop < settings.steps:
                return None
            told.show(at.step, at.state.opt_state, always=True)
            seconds = time.perf_counter() - began
            last = at.state._replace(opt_state=hosts.gathered(at.state.opt_state))

            def conclude() -> dict[str, Any]:
                figures = summary.make(last, told.records(), settings.steps, seconds)
                sparsities = {row["path"]: row["sparsity"] for row in figures["layers"]}
                return figures | costs.figures(sparsities)

            told.finish(figures := hosts.decided(conclude))

    _keep(where / directory.MASKS_FINAL, dst.save_masks, dst.masks(last.opt_state))
    hosts.decided(lambda: write_json(where / directory.SUMMARY, figures))
    print(summary.table(figures))
    return figures


def _steps(
    made: Setup,
    where: Path,
    at: Point,
    stop: int,
    batches: Batches,
    costs: RunCosts,
    writer: checkpoint.Writer,
    told: logs.Loggers,
    request: signals.Request,
) -> None:
    """The training loop; ends with a checkpoint, at ``stop`` or where a signal has asked for it."""
    settings = made.config.train
    log_every = settings.interval("log_every")
    eval_every = settings.interval("eval_every")
    save_every = settings.interval("checkpoint_every")
    snapshots = settings.snapshot_steps()

    def pauses(step: int) -> bool:
        """Whether a call has to end after this step."""
        due = any(step % every == 0 for every in (log_every, eval_every, save_every))
        return due or step == stop or step in snapshots or made.fires(step)

    forward_cost = jax.jit(costs.costs.metrics)

    watch = Watch(settings.on_nonfinite, at.state)
    due = sum(map(made.fires, range(at.step)))  # topology steps, skipped ones included
    owed = owes(at.state, due)
    logged, since = at.step, time.perf_counter()
    leaving = False
    while not leaving:
        fires = made.fires(at.step)
        topology, due = fires or owed, due + fires
        if topology or settings.steps_per_call == 1:
            n, batch = 1, next(batches)
            at.state, metrics = made.step(at.state, *batch, topology=topology)
            losses = metrics["loss"]
        else:
            n = _uninterrupted(at.step, settings.steps_per_call, pauses)
            at.state, metrics, losses = made.steps(at.state, *batches.take(n), n)
        watch.took(range(at.step + 1, at.step + 1 + n), losses, metrics)
        at.step, at.drawn = at.step + n, at.drawn + n

        logs_now, saves, rank = at.step % log_every == 0, at.step % save_every == 0, None
        leaving = at.step == stop or signals.any_process_wants_to_stop(request, agree=logs_now)
        if topology:
            told.log(at.step, "topology", observe(at.state))
            told.show(at.step, at.state.opt_state)
            owed = owes(at.state, due)
        if logs_now:
            watch.look()
            speed = (at.step - logged) / (time.perf_counter() - since)
            told.log(at.step, "train", metrics | {"steps_per_second": np.float32(speed)})
            logged, since = at.step, time.perf_counter()
        if at.step % eval_every == 0 or at.step == settings.steps or (saves and settings.keep_best):
            scores = made.evaluate(at.state)
            watch.look({at.step: scores["loss"]})
            told.log(at.step, "eval", scores | observe(at.state) | forward_cost(at.state.opt_state))
            rank = score(scores)
        if at.step in snapshots:  # before the checkpoint: a run that is resumed has passed it
            _keep(where / directory.weights(at.step), dst.save_weights, at.state.params)
        if saves or leaving:
            watch.look()
            watch.look_at_weights(at.step, at.state)
            writer.save(at.step, at.state, _position(at), rank)


def _uninterrupted(begin: int, most: int, pauses: Callable[[int], bool]) -> int:
    """How many updates follow one another from a step on, at least one."""
    return next((n for n in range(1, most) if pauses(begin + n)), most)


def _position(at: Point) -> dict[str, Any]:
    """Where the input stands, for a checkpoint."""
    return {"drawn": at.drawn}


def _keep(path: Path, save: Callable[[Path, Any], None], arrays: Any) -> None:
    """A file for good: of several processes, the first one writes it."""
    whole = hosts.gathered(arrays)
    hosts.decided(lambda: save(path, whole))


def _first(made: Setup, where: Path) -> Point:
    """The beginning of a run."""
    start, state = made.config.start.step, made.begin()
    _keep(where / directory.MASKS_INITIAL, dst.save_masks, dst.masks(state.opt_state))
    if start in made.config.train.snapshot_steps():
        _keep(where / directory.weights(start), dst.save_weights, state.params)
    return Point(start, state, drawn=start)


def _newest(made: Setup, where: Path) -> Point | None:
    """Where the newest whole checkpoint stands, if there is one."""
    saved, steps = where / directory.CHECKPOINTS, made.config.train.steps
    step = checkpoint.newest_whole(saved)
    if step is None:
        return None
    if step > steps:
        raise setup.SetupError(f"train.steps must be at least {step}, which are done, got {steps}.")
    print(f"resuming at step {step} of {steps}")
    state = checkpoint.restore(saved, step, made.begin())
    return Point(step, state, checkpoint.position(saved, step)["drawn"])
