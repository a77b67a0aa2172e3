"""``dst report`` of many runs: what they ask together, and what they show."""

from __future__ import annotations

import base64
import hashlib
import os
import shlex
import statistics
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from dst.report import collect, curves, figures, groups, overview, page, tables, theme
from dst.report.answer import answer
from dst.report.collect import Runs
from dst.report.comparison import Comparison
from dst.report.contents import number
from dst.report.contrast import fitted
from dst.report.plots import Plot
from dst.report.question import model_words
from dst.report.run import REPORT
from dst.report.sections import Section
from dst.report.tiles import Tile, seconds
from dst.report.words import count, duration, figure, joined, name_of, worded
from dst.train.config import plain_data
from dst.train.records.run_dir import CONFIG

COMPARISON = "comparison.html"
_COSTS = (("training_cost", "training FLOPs"), ("forward_cost", "inference FLOPs"))


def write_report(
    paths: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str] | None = None
) -> Path:
    """Writes a report that compares runs, and its data as CSV beside it; returns its path.

    The report holds everything that it shows, and opens offline. It names what is missing or
    damaged. Beside ``x.html``, ``x.csv`` has a line per run and ``x-curves.csv`` the points of the
    curves.

    Args:
      paths: run directories, and directories of sweeps, of which all trials are read.
      out: the HTML file; None: ``report.html`` in the directory of one sweep, ``comparison.html``
        in the current directory otherwise.

    Raises:
      DirectoryError: a path that is neither; or an ``out`` that does not end in ``.html``.

    Example:
      >>> write_report(["runs/rigl", "runs/set"], "both.html")  # doctest: +SKIP
      PosixPath('both.html')
    """
    collect.check([], None if out is None else Path(out))
    runs = collect.collect(paths)
    target = Path(out or (Path(paths[0]) / REPORT if runs.sweep else COMPARISON))
    comparison = compare(runs)
    csv = tables.runs_csv(comparison, runs.trials)
    with theme.style():
        html = render(runs, comparison, target, csv)
    page.write(target.with_suffix(".csv"), csv)
    page.write(target.with_name(f"{target.stem}-curves.csv"), tables.curves_csv(comparison))
    page.write(target, html)
    return target


def compare(runs: Runs) -> Comparison:
    """Groups of runs, and how to draw them."""
    keys = groups.varying(runs.trials)
    members = groups.grouped([trial for trial in runs.trials if trial.settings], keys)
    name, figure = runs.headline()
    effects = fitted([x for x in members if not x.dense], keys, name)
    layout = groups.layout(members, keys, [effect.key for effect in effects])
    return Comparison(members, keys, layout, name, figure)


def render(runs: Runs, comparison: Comparison, target: Path, csv: str) -> str:
    """The report as HTML text; to be called under :func:`dst.report.theme.style`.

    Args:
      runs, comparison: what is compared, and how.
      target: the file that the text is for; links are relative to its directory.
      csv: the data that a reader can save.
    """
    # The policy of the page lets this script run, and no other.
    script = files("dst.report").joinpath("sort.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return page.fill(
        "many.html.j2",
        name=runs.name,
        kind="sweep" if runs.sweep else "comparison",
        notes=runs.notes,
        answer=answer(comparison),
        question=question(runs, comparison),
        settings=settings(runs, comparison),
        tiles=tiles(runs, comparison),
        sections=[
            result(comparison, paths(runs, target)),
            efficiency(comparison),
            progress(comparison),
        ],
        means=tables.means(comparison) if comparison.groups else None,
        runs=tables.runs(comparison, runs.trials, target.parent),
        broken=[trial for trial in runs.trials if trial.error],
        shared=plain_data.to_yaml(_nested(groups.common(runs.trials))),
        csv=f"data:text/csv;charset=utf-8,{quote(csv, errors='replace')}",
        csv_name=target.with_suffix(".csv").name,
        script=script,
        digest=digest,
    )


def question(runs: Runs, comparison: Comparison) -> str:
    """What the runs ask together, in one sentence."""
    readable = [trial.run for trial in runs.trials if trial.run]
    models = {model_words(run) for run in readable}
    data = {name_of(run.section("data")) or "its data" for run in readable}
    model = models.pop() if len(models) == 1 else "each model"
    data_set = data.pop() if len(data) == 1 else "its data"
    what = f"the {comparison.figure.words} of {model} on {data_set}"
    names = [groups.short(key, comparison.keys) for key in comparison.keys]
    if not names:
        return f"How much does {what} vary between seeds?"
    return f"How does {what} depend on {joined(names)}?"


def settings(runs: Runs, comparison: Comparison) -> list[str]:
    """What varies, with its values, as short labels."""
    result = []
    for key in [*comparison.keys, groups.SEED]:
        given = [trial.settings[key] for trial in runs.trials if key in trial.settings]
        values = list(dict.fromkeys(map(worded, sorted(given, key=_order))))
        if len(values) > 6:  # too many to read: the least and the greatest
            values = [f"{values[0]} to {values[-1]}"]
        result.append(f"{groups.short(key, comparison.keys)}: {', '.join(values) or 'unknown'}")
    for key in groups.following(runs.trials):
        name = f"{key.partition('.')[0]}.name"
        short, cause = (groups.short(k, comparison.keys) for k in (key, name))
        result.append(f"{short}: depends on the {cause}")
    return result


