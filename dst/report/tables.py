"""Tables of a report on many runs: HTML that can be sorted, and CSV for programs."""

from __future__ import annotations

import csv
import io
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dst.report import curves, groups
from dst.report.collect import Trial
from dst.report.comparison import Comparison
from dst.report.contents import Run, number
from dst.report.question import method_words, pattern_words
from dst.report.tiles import final
from dst.report.words import count, duration, figure, listed, of_all, percent, worded
from dst.train.records.run_dir import CONFIG

BASELINE = "dense baseline"
_FIGURES = {
    "sparsity": "sparsity of weights",
    "sparsity_model": "sparsity of the model",
    "training_cost": "training FLOPs",
    "forward_cost": "inference FLOPs",
}


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
      text: that is shown.
      value: that rows are sorted by; empty where it is unknown.
      link: relative address, or empty.
      code: whether the text is a command.
    """

    text: str
    value: str
    link: str = ""
    code: bool = False


@dataclass(frozen=True)
class Table:
    """Heads and rows; the first cell of a row is its name."""

    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def command(trial: Trial) -> str:
    """The command that repeats a run; empty without a config."""
    path = trial.path / CONFIG
    return f"dst train {shlex.quote(str(path))}" if path.is_file() else ""


def runs(comparison: Comparison, trials: Sequence[Trial], beside: Path) -> Table:
    """All runs, in any state.

    Args:
      comparison: how the runs are compared.
      trials: the runs.
      beside: the directory of the report; links are relative to it.
    """
    heads = ["run", "report", "state", *_keys(comparison), groups.SEED]
    heads += [comparison.figure.words, "test labels", *_FIGURES.values(), "pattern", BASELINE]
    heads += ["explored", "steps", "time", "of it compilation", "command"]
    return Table(heads, [list(_run(comparison, trial, beside)) for trial in trials])


def means(comparison: Comparison) -> Table:
    """Every setting with what a paper reports of it: costs, pattern, seeds, dense baseline."""
    heads = [*_keys(comparison), f"mean {comparison.figure.words}"]
    heads += [*_FIGURES.values(), "pattern", "seeds", BASELINE]
    rows = []
    for group in comparison.groups:
        mean, half = group.mean(comparison.name), group.half(comparison.name)
        row = [_setting(group.settings, key) for key in comparison.keys]
        interval = "" if half is None else f" ± {figure(half, comparison.figure.share)}"
        row += [Cell(_figure(comparison, mean).text + interval, _value(mean))]
        row += [_share(group.mean(name)) for name in _FIGURES]
        row += [_pattern(group.trials[0]), _seeds(comparison, group), _baseline(comparison, mean)]
        rows.append(row)
    if not comparison.keys:
        heads.insert(0, "setting")
        rows = [[Cell("all runs", "all runs"), *row] for row in rows]
    return Table(heads, rows)


def single(run: Run) -> Table:
    """One run with what a paper reports of it."""
    known, value = run.figure(), final(run, run.headline())
    heads = ["method", known.words, *_FIGURES.values(), "pattern", "seeds", BASELINE]
    seed = run.config.get(groups.SEED)
    row = [method_words(run), figure(value, known.share)]
    row += [percent(final(run, name)) for name in _FIGURES]
    row += [pattern_words(run) or "–", f"1 ({worded(seed)})" if seed is not None else "1"]
    return Table(
        heads, [[Cell(text, "") for text in (*row, "this run" if run.dense() else "none")]]
    )


def runs_csv(comparison: Comparison, trials: Sequence[Trial]) -> str:
    """One line per run: settings that vary, and every number of its summary."""
    numbers = dict.fromkeys(
        key
        for trial in trials
        for key, value in (trial.run.summary if trial.run else {}).items()
        if number(value) is not None
    )
    keys = [*comparison.keys, groups.SEED]
    heads = ["run", "state", *keys, *numbers, "directory", "command", "error"]
    lines = [
        [
            trial.name,
            trial.state,
            *(_plain(trial.settings.get(key)) for key in keys),
            *((trial.run.summary if trial.run else {}).get(name) for name in numbers),
            trial.path,
            command(trial),
            trial.error,
        ]
        for trial in trials
    ]
    return _csv(heads, lines)


def curves_csv(comparison: Comparison) -> str:
    """One line per point of the curves, all of them and not smoothed."""
    keys = list(comparison.keys)
    lines = [
        [*(_plain(x.group.settings.get(k)) for k in keys), x.runs, x.ended, kind.title, step, value]
        for kind in curves.kinds(comparison)
        for x in curves.curves(comparison, kind)
        for step, value in zip(x.steps.tolist(), x.values.tolist(), strict=True)
    ]
    return _csv([*keys, "runs", "ended", "curve", "step", "mean"], lines)


def metrics_csv(run: Run) -> str:
    """One line per line of a run's ``metrics.jsonl``, one column per key."""
    heads = list(dict.fromkeys(["step", "kind", *(key for line in run.lines for key in line)]))
    return _csv(heads, [[line.get(key) for key in heads] for line in run.lines])


