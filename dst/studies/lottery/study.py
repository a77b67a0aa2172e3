"""A study: from its first run, or wherever it was stopped, to its table."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dst.core.files import write_json
from dst.core.text import aligned
from dst.studies import directories, runs
from dst.studies.lottery import search, tickets
from dst.studies.lottery.config import KEY, KINDS, Study, dump, load
from dst.studies.runs import shared_programs
from dst.train.config.run import enclosed
from dst.train.distributed import signals
from dst.train.records import run_dir

_KINDS = {
    "tickets": tickets.rounds,
    "random_search": search.random_search,
    "connectivity": search.copies,
}
_COLUMNS = ("ticket", "reinit", "random_masks")


def run(study: Study, where: str | Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Runs a new study: ``dst lottery``.

    Args:
      study: from :func:`dst.studies.lottery.load`.
      where: its directory; every run of the study is a run directory in it.
      overwrite: whether an earlier study in that directory is replaced.

    Returns:
      What ``lottery.json`` holds: ``kind``, ``name``, ``seed``, ``settings``, ``finished`` and
      ``rows``, one per round or run; for a random search also ``best``.

    Raises:
      ConfigError, DirectoryError: before anything is written.
      Diverged: a loss that is not finite.
      Stopped: by SIGTERM or SIGINT, with a checkpoint of the run that was in training.
    """
    path = Path(where)
    run_dir.check_free(path, overwrite)
    study = replace(study, config=runs.check(study.config, KEY))
    if study.lottery.name == "tickets":
        tickets.prunable_leaves(study)
    config, files = enclosed(study.config)
    with run_dir.create(path, dump(replace(study, config=config)), overwrite, files):
        return _finish(study, path)


def resume(where: str | Path) -> dict[str, Any]:
    """Continues a study. Finished runs are only read, and a run that was stopped continues at its
    newest checkpoint. The result is that of a study that was never stopped.

    Arguments, result and errors are those of :func:`run`.
    """
    path = Path(where)
    directories.check(path, KEY)
    with run_dir.lock(path):
        return _finish(load(path / run_dir.CONFIG), path)


def read(where: str | os.PathLike[str]) -> dict[str, Any]:
    """The figures of a study so far: what its ``lottery.json`` holds.

    Raises:
      DirectoryError: there is no study, or none of its runs has finished.
    """
    return directories.read(Path(where), KEY)


def _finish(study: Study, where: Path) -> dict[str, Any]:
    result: dict[str, Any] = {
        "kind": study.lottery.name,
        "name": study.config.name,
        "seed": study.config.seed,
        "settings": KINDS.dump(study.lottery),
        "finished": False,
    }

    def write(rows: list[dict[str, Any]], finished: bool = False) -> None:
        result.update(rows=rows, finished=finished)
        if study.lottery.name == "random_search":
            result["best"] = search.best(rows)
        write_json(where / directories.result(KEY), result)

    with shared_programs(), signals.caught():
        _KINDS[study.lottery.name](study, where, write)
    write(result["rows"], finished=True)
    return result


def table(result: Mapping[str, Any]) -> str:
    """The figures of a study as text."""
    return {"tickets": _tickets, "random_search": _search, "connectivity": _line}[result["kind"]](
        result
    )


def _tickets(result: Mapping[str, Any]) -> str:
    rows = result["rows"]
    shown = [name for name in _COLUMNS if any(name in row for row in rows)]
    barrier = any("instability" in row for row in rows)
    heads = ("round", "remaining", "weights", *(n.replace("_", " ") for n in shown))
    lines: list[tuple[str, ...]] = [(*heads, "instability") if barrier else heads]
    for row in rows:
        cells: tuple[str, ...] = (str(row["round"]), f"{row['share']:.2%}", str(row["remaining"]))
        cells += tuple(f"{row[n]['accuracy']:.4f}" if n in row else "" for n in shown)
        cells += (f"{row['instability']:.4f}",) if barrier else ()
        lines.append(cells)
    return "\n".join([*aligned(lines), "test accuracy; remaining weights of those that are pruned"])


def _search(result: Mapping[str, Any]) -> str:
    lines = [("run", "sparsity", "test accuracy", "even half", "odd half")]
    for row in result["rows"]:
        figures = (row["sparsity"], row["accuracy"], *row["halves"])
        lines.append((row["run"], *(f"{x:.4f}" for x in figures)))
    winner = result["best"]
    return "\n".join(
        [
            *aligned(lines),
            f"best of {len(result['rows'])}, judged by examples that did not choose it: "
            f"{winner['accuracy']:.4f} ({', '.join(dict.fromkeys(winner['chosen']))})",
            f"all: mean {winner['mean']:.4f}, standard deviation {winner['deviation']:.4f}, from "
            f"{winner['least']:.4f} to {winner['most']:.4f}",
        ]
    )


def _line(result: Mapping[str, Any]) -> str:
    (row,) = result["rows"]
    lines = [("position", "test error")]
    pairs = zip(row["positions"], row["errors"], strict=True)
    lines += [(f"{a:.3f}", f"{e:.4f}") for a, e in pairs]
    verdict = "stable" if row["stable"] else "unstable"
    return "\n".join(
        [
            *aligned(lines),
            f"copies from step {row['at']}: instability {row['instability']:.4f}, {verdict}",
        ]
    )
