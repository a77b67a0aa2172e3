"""A run: from its first step, or its newest checkpoint, to its summary."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

import dst
from dst.train import checkpoint, directory, logs, setup, summary
from dst.train.config import Config, dump, enclosed, load
from dst.train.setup import Setup
from dst.train.state import TrainState
from dst.train.step import finite, observe


class Diverged(RuntimeError):
    """A loss or a weight that is no finite number; the last good checkpoint is kept."""


def train(
    config: Config, where: Path, *, overwrite: bool = False, until: int | None = None
) -> dict[str, Any] | None:
    """Trains a new run.

    Args:
      config: of the run.
      where: its directory.
      overwrite: whether a run that is already there is replaced.
      until: stop after this many steps, with a checkpoint, as if interrupted; None: at the end.

    Returns:
      The figures of ``summary.json``; None for a run that stopped before its end.

    Raises:
      ConfigError, DirectoryError: before anything is written.
      Diverged: a loss that is not finite.
    """
    directory.check_free(where, overwrite)
    made = setup.make(config)
    kept, files = enclosed(made.config)
    directory.create(where, dump(kept), overwrite, files)
    return _run(made, where, until)


def resume(where: Path, *, until: int | None = None) -> dict[str, Any] | None:
    """Continues a run at its newest whole checkpoint, bit for bit as if it had never stopped.

    Arguments, result and errors are those of :func:`train`.
    """
    directory.check_run(where)
    return _run(setup.make(load(where / directory.CONFIG)), where, until)


def finish(config: Config, where: Path) -> dict[str, Any]:
    """The figures of a finished run; before, it is trained, or continued where it stopped.

    Args:
      config: of the run; one that is already there keeps its own.
      where: its directory.
    """
    if (where / directory.SUMMARY).is_file():
        return json.loads((where / directory.SUMMARY).read_text(encoding="utf-8"))
    print(f"\n{where.name}")
    begun = (where / directory.CONFIG).is_file()
    figures = resume(where) if begun else train(config, where)
    assert figures is not None  # only `until` leaves a run without
    return figures


def _run(made: Setup, where: Path, until: int | None) -> dict[str, Any] | None:
    config = made.config
    began, steps, saved = time.perf_counter(), config.train.steps, where / directory.CHECKPOINTS
    log_every = config.train.interval("log_every")
    eval_every = config.train.interval("eval_every")
    save_every = config.train.interval("checkpoint_every")
    stop = steps if until is None else min(until, steps)
    snapshots = config.train.snapshot_steps()

    print(made.plan)
    costs = made.costs()
    forward_cost = jax.jit(costs.costs.metrics)
    state = made.begin()
    start = _newest_whole(saved)
    if start is None:
        start = config.start.step
        dst.save_masks(where / directory.MASKS_INITIAL, dst.masks(state.opt_state))
        if start in snapshots:
            dst.save_weights(where / directory.weights(start), state.params)
        checkpoint.save(saved, start, state, config.train.keep)
    else:
        print(f"resuming at step {start} of {steps}")
        state = checkpoint.restore(saved, start, state)

    loggers = logs.open_all(config, where, start)
    batches = made.batches(start)
    figures: dict[str, Any] | None = None
    try:
        losses: dict[int, Any] = {}  # of the steps since they were last looked at
        logged, since = start, time.perf_counter()
        for step in range(start + 1, stop + 1):
            topology = made.fires(step - 1)
            state, metrics = made.step(state, *next(batches), topology=topology)
            losses[step] = metrics["loss"]

            if topology:
                _log(loggers, step, "topology", observe(state))
            if step % log_every == 0:
                _check(losses, saved)
                speed = (step - logged) / (time.perf_counter() - since)
                _log(loggers, step, "train", metrics | {"steps_per_second": np.float32(speed)})
                logged, since = step, time.perf_counter()
            if step % eval_every == 0 or step == steps:
                scores = made.evaluate(state)
                _check(losses | {step: scores["loss"]}, saved)
                cost = forward_cost(state.opt_state)
                _log(loggers, step, "eval", scores | observe(state) | cost)
            if step in snapshots:  # before the checkpoint: a run that is resumed has passed it
                dst.save_weights(where / directory.weights(step), state.params)
            if step % save_every == 0 or step == stop:
                _check(losses, saved)
                _check_weights(state, step, saved)
                checkpoint.save(saved, step, state, config.train.keep)

        if stop == steps:
            figures = summary.make(state, where, steps, time.perf_counter() - began)
            figures |= costs.figures({row["path"]: row["sparsity"] for row in figures["layers"]})
    finally:
        batches.close()
        for logger in loggers:
            logger.close(figures)

    if figures is not None:
        dst.save_masks(where / directory.MASKS_FINAL, dst.masks(state.opt_state))
        directory.write_json(where / directory.SUMMARY, figures)
        print(summary.table(figures))
    return figures


def _newest_whole(saved: Path) -> int | None:
    """The step of the newest checkpoint that is not damaged; the damaged ones are named."""
    for step in reversed(checkpoint.steps(saved)):
        wrong = checkpoint.damage(saved, step)
        if wrong is None:
            return step
        print(f"the checkpoint of step {step} is damaged ({wrong}); trying the one before it")
    return None


def _log(loggers: list[logs.Logger], step: int, kind: str, values: Mapping[str, Any]) -> None:
    found = {k: _number(v) for k, v in jax.device_get(dict(values)).items()}
    for logger in loggers:
        logger.log({"step": step, "kind": kind, **found})


def _number(value: Any) -> int | float:
    """A Python number; a float32 by its shortest decimal form, 0.9 and not 0.8999999761581421."""
    array = np.asarray(value)
    return int(array) if array.dtype.kind in "iu" else float(str(array))


def _check(losses: dict[int, Any], saved: Path) -> None:
    """Raises at the first loss that is not finite; otherwise forgets them."""
    for step, loss in jax.device_get(losses).items():
        if not math.isfinite(loss):
            raise Diverged(f"the loss is {loss} at step {step}. {_advice(saved)}")
    losses.clear()


def _check_weights(state: TrainState, step: int, saved: Path) -> None:
    if not finite(state):
        raise Diverged(f"weights are not finite after step {step}. {_advice(saved)}")


def _advice(saved: Path) -> str:
    return (
        f"The last good checkpoint is that of step {checkpoint.steps(saved)[-1]} in {saved}. "
        "Lower optimizer.learning_rate, or set optimizer.clip."
    )
