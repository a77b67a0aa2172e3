"""The key figures at the top of a report."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from dst.report.contents import Run, number
from dst.report.words import count, duration, figure, of_all, percent

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


def test_labels(run: Run) -> int | None:
    """Over how many test labels figures are means; None where the run does not record it."""
    labels = number(run.summary.get("test_labels"))
    return None if labels is None else int(labels)


def seconds(run: Run) -> tuple[float, float] | None:
    """Of training and of compilation; None for runs that did not measure them apart."""
    whole, compiling = (number(run.summary.get(x)) for x in ("seconds", "compile_seconds"))
    return None if whole is None or compiling is None else (whole - compiling, compiling)


def _headline(run: Run) -> Tile:
    """The figure that answers the question, and its best value during training."""
    name = run.headline()
    known = run.figure()
    steps, values = run.series(name, "eval")
    details = [of_all(final(run, name), test_labels(run)) if known.share else ""]
    if np.isfinite(values).any():
        best = known.best(values[np.isfinite(values)])
        at = steps[np.flatnonzero(values == best)[0]]
        details.append(f"best {figure(float(best), known.share)} at step {count(at)}")
    value = figure(final(run, name), known.share)
    return Tile(f"Test {known.words}", value, "; ".join(x for x in details if x))


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
    return [
        _headline(run),
        Tile(
            "Sparsity",
            "dense" if run.dense() else percent(sparsity),
            f"{active:,} of {size:,} selected weights active" if known else "",
        ),
        Tile(
            "Model sparsity",
            percent(final(run, "sparsity_model")),
            f"of all {sum(total):,} parameters" if total and len(total) > len(sparse) else "",
        ),
        Tile(
            Markup("Explored, ") + RS,
            percent(final(run, "explored")),
            "of the selected weights",
        ),
        *_costs(run),
        _time(run),
    ]


def _time(run: Run) -> Tile:
    """Steps and seconds; those of training apart from those of compilation."""
    done = number(run.summary.get("steps"))
    if done is None:
        done = run.last_step()
    planned = number(run.section("train").get("steps"))
    short = planned is not None and done is not None and done < planned
    details = [f"{count(done)}{f' of {count(planned)} planned' if short else ''} steps"]
    _, speeds = run.series("steps_per_second", "train")
    if np.isfinite(speeds).any():
        details.append(f"{count(float(np.nanmedian(speeds)))} per second")
    if (parts := seconds(run)) is None:
        return Tile("Time", duration(number(run.summary.get("seconds"))), ", ".join(details))
    details.append(f"and {duration(parts[1])} to compile")
    return Tile("Training time", duration(parts[0]), ", ".join(details))


def _costs(run: Run) -> list[Tile]:
    """The FLOPs of the run relative to a dense one; nothing for runs without these figures."""
    training, forward, density = (
        number(run.summary.get(key)) for key in ("training_cost", "forward_cost", "average_density")
    )
    if training is None:
        return []
    average = "" if density is None else f"; average density {percent(density)}"
    found = [Tile("Training FLOPs", percent(training), f"relative to dense{average}")]
    if forward is not None:
        found.append(Tile("Inference FLOPs", percent(forward), "relative to dense"))
    return found
