"""Finds the runs that a report compares: those named, and the trials of sweeps."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dst.report import reading
from dst.report.contents import Run, figure_of, most_telling, number
from dst.train.config import overrides as plain
from dst.train.objectives.task import Figure
from dst.train.records import run_dir as directory

FILE, JOURNAL, RESULTS, TRIALS = "sweep.yaml", "journal.log", "sweep.json", "trials"
_HOLDER = re.compile(r"process (\d+) on (\S+)")  # what `dst.train.records.run_dir.lock` writes


@dataclass(frozen=True)
class Trial:
    """One run among those compared.

    Attributes:
      name: in the report: its path from the directory that all of them are in.
      path: of the run directory, which may not be there yet.
      state: ``done``; ``running`` on this machine; ``unfinished``; ``waiting``, ``stopped`` or
        ``lost`` as the sweep has noted; ``failed`` or ``pruned``.
      error: why it failed, or an empty text.
      run: its files; None where there are none.
      settings: of the resolved config by dotted key; where there is none, the parameters that the
        sweep has noted.
    """

    name: str
    path: Path
    state: str
    error: str = ""
    run: Run | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """Whether its figures are final."""
        return self.state == "done"

    def figure(self, name: str) -> float | None:
        """A final figure; None where the run has none, or has not ended."""
        return number(self.run.summary.get(name)) if self.run and self.done else None


@dataclass
class Runs:
    """What a report compares.

    Attributes:
      name: of the sweep, or of the comparison.
      sweep: whether it is one sweep.
      trials: the runs.
      notes: what is missing or damaged, one sentence each.
      metric, goal: of the sweep, where it names them.
    """

    name: str
    sweep: bool
    trials: list[Trial] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    metric: str = ""
    goal: str = ""

    def headline(self) -> tuple[str, Figure]:
        """The figure that runs are compared by: the sweep's metric, or the most telling one."""
        runs = [x.run for x in self.trials if x.run]
        if any(self.metric in run.summary for run in runs):
            name = self.metric
        else:
            # What not all runs have cannot compare them.
            names = [run.logged() | run.summary.keys() for run in runs]
            name = most_telling(set.intersection(*names) if names else set())
        figure = figure_of(name)
        if name == self.metric and self.goal == "maximize":
            figure = replace(figure, best=max)
        return name, figure


def is_sweep(path: Path) -> bool:
    """Whether a directory is one that ``dst sweep`` wrote, be it damaged."""
    begun = all((path / name).is_file() for name in (FILE, JOURNAL))
    return begun or (path / RESULTS).is_file() or (path / TRIALS).is_dir()


def check(paths: Sequence[Path], out: Path | None = None) -> None:
    """Raises unless a report can be made of these directories, and written to ``out``.

    Raises:
      DirectoryError: a path that is no run, sweep or study; or an ``out`` that is no HTML file.
    """
    for path in paths:
        if not (is_sweep(path) or reading.is_run(path)):
            found = "a directory without them" if path.is_dir() else "no directory"
            raise directory.DirectoryError(
                f"{path} is no run, sweep or study: expected {directory.CONFIG} or {FILE} in it, "
                f"found {found}. Give directories that `dst train`, `dst sweep` or `dst lottery` "
                "wrote, for example runs/<name>."
            )
    if out is not None and out.suffix != ".html":
        raise directory.DirectoryError(f"the file of a report must end in .html, got {out}.")


def collect(paths: Sequence[str | os.PathLike[str]]) -> Runs:
    """Reads run directories and sweeps; a run given twice counts once.

    Raises:
      DirectoryError: a path that is neither.
    """
    check(list(map(Path, paths)))
    where = list({Path(path).resolve(): Path(path) for path in paths}.values())
    alone = len(where) == 1 and is_sweep(where[0])
    found = Runs(where[0].resolve().name if alone else "", alone)
    for path in where:
        if is_sweep(path):
            _read_sweep(path, found)
        else:
            found.trials.append(_trial(path, {}, reading.read(path, masks=False)))
    once = {trial.path.resolve(): trial for trial in found.trials}
    above = os.path.commonpath([path.parent for path in once]) if once else ""
    found.trials = [replace(x, name=os.path.relpath(path, above)) for path, x in once.items()]
    found.name = found.name or f"Comparison of {len(found.trials)} runs"
    _gather_notes(found)
    return found


