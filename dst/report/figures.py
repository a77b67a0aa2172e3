"""Figures that compare groups of runs: against a setting, and against costs."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from dst.report import groups, theme
from dst.report.comparison import Comparison, Look
from dst.report.groups import SPARSITY, Group
from dst.report.plots import Key, Plot
from dst.report.words import figure as shown_figure
from dst.report.words import joined, of_all, percent

LOG_RATIO = 20.0  # from this ratio on, an axis of positive numbers is logarithmic
_MARKS = "osD^vP"  # of points, where lines have dash patterns
_SPARSITIES = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)


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
    for label, some in comparison.lines().items():
        some = [group for group in some if group.values(comparison.name).size]
        if not some:
            continue
        look = comparison.looks[label]
        legend.append(Key(theme.variable(look.colour), label, look.dash))
        for group in some:
            values += group.values(comparison.name).tolist()
            if group.number(comparison.layout.x) is None:
                _level(axes, comparison, group)
        placed = [group for group in some if group.number(comparison.layout.x) is not None]
        if placed:
            _line(axes, comparison, placed, look, joins=not comparison.layout.rest)
            places += [group.number(comparison.layout.x) or 0.0 for group in placed]
    _horizontal(axes, comparison.layout.x, comparison.x_words, np.array(places or [0.0]))
    _vertical(axes, comparison, values)
    title = f"{comparison.title} against {comparison.x_words}"
    caption = [seeds_caption(comparison)]
    if comparison.layout.rest:
        rest = joined([groups.short(key, comparison.keys) for key in comparison.layout.rest])
        caption.insert(0, f"Points of one colour differ in {rest}.")
    if any(group.number(comparison.layout.x) is None for group in comparison.ended()):
        caption.insert(0, f"Horizontal lines are runs without a {comparison.x_words}.")
    if comparison.test_labels and comparison.figure.share:
        caption.append(_resolution(comparison.test_labels))
    return Plot(title, theme.themed(figure, title), tuple(legend), " ".join(caption))


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
    for label, some in comparison.lines().items():
        mine = [n for n, group in enumerate(known) if group in some]
        if mine:
            look = comparison.looks[label]
            dense = known[mine[0]] in comparison.dense
            axes.plot(
                at[mine, 0],
                at[mine, 1],
                _MARKS[0 if dense else look.dash % len(_MARKS)],
                color=look.colour,
                markersize=5,
            )
            legend.append(Key(theme.variable(look.colour), label, look.dash if dense else 0))
        for n in mine:
            place = f"{words} {percent(float(at[n, 0]))}"
            theme.tip(axes, at[n, 0], at[n, 1], f"{mean_words(comparison, known[n])}, {place}")
    for group in comparison.dense:
        _level(axes, comparison, group)
    legend.append(Key(theme.variable(theme.MUTED), "Pareto front"))
    scaled(axes, at[:, 0])
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


def mean_words(comparison: Comparison, group: Group) -> str:
    """A group and its figure, for a pointer."""
    name = groups.described(group.settings, comparison.keys, comparison.keys) or "all runs"
    n, share = group.values(comparison.name).size, comparison.figure.share
    text = f"{name}: {shown_figure(group.mean(comparison.name), share)}"
    if n > 1:
        half = group.half(comparison.name)
        interval = "" if half is None else f" ± {shown_figure(half, share)}"
        return f"{text}{interval} (mean of {n} seeds)"
    counted = of_all(group.mean(comparison.name), comparison.test_labels) if share else ""
    return f"{text}, {counted}" if counted else text


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


def _resolution(labels: int) -> str:
    return f"The test set has {labels:,} labels: one of them is {100 / labels:.2g} points."


def _line(axes: Axes, comparison: Comparison, some: list[Group], look: Look, joins: bool) -> None:
    x = np.array([group.number(comparison.layout.x or "") for group in some], dtype=float)
    order = np.argsort(x, kind="stable")
    some, x = [some[i] for i in order], x[order]
    y = np.array([group.mean(comparison.name) for group in some], dtype=float)
    half = np.array([group.half(comparison.name) or math.nan for group in some])
    tone, style = look.colour, theme.linestyle(look.dash) if joins else " "
    axes.plot(x, y, linestyle=style, marker="o", markersize=4.5, color=tone, linewidth=1.6)
    axes.errorbar(x, y, half, color=tone, linestyle="", linewidth=1, alpha=0.6)
    if joins:
        axes.fill_between(x, y - half, y + half, color=tone, alpha=0.16, linewidth=0)
    for group, place in zip(some, x, strict=True):
        values = group.values(comparison.name)
        _single(axes, np.full(values.size, place), values, tone)
        _tips(axes, comparison, group, partial(_upright, place))


def _tips(
    axes: Axes,
    comparison: Comparison,
    group: Group,
    place: Callable[[float], tuple[float, float]],
) -> None:
    """What a pointer shows of a group, and of its single runs."""
    mean, share = group.mean(comparison.name) or 0.0, comparison.figure.share
    seeds = [(x, value) for x in group.trials if (value := x.figure(comparison.name)) is not None]
    for trial, value in seeds if len(seeds) > 1 else ():
        counted = of_all(value, comparison.test_labels) if share else ""
        text = f"seed {trial.settings.get(groups.SEED, 'unknown')}: {shown_figure(value, share)}"
        theme.tip(axes, *place(value), ", ".join(x for x in (text, counted) if x))
    theme.tip(axes, *place(mean), mean_words(comparison, group))


def _upright(place: float, value: float) -> tuple[float, float]:
    return place, value


def _lying(row: float, value: float) -> tuple[float, float]:
    return value, row


def _level(axes: Axes, comparison: Comparison, group: Group) -> None:
    mean, half = group.mean(comparison.name) or 0.0, group.half(comparison.name)
    look = comparison.look(group)
    axes.axhline(
        mean, color=look.colour, linewidth=1.4, linestyle=theme.linestyle(look.dash), zorder=1.5
    )
    if half is not None:
        axes.axhspan(mean - half, mean + half, color=look.colour, alpha=0.1, linewidth=0)


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
    for i, (label, group) in enumerate(rows):
        values, mean = group.values(comparison.name), group.mean(comparison.name) or 0.0
        half, look = group.half(comparison.name), comparison.looks[label]
        axes.errorbar(mean, i, xerr=half, color=look.colour, marker="o", markersize=6)
        _single(axes, values, np.full(values.size, float(i)), look.colour)
        _tips(axes, comparison, group, partial(_lying, i))
        if group in comparison.dense:
            style = theme.linestyle(look.dash)
            axes.axvline(mean, color=look.colour, linewidth=1.2, linestyle=style, zorder=1)
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
        scaled(axes, values)
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


def scaled(axes: Axes, values: np.ndarray) -> None:
    """A horizontal axis of numbers, by logarithms where they are far apart."""
    if values.min() > 0 and values.max() > LOG_RATIO * values.min():
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(theme.short))
