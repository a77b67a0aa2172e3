"""``dst report`` of a study: accuracy against remaining weights, in one self-contained file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dst.core.files import write
from dst.report import page, plots, theme
from dst.report.run import REPORT
from dst.report.words import percent
from dst.studies.lottery import answer, study
from dst.studies.lottery.connectivity import STABLE
from dst.train.records import run_dir

Row = Mapping[str, Any]  # of `lottery.json`
Shown = tuple[list[plots.Plot | None], str, str]  # figures, question, answer

_LABELS = {
    "ticket": "tickets",
    "reinit": "the same masks, new initial weights",
    "random_masks": "random masks of equal layer counts",
}
_REMAINING = plots.Shares("remaining weights")


def write_report(
    where: str | os.PathLike[str],
    others: Sequence[str | os.PathLike[str]] = (),
    out: str | os.PathLike[str] | None = None,
) -> Path:
    """Writes the report of a study, whole or not at all, and returns its path.

    The report holds everything it shows and asks for nothing from outside.

    Args:
      where: the directory of a study; it may still be running.
      others: directories of the same study with other seeds: lines are then means over all, and
        the single studies are drawn faintly.
      out: the file; None: ``<where>/report.html``.

    Raises:
      DirectoryError: no study there, or none of whose runs has finished.
      ValueError: studies of another kind or with other rounds.
    """
    results = [study.read(path) for path in (where, *others)]
    with theme.style():
        html = render(results, (Path(where) / run_dir.CONFIG).read_text(encoding="utf-8"))
    path = Path(out or Path(where) / REPORT)
    write(path, html)
    return path


def render(results: Sequence[Mapping[str, Any]], config: str) -> str:
    """The report as HTML text; to be called under :func:`dst.report.theme.style`.

    Args:
      results: what ``lottery.json`` holds, of one study or of the same with several seeds.
      config: the text of its config.
    """
    kinds = {result["kind"] for result in results}
    if len(kinds) > 1:
        raise ValueError(f"one report shows studies of one kind, got {sorted(kinds)}.")
    figures, question, sentence = _FIGURES[kinds.pop()](results)
    return page.fill(
        "study.html.j2",
        name=results[0]["name"],
        answer=sentence,
        question=question,
        chips=_chips(results),
        finished=all(result["finished"] for result in results),
        figures=[figure for figure in figures if figure],
        tables=[(f"seed {result['seed']}", study.table(result)) for result in results],
        config=config,
    )


def _chips(results: Sequence[Mapping[str, Any]]) -> list[str]:
    settings = results[0]["settings"]
    # By their text: zero is a setting, and equal to False.
    unset = ("None", "False", "{}", "[]")
    used = {k: v for k, v in settings.items() if str(v) not in unset}
    chips = [f"{k.replace('_', ' ')} {_words(v)}" for k, v in used.items()]
    seeds = ", ".join(str(result["seed"]) for result in results)
    return [*chips, f"seed {seeds}"]


def _words(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(str(x).replace("_", " ") for x in value)
    return (
        ", ".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
    )


def _tickets(results: Sequence[Mapping[str, Any]]) -> Shown:
    shortest = min(len(result["rows"]) for result in results)
    rows = [result["rows"][:shortest] for result in results]
    shares = [[row["share"] for row in some] for some in rows]
    if any(some != shares[0] for some in shares):
        raise ValueError("studies in one report must have the same remaining weights per round.")
    accuracy = [
        line
        for i, (name, label) in enumerate(_LABELS.items())
        for line in _lines(rows, _accuracy(name), label, i)
    ]
    barrier = _lines(rows, lambda row: row.get("instability"), "instability", 3)
    note = f"Mean of {len(results)} seeds, single seeds faintly." if len(results) > 1 else ""
    figures = [
        plots.lines("Test accuracy", accuracy, percent=True, axis=_REMAINING, caption=note),
        plots.lines(
            "Instability",
            barrier,
            percent=True,
            axis=_REMAINING,
            caption=f"Error barrier between two copies; below {percent(STABLE)} they count as "
            "linearly connected.",
        ),
    ]
    return (
        figures,
        "Which of the pruned networks train as well as the dense one?",
        answer.tickets(rows),
    )


def _accuracy(name: str) -> Callable[[Row], float | None]:
    return lambda row: row.get(name, {}).get("accuracy")


def _lines(
    rows: Sequence[Sequence[Row]], value: Callable[[Row], float | None], label: str, colour: int
) -> list[plots.Line]:
    table = np.array([[value(row) for row in some] for some in rows], float)  # None becomes NaN
    share = np.array([row["share"] for row in rows[0]])
    known = np.isfinite(table).all(0)
    if not known.any():
        return []
    series = theme.SERIES[(0, 7, 4, 1)[colour]]
    mean = plots.Line(label, share[known], table[:, known].mean(0), series, points=True)
    if len(table) == 1:
        return [mean]
    faint = [plots.Line("", share[known], y[known], series, faint=True) for y in table]
    return [*faint, mean]


def _search(results: Sequence[Mapping[str, Any]]) -> Shown:
    sorted_ = [sorted(row["accuracy"] for row in result["rows"]) for result in results]
    some = [
        plots.Line(
            f"seed {result['seed']}",
            np.arange(1.0, len(y) + 1),
            np.array(y),
            theme.SERIES[i % len(theme.SERIES)],
            points=True,
        )
        for i, (result, y) in enumerate(zip(results, sorted_, strict=True))
    ]
    plot = plots.lines(
        "Test accuracy of every mask",
        some,
        percent=True,
        caption="From the worst to the best.",
        x_label="rank",
    )
    question = "How good does the best of many random masks become, and how far do they spread?"
    return [plot], question, " ".join(answer.search(result) for result in results)


def _connectivity(results: Sequence[Mapping[str, Any]]) -> Shown:
    some = [
        plots.Line(
            f"seed {result['seed']}",
            np.array(result["rows"][0]["positions"]),
            np.array(result["rows"][0]["errors"]),
            theme.SERIES[i % len(theme.SERIES)],
            points=True,
        )
        for i, result in enumerate(results)
    ]
    plot = plots.lines(
        "Test error on the line",
        some,
        percent=True,
        caption="0 and 1 are the two solutions.",
        x_label="position between both solutions",
    )
    question = "Do copies that see batches in another order reach one low-error region?"
    return [plot], question, answer.connectivity(results)


_FIGURES = {"tickets": _tickets, "random_search": _search, "connectivity": _connectivity}