def flat(config: Any, key: str = "") -> dict[str, Any]:
    """Nested settings by dotted key."""
    if not isinstance(config, Mapping) or not config:
        return {key: config} if key else {}
    parts = (flat(value, f"{key}.{name}" if key else str(name)) for name, value in config.items())
    return {name: value for part in parts for name, value in part.items()}


def _read_sweep(where: Path, found: Runs) -> None:
    about = _mapping(where / FILE, found, "what was varied is told by the runs alone.")
    results = _mapping(
        where / RESULTS,
        found,
        "the sweep has not ended. States are read off the run directories; trials that have not "
        "begun are not listed.",
    )
    if found.sweep:
        named = results.get("name", about.get("name"))
        found.name = named if isinstance(named, str) and named else found.name
    metric = about.get("metric")
    metric = metric if isinstance(metric, Mapping) else {}
    found.metric = str(results.get("metric", metric.get("name", "")))
    found.goal = str(results.get("goal", metric.get("goal", "")))
    rows = results.get("trials")
    listed: dict[Path, Mapping[str, Any]] = {}
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, Mapping) and isinstance(row.get("directory"), str):
            listed[where / row["directory"]] = row
    folder = where / TRIALS
    there = sorted(x for x in folder.iterdir() if x.is_dir()) if folder.is_dir() else []
    visible = (x for x in there if not x.name.startswith("."))
    for path in sorted({*listed, *visible}):
        try:
            run = reading.read(path, masks=False)
        except FileNotFoundError:
            run = None
        if run is None and path not in listed:
            found.notes.append(f"{path} holds no file of a run; it is left out.")
            continue
        found.trials.append(_trial(path, listed.get(path, {}), run))
    if not found.trials:
        found.notes.append(f"{where} has no trials yet.")


def _mapping(path: Path, found: Runs, consequence: str) -> Mapping[str, Any]:
    """A YAML or JSON file; empty, with a note, where there is none or no such thing."""
    if not path.is_file():
        found.notes.append(f"{path} is missing: {consequence}")
        return {}
    try:
        if path.suffix == ".yaml":
            return plain.read(path)
        data = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(data, Mapping):
            return data
    except (ValueError, RecursionError, OSError):
        pass
    found.notes.append(f"{path} is damaged: {consequence}")
    return {}


def _trial(path: Path, row: Mapping[str, Any], run: Run | None) -> Trial:
    noted = row.get("settings")
    settings = flat(run.config) if run else {}
    # A part of the user's own is told apart by its import path, others by their names.
    settings = {re.sub(r"^(\w+)\.import$", r"\1.name", k): v for k, v in settings.items()}
    if not settings and isinstance(noted, Mapping):
        settings = {str(key): value for key, value in noted.items()}
    error = row.get("error")
    return Trial(
        name=path.name,
        path=path,
        state=_state(path, str(row.get("state", "waiting")), run),
        error=error if isinstance(error, str) else "",
        run=run,
        settings=settings,
    )


def _state(path: Path, noted: str, run: Run | None) -> str:
    """The state of a trial; the directory knows better than a list that may be old."""
    if noted in ("failed", "pruned"):
        return noted
    if run is None:
        return noted
    if run.summary:
        return "done"
    return "running" if _held(path) else "unfinished"


def _held(path: Path) -> bool:
    """Whether the process that last wrote to a run is alive on this machine.

    The lock itself is not touched: a report must not keep a run from beginning.
    """
    try:
        holder = _HOLDER.search((path / directory.LOCK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if holder is None or holder[2] != socket.gethostname():
        return False
    try:
        os.kill(int(holder[1]), 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def _gather_notes(found: Runs) -> None:
    """The notes of runs, each with the names of all runs that it is true of."""
    said: dict[str, list[str]] = {}
    for trial in found.trials:
        for note in trial.run.notes if trial.run else ():
            said.setdefault(note, []).append(trial.name)
    for note, names in said.items():
        some = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        number = f"{len(names)} runs, {some}" if len(names) > 1 else names[0]
        found.notes.append(f"{number}: {note}")
