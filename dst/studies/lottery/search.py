"""Random search over masks, and two copies of one network: the studies without pruning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import dst
from dst.rules.schedule import resolve
from dst.studies import runs
from dst.studies.lottery.config import Study
from dst.studies.lottery.connectivity import STABLE, line
from dst.studies.runs import Report, Row
from dst.train import loop
from dst.train.records import run_dir


def random_search(study: Study, where: Path, report: Report) -> None:
    """Trains a static mask of every seed at the same initial weights.

    Args:
      study: of random search.
      where: its directory.
      report: called after every run with the figures of all runs so far.
    """
    config, rows = study.config, []
    judge = runs.Judge(config)
    for number in range(study.lottery.value.budget):
        name = f"mask-{number:03d}"
        masks = where / f"{name}.safetensors"
        runs.new_masks(config, runs.seed_of(config.seed, "mask", number), masks)
        started = runs.started_from(config, name, masks=masks)
        figures = loop.finish(started, where / name)
        weights = dst.load_weights(runs.last_weights(started, where / name))
        row = {"run": name, "accuracy": figures["accuracy"], "loss": figures["loss"]}
        rows.append(row | {"sparsity": figures["sparsity"], "halves": list(judge.halves(weights))})
        report(rows)


def best(rows: Sequence[Row]) -> dict[str, Any]:
    """The result of a search.

    The best of many runs looks better than it is on the examples that chose it. So one half of the
    test examples chooses and the other half judges, both ways round, and the two are averaged.

    Args:
      rows: with ``accuracy`` and ``halves``, the accuracy on both halves of the test examples.

    Returns:
      ``accuracy`` of the chosen ones by the halves that did not choose, ``chosen`` (run names),
      and ``mean``, ``deviation`` (of a sample), ``least`` and ``most`` over all runs, of the
      accuracy on all test examples.
    """
    halves = np.array([x["halves"] for x in rows])
    winners = [int(np.argmax(halves[:, i])) for i in (0, 1)]
    all_ = np.array([x["accuracy"] for x in rows])
    return {
        "accuracy": float(np.mean([halves[winners[0], 1], halves[winners[1], 0]])),
        "chosen": [rows[i]["run"] for i in winners],
        "mean": float(all_.mean()),
        "deviation": float(all_.std(ddof=1)) if len(rows) > 1 else 0.0,
        "least": float(all_.min()),
        "most": float(all_.max()),
    }


def copies(study: Study, where: Path, report: Report) -> None:
    """Trains a network to a step, then two copies of it on batches in other orders, and evaluates
    the line between their solutions.

    Args:
      study: of connectivity.
      where: its directory.
      report: called once, with the line.
    """
    config, settings = study.config, study.lottery.value
    step = resolve("at", settings.at, config.train.steps, "")
    train = replace(config.train, snapshots=(step,))
    parent = replace(config, name=f"{config.name}-parent", train=train)
    weights = runs.until(parent, where / "parent", step)
    masks = None if config.method.name == "dense" else where / "parent" / run_dir.MASKS_INITIAL

    ends = []
    for number in (1, 2):
        name = f"copy-{number}"
        seed = runs.seed_of(config.seed, "copy", number)
        started = runs.started_from(
            config, name, weights=weights, masks=masks, step=step, seed=seed
        )
        loop.finish(started, where / name)
        ends.append(dst.load_weights(runs.last_weights(started, where / name)))
    between = line(runs.Judge(config).error, ends[0], ends[1], settings.points)
    report(
        [
            {
                "at": step,
                "positions": list(between.positions),
                "errors": list(between.errors),
                "instability": between.instability,
                "stable": between.instability < STABLE,
            }
        ]
    )
