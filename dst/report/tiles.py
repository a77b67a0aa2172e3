"""The key figures at the top of a report."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from dst.report.contents import Run, number
from dst.report.words import count, duration, figure, percent

RS = Markup("R<sub>s</sub>")


@dataclass(frozen=True)
class Tile:
    """One key figure."""

    label: str
    value: str
    detail: str = ""


def final(run: Run, key: str) -> float | None:
    """A final figure: that of the summary, or else the last logged one."""
    value = number(run.summary.get(key))
    if value is not None:
        return value
    return run.last(key, "topology", "eval")


def _headline(run: Run) -> Tile:
    """The figure that answers the question, and its best value during training."""
    name = run.headline()
    known = run.figure()
    steps, values = run.series(name, "eval")
    detail = ""
    if np.isfinite(values).any():
        best = known.best(values[np.isfinite(values)])
        at = steps[np.flatnonzero(values == best)[0]]
        detail = f"best {figure(float(best), known.share)} at step {count(at)}"
    return Tile(f"Test {known.words}", figure(final(run, name), known.share), detail)


def tiles(run: Run) -> list[Tile]:
    """The key figures."""
    sparse = [row for row in run.layers() if row.sparse]
    known = [row for row in sparse if row.active is not None and row.size is not None]
    active = sum(row.active or 0 for row in known)
    size = sum(row.size or 0 for row in known)
    sparsity = final(run, "sparsity")
    if sparsity is None and size:
        sparsity = 1 - active / size
    total = [row.size for row in run.layers() if row.size is not None]
    done = number(run.summary.get("steps"))
    if done is None:
        done = run.last_step()
    planned = number(run.section("train").get("steps"))
    _, speeds = run.series("steps_per_second", "train")
    speed = float(np.nanmedian(speeds)) if np.isfinite(speeds).any() else None
    short = planned is not None and done is not None and done < planned
    return [
        _headline(run),
        Tile(
            "Sparsity",
            "dense" if run.dense() else percent(sparsity),
            f"{active:,} of {size:,} selected weights active" if known else "",
        ),
        Tile(
            "Sparsity of the model",
            percent(final(run, "sparsity_model")),
            f"of all {sum(total):,} parameters" if total and len(total) > len(sparse) else "",
        ),
        Tile(
            Markup("Explored, ") + RS,
            percent(final(run, "explored")),
            "of the selected weights",
        ),
        *_costs(run),
        Tile("Steps", count(done), f"of {count(planned)} planned" if short else ""),
        Tile(
            "Time",
            duration(number(run.summary.get("seconds"))),
            f"{count(speed)} steps per second" if speed is not None else "",
        ),
    ]


def _costs(run: Run) -> list[Tile]:
    """The cost of the run relative to a dense one; nothing for runs without this figure."""
    training = number(run.summary.get("training_cost"))
    if training is None:
        return []
    parts = [
        f"{label} {percent(value)}"
        for label, key in (("forward pass", "forward_cost"), ("average density", "average_density"))
        if (value := number(run.summary.get(key))) is not None
    ]
    return [Tile("Training cost, relative to dense", percent(training), "; ".join(parts))]
