"""``dst report`` of many runs: what they ask together, and what they show."""

from __future__ import annotations

import base64
import hashlib
import os
import statistics
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from dst.report import collect, curves, figures, groups, page, tables, theme
from dst.report.collect import Runs
from dst.report.contents import number
from dst.report.figures import Comparison
from dst.report.question import model_words
from dst.report.run import REPORT
from dst.report.sections import Section
from dst.report.tiles import Tile
from dst.report.words import duration, figure, joined, name_of, worded
from dst.train.config import plain_data

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
    return Comparison(members, keys, groups.layout(members, keys), *runs.headline())


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
        question=question(runs, comparison),
        settings=settings(runs, comparison),
        tiles=tiles(runs, comparison),
        sections=[result(comparison), efficiency(comparison), progress(comparison)],
        means=tables.means(comparison) if len(comparison.groups) < len(runs.trials) else None,
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
    seconds = [number(x.run.summary.get("seconds")) for x in runs.trials if x.run]
    known = [x for x in seconds if x is not None]
    return [
        _best(comparison),
        Tile("Runs", f"{len(runs.trials)}", by_state),
        Tile("Settings", f"{len(comparison.groups)}", f"{seeds} seed{'s' * (seeds != '1')} each"),
        Tile("Time", duration(statistics.median(known) if known else None), "median of the runs"),
    ]


def result(comparison: Comparison) -> Section:
    """The figure that runs are compared by."""
    shown = tuple(
        p for p in (figures.against_setting(comparison), figures.parallel(comparison)) if p
    )
    return Section(
        "Result",
        "" if shown else "There are no final figures yet, because no run has ended.",
        shown,
    )


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


def _best(comparison: Comparison) -> Tile:
    ended = comparison.ended()
    if not ended:
        return Tile(f"Best {comparison.figure.words}", "–")
    best = comparison.figure.best(ended, key=lambda group: group.mean(comparison.name))
    value = figure(best.mean(comparison.name), comparison.figure.share)
    setting = groups.described(best.settings, comparison.keys, comparison.keys)
    n = best.values(comparison.name).size
    mean = f"mean of {n} seeds" if n > 1 else ""
    equal = sum(group.mean(comparison.name) == best.mean(comparison.name) for group in ended) - 1
    others = f"{equal} more are as good" if equal else ""
    detail = "; ".join(x for x in (setting, others, mean) if x)
    return Tile(f"Best {comparison.figure.words}", value, detail)


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
