"""How figures look: colours that follow light and dark, canvas, numbers beside axes, inline SVG."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

# matplotlib draws with these stand-ins; `themed` puts CSS variables in their place.
INK, MUTED, GRID = "#010101", "#020202", "#030303"
SERIES = tuple(f"#0400{i:02x}" for i in range(1, 9))
_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid"} | {
    colour: f"s{i}" for i, colour in enumerate(SERIES, start=1)
}
# Patterns of lines, in widths of the line; a line after the last one repeats them.
DASHES = ((), (4.5, 2), (1.2, 1.5), (7, 1.8, 1.2, 1.8), (2.5, 1.2), (9, 2, 3, 2))
SIZE = (4.5, 2.75)  # inches; small, so that the text stays readable on a phone
TICKS = [1, 2, 2.5, 5, 10]  # round numbers


class Drawing(Figure):
    """A figure of matplotlib with texts that show when a pointer rests on a place."""

    def __init__(self, size: tuple[float, float]):
        super().__init__(figsize=size)
        self.tips: list[tuple[Axes, float, float, str]] = []

    def circles(self) -> str:
        """The places as SVG. They are drawn last, so that nothing covers them."""
        parts = []
        for axes, x, y, text in self.tips:
            across, up = axes.transData.transform((x, y)) / self.dpi * 72
            down = 72 * self.get_figheight() - up
            title = f"<title>{escape(text)}</title>"
            if np.isfinite((across, down)).all():
                place = f'cx="{across:.1f}" cy="{down:.1f}" r="5"'
                parts.append(f'<circle class="tip" {place}>{title}</circle>')
        return "\n".join(parts)


def linestyle(dash: int) -> str | tuple[int, tuple[float, ...]]:
    """A dash pattern as matplotlib takes it."""
    pattern = DASHES[dash % len(DASHES)]
    return (0, pattern) if pattern else "-"


def dasharray(dash: int, width: float = 2.0) -> str:
    """A dash pattern as SVG takes it."""
    return " ".join(f"{width * x:g}" for x in DASHES[dash % len(DASHES)]) or "none"


def tip(axes: Axes, x: float, y: float, text: str) -> None:
    """Shows a text when a pointer rests on a point of the axes."""
    drawing = axes.figure
    assert isinstance(drawing, Drawing)
    drawing.tips.append((axes, float(x), float(y), text))


def colour(index: int) -> str:
    """The colour of a line; after the eighth they repeat."""
    return SERIES[index % len(SERIES)]


@contextmanager
def style() -> Iterator[None]:
    """Inside, matplotlib has its own defaults, whatever the user has set."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams["svg.hashsalt"] = "dst"  # the same data gives the same file
        matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text
        yield


def variable(colour: str) -> str:
    """The CSS colour behind a stand-in."""
    return f"var(--{_VARIABLES[colour]})"


def themed(figure: Figure, label: str) -> Markup:
    """The figure as an SVG element without width and metadata, with CSS variables as colours.

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
    if isinstance(figure, Drawing):
        svg = svg.replace("</svg>", f"{figure.circles()}</svg>")
    return Markup(re.sub(r"\n\s*", "\n", svg).strip())


def canvas(size: tuple[float, float] = SIZE) -> tuple[Drawing, Axes]:
    """An empty figure with axes, in this module's style; ``size`` in inches."""
    figure = Drawing(size)
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
    """A number beside an axis: ``0.05``, ``4,000``, ``25k``, ``1.5M``."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:g}k"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.5g}"


def percent_ticks(axis: Axis, digits: int | None = None) -> None:
    """Fractions in percent beside an axis, with as many digits as they need, or a fixed number."""
    form = ".6g" if digits is None else f".{digits}f"
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:{form}} %"))


def percents(axes: Axes, values: np.ndarray) -> None:
    """A vertical axis of fractions in percent."""
    low, high = float(values.min()), float(values.max())
    if high - low < 0.02:  # a flat line should look flat
        middle = (low + high) / 2
        axes.set_ylim(max(middle - 0.02, -0.002), min(middle + 0.02, 1.002))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))  # 2.5 would be rounded
    bottom, top = axes.get_ylim()
    digits = 0 if top - bottom > 0.06 else 1
    percent_ticks(axes.yaxis, digits)
