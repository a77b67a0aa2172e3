"""Figures that compare groups of runs: against a setting, against costs, over all settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from dst.report import groups, theme
from dst.report.groups import SPARSITY, Group, Layout
from dst.report.plots import Key, Plot
from dst.report.theme import SERIES, colour
from dst.report.words import joined, percent
from dst.train.objectives.figures import Figure

_LOG_RATIO = 20.0  # from this ratio on, an axis of positive numbers is logarithmic
_SPARSITIES = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)


@dataclass(frozen=True)
class Comparison:
    """Groups of runs, and how they are drawn.

    Attributes:
      groups: of runs that differ in their seed only; a group without an ended run is not drawn.
      keys: settings that tell them apart.
      layout: what is drawn where.
      name, figure: by which they are compared.
    """

    groups: Sequence[Group]
    keys: Sequence[str]
    layout: Layout
    name: str
    figure: Figure

    def lines(self) -> dict[str, list[Group]]:
        """Groups by what the legend calls their line."""
        lines: dict[str, list[Group]] = {}
        for group in self.groups:
            words = groups.described(group.settings, self.layout.line, self.keys)
            lines.setdefault(words or "all runs", []).append(group)
        return lines

    def ended(self) -> list[Group]:
        """Groups with a figure."""
        return [group for group in self.groups if group.values(self.name).size]

    @property
    def title(self) -> str:
        """The figure's name for a heading."""
        return f"Test {self.figure.words}"

    @property
    def x_words(self) -> str:
        """The name of the horizontal axis."""
        return groups.short(self.layout.x, self.keys) if self.layout.x else ""


def against_setting(comparison: Comparison) -> Plot | None:
    """The figure of every line, with its interval over seeds and its single runs."""
    if not comparison.ended():
        return None
    if comparison.layout.x is None:
        return _side_by_side(comparison)
    figure, axes = theme.canvas()
    legend = []
    values: list[float] = []
    places: list[float] = []
    for i, (label, some) in enumerate(comparison.lines().items()):
        some = [group for group in some if group.values(comparison.name).size]
        if not some:
            continue
        style = "--" if i >= len(SERIES) else "-"
        legend.append(Key(theme.variable(colour(i)), label))
        for group in some:
            values += group.values(comparison.name).tolist()
            if group.number(comparison.layout.x) is None:
                _level(axes, comparison, group, colour(i))
        placed = [group for group in some if group.number(comparison.layout.x) is not None]
        if placed:
            _line(axes, comparison, placed, colour(i), "" if comparison.layout.rest else style)
            places += [group.number(comparison.layout.x) or 0.0 for group in placed]
    _horizontal(axes, comparison.layout.x, comparison.x_words, np.array(places or [0.0]))
    _vertical(axes, comparison, values)
    title = f"{comparison.title} against {comparison.x_words}"
    caption = seeds_caption(comparison)
    if comparison.layout.rest:
        rest = joined([groups.short(key, comparison.keys) for key in comparison.layout.rest])
        caption = f"Points of one colour differ in {rest}. {caption}"
    if any(group.number(comparison.layout.x) is None for group in comparison.ended()):
        caption = f"Horizontal lines are runs without a {comparison.x_words}. {caption}"
    return Plot(title, theme.themed(figure, title), tuple(legend), caption)


def pareto(comparison: Comparison, cost: str, words: str) -> Plot | None:
    """The figure against a cost relative to dense, with the groups that no other beats in both."""
    known = [x for x in comparison.ended() if x.mean(cost) is not None]
    if len(known) < 2:
        return None
    at = np.array([[x.mean(cost), x.mean(comparison.name)] for x in known], dtype=float)
    best = front(at[:, 0], at[:, 1] * (1 if comparison.figure.best is max else -1))
    figure, axes = theme.canvas()
    steps = at[best]
    axes.step(steps[:, 0], steps[:, 1], where="post", color=theme.MUTED, linewidth=1.2, zorder=1)
    legend = []
    for i, (label, some) in enumerate(comparison.lines().items()):
        mine = [n for n, group in enumerate(known) if group in some]
        if mine:
            axes.plot(at[mine, 0], at[mine, 1], "o", color=colour(i), markersize=5)
            legend.append(Key(theme.variable(colour(i)), label))
    legend.append(Key(theme.variable(theme.MUTED), "Pareto front"))
    _scaled(axes, at[:, 0])
    theme.percent_ticks(axes.xaxis)
    axes.set_xlabel(f"{words}, relative to dense")
    _vertical(axes, comparison, at[:, 1].tolist())
    title = f"{comparison.title} against {words}"
    names = [groups.described(known[n].settings, comparison.keys, comparison.keys) for n in best]
    most = 2 if comparison.layout.rest else 6
    more = f"; and {len(names) - most} more" if len(names) > most else ""
    cheapest = f"{'; '.join(names[:most])}{more}"
    caption = f"Points are means over seeds. Pareto front, cheapest first: {cheapest}."
    return Plot(title, theme.themed(figure, title), tuple(legend), caption)