def tiles(runs: Runs, comparison: Comparison) -> list[Tile]:
    """The key figures."""
    states = Counter(trial.state for trial in runs.trials)
    by_state = ", ".join(f"{n} {state}" for state, n in states.most_common())
    sizes = [len(group.trials) for group in comparison.groups] or [0]
    seeds = f"{min(sizes)} to {max(sizes)}" if min(sizes) < max(sizes) else f"{max(sizes)}"
    return [
        _baseline(comparison),
        _noise(comparison),
        _test_set(comparison),
        Tile("Runs", f"{len(runs.trials)}", by_state),
        Tile("Settings", f"{len(comparison.groups)}", f"{seeds} seed{'s' * (seeds != '1')} each"),
        _time(runs),
    ]


def _baseline(comparison: Comparison) -> Tile:
    if not comparison.dense:
        return Tile("Dense baseline", "none", "see Result")
    group, share = comparison.dense[0], comparison.figure.share
    n = group.values(comparison.name).size
    over = f"mean of {n} seeds" if n > 1 else "one run"
    value = figure(group.mean(comparison.name), share)
    return Tile("Dense baseline", value, f"test {comparison.figure.words}, {over}")


def _noise(comparison: Comparison) -> Tile:
    """The standard deviation over seeds, pooled over all settings."""
    values = [group.values(comparison.name) for group in comparison.ended()]
    freedom = sum(x.size - 1 for x in values)
    if not freedom:
        return Tile("Spread over seeds", "–", "one run of each setting")
    variance = sum(float(((x - x.mean()) ** 2).sum()) for x in values) / freedom
    scale, unit = (100, " points") if comparison.figure.share else (1, "")
    value = f"{scale * variance**0.5:.{1 if unit else 3}f}{unit}"
    return Tile("Spread over seeds", value, "standard deviation, over all settings")


def _test_set(comparison: Comparison) -> Tile:
    labels = comparison.test_labels
    if labels is None:
        return Tile("Test labels", "–", "the runs do not record them, or differ")
    one = f"one is {100 / labels:.2g} points" if comparison.figure.share else ""
    return Tile("Test labels", count(labels), one)


def _time(runs: Runs) -> Tile:
    """Training and compilation apart, medians of the runs."""
    known = [(seconds(x.run), x.run) for x in runs.trials if x.run]
    parts = [parts for parts, _ in known if parts is not None]
    if parts:
        training, compiling = (statistics.median(x) for x in zip(*parts, strict=True))
        return Tile("Training time", duration(training), f"and {duration(compiling)} to compile")
    whole = [number(run.summary.get("seconds")) for _, run in known]
    some = [x for x in whole if x is not None]
    return Tile("Time", duration(statistics.median(some) if some else None), "median of the runs")


def paths(runs: Runs, target: Path) -> tuple[str, str]:
    """A config for a dense baseline, and what to report with it; empty where ``dst train`` can
    train none of them."""
    trained = [x for x in runs.trials if x.run and "train" in x.run.config]
    named = next((x.path / CONFIG for x in trained if (x.path / CONFIG).is_file()), None)
    reported = [str(target.parent)] if runs.sweep else [str(x.path) for x in runs.trials[:4]]
    more = " ..." if not runs.sweep and len(runs.trials) > 4 else ""
    return shlex.quote(str(named)) if named else "", f"{shlex.join(reported)}{more}"


def result(comparison: Comparison, where: tuple[str, str]) -> Section:
    """The figure that runs are compared by."""
    plot = figures.against_setting(comparison)
    if plot is None:
        return Section("Result", "There are no final figures yet, because no run has ended.")
    config, runs = where
    shown, text = depends(comparison)
    if comparison.dense or not comparison.sparse or comparison.sparse[0].dense:
        return Section("Result", text, (plot, *shown))
    if config:
        hint = Markup(
            "There is no dense baseline. To add one: <code>{}</code>, then <code>{}</code>."
        ).format(
            f"dst train {config} method=dense name=dense --dir runs/dense",
            f"dst report {runs} runs/dense",
        )
    else:
        hint = Markup(
            "There is no dense baseline. To add one, record a run of the method <code>{}</code>."
        ).format("dst.Dense()")
    return Section("Result", hint + (f" {text}" if text else ""), (plot, *shown))


def depends(comparison: Comparison) -> tuple[tuple[Plot, ...], str]:
    """Figures over several settings at once, none where one varies; and what is missing."""
    drawn = [*overview.heat_maps(comparison), overview.parallel(comparison)]
    importance = overview.importance(comparison)
    text = importance if isinstance(importance, str) else ""
    drawn.append(importance if isinstance(importance, Plot) else None)
    return tuple(plot for plot in drawn if plot), text


def efficiency(comparison: Comparison) -> Section:
    """The figure against costs."""
    shown = tuple(p for cost, words in _COSTS if (p := figures.pareto(comparison, cost, words)))
    text = (
        "Costs are multiply-adds relative to the same network trained dense, if every zero is "
        "skipped. No setting is both cheaper and better than one on the Pareto front."
    )
    missing = "This comparison needs two settings with ended runs and costs in their summaries."
    return Section("Costs", text if shown else missing, shown)


def progress(comparison: Comparison) -> Section:
    """Curves over steps."""
    shown = tuple(p for kind in curves.kinds(comparison) if (p := curves.draw(comparison, kind)))
    text = "Each line is the mean over the seeds of one setting, at the steps that all have logged."
    return Section("During training", text if shown else "There are no curves yet.", shown)


def _order(value: object) -> tuple[int, float, str]:
    known = number(value)
    return (1, 0.0, worded(value)) if known is None else (0, known, "")


def _nested(settings: dict) -> dict:
    nested: dict = {}
    for key, value in settings.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        nested = plain_data.merged(nested, value)
    return nested
