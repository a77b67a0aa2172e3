"""``dst report`` of many runs: what they ask together, and what came out."""

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

from dst.report import collect, curves, figures, page, tables, theme
from dst.report import groups as of
from dst.report.collect import Runs
from dst.report.contents import number
from dst.report.figures import Compared
from dst.report.question import model_words
from dst.report.run import REPORT
from dst.report.sections import Section
from dst.report.tiles import Tile
from dst.report.words import duration, figure, name_of, worded
from dst.train.config import overrides as plain

COMPARISON = "comparison.html"
_COSTS = (("training_cost", "training FLOPs"), ("forward_cost", "inference FLOPs"))


def write_report(
    paths: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str] | None = None
) -> Path:
    """Writes a report that compares runs, with its data as CSV beside it, and returns its path.

    The report holds everything it shows: it asks for nothing from outside and opens offline. What
    is missing or damaged is named in it. ``x.csv`` beside ``x.html`` has a line per run,
    ``x-curves.csv`` the points of the curves.

    Args:
      paths: run directories, and directories of sweeps, which count with all of their trials.
      out: the HTML file; None: ``report.html`` in the directory of one sweep, ``comparison.html``
        here for anything else.

    Raises:
      DirectoryError: a path that is no run and no sweep; or an ``out`` that does not end in
        ``.html``.

    Example:
      >>> write_report(["runs/rigl", "runs/set"], "both.html")  # doctest: +SKIP
      PosixPath('both.html')
    """
    collect.check([], None if out is None else Path(out))
    found = collect.collect(paths)
    target = Path(out or (Path(paths[0]) / REPORT if found.sweep else COMPARISON))
    it = compared(found)
    csv = tables.runs_csv(it, found.trials)
    with theme.style():
        html = render(found, it, target, csv)
    page.write(target.with_suffix(".csv"), csv)
    page.write(target.with_name(f"{target.stem}-curves.csv"), tables.curves_csv(it))
    page.write(target, html)
    return target


def compared(found: Runs) -> Compared:
    """Groups of runs, and how to draw them."""
    keys = of.varying(found.trials)
    some = of.grouped([trial for trial in found.trials if trial.settings], keys)
    return Compared(some, keys, of.layout(some, keys), *found.headline())


def render(found: Runs, it: Compared, target: Path, csv: str) -> str:
    """The report as HTML text; to be called under :func:`dst.report.theme.style`.

    Args:
      found: what is compared, and how (``it``).
      target: the file that the text is for: links are relative to it.
      csv: that the report offers to be saved.
    """
    # The policy of the page lets this script run, and no other.
    script = files("dst.report").joinpath("sort.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return page.fill(
        "many.html.j2",
        found=found,
        question=question(found, it),
        settings=settings(found, it),
        tiles=tiles(found, it),
        sections=[result(it), efficiency(it), progress(it)],
        means=tables.groups(it) if len(it.groups) < len(found.trials) else None,
        runs=tables.runs(it, found.trials, target.parent),
        broken=[trial for trial in found.trials if trial.error],
        shared=plain.to_yaml(_nested(of.common(found.trials))),
        csv=f"data:text/csv;charset=utf-8,{quote(csv, errors='replace')}",
        csv_name=target.with_suffix(".csv").name,
        script=script,
        digest=digest,
    )


def question(found: Runs, it: Compared) -> str:
    """What the runs ask together, in one sentence."""
    runs = [trial.run for trial in found.trials if trial.run]
    models = {model_words(run) for run in runs}
    data = {name_of(run.section("data")) or "its data" for run in runs}
    model = models.pop() if len(models) == 1 else "each model"
    where = data.pop() if len(data) == 1 else "its data"
    what = f"the {it.figure.words} of {model} on {where}"
    names = [of.short(key, it.keys) for key in it.keys]
    if not names:
        return f"How far does {what} differ from seed to seed?"
    listed = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
    return f"How does {what} depend on {listed}?"


def settings(found: Runs, it: Compared) -> list[str]:
    """What varies, with its values, as short labels."""
    result = []
    for key in [*it.keys, of.SEED]:
        some = [trial.settings[key] for trial in found.trials if key in trial.settings]
        values = list(dict.fromkeys(map(worded, sorted(some, key=_order))))
        if len(values) > 6:  # too many to read: from the least to the greatest
            values = [f"{values[0]} to {values[-1]}"]
        result.append(f"{of.short(key, it.keys)}: {', '.join(values) or 'unknown'}")
    for key in of.following(found.trials):
        name = f"{key.partition('.')[0]}.name"
        result.append(f"{of.short(key, it.keys)}: goes with the {of.short(name, it.keys)}")
    return result


def tiles(found: Runs, it: Compared) -> list[Tile]:
    """The key figures."""
    states = Counter(trial.state for trial in found.trials)
    said = ", ".join(f"{n} {state}" for state, n in states.most_common())
    sizes = [len(group.trials) for group in it.groups] or [0]
    seeds = f"{min(sizes)} to {max(sizes)}" if min(sizes) < max(sizes) else f"{max(sizes)}"
    seconds = [number(x.run.summary.get("seconds")) for x in found.trials if x.run]
    known = [x for x in seconds if x is not None]
    return [
        _best(it),
        Tile("Runs", f"{len(found.trials)}", said),
        Tile("Settings", f"{len(it.groups)}", f"{seeds} seed{'s' * (seeds != '1')} each"),
        Tile("Time", duration(statistics.median(known) if known else None), "median of the runs"),
    ]


def result(it: Compared) -> Section:
    """The figure that runs are compared by."""
    shown = tuple(p for p in (figures.against_setting(it), figures.parallel(it)) if p)
    return Section("Result", "" if shown else "No run has ended: there are no figures yet.", shown)


def efficiency(it: Compared) -> Section:
    """The same against what it costs."""
    shown = tuple(p for cost, words in _COSTS if (p := figures.pareto(it, cost, words)))
    text = (
        "Multiply-adds of a machine that skips every zero, as a share of the same network trained "
        "dense. Nothing that lies above and to the left of the front was found."
        if it.figure.best is max
        else "Multiply-adds of a machine that skips every zero, as a share of the same network "
        "trained dense. Nothing that lies below and to the left of the front was found."
    )
    missing = "Fewer than two groups have ended with costs in their summaries."
    return Section("What it costs", text if shown else missing, shown)


def progress(it: Compared) -> Section:
    """Curves over steps."""
    shown = tuple(p for kind in curves.kinds(it) if (p := curves.draw(it, kind)))
    text = "A line is the mean over the seeds of one setting, at the steps that all of them logged."
    return Section("Over training", text if shown else "There are no curves yet.", shown)


def _best(it: Compared) -> Tile:
    ended = it.ended()
    if not ended:
        return Tile(f"Best {it.figure.words}", "–")
    best = it.figure.best(ended, key=lambda group: group.mean(it.name))
    value = figure(best.mean(it.name), it.figure.share)
    where = of.described(best.settings, it.keys, it.keys)
    n = best.values(it.name).size
    mean = f"mean of {n} seeds" if n > 1 else ""
    equal = sum(group.mean(it.name) == best.mean(it.name) for group in ended) - 1
    others = f"{equal} more just as good" if equal else ""
    return Tile(f"Best {it.figure.words}", value, "; ".join(x for x in (where, others, mean) if x))


def _order(value: object) -> tuple[int, float, str]:
    known = number(value)
    return (1, 0.0, worded(value)) if known is None else (0, known, "")


def _nested(settings: dict) -> dict:
    found: dict = {}
    for key, value in settings.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        found = plain.merged(found, value)
    return found
