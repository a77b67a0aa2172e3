"""The parts of a report on one run: each a heading, a sentence and figures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from dst.report import pictures, plots
from dst.report.contents import Run
from dst.report.theme import INK, MUTED, SERIES
from dst.report.tiles import RS
from dst.train.objectives.figures import figure_of

_MANY = 8  # layers that still get a colour of their own


@dataclass(frozen=True)
class Section:
    """Figures under a heading; ``text`` introduces them, or says why there are none."""

    title: str
    text: str
    plots: tuple[plots.Plot, ...] = ()


def training(run: Run) -> Section:
    """The figures of the task over steps."""
    marks, _ = run.series("sparsity", "topology")
    shown = []
    for key in run.task_figures():
        is_percent = figure_of(key).share
        lines = plots.with_average("train", *run.series(key, "train"), SERIES[0])
        for prefix, label, colour in (
            ("", "test", SERIES[7]),
            ("ema_", "test, moving average of the weights", SERIES[4]),
        ):
            scores = run.series(prefix + key, "eval")
            lines.append(plots.Line(label, *scores, colour, points=True))
        shown.append(
            plots.lines(
                key.replace("_", " ").capitalize(),
                lines,
                percent=is_percent,
                may_log=not is_percent,
                marks=marks,
                until=run.last_step(),
            )
        )
    drawn = tuple(plot for plot in shown if plot)
    return Section("Training", "" if drawn else "No metrics are logged yet.", drawn)


def exploration(run: Run) -> Section:
    """R_s over time, of all sparse layers and of each."""
    title = Markup("Explored weights, ") + RS
    if run.dense():
        return Section(title, "This run is dense: all weights are active throughout.")
    plot = per_layer(run, "explored", "Explored over time", "all sparse layers")
    if plot is None:
        return Section(title, "The metrics do not say how many weights were explored.")
    text = RS + (
        " is the share of the selected weights that have ever been active. ITOP calls it the "
        "in-time over-parameterization rate. It never falls."
    )
    return Section(title, text, (plot,))


def topology_steps(run: Run) -> Section:
    """What the topology steps dropped and grew."""
    title = "Topology steps"
    if run.dense():
        return Section(title, "A dense run has no topology steps.")
    steps, grown = run.series("grown", "topology")
    _, dropped = run.series("dropped", "topology")
    if not steps.size or steps.size != dropped.size:
        return Section(title, "The metrics contain no topology step.")
    total = (
        f"{steps.size:,} topology steps dropped {np.nansum(dropped):,.0f} connections and grew "
        f"{np.nansum(grown):,.0f}."
    )
    churn = plots.lines(
        "Churn",
        [plots.Line("", *run.series("churn", "topology"), SERIES[4], points=True)],
        percent=True,
        caption="The share of the active connections that a topology step dropped.",
        until=run.last_step(),
    )
    bars = plots.exchange("Grown and dropped", steps, grown, dropped, run.last_step())
    return Section(title, total, (bars, churn) if churn else (bars,))


def per_layer(run: Run, key: str, title: str, together: str) -> plots.Plot | None:
    """One line per layer and one for all of them."""
    kinds = ("topology", "eval")
    paths = run.paths()
    few = len(paths) <= _MANY
    layers = [
        plots.Line(
            path if few else ("each layer" if i == 0 else ""),
            *run.series(f"{key}/{path}", *kinds),
            SERIES[i] if few else MUTED,
            faint=not few,
            holds=True,
        )
        for i, path in enumerate(paths)
    ]
    whole = plots.Line(together, *run.series(key, *kinds), INK, width=2.2, dash=1, holds=True)
    if len(paths) == 1:
        layers = []
    return plots.lines(title, [*layers, whole], percent=True, until=run.last_step())


def mask_view(run: Run) -> pictures.MaskView | None:
    """Pictures of the first sparse layer that has a mask of two or more axes."""
    for path in run.paths():
        view = pictures.look(path, run.initial.get(path), run.final.get(path))
        if view is not None:
            return view
    return None


def degrees(run: Run, shown: pictures.MaskView | None) -> list[plots.Plot]:
    """In- and out-degrees of the layers without pictures, of the first few."""
    paths = [path for path in run.paths() if shown and path != shown.path]
    return [
        plot
        for path in paths[:_MANY]
        for plot in pictures.degrees(run.initial.get(path), run.final.get(path), f" of {path}")
    ]
