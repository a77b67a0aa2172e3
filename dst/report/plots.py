"""Figures as inline SVG whose colours are CSS variables, so that they follow light and dark."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

# matplotlib draws with these stand-ins; `themed` puts CSS variables in their place.
INK, MUTED, GRID = "#010101", "#020202", "#030303"
SERIES = tuple(f"#0400{i:02x}" for i in range(1, 9))
_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid"} | {
    colour: f"s{i}" for i, colour in enumerate(SERIES, start=1)
}
SIZE = (4.5, 2.75)  # inches; small, so that the text stays readable on a phone
TICKS = [1, 2, 2.5, 5, 10]  # round numbers
_POINTS = 1500  # of one line; more cannot be seen


@dataclass(frozen=True)
class Key:
    """One entry of a legend: a CSS colour and what it stands for."""

    colour: str
    label: str


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
      alpha: opacity of a line that is not faint.
      points: marks every value.
      holds: a value holds until the next one, as what only topology steps change.
    """

    label: str
    x: np.ndarray
    y: np.ndarray
    colour: str
    faint: bool = False
    alpha: float = 1.0
    points: bool = False
    width: float = 1.6
    dashed: bool = False
    holds: bool = False


@dataclass(frozen=True)
class Shares:
    """A horizontal axis of shares, falling to the right on a logarithmic scale: what remains.

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
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:g} %"))
        axes.set_xlim(1.1 * high, low / 1.1)
        axes.set_xlabel(self.label)


@contextmanager
def style() -> Iterator[None]:
    """matplotlib's own settings for the time of a report, whatever the user has set."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams["svg.hashsalt"] = "dst"  # the same data gives the same file
        matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text
        yield


def variable(colour: str) -> str:
    """The CSS colour behind a stand-in."""
    return f"var(--{_VARIABLES[colour]})"


def smooth(y: np.ndarray, window: int) -> np.ndarray:
    """Centred running mean over ``window`` values; NaNs are skipped, ends use what is there."""
    kernel = np.ones(min(window, y.size))
    finite = np.isfinite(y)
    total = np.convolve(np.where(finite, y, 0.0), kernel, mode="same")
    count = np.convolve(finite.astype(float), kernel, mode="same")
    return np.divide(total, count, out=np.full(y.shape, np.nan), where=(count > 0.5) & finite)


