"""Which runs a report compares: those that are named, and the trials of sweeps."""

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
from dst.report.contents import Run, number
from dst.report.words import listed
from dst.train.config import plain_data
from dst.train.objectives.figures import Figure, figure_of, headline
from dst.train.records import run_dir

FILE, JOURNAL, RESULTS, TRIALS = "sweep.yaml", "journal.log", "sweep.json", "trials"
_HOLDER = re.compile(r"process (\d+) on (\S+)")  # what `run_dir.lock` writes


@dataclass(frozen=True)
class Trial:
    """One of the runs that are compared.

    Attributes:
      name: in the report: its path from the directory that all of them are in.
      path: of the run directory, which may not exist yet.
      state: ``done``; ``running`` on this machine; ``unfinished``; ``waiting``, ``stopped`` or
        ``lost`` as the sweep recorded it; ``failed`` or ``pruned``.
      error: why it failed, or an empty text.
      run: its files; None where there are none.
      settings: of the resolved config by dotted key; without a config, the parameters that the
        sweep recorded.
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
            # Only a figure that all runs have can compare them.
            names = [run.logged() | run.summary.keys() for run in runs]
            name = headline(set.intersection(*names) if names else set())
        figure = figure_of(name)
        if name == self.metric and self.goal == "maximize":
            figure = replace(figure, best=max)
        return name, figure


def is_sweep(path: Path) -> bool:
    """Whether ``dst sweep`` wrote a directory, even if it is damaged."""
    started = all((path / name).is_file() for name in (FILE, JOURNAL))
    return started or (path / RESULTS).is_file() or (path / TRIALS).is_dir()


def check(paths: Sequence[Path], out: Path | None = None) -> None:
    """Raises unless these directories have a report, and ``out`` can hold it.

    Raises:
      DirectoryError: a path that is not a run, sweep or study; or an ``out`` that is not HTML.
    """
    for path in paths:
        if not (is_sweep(path) or reading.is_run(path)):
            present = "a directory without them" if path.is_dir() else "no directory"
            raise run_dir.DirectoryError(
                f"{path} is not a run, sweep or study: expected {run_dir.CONFIG} or {FILE} in it, "
                f"found {present}. Give directories that `dst train`, `dst sweep` or a study "
                "wrote, for example runs/<name>."
            )
    if out is not None and out.suffix != ".html":
        raise run_dir.DirectoryError(f"the file of a report must end in .html, got {out}.")


def collect(paths: Sequence[str | os.PathLike[str]]) -> Runs:
    """Reads run directories and sweeps; a run that is named twice counts once.

    Raises:
      DirectoryError: a path that is neither.
    """
    check(list(map(Path, paths)))
    folders = list({Path(path).resolve(): Path(path) for path in paths}.values())
    one_sweep = len(folders) == 1 and is_sweep(folders[0])
    runs = Runs(folders[0].resolve().name if one_sweep else "", one_sweep)
    for folder in folders:
        if is_sweep(folder):
            _read_sweep(folder, runs)
        else:
            runs.trials.append(_trial(folder, {}, reading.read(folder, masks=False)))
    once = {trial.path.resolve(): trial for trial in runs.trials}
    above = os.path.commonpath([path.parent for path in once]) if once else ""
    runs.trials = [replace(x, name=os.path.relpath(path, above)) for path, x in once.items()]
    runs.name = runs.name or f"Comparison of {len(runs.trials)} runs"
    _gather_notes(runs)
    return runs


def flat(config: Any, key: str = "") -> dict[str, Any]:
    """Nested settings by dotted key."""
    if not isinstance(config, Mapping) or not config:
        return {key: config} if key else {}
    parts = (flat(value, f"{key}.{name}" if key else str(name)) for name, value in config.items())
    return {name: value for part in parts for name, value in part.items()}


def _read_sweep(folder: Path, runs: Runs) -> None:
    about = _mapping(folder / FILE, runs, "the settings that vary are read from the runs.")
    results = _mapping(
        folder / RESULTS,
        runs,
        "the sweep has not ended. States are read from the run directories; trials without one "
        "are not listed.",
    )
    if runs.sweep:
        name = results.get("name", about.get("name"))
        runs.name = name if isinstance(name, str) and name else runs.name
    metric = about.get("metric")
    metric = metric if isinstance(metric, Mapping) else {}
    runs.metric = str(results.get("metric", metric.get("name", "")))
    runs.goal = str(results.get("goal", metric.get("goal", "")))
    rows = results.get("trials")
    recorded: dict[Path, Mapping[str, Any]] = {}
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, Mapping) and isinstance(row.get("directory"), str):
            recorded[folder / row["directory"]] = row
    trials = folder / TRIALS
    present = sorted(x for x in trials.iterdir() if x.is_dir()) if trials.is_dir() else []
    visible = (x for x in present if not x.name.startswith("."))
    for path in sorted({*recorded, *visible}):
        try:
            run = reading.read(path, masks=False)
        except FileNotFoundError:
            run = None
        if run is None and path not in recorded:
            runs.notes.append(f"{path} is left out: it holds no file of a run.")
            continue
        runs.trials.append(_trial(path, recorded.get(path, {}), run))
    if not runs.trials:
        runs.notes.append(f"{folder} has no trials yet.")


def _mapping(path: Path, runs: Runs, consequence: str) -> Mapping[str, Any]:
    """The mapping in a YAML or JSON file; empty, with a note, where there is none."""
    if not path.is_file():
        runs.notes.append(f"{path} is missing: {consequence}")
        return {}
    try:
        if path.suffix == ".yaml":
            return plain_data.read(path)
        data = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(data, Mapping):
            return data
    except (ValueError, RecursionError, OSError):
        pass
    runs.notes.append(f"{path} is damaged: {consequence}")
    return {}


def _trial(path: Path, row: Mapping[str, Any], run: Run | None) -> Trial:
    recorded = row.get("settings")
    settings = flat(run.config) if run else {}
    # The import path of a user's own part stands where others have a name.
    settings = {re.sub(r"^(\w+)\.import$", r"\1.name", k): v for k, v in settings.items()}
    if not settings and isinstance(recorded, Mapping):
        settings = {str(key): value for key, value in recorded.items()}
    error = row.get("error")
    return Trial(
        name=path.name,
        path=path,
        state=_state(path, str(row.get("state", "waiting")), run),
        error=error if isinstance(error, str) else "",
        run=run,
        settings=settings,
    )


def _state(path: Path, recorded: str, run: Run | None) -> str:
    """The state of a trial. Its directory is newer than the list of the sweep."""
    if recorded in ("failed", "pruned") or run is None:
        return recorded
    if run.summary:
        return "done"
    return "running" if _in_use(path) else "unfinished"


def _in_use(path: Path) -> bool:
    """Whether the process that last wrote to a run is alive on this machine.

    The lock itself is not taken: a report must not keep a run from starting.
    """
    try:
        holder = _HOLDER.search((path / run_dir.LOCK).read_text(encoding="utf-8"))
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


def _gather_notes(runs: Runs) -> None:
    """The notes of runs, each once, with the names of the runs that it is true of."""
    names_of: dict[str, list[str]] = {}
    for trial in runs.trials:
        for note in trial.run.notes if trial.run else ():
            names_of.setdefault(note, []).append(trial.name)
    for note, names in names_of.items():
        subject = f"{len(names)} runs, {listed(names)}" if len(names) > 1 else names[0]
        runs.notes.append(f"{subject}: {note}")
