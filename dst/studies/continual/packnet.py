"""PackNet: the weights of each task are frozen, and later tasks train the free ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np

import dst
from dst.core.selection import top_k_masks
from dst.rules.schedule import exact, resolve
from dst.studies import runs
from dst.studies.continual.sequence import Learned, Tasks, Weights, masks_of, name_of, once
from dst.train import loop, setup
from dst.train.config.schema import Section
from dst.train.config.warm_start import FixedMasks, Start

Masks = dict[str, np.ndarray]  # bool, by leaf path


def pack(
    weights: Mapping[str, np.ndarray],
    used: Mapping[str, np.ndarray],
    share: float,
    stacked: Mapping[str, int],
) -> Masks:
    """The weights in use after a task: those used before, and its own largest ones.

    Of the n weights of a layer that were free, ``floor(share n)`` of smallest magnitude become free
    again.

    Args:
      weights: trained, by leaf path.
      used: bool, of all earlier tasks.
      share: in (0, 1).
      stacked: the leaves, with their number of stacked axes; every slice is a layer.

    Returns:
      bool masks by leaf path, supersets of those before. Of equal weights, those with the lowest
      index are kept.

    Raises:
      ValueError: no weight of a layer is left for the task.

    Example:
      >>> w, used = np.array([3.0, -2.0, 0.5, 1.0]), np.array([True, False, False, False])
      >>> pack({"w": w}, {"w": used}, 0.5, {"w": 0})["w"].tolist()
      [True, True, False, True]

    References: Mallya and Lazebnik 2018 (arXiv 1711.05769).
    Checked against: two tasks by hand and NumPy's sort, tests/studies/continual/test_packnet.py;
    arunmallya/packnet at de4ff7e, src/prune.py (``pruning_mask``).
    Differs from the code: floor, there round; of ties as many stay as the count says.
    """
    masks = {}
    for path, axes in stacked.items():
        groups, free = tuple(range(axes)), ~np.asarray(used[path])
        n = np.asarray(free.sum(tuple(range(axes, free.ndim))))
        kept = n - np.array([int(exact(share) * int(x)) for x in n.flat]).reshape(n.shape)
        if (n == 0).any() or (kept == 0).any():
            raise ValueError(
                f"{path} has no weight left for another task. Lower the number of tasks, or raise "
                "continual.strategy.prune, so that earlier tasks leave more."
            )
        scores = jnp.abs(jnp.asarray(weights[path]).astype(jnp.float32))
        counts, where = jnp.asarray(kept, jnp.int32), jnp.asarray(free)
        (own,) = top_k_masks([scores], [counts], [where], [groups])
        masks[path] = np.asarray(own) | ~free
    return masks


def learn(tasks: Tasks, where: Path, number: int) -> Learned:
    """Trains, prunes and retrains a task, unless that has been done.

    Args:
      tasks: of the study.
      where: its directory; the task before has been learned there.
      number: of the task, from 1.
    """
    settings = tasks.settings.strategy.value
    own = tasks.own(settings.own)
    stacked = {path: n for path, n in tasks.maskable.items() if path not in own}
    steps = resolve("retrain", settings.retrain, tasks.config.train.steps, "")
    first = number == 1
    # Leaves without masks, such as biases, belong to the first task.
    whole = own if not first else [p for p in tasks.paths if p not in stacked]

    wide = tasks.run(number, f"{name_of(number)}-dense")
    run = where / f"{name_of(number)}-dense"
    used = None if first else dst.load_masks(masks_of(where, number - 1))
    if used is not None:
        before = dst.load_weights(_last(tasks, where, number - 1, steps))
        new = tasks.new_weights(number, where / f"new-{number:02d}.safetensors")
        begin = where / f"begin-{number:02d}.safetensors"
        once(begin, lambda file: dst.save_weights(file, before | {p: new[p] for p in own}))
        free = {path: ~used[path] for path in stacked}
        trained = where / f"free-{number:02d}.safetensors"
        ones = {p: np.ones(before[p].shape, bool) for p in own}
        once(trained, lambda file: dst.save_masks(file, free | ones))
        wide = replace(wide, start=Start(str(begin), trained=str(trained)))
    loop.finish(wide, run)

    last = runs.last_weights(wide, run)
    weights = dst.load_weights(last)
    if used is None:
        used = {path: np.zeros(weights[path].shape, bool) for path in stacked}
    masks_file = masks_of(where, number)
    try:
        once(masks_file, lambda f: dst.save_masks(f, pack(weights, used, settings.prune, stacked)))
    except ValueError as error:
        raise setup.SetupError(f"task {number}: {error}") from error
    masks = dst.load_masks(masks_file)
    kept = {path: masks[path] & ~used[path] for path in stacked}
    trained = where / f"kept-{number:02d}.safetensors"
    ones = {p: np.ones(weights[p].shape, bool) for p in whole}
    once(trained, lambda file: dst.save_masks(file, kept | ones))

    again = tasks.run(
        number,
        name_of(number),
        method=Section("from_masks", FixedMasks()),
        train=replace(tasks.config.train, steps=steps),
        start=Start(str(last), str(masks_file), trained=str(trained)),
    )
    figures = loop.finish(again, where / name_of(number))
    return Learned(
        where / name_of(number), figures, partial(_in_use, tasks, where, number, steps, own)
    )


def _in_use(
    tasks: Tasks, where: Path, number: int, steps: int, own: list[str], task: int
) -> Weights:
    """The weights of an earlier task, taken from the network after the last one."""
    now = dst.load_weights(_last(tasks, where, number, steps))
    then = dst.load_weights(_last(tasks, where, task, steps))
    masks = dst.load_masks(masks_of(where, task))
    masked = {path: np.where(masks[path], now[path], 0) for path in masks}
    return now | masked | {path: then[path] for path in own}


def _last(tasks: Tasks, where: Path, number: int, steps: int) -> Path:
    """The weights at the end of a task."""
    train = replace(tasks.config.train, steps=steps)
    return runs.last_weights(replace(tasks.config, train=train), where / name_of(number))