def _keys(comparison: Comparison) -> list[str]:
    return [groups.short(key, comparison.keys) for key in comparison.keys]


def _csv(heads: Sequence[Any], lines: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(lines)
    return text.getvalue()


def _run(comparison: Comparison, trial: Trial, beside: Path) -> Iterable[Cell]:
    address = quote(os.fsencode(os.path.relpath(trial.path, beside)))
    yield Cell(trial.name, trial.name, f"{address}/" if trial.path.is_dir() else "")
    written = (trial.path / "report.html").is_file()
    yield Cell("report", "1", f"{address}/report.html") if written else _none()
    yield Cell(trial.state, trial.state)
    for key in [*comparison.keys, groups.SEED]:
        yield _setting(trial.settings, key)
    summary = trial.run.summary if trial.run else {}
    value = trial.figure(comparison.name)
    yield _figure(comparison, value)
    labels = number(summary.get("test_labels"))
    labels = None if labels is None else int(labels)
    counted = of_all(value, labels) if comparison.figure.share else ""
    yield Cell(counted or count(labels), _value(labels if value is None else value))
    for name in _FIGURES:
        yield _share(trial.figure(name))
    yield _pattern(trial)
    yield _baseline(comparison, value)
    yield _share(trial.figure("explored"))
    steps = number(summary.get("steps"))
    if steps is None and trial.run:
        steps = trial.run.last_step()
    yield _number(steps)
    seconds = number(summary.get("seconds"))
    yield Cell(duration(seconds), _value(seconds))
    compiling = number(summary.get("compile_seconds"))
    yield Cell(duration(compiling), _value(compiling))
    again = command(trial)
    yield Cell(again, again, code=True) if again else _none()


def _setting(settings: Mapping[str, Any], key: str) -> Cell:
    if key not in settings:
        return _none()
    value = settings[key]
    known = number(value)
    return Cell(worded(value), worded(value) if known is None else repr(known))


def _figure(comparison: Comparison, value: float | None) -> Cell:
    return Cell(figure(value, comparison.figure.share), _value(value))


def _share(value: float | None) -> Cell:
    return Cell(percent(value), _value(value))


def _number(value: float | None) -> Cell:
    return Cell(count(value), _value(value))


def _pattern(trial: Trial) -> Cell:
    text = pattern_words(trial.run) if trial.run else ""
    return Cell(text, text) if text else _none()


def _seeds(comparison: Comparison, group: groups.Group) -> Cell:
    ended = [x for x in group.trials if x.figure(comparison.name) is not None]
    names = [worded(x.settings.get(groups.SEED, "?")) for x in ended]
    text = f"{len(names)} ({listed(names)})" if names else "0"
    return Cell(text, f"{len(names)}")


def _baseline(comparison: Comparison, value: float | None) -> Cell:
    """The dense baseline, and how far a figure is from it."""
    if not comparison.dense:
        return Cell("none", "")
    dense = comparison.dense[0].mean(comparison.name)
    text = figure(dense, comparison.figure.share)
    if value is None or dense is None:
        return Cell(text, "")
    gap = (value - dense) * (100 if comparison.figure.share else 1)
    digits = 1 if comparison.figure.share else 3
    return Cell(f"{text} ({gap:+.{digits}f})".replace("-", "−"), _value(gap))


def _none() -> Cell:
    return Cell("–", "")


def _value(value: float | None) -> str:
    return "" if value is None else repr(float(value))


def _plain(value: Any) -> Any:
    return "" if value is None else worded(value) if isinstance(value, list) else value
