"""Figures over several settings at once: heat maps, parallel coordinates, importance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes

from dst.core.extras import package_of
from dst.report import groups, theme
from dst.report.comparison import Comparison
from dst.report.figures import LOG_RATIO, mean_words
from dst.report.groups import METHOD, Group
from dst.report.plots import Key, Plot
from dst.report.words import joined, percent, worded
from dst.train.objectives.figures import Figure

_CELLS = 10  # of a heat map along an axis, so that each can show its number
_FILLED = 0.7  # the share of cells that need a run
_MAPS = 4
_RUNS = 8  # for importances


def heat_maps(comparison: Comparison) -> Iterator[Plot]:
    """The figure over two numeric settings, a map per method; nothing where they form no grid."""
    known = comparison.sparse
    numbers = [key for key in _varying(comparison, known) if _numeric(known, key)]
    if len(numbers) < 2:
        return
    across = comparison.layout.x if comparison.layout.x in numbers else numbers[0]
    others = [key for key in numbers if key != across]
    down = max(others, key=lambda key: len({x.number(key) for x in known}))
    methods = list(dict.fromkeys(x.method for x in known))
    everything = [x.mean(comparison.name) or 0.0 for x in known]
    for method in methods[:_MAPS]:
        mine = [x for x in known if x.method == method]
        xs, ys = (sorted({x.number(key) or 0.0 for x in mine}) for key in (across, down))
        cells: dict[tuple[float, float], list[Group]] = {}
        for x in mine:
            cells.setdefault((x.number(across) or 0.0, x.number(down) or 0.0), []).append(x)
        large = max(len(xs), len(ys)) > _CELLS or min(len(xs), len(ys)) < 2
        if large or len(cells) < _FILLED * len(xs) * len(ys):
            continue
        yield _heat_map(
            comparison, method if len(methods) > 1 else "", (across, down), (xs, ys), cells,
            (min(everything), max(everything)),
        )  # fmt: skip


def _heat_map(
    comparison: Comparison,
    method: str,
    keys: tuple[str, str],
    axes_: tuple[Sequence[float], Sequence[float]],
    cells: dict[tuple[float, float], list[Group]],
    span: tuple[float, float],
) -> Plot:
    figure, axes = theme.canvas()
    low, high = span
    (xs, ys), names = axes_, [groups.short(key, comparison.keys) for key in keys]
    for (x, y), some in cells.items():
        i, j = xs.index(x), ys.index(y)
        value = float(np.mean([group.mean(comparison.name) for group in some]))
        rank = (value - low) / (high - low) if high > low else 0.5
        rank = rank if comparison.figure.best is max else 1 - rank
        tone = comparison.look(some[0]).colour if method else theme.SERIES[0]
        square = (
            [i - 0.48, i + 0.48, i + 0.48, i - 0.48],
            [j - 0.46, j - 0.46, j + 0.46, j + 0.46],
        )
        axes.fill(*square, color=tone, alpha=0.08 + 0.52 * rank, linewidth=0)
        share = comparison.figure.share
        text = f"{100 * value:.1f}" if share else f"{value:.3g}"
        axes.text(i, j, text, color=theme.INK, ha="center", va="center", fontsize=9)
        theme.tip(axes, i, j, "; ".join(mean_words(comparison, group) for group in some[:4]))
    axes.set_xticks(range(len(xs)), [_tick(keys[0], x) for x in xs])
    axes.set_yticks(range(len(ys)), [_tick(keys[1], y) for y in ys])
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1], color=theme.MUTED)
    axes.set_xlim(-0.5, len(xs) - 0.5)
    axes.set_ylim(-0.5, len(ys) - 0.5)
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(length=0, axis="both")
    unit = " in %" if comparison.figure.share else ""
    of = f" of {method}" if method else ""
    title = f"{comparison.title}{of} over {joined(names)}"
    caption = f"{comparison.title}{unit}; a stronger colour is better."
    rest = [x for x in _varying(comparison, comparison.sparse) if x not in (*keys, METHOD)]
    if rest:
        words = joined([groups.short(key, comparison.keys) for key in rest])
        caption += f" Each cell is the mean over the values of {words}."
    if comparison.dense:
        mean = comparison.dense[0].mean(comparison.name)
        caption += f" Dense: {_figure(mean or 0.0, comparison.figure)}."
    return Plot(title, theme.themed(figure, title), (), caption)


def parallel(comparison: Comparison) -> Plot | None:
    """A line per group through all settings, up to the figure; None where they are few."""
    known = comparison.sparse
    keys = [key for key in _varying(comparison, known) if all(key in x.settings for x in known)]
    numbers = [key for key in keys if _numeric(known, key)]
    if len(known) < 3 or not numbers or len(keys) < 3 > len(numbers) + 1:
        return None
    known = [x for x in known if all(x.number(key) is not None for key in numbers)]
    figure, axes = theme.canvas()
    figure.subplots_adjust(left=0.1, right=0.9, bottom=0.2, top=0.9)
    heights = []
    for n, key in enumerate(keys):
        if key in numbers:
            column = np.array([x.number(key) for x in known], dtype=float)
            heights.append(_unit(column))
            ends = [(column.min(), 0.0), (column.max(), 1.0)]
            _axis(axes, n, [(_tick(key, float(value)), y) for value, y in ends])
        else:
            texts = [worded(x.settings[key]) for x in known]
            places = {text: i for i, text in enumerate(sorted(set(texts)))}
            last = max(1, len(places) - 1)
            heights.append(np.array([places[text] / last for text in texts]))
            _axis(axes, n, [(text, i / last) for text, i in places.items()])
    column = np.array([x.mean(comparison.name) for x in known], dtype=float)
    heights.append(_unit(column, may_log=False))
    ends = [(float(column.min()), 0.0), (float(column.max()), 1.0)]
    _axis(axes, len(keys), [(_figure(value, comparison.figure), y) for value, y in ends])
    order = np.argsort(column * (1 if comparison.figure.best is max else -1), kind="stable")
    legend: dict[str, Key] = {}
    by_method = len({x.method for x in known}) > 1
    for i in order:
        tone = comparison.look(known[i]).colour if by_method else theme.SERIES[0]
        best = i == order[-1]
        line = np.array([height[i] for height in heights])
        axes.plot(line, color=tone, linewidth=2.8 if best else 1.1)
        theme.tip(axes, len(keys), line[-1], mean_words(comparison, known[i]))
        label = known[i].method if by_method else "one setting"
        legend.setdefault(label, Key(theme.variable(tone), label))
    names = [*(groups.short(key, comparison.keys) for key in keys), comparison.figure.words]
    axes.grid(False)
    axes.yaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks(range(len(names)), names)
    axes.tick_params(axis="x", length=0, pad=16)
    title = "All settings"
    caption = "The wide line is the setting with the best mean; chance helps in its choice."
    return Plot(title, theme.themed(figure, title), tuple(legend.values()), caption)


def _axis(axes: Axes, n: int, ticks: Sequence[tuple[str, float]]) -> None:
    axes.axvline(n, color=theme.MUTED, linewidth=0.8, zorder=0)
    for text, y in ticks:
        if y in (0.0, 1.0):
            place, side = (1.04, "bottom") if y else (-0.04, "top")
            axes.text(n, place, text, color=theme.MUTED, ha="center", va=side, fontsize=9)
        else:
            axes.text(n + 0.03, y, text, color=theme.MUTED, ha="left", va="center", fontsize=9)


def importance(comparison: Comparison) -> Plot | str | None:
    """How much of the variance each setting explains, and the seed beside them as a yardstick.

    Returns:
      A text where Optuna is missing; None where one setting varies, or there are few runs.
    """
    known = comparison.sparse
    keys = [key for key in _varying(comparison, known) if all(key in x.settings for x in known)]
    trials = [x for group in known for x in group.trials if x.figure(comparison.name) is not None]
    if len(keys) < 2 or len(trials) < _RUNS:
        return None
    try:
        import optuna
        from optuna.distributions import (
            BaseDistribution,
            CategoricalDistribution,
            FloatDistribution,
        )
    except ModuleNotFoundError:
        return f"Importances of settings need Optuna: pip install {package_of('optuna')}."
    seeds = {worded(x.settings.get(groups.SEED)) for x in trials}
    used = [*keys, *([groups.SEED] if len(seeds) > 1 else [])]
    distributions: dict[str, BaseDistribution] = {}
    columns: dict[str, list] = {}
    for key in used:
        values = [x.settings.get(key) for x in trials]
        if key != groups.SEED and _numeric(known, key):
            numbers = np.array(values, dtype=float)
            log = numbers.min() > 0 and numbers.max() > LOG_RATIO * numbers.min()
            distributions[key] = FloatDistribution(numbers.min(), numbers.max(), log=bool(log))
            columns[key] = numbers.tolist()
        else:
            columns[key] = [worded(value) for value in values]
            distributions[key] = CategoricalDistribution(sorted(set(columns[key])))
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study()
        for i, trial in enumerate(trials):
            params = {key: columns[key][i] for key in used}
            value = trial.figure(comparison.name)
            study.add_trial(
                optuna.trial.create_trial(params=params, distributions=distributions, value=value)
            )
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    finally:
        optuna.logging.set_verbosity(verbosity)
    return _bars({k: float(x) for k, x in found.items()}, comparison, len(trials))


def _bars(shares: dict[str, float], comparison: Comparison, runs: int) -> Plot:
    height = 0.5 + 0.34 * len(shares)
    figure, axes = theme.canvas((theme.SIZE[0], height))
    names = [groups.short(key, comparison.keys) for key in shares]
    left = min(0.45, 0.06 + 0.019 * max(map(len, names)))
    figure.subplots_adjust(left=left, right=0.9, bottom=0.1 / height, top=1 - 0.06 / height)
    for i, (key, share) in enumerate(shares.items()):
        tone = theme.MUTED if key == groups.SEED else theme.SERIES[0]
        axes.barh(i, share, 0.62, color=tone, linewidth=0)
        axes.text(share + 0.01, i, percent(share, 0), color=theme.MUTED, va="center", fontsize=9)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, 1.0)
    axes.grid(False)
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    title = "Importance of settings"
    caption = (
        f"The share of the variance of {runs} runs that each setting explains alone (fANOVA, from "
        "Optuna), relative to their sum."
    )
    if groups.SEED in shares:
        caption += " What explains no more than the seed is noise."
    return Plot(title, theme.themed(figure, title), (), caption)


def _varying(comparison: Comparison, known: Sequence[Group]) -> list[str]:
    return [
        key
        for key in comparison.keys
        if len({groups.text_of(x.settings, key) for x in known if key in x.settings}) > 1
    ]


def _numeric(known: Sequence[Group], key: str) -> bool:
    return len({x.number(key) for x in known} - {None}) > 1


def _tick(key: str, value: float) -> str:
    return f"{100 * value:.4g} %" if key == groups.SPARSITY else f"{value:.3g}"


def _figure(value: float, figure: Figure) -> str:
    return percent(value) if figure.share else theme.short(value)


def _unit(values: np.ndarray, may_log: bool = True) -> np.ndarray:
    """From 0 to 1, by logarithms where values are far apart."""
    if may_log and values.min() > 0 and values.max() > LOG_RATIO * values.min():
        values = np.log(values)
    span = np.ptp(values)
    return (values - values.min()) / span if span else np.full(values.shape, 0.5)
