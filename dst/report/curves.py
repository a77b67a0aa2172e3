"""Curves of many runs: a line per group, the mean over its seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from dst.report import plots
from dst.report.contents import Run
from dst.report.figures import Compared, colour
from dst.report.groups import Group
from dst.report.plots import Key, Line, Plot
from dst.report.theme import variable

_POINTS = 6000  # of one figure, over all its lines
_FAINTEST = 0.3


@dataclass(frozen=True)
class Kind:
    """What is drawn over steps.

    Attributes:
      title: of the figure.
      key, kinds: of the metric, and the lines of ``metrics.jsonl`` it stands in.
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
    Kind("Sparsity", "sparsity", _TOPOLOGY, share=True, holds=True, caption="Selected weights."),
    Kind(
        "Explored weights",
        "explored",
        _TOPOLOGY,
        share=True,
        holds=True,
        caption="R_s: the share of selected weights that were active at any time so far.",
    ),
    Kind(
        "Churn",
        "churn",
        ("topology",),
        share=True,
        caption="Share of the active connections that a topology step exchanged: what consecutive "
        "masks do not have in common.",
    ),
)


@dataclass(frozen=True)
class Curve:
    """One line.

    Attributes:
      label: in the legend.
      group: whose curve it is.
      steps, values: NaN where a value is no finite number.
      runs: that it is the mean of.
      ended: whether they have ended; the others are drawn one by one.
    """

    label: str
    group: Group
    steps: np.ndarray
    values: np.ndarray
    runs: int
    ended: bool


def kinds(it: Compared) -> list[Kind]:
    """What can be drawn: the figure that runs are compared by, then the usual ones."""
    first = Kind(it.title, it.name, ("eval",), share=it.figure.share)
    return [first, *(k for k in _KINDS if (k.key, k.kinds) != (first.key, first.kinds))]


def curves(it: Compared, kind: Kind) -> list[Curve]:
    """The curves of all groups: the mean of runs that have ended at the steps that they share, and
    every other run by itself."""
    return [x for label, some in it.lines().items() for g in some for x in _of(label, g, kind)]


def draw(it: Compared, kind: Kind) -> Plot | None:
    """All curves in one figure: colours tell lines apart, as everywhere; opacity the setting that
    is the horizontal axis elsewhere."""
    found = curves(it, kind)
    if not found:
        return None
    places = sorted({x.group.number(it.layout.x or "") for x in found} - {None})  # type: ignore[type-var]
    labels = list(it.lines())
    most = min(plots.POINTS, max(100, _POINTS // len(found)))
    some = []
    for x in found:
        at = x.group.number(it.layout.x or "")
        rank = 1.0 if at is None or len(places) < 2 else places.index(at) / (len(places) - 1)
        n = plots.window(x.values.size) if kind.noisy else 1
        some.append(
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
        some,
        percent=kind.share,
        may_log=not kind.share,
        most=most,
        caption=" ".join(_said(it, kind, found, len(places))),
    )
    if plot is None:
        return None
    shown = dict.fromkeys(x.label for x in found)
    keys = tuple(Key(variable(colour(labels.index(label))), label) for label in shown)
    return Plot(plot.title, plot.svg, keys, plot.caption)


def _said(it: Compared, kind: Kind, found: Sequence[Curve], places: int) -> Iterator[str]:
    if kind.caption:
        yield kind.caption
    if places > 1:
        yield f"The fuller a line, the higher its {it.x_words}."
    if any(not x.ended for x in found):
        yield "Dashed: a run that has not ended."


def _of(label: str, group: Group, kind: Kind) -> Iterator[Curve]:
    ended = [trial.run for trial in group.trials if trial.run and trial.done]
    found = [series for run in ended if (series := _series(run, kind))]
    if found:
        steps = reduce(np.intersect1d, [np.array(list(series)) for series in found])
        values = np.array([[series[step] for step in steps] for series in found])
        if steps.size:
            yield Curve(label, group, steps, values.mean(axis=0), len(found), ended=True)
    for trial in group.trials:
        if trial.run and not trial.done and (series := _series(trial.run, kind)):
            x, y = np.array(list(series)), np.array(list(series.values()))
            yield Curve(label, group, x, y, 1, ended=False)


def _series(run: Run, kind: Kind) -> dict[float, float]:
    steps, values = run.series(kind.key, *kind.kinds)
    return dict(zip(steps.tolist(), values.tolist(), strict=True))
