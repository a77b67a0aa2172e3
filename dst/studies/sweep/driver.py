"""A sweep: from its file, or wherever it was stopped, to its table."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dst.core import checks
from dst.core.files import write, write_json
from dst.studies.sweep.command import vectorisable
from dst.studies.sweep.engines.processes import Workers
from dst.studies.sweep.engines.vmap import Vectorised
from dst.studies.sweep.progress import Progress, best, tally
from dst.studies.sweep.spec import Sweep, SweepError
from dst.studies.sweep.storage import Entry, Storage
from dst.studies.sweep.trial import trial_directory
from dst.train.distributed import signals
from dst.train.distributed.signals import Stopped
from dst.train.records import run_dir

_MOST_WORKERS = 1000  # each is a process
FILE, JOURNAL, RESULTS, TABLE = "sweep.yaml", "journal.log", "sweep.json", "sweep.csv"


def run(
    sweep: Sweep,
    where: str | Path,
    *,
    engine: str = "processes",
    workers: int = 1,
    batch: int = 16,
    storage: str | None = None,
) -> dict[str, Any]:
    """Runs a sweep, or continues one: ``dst sweep``.

    Several of these calls may run one sweep at the same time, on one machine or on many that share
    the directory. A trial that was stopped continues at its newest checkpoint. A trial that has
    ended is not repeated.

    Args:
      sweep: from :func:`dst.studies.sweep.load`.
      where: its directory.
      engine: ``"processes"``: each trial is a process. ``"vectorised"``: trials that differ in
        numbers only share one program, and the others are processes.
      workers: processes at a time.
      batch: trials in one program, at most.
      storage: URL of a database; None: a journal file in the directory.

    Returns:
      What ``sweep.json`` holds: ``name``, ``metric``, ``goal``, ``best`` (a number, or None) and
      ``trials``: number, state, overrides, settings (of every parameter by dotted name, once
      chosen), value, error and directory of each.

    Raises:
      SweepError: the directory or the storage holds another sweep.
      Stopped: by SIGTERM or SIGINT; trials in training have written a checkpoint.
    """
    path = Path(where)
    try:
        checks.one_of("engine", engine, ("processes", "vectorised"))
        checks.integer("workers", workers, at_least=1, at_most=_MOST_WORKERS)
        checks.integer("batch", batch, at_least=1)
        if engine == "vectorised":
            vectorisable(sweep.command)
    except ValueError as error:
        raise SweepError(str(error)) from error
    _enter(path, sweep)
    records = Storage(sweep, storage or path / JOURNAL)
    with signals.caught() as request, Progress(sweep, records.entries) as progress:
        train: Vectorised | Workers
        if engine == "vectorised":
            train = Vectorised(sweep, records, path, batch, workers, progress.report)
        else:
            train = Workers(sweep, records.assign, path, workers)
        train.run(request, progress.show)
    results = _results(sweep, path, records.entries())
    write_json(path / RESULTS, results)
    write(path / TABLE, _csv(results["trials"]))
    if request.name is not None:
        raise Stopped(f"stopped by {request.name}: {tally(records.entries())}")
    return results


def _enter(path: Path, sweep: Sweep) -> None:
    run_dir.check_path(path)
    text, kept = sweep.path.read_text(encoding="utf-8"), path / FILE
    if path.exists() and any(path.iterdir()) and not kept.is_file():
        raise SweepError(f"{path} is no directory of a sweep: expected {FILE} in it, found none.")
    if kept.is_file() and kept.read_text(encoding="utf-8") != text:
        raise SweepError(
            f"{path} holds another sweep: its {FILE} differs from {sweep.path}. Choose another "
            "directory with --dir, or undo the change."
        )
    path.mkdir(parents=True, exist_ok=True)
    write(kept, text)


def _results(sweep: Sweep, path: Path, entries: Sequence[Entry]) -> dict[str, Any]:
    winner = best(sweep, entries)
    return {
        "name": sweep.name,
        "metric": sweep.metric.name,
        "goal": sweep.metric.goal,
        "best": None if winner is None else winner.number,
        "trials": [
            {
                "number": x.number,
                "state": x.state,
                "overrides": list(x.overrides or ()),
                "settings": {} if x.overrides is None else sweep.settings(x.overrides),
                "value": x.value,
                "error": x.error,
                "directory": str(trial_directory(path, x.number).relative_to(path)),
            }
            for x in entries
        ],
    }


def _csv(trials: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    rows = [{k: v for k, v in x.items() if k != "settings"} | x["settings"] for x in trials]
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows({**row, "overrides": " ".join(row["overrides"])} for row in rows)
    return text.getvalue()