def front(cost: np.ndarray, gain: np.ndarray) -> list[int]:
    """Indices of the points that no other point beats, in the order of costs.

    A point beats another if it is better at no higher cost, or as good at a lower cost.
    """
    best: list[int] = []
    for i in np.lexsort((-gain, cost)):
        if not best or gain[i] > gain[best[-1]]:
            best.append(int(i))
    return best


def parallel(comparison: Comparison) -> Plot | None:
    """A line per group through all numeric settings, up to the figure; None below two settings."""
    numbers = [
        key
        for key in comparison.keys
        if len({group.number(key) for group in comparison.groups} - {None}) > 1
    ]
    known = [x for x in comparison.ended() if all(x.number(key) is not None for key in numbers)]
    if len(numbers) < 2 or len(known) < 3:
        return None
    columns = [np.array([x.number(key) for x in known], dtype=float) for key in numbers]
    columns.append(np.array([x.mean(comparison.name) for x in known], dtype=float))
    order = np.argsort(columns[-1] * (1 if comparison.figure.best is max else -1), kind="stable")
    figure, axes = theme.canvas()
    figure.subplots_adjust(left=0.08, right=0.92, bottom=0.2, top=0.9)
    heights = np.stack([_unit(column) for column in columns])
    for rank, i in enumerate(order, start=1):
        last = rank == len(order)
        axes.plot(
            heights[:, i],
            color=SERIES[7] if last else SERIES[0],
            alpha=1.0 if last else 0.1 + 0.6 * rank / len(order),
            linewidth=2.2 if last else 1.2,
        )
    names = [*(groups.short(key, comparison.keys) for key in numbers), comparison.figure.words]
    for n, column in enumerate(columns):
        axes.axvline(n, color=theme.MUTED, linewidth=0.8, zorder=0)
        for value, y, side in ((column.max(), 1.04, "bottom"), (column.min(), -0.04, "top")):
            share = n == len(numbers) and comparison.figure.share
            text = percent(value) if share else theme.short(value)
            axes.text(n, y, text, color=theme.MUTED, ha="center", va=side, fontsize=9)
    axes.grid(False)
    axes.yaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks(range(len(names)), names)
    axes.tick_params(axis="x", length=0, pad=16)
    title = "All numeric settings"
    legend = (
        Key(theme.variable(SERIES[0]), "one setting; a better one is more opaque"),
        Key(theme.variable(SERIES[7]), "the best setting"),
    )
    return Plot(title, theme.themed(figure, title), legend)


def seeds_caption(comparison: Comparison) -> str:
    """A caption: what points and bands are, with the number of seeds."""
    sizes = sorted({group.values(comparison.name).size for group in comparison.ended()})
    if sizes == [1]:
        return "Each point is one run."
    number = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    text = f"Points are means over {number} seeds; small points are single runs."
    if sizes[-1] < 3:
        return f"{text} There are no bands: an interval needs three runs."
    return f"{text} Bands are 95 % t intervals of the means of three or more seeds."


