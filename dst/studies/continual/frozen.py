"""Piggyback and SupSup: each task learns a mask of one network, whose weights are frozen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

import dst
from dst.studies import runs
from dst.studies.continual.sequence import (
    DENSE,
    Learned,
    Tasks,
    Weights,
    masks_of,
    name_of,
    once,
)
from dst.train import loop
from dst.train.config.sections import Override
from dst.train.config.warm_start import Start
from dst.train.records import run_dir


def supsup(tasks: Tasks, where: Path, number: int) -> Learned:
    """Learns the mask of a task on the random network of the config's seed.

    Args:
      tasks: of the study.
      where: its directory.
      number: of the task, from 1.
    """
    backbone = where / "backbone.safetensors"
    tasks.new_weights(1, backbone)
    return _masked(tasks, where, number, backbone)


def piggyback(tasks: Tasks, where: Path, number: int) -> Learned:
    """Learns the mask of a task on a trained network: that of start.weights, or of the first task.

    Arguments as of :func:`supsup`.
    """
    given = tasks.config.start.weights
    if given is not None:
        # A copy, so that the study can be moved.
        backbone = where / "backbone.safetensors"
        once(backbone, lambda file: dst.save_weights(file, dst.load_weights(given)))
        return _masked(tasks, where, number, backbone)
    first = tasks.run(1, name_of(1), method=DENSE)
    backbone = runs.last_weights(first, where / name_of(1))
    if number > 1:
        return _masked(tasks, where, number, backbone)
    figures = loop.finish(first, where / name_of(1))
    weights = dst.load_weights(backbone)
    own = tasks.own(tasks.settings.strategy.value.own)
    ones = {p: np.ones(weights[p].shape, bool) for p in tasks.maskable if p not in own}
    once(masks_of(where, 1), lambda file: dst.save_masks(file, ones))
    return Learned(where / name_of(1), figures, lambda task: weights)


def _masked(tasks: Tasks, where: Path, number: int, backbone: Path) -> Learned:
    own = tasks.own(tasks.settings.strategy.value.own)
    masked = [path for path in tasks.maskable if path not in own]
    begin = where / f"begin-{number:02d}.safetensors"
    new = tasks.new_weights(number, where / f"new-{number:02d}.safetensors") if own else {}
    frozen = dst.load_weights(backbone)
    once(begin, lambda file: dst.save_weights(file, frozen | {p: new[p] for p in own}))

    config = tasks.run(number, name_of(number), start=Start(str(begin)))
    dense = {path: Override(sparsity=0.0) for path in own if path in tasks.maskable}
    sparsify = replace(config.sparsify, overrides=dict(config.sparsify.overrides) | dense)
    trainable = replace(config.optimizer.value, trainable=(*masked, *own))
    config = replace(
        config, sparsify=sparsify, optimizer=replace(config.optimizer, value=trainable)
    )
    run = where / name_of(number)
    figures = loop.finish(config, run)
    final = run / run_dir.MASKS_FINAL
    once(masks_of(where, number), lambda file: dst.save_masks(file, dst.load_masks(final)))

    def of(task: int) -> Weights:
        return dst.load_weights(runs.last_weights(config, where / name_of(task)))

    return Learned(run, figures, of)
