"""Curves of many runs: a line per group, the mean over its seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from dst.report import plots
from dst.report.comparison import Comparison
from dst.report.contents import Run
from dst.report.groups import Group, described
from dst.report.plots import Key, Line, Plot
from dst.report.theme import DASHES, MUTED, variable
from dst.report.words import joined

_POINTS = 6000  # of one figure, over all its lines
_PATTERNS = 4  # dash patterns that a reader can tell apart
_SOLID = len(DASHES)  # in a legend, a solid line and not a square


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
    """The curves in one figure; None without any.

    Colours are those of the other figures. Dash patterns stand for their horizontal axis, of which
    a few values are shown.
    """
    every = curves(comparison, kind)
    if not every:
        return None
    x = comparison.layout.x or ""
    places = sorted({at for curve in every if (at := curve.group.number(x)) is not None})
    looks = comparison.looks
    patterned = any(looks[c.label].dash for c in every if c.group not in comparison.dense)
    chosen = _spread(places, 1 if patterned else _PATTERNS)
    drawn = [c for c in every if c.group.number(x) is None or c.group.number(x) in chosen]
    most = min(plots.POINTS, max(100, _POINTS // len(drawn)))
    lines = []
    for curve in drawn:
        at, look = curve.group.number(x), looks[curve.label]
        n = plots.window(curve.values.size) if kind.noisy else 1
        values = plots.smooth(curve.values, n) if n > 1 else curve.values
        lines.append(
            Line(
                "",
                curve.steps,
                values,
                look.colour,
                dash=look.dash if patterned or at is None else _dash(at, chosen),
                width=1.6 if curve.ended else 1.0,
                crossed=not curve.ended,
                points=values.size < 3,
                holds=kind.holds,
                name=described(curve.group.settings, comparison.keys, comparison.keys),
            )
        )
    plot = plots.lines(
        kind.title,
        lines,
        percent=kind.share,
        may_log=not kind.share,
        most=most,
        caption=" ".join(_caption(comparison, kind, drawn, len(chosen) < len(places), chosen)),
    )
    if plot is None:
        return None
    shown = dict.fromkeys(curve.label for curve in drawn)
    keys = [Key(variable(looks[s].colour), s, looks[s].dash) for s in shown]
    if len(chosen) > 1:
        for at in chosen:
            dash = _dash(at, chosen)
            words = f"{comparison.x_words} {comparison.x_value(at)}"
            keys.append(Key(variable(MUTED), words, dash or _SOLID))
    return Plot(plot.title, plot.svg, tuple(keys), plot.caption)


def _spread(places: Sequence[float], most: int) -> list[float]:
    """At most so many of the places, the last one among them."""
    if len(places) <= most:
        return list(places)
    return [places[round(i)] for i in np.linspace(len(places) - 1, 0, most)][::-1]


def _dash(at: float, chosen: Sequence[float]) -> int:
    """The greatest value is solid."""
    return len(chosen) - 1 - list(chosen).index(at)


def _caption(
    comparison: Comparison, kind: Kind, drawn: Sequence[Curve], some: bool, chosen: Sequence[float]
) -> Iterator[str]:
    if kind.caption:
        yield kind.caption
    if some:
        values = joined([comparison.x_value(x) for x in chosen])
        yield f"Drawn for {comparison.x_words} {values}; the CSV file has all."
    if any(not x.ended for x in drawn):
        yield "A thin line that ends in a cross is a run that has not ended."


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