def _line(axes: Axes, comparison: Comparison, some: list[Group], tone: str, style: str) -> None:
    x = np.array([group.number(comparison.layout.x or "") for group in some], dtype=float)
    order = np.argsort(x, kind="stable")
    some, x = [some[i] for i in order], x[order]
    y = np.array([group.mean(comparison.name) for group in some], dtype=float)
    half = np.array([group.half(comparison.name) or math.nan for group in some])
    axes.plot(x, y, style or " ", marker="o", markersize=4.5, color=tone, linewidth=1.6)
    axes.errorbar(x, y, half, color=tone, linestyle="", linewidth=1, alpha=0.6)
    if style:
        axes.fill_between(x, y - half, y + half, color=tone, alpha=0.16, linewidth=0)
    for group, place in zip(some, x, strict=True):
        values = group.values(comparison.name)
        _single(axes, np.full(values.size, place), values, tone)


def _level(axes: Axes, comparison: Comparison, group: Group, tone: str) -> None:
    mean, half = group.mean(comparison.name) or 0.0, group.half(comparison.name)
    axes.axhline(mean, color=tone, linewidth=1.4, linestyle=(0, (5, 2)))
    if half is not None:
        axes.axhspan(mean - half, mean + half, color=tone, alpha=0.12, linewidth=0)


def _single(axes: Axes, x: np.ndarray, y: np.ndarray, tone: str) -> None:
    if y.size > 1:
        axes.plot(x, y, "o", color=tone, markersize=2.6, alpha=0.5, markeredgewidth=0)


def _side_by_side(comparison: Comparison) -> Plot:
    """Where no number varies: a row per line."""
    ended = comparison.ended()
    rows = [(label, some[0]) for label, some in comparison.lines().items() if some[0] in ended]
    height = 0.5 + 0.32 * len(rows)
    figure, axes = theme.canvas((theme.SIZE[0], height))
    longest = max(len(label) for label, _ in rows)
    left = min(0.5, 0.06 + 0.019 * longest)
    figure.subplots_adjust(left=left, bottom=0.3 / height, top=1 - 0.06 / height)
    for i, (_, group) in enumerate(rows):
        values, mean = group.values(comparison.name), group.mean(comparison.name) or 0.0
        half = group.half(comparison.name)
        axes.errorbar(mean, i, xerr=half, color=colour(i), marker="o", markersize=6)
        _single(axes, values, np.full(values.size, float(i)), colour(i))
    axes.set_yticks(range(len(rows)), [_shortened(label) for label, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(True, axis="x", color=theme.GRID, linewidth=0.8)
    axes.grid(False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    if comparison.figure.share:
        theme.percent_ticks(axes.xaxis)
    caption = seeds_caption(comparison).replace("Bands", "Bars").replace("bands", "bars")
    return Plot(comparison.title, theme.themed(figure, comparison.title), (), caption)


def _shortened(label: str) -> str:
    return label if len(label) <= 24 else f"{label[:22]}…"


def _vertical(axes: Axes, comparison: Comparison, values: list[float]) -> None:
    """The axis of the figure covers all single runs; an interval may be cut off."""
    low, high = min(values), max(values)
    margin = 0.12 * (high - low) or 0.02 * abs(high) or 0.01
    axes.set_ylim(low - margin, high + margin)
    if comparison.figure.share:
        theme.percents(axes, np.array(axes.get_ylim()))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def _horizontal(axes: Axes, key: str, words: str, values: np.ndarray) -> None:
    axes.set_xlabel(words)
    if key != SPARSITY:
        _scaled(axes, values)
        return
    # Equal distances for equal ratios of densities: 90 to 99 % is as far as 99 to 99.9 %.
    axes.set_xscale(
        "function",
        functions=(lambda s: -np.log10(np.maximum(1 - s, 1e-9)), lambda u: 1 - 10.0**-u),
    )
    places = sorted(set(values.tolist()))
    if len(places) > 7:
        places = [x for x in _SPARSITIES if values.min() <= x <= values.max()]
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_minor_locator(NullLocator())
    theme.percent_ticks(axes.xaxis)


def _scaled(axes: Axes, values: np.ndarray) -> None:
    if values.min() > 0 and values.max() > _LOG_RATIO * values.min():
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(theme.short))


def _unit(values: np.ndarray) -> np.ndarray:
    """From 0 to 1, by logarithms where values are far apart."""
    if values.min() > 0 and values.max() > _LOG_RATIO * values.min():
        values = np.log(values)
    span = np.ptp(values)
    return (values - values.min()) / span if span else np.full(values.shape, 0.5)
