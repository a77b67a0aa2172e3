"""Kinds of figures: lines over steps, grown and dropped connections, histograms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from dst.report.theme import (
    INK,
    MUTED,
    SERIES,
    TICKS,
    canvas,
    dasharray,
    linestyle,
    percent_ticks,
    percents,
    short,
    themed,
    tip,
    variable,
)

POINTS = 1500  # of one line; more cannot be seen
_TIPS = 120  # points of a figure that show their values


@dataclass(frozen=True)
class Key:
    """One entry of a legend: a CSS colour, what it stands for, and the dash pattern of lines."""

    colour: str
    label: str
    dash: int = 0

    @property
    def dasharray(self) -> str:
        """The pattern as SVG takes it."""
        return dasharray(self.dash)


@dataclass(frozen=True)
class Plot:
    """A figure of the report: title, SVG, legend, and a sentence on what it shows."""

    title: str
    svg: Markup
    legend: tuple[Key, ...] = ()
    caption: str = ""


@dataclass(frozen=True)
class Line:
    """One line of a plot.

    Attributes:
      label: in the legend; empty for none.
      x, y: steps and values.
      colour: one of the stand-ins.
      faint: for raw values behind an average.
      points: marks every value.
      dash: number of the dash pattern; 0: solid.
      crossed: the line ends in a cross.
      name: what a pointer on the line shows; the label where it is empty.
      holds: a value holds until the next one, as what only topology steps change.
    """

    label: str
    x: np.ndarray
    y: np.ndarray
    colour: str
    faint: bool = False
    points: bool = False
    width: float = 1.6
    dash: int = 0
    holds: bool = False
    crossed: bool = False
    name: str = ""


@dataclass(frozen=True)
class Shares:
    """A logarithmic horizontal axis of shares that fall to the right, such as remaining weights.

    Attributes:
      label: below the axis.
    """

    label: str

    def apply(self, axes: Axes, values: np.ndarray) -> None:
        """Scale, ticks and label."""
        axes.set_xscale("log")
        low, high = float(values.min()), float(values.max())
        digits = range(math.floor(math.log10(low)), 1)
        ticks = [d * 10.0**e for e in digits for d in (1, 2, 5) if low <= d * 10.0**e <= high]
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        percent_ticks(axes.xaxis)
        axes.set_xlim(1.1 * high, low / 1.1)
        axes.set_xlabel(self.label)


def smooth(y: np.ndarray, window: int) -> np.ndarray:
    """Centred running mean over ``window`` values; NaNs are skipped, ends use what is there."""
    kernel = np.ones(min(window, y.size))
    finite = np.isfinite(y)
    total = np.convolve(np.where(finite, y, 0.0), kernel, mode="same")
    count = np.convolve(finite.astype(float), kernel, mode="same")
    return np.divide(total, count, out=np.full(y.shape, np.nan), where=(count > 0.5) & finite)


def thinned(line: Line, most: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a line, evenly thinned to about ``most``; the last one stays."""
    stride = max(1, -(-line.x.size // most))
    kept = np.unique(np.append(np.arange(0, line.x.size, stride), line.x.size - 1))
    return line.x[kept], line.y[kept]


def window(n: int) -> int:
    """Over how many of ``n`` noisy values a running mean goes; 1 where they are too few."""
    return max(5, n // 40) if n >= 40 else 1


def with_average(label: str, x: np.ndarray, y: np.ndarray, colour: str) -> list[Line]:
    """A noisy metric: the raw values faintly, and their running mean where they are many."""
    n = window(y.size)
    if n == 1:
        return [Line(label, x, y, colour, points=y.size < 3)]
    return [
        Line("", x, y, colour, faint=True),
        Line(f"{label} (running mean of {n})", x, smooth(y, n), colour),
    ]


def lines(
    title: str,
    drawn: Sequence[Line],
    *,
    caption: str = "",
    percent: bool = False,
    may_log: bool = False,
    marks: np.ndarray | None = None,
    until: float | None = None,
    axis: Shares | None = None,
    x_label: str = "step",
    most: int = POINTS,
) -> Plot | None:
    """Lines over steps; None where no line has a finite value.

    Args:
      title, caption: above and below the figure.
      drawn: the lines; those with a label are in the legend.
      percent: the values are fractions and shown in percent.
      may_log: a logarithmic axis where positive values span more than a factor of 30.
      marks: steps to mark at the bottom of the figure (topology steps).
      until: the last step of the run, so that all figures have the same axis.
      axis: shares that the lines run over, where these are no steps.
      x_label: of the horizontal axis.
      most: points of one line.
    """
    shown = [line for line in drawn if np.isfinite(line.y).any()]
    if not shown:
        return None
    figure, axes = canvas()
    for line in shown:
        axes.plot(
            *thinned(line, most),
            color=line.colour,
            linewidth=1.0 if line.faint else line.width,
            alpha=0.3 if line.faint else 1.0,
            linestyle=linestyle(line.dash),
            drawstyle="steps-post" if line.holds else "default",
            marker="o" if line.points else "",
            markersize=3.5,
            solid_joinstyle="round",
        )
        if line.crossed:
            axes.plot(line.x[-1], line.y[-1], "x", color=line.colour, markersize=6)
    _tips(axes, shown, percent, x_label if axis is None else axis.label, axis is not None)
    values = np.concatenate([line.y[np.isfinite(line.y)] for line in shown])
    if may_log and values.min() > 0 and values.max() > 30 * values.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(short))
        axes.tick_params(axis="y", which="minor", length=0)
        caption = f"{caption} The vertical axis is logarithmic.".strip()
    if percent:
        percents(axes, values)
    if marks is not None and marks.size:
        axes.plot(
            marks,
            np.full(marks.size, 0.012),
            transform=axes.get_xaxis_transform(),
            color=MUTED,
            marker="|",
            markersize=6,
            linestyle="",
        )
        caption = f"{caption} Ticks at the bottom mark topology steps.".strip()
    if axis is None:
        _steps(axes, until, x_label)
    else:
        axis.apply(axes, np.concatenate([line.x for line in shown]))
    legend = tuple(
        Key(variable(line.colour), line.label, line.dash) for line in shown if line.label
    )
    return Plot(title, themed(figure, title), legend, caption)


def _tips(axes: Axes, shown: Sequence[Line], percent: bool, x_label: str, shares: bool) -> None:
    """Values for a pointer: of some points of each line, the last one included."""
    drawn = [line for line in shown if not line.faint]
    most = max(4, _TIPS // max(1, len(drawn)))
    for line in drawn:
        for x, y in zip(*thinned(line, most), strict=True):
            if math.isfinite(y):
                value = f"{100 * y:.2f} %" if percent else f"{y:.4g}"
                place = f"{100 * x:.3g} % {x_label}" if shares else f"{x_label} {x:,.6g}"
                name = line.name or line.label
                tip(axes, x, y, ", ".join(t for t in (name, f"{place}: {value}") if t))


def exchange(
    title: str, steps: np.ndarray, grown: np.ndarray, dropped: np.ndarray, until: float | None
) -> Plot:
    """Connections grown (upwards) and dropped (downwards) at every topology step."""
    figure, axes = canvas()
    width = 0.8 * float(np.min(np.diff(steps))) if steps.size > 1 else 1.0
    axes.bar(steps, np.nan_to_num(grown), width, color=SERIES[1], linewidth=0)
    axes.bar(steps, -np.nan_to_num(dropped), width, color=SERIES[7], linewidth=0)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: short(abs(v))))
    for step, more, less in zip(steps, grown, dropped, strict=True):
        if len(steps) <= _TIPS and math.isfinite(more):
            tip(axes, step, more, f"step {step:,.0f}: grew {more:,.0f}, dropped {less:,.0f}")
    _steps(axes, until)
    legend = (Key(variable(SERIES[1]), "grown"), Key(variable(SERIES[7]), "dropped"))
    return Plot(
        title,
        themed(figure, title),
        legend,
        "Connections that each topology step grew (up) and dropped (down).",
    )


def histogram(title: str, unit: str, before: np.ndarray | None, after: np.ndarray) -> Plot:
    """How many units have how many active connections, before and after training."""
    both = after if before is None else np.concatenate([before, after])
    low, high = int(both.min()), int(both.max())
    width = max(1, -(-(high - low + 1) // 30))
    edges = np.arange(low, high + width + 1, width) - 0.5
    figure, axes = canvas()
    counts, _ = np.histogram(after, edges)
    axes.stairs(counts, edges, fill=True, color=SERIES[0], alpha=0.55, linewidth=0)
    for first, n in zip(edges, counts, strict=False):
        if n:
            least, most = int(first + 0.5), int(first + width - 0.5)
            which = f"{least}" if width == 1 else f"{least} to {most}"
            tip(axes, first + width / 2, n, f"{n:,} {unit}s with {which} connections")
    legend = [Key(variable(SERIES[0]), "after training")]
    if before is not None:
        counts, _ = np.histogram(before, edges)
        axes.stairs(counts, edges, color=INK, linewidth=1.3)
        legend.insert(0, Key(variable(INK), "before training"))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=TICKS))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True, steps=TICKS))
    axes.set_xlabel(f"active connections per {unit}")
    caption = f"The number of {unit}s by their number of active connections."
    return Plot(title, themed(figure, title), tuple(legend), caption)


def _steps(axes: Axes, until: float | None, label: str = "step") -> None:
    axes.set_xlabel(label)
    if until:
        axes.set_xlim(-0.02 * until, 1.02 * until)
