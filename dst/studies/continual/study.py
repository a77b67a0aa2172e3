"""A study of continual learning: from its first task, or wherever it was stopped, to its table."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dst.core.files import write_json
from dst.core.text import aligned
from dst.studies import directories, runs
from dst.studies.continual import frozen, metrics, packnet, sequential
from dst.studies.continual.config import KEY, Study, dump, load, settings
from dst.studies.continual.inference import Inference
from dst.studies.continual.sequence import Learned, Tasks
from dst.studies.runs import Row, shared_programs
from dst.train.config.run import enclosed
from dst.train.distributed import signals
from dst.train.records import run_dir

_LEARN = {
    "sequential": sequential.learn,
    "packnet": packnet.learn,
    "piggyback": frozen.piggyback,
    "supsup": frozen.supsup,
}
FIGURES = {
    "average_accuracy": metrics.average_accuracy,
    "backward_transfer": metrics.backward_transfer,
    "forgetting": metrics.forgetting,
}


def run(study: Study, where: str | Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Runs a new study: ``dst continual``.

    Args:
      study: from :func:`dst.studies.continual.load`.
      where: its directory; every run of the study is a run directory in it.
      overwrite: whether an earlier study in that directory is replaced.

    Returns:
      What ``continual.json`` holds: ``name``, ``seed``, ``method``, ``settings``, ``finished``, the
      figures of :mod:`dst.studies.continual.metrics`, and ``rows``, one per learned task, with the
      ``accuracies`` on all tasks so far.

    Raises:
      ConfigError, DirectoryError: before anything is written.
      Diverged: a loss that is not finite.
      Stopped: by SIGTERM or SIGINT, with a checkpoint of the run that was in training.
    """
    path = Path(where)
    run_dir.check_free(path, overwrite)
    study = replace(study, config=runs.check(study.config, KEY))
    tasks = Tasks(study)
    tasks.own(getattr(study.continual.strategy.value, "own", ()))
    inference = _inference(tasks)
    config, files = enclosed(study.config)
    with run_dir.create(path, dump(replace(study, config=config)), overwrite, files):
        return _finish(tasks, path, inference)


def resume(where: str | Path) -> dict[str, Any]:
    """Continues a study. Finished runs are only read, and a run that was stopped continues at its
    newest checkpoint. The result is that of a study that was never stopped.

    Arguments, result and errors are those of :func:`run`.
    """
    path = Path(where)
    directories.check(path, KEY)
    with run_dir.lock(path):
        tasks = Tasks(load(path / run_dir.CONFIG))
        return _finish(tasks, path, _inference(tasks))


def read(where: str | os.PathLike[str]) -> dict[str, Any]:
    """The figures of a study so far: what its ``continual.json`` holds.

    Raises:
      DirectoryError: there is no study, or none of its tasks has been learned.
    """
    return directories.read(Path(where), KEY)


def _inference(tasks: Tasks) -> Inference | None:
    """What finds the task of an example, where it is not given."""
    infers = getattr(tasks.study.continual.strategy.value, "infer", False)
    return Inference(tasks) if infers else None


def _finish(tasks: Tasks, where: Path, inference: Inference | None) -> dict[str, Any]:
    study = tasks.study
    strategy = study.continual.strategy
    result: dict[str, Any] = {
        "name": study.config.name,
        "seed": study.config.seed,
        "method": study.config.method.name,
        "settings": settings(study),
        "finished": False,
        "rows": [],
    }
    with shared_programs(), signals.caught():
        for number in tasks.numbers:
            learned = _LEARN[strategy.name](tasks, where, number)
            result["rows"].append(_row(tasks, number, learned, inference))
            matrix = [row["accuracies"] for row in result["rows"]]
            result |= {name: figure(matrix) for name, figure in FIGURES.items()}
            write_json(where / directories.result(KEY), result)
    result["finished"] = True
    write_json(where / directories.result(KEY), result)
    return result


def _row(tasks: Tasks, number: int, learned: Learned, inference: Inference | None) -> Row:
    """What the network knows after a task."""
    so_far = range(1, number + 1)
    row = {
        "task": number,
        "run": learned.run.name,
        "classes": list(tasks.classes(number)),
        "sparsity": learned.figures["sparsity"],
    }
    if inference is None:
        return row | {"accuracies": [tasks.judge(i).accuracy(learned.weights(i)) for i in so_far]}
    used = [learned.weights(i) for i in so_far]
    both = [inference.accuracies(i, used) for i in so_far]
    return row | {"accuracies": [x for x, _ in both], "inferred": [x for _, x in both]}


def table(result: Mapping[str, Any]) -> str:
    """The figures of a study as text."""
    rows = result["rows"]
    names = [f"task {row['task']}" for row in rows]
    lines: list[tuple[str, ...]] = [("after", *names, "mean", "sparsity")]
    for row in rows:
        known = [f"{x:.4f}" for x in row["accuracies"]]
        mean = sum(row["accuracies"]) / len(known)
        blank = [""] * (len(rows) - len(known))
        cells = (f"task {row['task']}", *known, *blank, f"{mean:.4f}", f"{row['sparsity']:.4f}")
        lines.append(cells)
    figures = [
        f"{name.replace('_', ' ')} {result[name]:.4f}"
        for name in FIGURES
        if result.get(name) is not None
    ]
    text = [*aligned(lines), "test accuracy on every task so far", "; ".join(figures)]
    if "inferred" in rows[-1]:
        mean = sum(rows[-1]["inferred"]) / len(rows)
        text.append(f"tasks inferred: {mean:.2%} of the test examples, after the last task")
    return "\n".join(text)
