"""Curves of many runs: a line per group, the mean over its seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from dst.report import plots
from dst.report.contents import Run
from dst.report.figures import Comparison
from dst.report.groups import Group
from dst.report.plots import Key, Line, Plot
from dst.report.theme import colour, variable

_POINTS = 6000  # of one figure, over all its lines
_FAINTEST = 0.3


@dataclass(frozen=True)
class Kind:
    """What is drawn over steps.

    Attributes:
      title: of the figure.
      key, kinds: of the metric, and of the lines of ``metrics.jsonl`` that hold it.
      share: shown in percent.
      noisy: smoothed where there are many values.
      holds: a value holds until the next one.
      caption: below the figure.
    """

    title: str
    key: str
    kinds: tuple[str, ...]
    share: bool = False
    noisy: bool = False
    holds: bool = False
    caption: str = ""


_TOPOLOGY = ("topology", "eval")
_KINDS = (
    Kind("Training loss", "loss", ("train",), noisy=True),
    Kind("Test loss", "loss", ("eval",)),
    Kind(
        "Sparsity",
        "sparsity",
        _TOPOLOGY,
        share=True,
        holds=True,
        caption="The sparsity of the selected weights.",
    ),
    Kind(
        "Explored weights",
        "explored",
        _TOPOLOGY,
        share=True,
        holds=True,
        caption="R_s: the share of the selected weights that have ever been active.",
    ),
    Kind(
        "Churn",
        "churn",
        ("topology",),
        share=True,
        caption="The share of the active connections that a topology step exchanged.",
    ),
)


@dataclass(frozen=True)
class Curve:
    """One line.

    Attributes:
      label: in the legend.
      group: whose curve it is.
      steps, values: NaN where a value is not a finite number.
      runs: how many it is the mean of.
      ended: whether they have ended; the others are drawn one by one.
    """

    label: str
    group: Group
    steps: np.ndarray
    values: np.ndarray
    runs: int
    ended: bool


def kinds(comparison: Comparison) -> list[Kind]:
    """What can be drawn: the figure that runs are compared by, then the usual ones."""
    first = Kind(comparison.title, comparison.name, ("eval",), share=comparison.figure.share)
    return [first, *(k for k in _KINDS if (k.key, k.kinds) != (first.key, first.kinds))]


def curves(comparison: Comparison, kind: Kind) -> list[Curve]:
    """The curves of all groups.

    Runs that have ended are one curve, their mean at the steps that they share. Every other run is
    a curve of its own.
    """
    return [
        curve
        for label, members in comparison.lines().items()
        for group in members
        for curve in _of(label, group, kind)
    ]


def draw(comparison: Comparison, kind: Kind) -> Plot | None:
    """All curves in one figure; None without any.

    Colours are those of the other figures. Opacity stands for their horizontal axis.
    """
    drawn = curves(comparison, kind)
    if not drawn:
        return None
    positions = [curve.group.number(comparison.layout.x or "") for curve in drawn]
    places = sorted({x for x in positions if x is not None})
    labels = list(comparison.lines())
    most = min(plots.POINTS, max(100, _POINTS // len(drawn)))
    lines = []
    for x, at in zip(drawn, positions, strict=True):
        rank = 1.0 if at is None or len(places) < 2 else places.index(at) / (len(places) - 1)
        n = plots.window(x.values.size) if kind.noisy else 1
        lines.append(
            Line(
                "",
                x.steps,
                plots.smooth(x.values, n) if n > 1 else x.values,
                colour(labels.index(x.label)),
                alpha=_FAINTEST + (1 - _FAINTEST) * rank,
                dashed=not x.ended,
                points=x.values.size < 3,
                holds=kind.holds,
            )
        )
    plot = plots.lines(
        kind.title,
        lines,
        percent=kind.share,
        may_log=not kind.share,
        most=most,
        caption=" ".join(_caption(comparison, kind, drawn, len(places))),
    )
    if plot is None:
        return None
    shown = dict.fromkeys(x.label for x in drawn)
    keys = tuple(Key(variable(colour(labels.index(label))), label) for label in shown)
    return Plot(plot.title, plot.svg, keys, plot.caption)


def _caption(
    comparison: Comparison, kind: Kind, drawn: Sequence[Curve], places: int
) -> Iterator[str]:
    if kind.caption:
        yield kind.caption
    if places > 1:
        yield f"A more opaque line has a higher {comparison.x_words}."
    if any(not x.ended for x in drawn):
        yield "A dashed line is a run that has not ended."


def _of(label: str, group: Group, kind: Kind) -> Iterator[Curve]:
    ended = [trial.run for trial in group.trials if trial.run and trial.done]
    logged = [series for run in ended if (series := _series(run, kind))]
    if logged:
        steps = reduce(np.intersect1d, [np.array(list(series)) for series in logged])
        values = np.array([[series[step] for step in steps] for series in logged])
        if steps.size:
            yield Curve(label, group, steps, values.mean(axis=0), len(logged), ended=True)
    for trial in group.trials:
        if trial.run and not trial.done and (series := _series(trial.run, kind)):
            x, y = np.array(list(series)), np.array(list(series.values()))
            yield Curve(label, group, x, y, 1, ended=False)


def _series(run: Run, kind: Kind) -> dict[float, float]:
    steps, values = run.series(kind.key, *kind.kinds)
    return dict(zip(steps.tolist(), values.tolist(), strict=True))
