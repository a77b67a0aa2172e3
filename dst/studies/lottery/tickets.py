"""Lottery tickets: rounds of training, pruning and rewinding, and their controls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

import dst
from dst.rules.schedule import resolve
from dst.studies import runs
from dst.studies.lottery.config import Study, Tickets
from dst.studies.lottery.connectivity import line
from dst.studies.lottery.pruning import prunable, prune, random_masks
from dst.studies.runs import Report, Row
from dst.train import loop, setup
from dst.train.config.run import Config
from dst.train.optimizer import learning_rate
from dst.train.records import run_dir

_FIRST = "round-00"


def rounds(study: Study, where: Path, report: Report) -> None:
    """Trains every round that is not finished.

    All results lie on disk. Finished runs are only read, a run that was stopped continues at its
    newest checkpoint, and masks follow from the weights of finished runs.

    Args:
      study: of tickets.
      where: its directory; every run is one in it.
      report: called after every round with the figures of all rounds so far.
    """
    config, settings = study.config, study.lottery.value
    rewound = settings.rewind_step(config.train.steps)
    shapes, leaves = _shapes(config), prunable_leaves(study)
    first = _first(config, rewound)
    figures = loop.finish(first, where / _FIRST)
    trained = runs.last_weights(first, where / _FIRST)
    snapshot = where / _FIRST / run_dir.weights(rewound)
    judge = runs.Judge(config) if settings.connectivity else None

    ones = {path: np.ones(shapes[path].shape, bool) for path in leaves}
    rows = [_row(0, ones) | {"ticket": _figures(_FIRST, figures)}]
    if judge:
        pair = [where / _FIRST] if rewound == 0 else []
        rows[0] |= _barrier(study, where, 0, judge, pair, snapshot, None, rewound)
    report(rows)

    for number in range(1, settings.rounds + 1):
        masks_file = where / f"masks-{number:02d}.safetensors"
        if not masks_file.is_file():
            before = where / f"masks-{number - 1:02d}.safetensors"
            masks = None if number == 1 or settings.one_shot else dst.load_masks(before)
            weights = dst.load_weights(trained)
            dst.save_masks(masks_file, prune(weights, masks, leaves, settings, number))
        masks = dst.load_masks(masks_file)

        name = f"round-{number:02d}"
        source = trained if settings.keeps_weights else snapshot
        ticket = retraining(config, settings, name, source, masks_file)
        row = _row(number, masks)
        row["ticket"] = _figures(name, loop.finish(ticket, where / name))
        for control in settings.controls:
            compared = _CONTROLS[control](study, where, number, masks_file, snapshot, leaves)
            row[control] = _figures(
                f"{name}-{control}", loop.finish(compared, where / f"{name}-{control}")
            )
        if judge:
            pair = [where / name]
            row |= _barrier(study, where, number, judge, pair, snapshot, masks_file, rewound)
        rows.append(row)
        report(rows)
        if not settings.one_shot:
            trained = runs.last_weights(ticket, where / name)


def prunable_leaves(study: Study) -> dict[str, int]:
    """The leaves that a study prunes, with their number of stacked axes.

    Raises:
      ConfigError: the study does not fit the network, its data or the machine.
    """
    options = study.config.sparsify
    dense = [pattern for pattern, x in options.overrides.items() if x.sparsity == 0]
    shapes, settings = _shapes(study.config), study.lottery.value
    return prunable(shapes, settings, options.select, options.stacked or None, dense)


def _shapes(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
    leaves = setup.make(config).plan.leaves
    return {leaf.path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves}


def retraining(
    config: Config, settings: Tickets, name: str, weights: Path, masks: Path | None
) -> Config:
    """The config of the run that trains a pruned network again.

    Args:
      config: of dense training.
      settings: what is rewound, and how far.
      name: of the run.
      weights: file of the weights to start from: the rewound ones, or the trained ones where
        these are kept.
      masks: file of the masks.
    """
    steps = config.train.steps
    again = resolve("retrain", settings.retrain, steps, "")
    if settings.rewind == "finetune":
        last = settings.finetune_rate
        if last is None:
            last = float(learning_rate(config.optimizer.value, steps)(steps - 1))
        flat = replace(config.optimizer.value, learning_rate=last, warmup=0, decay="constant")
        section = replace(config.optimizer, value=flat)
        config = replace(config, optimizer=section, train=replace(config.train, steps=again))
        step = 0
    elif settings.rewind == "lr":
        step = steps - again
    else:
        step = settings.rewind_step(steps)
    return runs.started_from(config, name, weights=weights, masks=masks, step=step)


def _first(config: Config, rewound: int) -> Config:
    kept = tuple(sorted({rewound, config.train.steps}))
    train = replace(config.train, snapshots=kept)
    return replace(config, name=f"{config.name}-{_FIRST}", train=train)


def _reinit(
    study: Study, where: Path, number: int, masks: Path, snapshot: Path, leaves: Mapping[str, int]
) -> Config:
    """The same masks at new initial weights, trained from step 0."""
    config, file = study.config, where / f"weights-reinit-{number:02d}.safetensors"
    runs.new_weights(config, runs.seed_of(config.seed, "reinit", number), file)
    return runs.started_from(config, f"round-{number:02d}-reinit", weights=file, masks=masks)


def _random_masks(
    study: Study, where: Path, number: int, masks: Path, snapshot: Path, leaves: Mapping[str, int]
) -> Config:
    """Other masks of equal layer counts at the rewound weights."""
    config, file = study.config, where / f"masks-{number:02d}-random.safetensors"
    if not file.is_file():
        seed = runs.seed_of(config.seed, "random_masks", number)
        dst.save_masks(file, random_masks(dst.load_masks(masks), seed, leaves))
    step = study.lottery.value.rewind_step(config.train.steps)
    name = f"round-{number:02d}-random_masks"
    return runs.started_from(config, name, weights=snapshot, masks=file, step=step)


_CONTROLS = {"reinit": _reinit, "random_masks": _random_masks}


def _barrier(
    study: Study,
    where: Path,
    number: int,
    judge: runs.Judge,
    pair: list[Path],
    weights: Path,
    masks: Path | None,
    step: int,
) -> Row:
    """The instability of a round: two runs that start alike and see batches in other orders.

    ``pair`` holds the run of the round where it started as a copy does. A dense run that passed
    the rewind step kept its moments, so in round 0 two copies are trained.
    """
    config = study.config
    for copy in ("order-1", "order-2")[: 2 - len(pair)]:
        name = f"round-{number:02d}-{copy}"
        seed = runs.seed_of(config.seed, copy, number)
        other = runs.started_from(config, name, weights=weights, masks=masks, step=step, seed=seed)
        loop.finish(other, where / name)
        pair = [*pair, where / name]
    ends = [dst.load_weights(runs.last_weights(config, path)) for path in pair]
    between = line(judge.error, ends[0], ends[1], study.lottery.value.points)
    return {"instability": between.instability, "errors": list(between.errors)}


def _row(number: int, masks: Mapping[str, np.ndarray]) -> Row:
    counts = {path: int(mask.sum()) for path, mask in masks.items()}
    size = sum(mask.size for mask in masks.values())
    left = sum(counts.values())
    return {"round": number, "remaining": left, "of": size, "share": left / size, "layers": counts}


def _figures(name: str, figures: Mapping[str, Any]) -> Row:
    return {"run": name, "accuracy": figures["accuracy"], "loss": figures["loss"]}
