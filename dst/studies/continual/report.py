"""``dst report`` of a study of continual learning: the accuracy matrix, in one file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from dst.core.files import write
from dst.report import page, plots, theme
from dst.report.run import REPORT
from dst.report.words import percent
from dst.studies.continual import study
from dst.train.records import run_dir

Row = Mapping[str, Any]  # of `continual.json`
_MOST_NUMBERS = 12  # tasks of a matrix whose numbers can be read


def write_report(where: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> Path:
    """Writes the report of a study, whole or not at all, and returns its path.

    The report holds everything it shows and asks for nothing from outside.

    Args:
      where: the directory of a study; it may still be running.
      out: the file; None: ``<where>/report.html``.

    Raises:
      DirectoryError: no study there, or none of whose tasks has been learned.
    """
    result = study.read(where)
    with theme.style():
        html = render(result, (Path(where) / run_dir.CONFIG).read_text(encoding="utf-8"))
    path = Path(out or Path(where) / REPORT)
    write(path, html)
    return path


def render(result: Mapping[str, Any], config: str) -> str:
    """The report as HTML text; to be called under :func:`dst.report.theme.style`.

    Args:
      result: what ``continual.json`` holds.
      config: the text of its config.
    """
    figures = [matrix(result["rows"], result["settings"]["tasks"]), _lines(result["rows"])]
    return page.fill(
        "study.html.j2",
        name=result["name"],
        answer=answer(result),
        question="What does the network still know of earlier tasks?",
        chips=_chips(result),
        finished=result["finished"],
        figures=[figure for figure in figures if figure],
        tables=[(f"seed {result['seed']}", study.table(result))],
        config=config,
    )


def answer(result: Mapping[str, Any]) -> str:
    """What was learned and what was forgotten, as a sentence."""
    n = len(result["rows"])
    text = f"After {n} task{'s' if n > 1 else ''} the mean accuracy is "
    text += percent(result["average_accuracy"])
    lost = result["forgetting"]
    if lost is None:
        return f"{text}; no earlier task could be forgotten yet."
    points = f"{abs(100 * lost):.1f} points"
    change = f"lost {points} of" if lost >= 0 else f"gained {points} over"
    return f"{text}; earlier tasks have {change} their best accuracy (one seed: no interval)."


def matrix(rows: Sequence[Row], tasks: int) -> plots.Plot:
    """The accuracies after every task as a picture: the darker, the better.

    Args:
      rows: of the tasks so far.
      tasks: how many there will be.
    """
    figure, axes = theme.canvas((4.5, 3.6))
    for i, row in enumerate(rows):
        for j, value in enumerate(row["accuracies"]):
            square = Rectangle((j + 0.52, i + 0.52), 0.96, 0.96, color=theme.SERIES[0])
            square.set_alpha(0.05 + 0.6 * value)
            square.set_linewidth(0)
            axes.add_patch(square)
            if tasks <= _MOST_NUMBERS:
                axes.text(
                    *(j + 1, i + 1, f"{100 * value:.0f}"),
                    color=theme.INK,
                    ha="center",
                    va="center",
                    fontsize=10,
                )
            theme.tip(axes, j + 1, i + 1, f"task {j + 1} after task {i + 1}: {percent(value)}")
    axes.set_xlim(0.5, tasks + 0.5)
    axes.set_ylim(tasks + 0.5, 0.5)
    axes.grid(visible=False)
    axes.set_xlabel("judged on task")
    axes.set_ylabel("after task", color=theme.MUTED)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True, steps=theme.TICKS))
    return plots.Plot(
        "Accuracy matrix",
        theme.themed(figure, "Accuracy matrix"),
        caption="Test accuracy in percent, on every task so far.",
    )


def _lines(rows: Sequence[Row]) -> plots.Plot | None:
    tasks = range(len(rows))
    some = [
        plots.Line(
            f"task {j + 1}",
            np.arange(j + 1.0, len(rows) + 1),
            np.array([row["accuracies"][j] for row in rows[j:]]),
            theme.colour(j),
            points=True,
            dash=j // len(theme.SERIES),
        )
        for j in tasks
    ]
    return plots.lines("Accuracy of each task", some, percent=True, x_label="tasks learned")


def _chips(result: Mapping[str, Any]) -> list[str]:
    settings = result["settings"]
    own = {k: v for k, v in settings["strategy"].items() if k != "name"}
    chips = [settings["strategy"]["name"], f"method {result['method']}"]
    chips += [f"{settings['tasks']} tasks", f"scenario {settings['scenario']}"]
    words = {k: ", ".join(v) if isinstance(v, list) else v for k, v in own.items()}
    chips += [f"{k} {v}" for k, v in words.items() if str(v) not in ("", "False", "None")]
    return [*chips, f"seed {result['seed']}"]