def thinned(line: Line) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a line, evenly thinned to what can be seen; the last one stays."""
    stride = max(1, -(-line.x.size // _POINTS))
    kept = np.unique(np.append(np.arange(0, line.x.size, stride), line.x.size - 1))
    return line.x[kept], line.y[kept]


def with_average(label: str, x: np.ndarray, y: np.ndarray, colour: str) -> list[Line]:
    """A noisy metric: the raw values faintly, and their running mean where they are many."""
    if y.size < 40:
        return [Line(label, x, y, colour, points=y.size < 3)]
    window = max(5, y.size // 40)
    return [
        Line("", x, y, colour, faint=True),
        Line(f"{label} (mean of {window} lines)", x, smooth(y, window), colour),
    ]


def lines(
    title: str,
    some: Sequence[Line],
    *,
    caption: str = "",
    percent: bool = False,
    may_log: bool = False,
    marks: np.ndarray | None = None,
    until: float | None = None,
    axis: Shares | None = None,
    x_label: str = "step",
) -> Plot | None:
    """Lines over steps; None where no line has a finite value.

    Args:
      title, caption: above and below the figure.
      some: the lines; those with a label are in the legend.
      percent: the values are fractions and shown in percent.
      may_log: a logarithmic axis where positive values span more than a factor of 30.
      marks: steps to mark at the foot of the figure (topology steps).
      until: the last step of the run, so that all figures have the same axis.
      axis: shares that the lines run over, where these are no steps.
      x_label: of the horizontal axis.
    """
    shown = [line for line in some if np.isfinite(line.y).any()]
    if not shown:
        return None
    figure, axes = canvas()
    for line in shown:
        axes.plot(
            *thinned(line),
            color=line.colour,
            linewidth=1.0 if line.faint else line.width,
            alpha=0.3 if line.faint else line.alpha,
            linestyle="--" if line.dashed else "-",
            drawstyle="steps-post" if line.holds else "default",
            marker="o" if line.points else "",
            markersize=3.5,
            solid_joinstyle="round",
        )
    values = np.concatenate([line.y[np.isfinite(line.y)] for line in shown])
    if may_log and values.min() > 0 and values.max() > 30 * values.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(short))
        axes.tick_params(axis="y", which="minor", length=0)
        caption = f"{caption} Logarithmic axis.".strip()
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
        caption = f"{caption} Ticks at the foot: topology steps.".strip()
    if axis is None:
        _steps(axes, until, x_label)
    else:
        axis.apply(axes, np.concatenate([line.x for line in shown]))
    legend = tuple(Key(variable(line.colour), line.label) for line in shown if line.label)
    return Plot(title, themed(figure, title), legend, caption)


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
    _steps(axes, until)
    legend = (Key(variable(SERIES[1]), "grown"), Key(variable(SERIES[7]), "dropped"))
    return Plot(title, themed(figure, title), legend, "Connections changed at every topology step.")


def histogram(title: str, unit: str, before: np.ndarray | None, after: np.ndarray) -> Plot:
    """How many units have how many active connections, before and after training."""
    both = after if before is None else np.concatenate([before, after])
    low, high = int(both.min()), int(both.max())
    width = max(1, -(-(high - low + 1) // 30))
    edges = np.arange(low, high + width + 1, width) - 0.5
    figure, axes = canvas()
    counts, _ = np.histogram(after, edges)
    axes.stairs(counts, edges, fill=True, color=SERIES[0], alpha=0.55, linewidth=0)
    legend = [Key(variable(SERIES[0]), "after training")]
    if before is not None:
        counts, _ = np.histogram(before, edges)
        axes.stairs(counts, edges, color=INK, linewidth=1.3)
        legend.insert(0, Key(variable(INK), "before training"))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=TICKS))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True, steps=TICKS))
    axes.set_xlabel(f"active connections of one {unit}")
    caption = f"How many {unit}s have how many active connections."
    return Plot(title, themed(figure, title), tuple(legend), caption)


def themed(figure: Figure, label: str) -> Markup:
    """The figure as an SVG element: no width, no outside names, colours as CSS variables.

    Args:
      figure: drawn with the stand-in colours of this module, under :func:`style`.
      label: what a screen reader says; also keeps the ids of several figures apart.
    """
    out = io.StringIO()
    FigureCanvasSVG(figure).print_svg(out)
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.S)
    box = re.search(r'viewBox="([^"]*)"', svg)
    view = box.group(1) if box else ""
    name = escape(label)
    svg = re.sub(
        r"<svg[^>]*>", f'<svg viewBox="{view}" role="img" aria-label="{name}">', svg, count=1
    )
    svg = svg.replace("xlink:href", "href")
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))
    prefix = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")
    svg = re.sub(r' id="([^"]*)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'(href="|url\()#', rf"\g<1>#{prefix}-", svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    for colour, css in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{css})")
    return Markup(re.sub(r"\n\s*", "\n", svg).strip())


def canvas(size: tuple[float, float] = SIZE) -> tuple[Figure, Axes]:
    """An empty figure with axes, in this module's style; ``size`` in inches."""
    figure = Figure(figsize=size)
    # Fixed margins: figures align with each other, and need no second drawing to be laid out.
    figure.subplots_adjust(left=0.15, right=0.945, bottom=0.18, top=0.96)
    figure.patch.set_visible(False)
    axes = figure.add_subplot()
    axes.patch.set_visible(False)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.tick_params(colors=MUTED, length=0, labelsize=10)
    axes.tick_params(axis="x", length=3)
    axes.xaxis.label.set_color(MUTED)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=TICKS))
    axes.xaxis.set_major_formatter(FuncFormatter(short))
    axes.yaxis.set_major_formatter(FuncFormatter(short))
    return figure, axes


def short(value: float, _: object = None) -> str:
    """``0.05``, ``4,000``, ``25k``, ``1.5M``: what fits beside an axis."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:g}k"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.5g}"


def _steps(axes: Axes, until: float | None, label: str = "step") -> None:
    axes.set_xlabel(label)
    if until:
        axes.set_xlim(-0.02 * until, 1.02 * until)


def percents(axes: Axes, values: np.ndarray) -> None:
    """A vertical axis of fractions in percent."""
    low, high = float(values.min()), float(values.max())
    if high - low < 0.02:  # a flat line should look flat
        middle = (low + high) / 2
        axes.set_ylim(max(middle - 0.02, -0.002), min(middle + 0.02, 1.002))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=TICKS))
    bottom, top = axes.get_ylim()
    digits = 0 if top - bottom > 0.06 else 1
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.{digits}f} %"))
