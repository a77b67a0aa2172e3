"""The report of a pruned model: what it lost, and in which matrices."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dst.core.text import aligned, decimals
from dst.report import page, plots, theme
from dst.report.tables import Cell, Table
from dst.report.words import duration, percent

Result = Mapping[str, Any]  # of `pruning.json`


def table(result: Result) -> str:
    """The figures before and after as text."""
    return "\n".join(aligned([("", "dense", "pruned"), *_figures(result)]))


def answer(result: Result) -> str:
    """What the pruning cost, as a sentence."""
    share, quality = percent(result["sparsity"]), result["quality"]
    if "cosine" in quality:
        cosine = decimals(quality["cosine"], 4)
        return f"With {share} zeros, embeddings have a mean cosine of {cosine} with dense ones."
    before, after = quality["against"]["perplexity"], quality["perplexity"]
    if before is None or after is None:
        which = "pruned" if after is None else "dense"
        return f"With {share} zeros, the perplexity of the {which} model is no finite number."
    return (
        f"With {share} zeros, perplexity rises from {before:.2f} to {after:.2f}, "
        f"{after / before:.2f} times."
        if after >= before
        else f"With {share} zeros, perplexity falls from {before:.2f} to {after:.2f}."
    )


def write_report(result: Result, path: str | os.PathLike[str]) -> None:
    """Writes the report, one file that asks for nothing from outside, whole or not at all."""
    with theme.style():
        html = render(result)
    page.write(Path(path), html)


def render(result: Result) -> str:
    """The report as HTML text; to be called under :func:`dst.report.theme.style`."""
    return page.fill(
        "pruning.html.j2",
        name=f"{Path(result['settings']['model']).name}, pruned",
        answer=answer(result),
        question="What did the model lose, and in which matrices?",
        chips=[*_chips(result), duration(result["seconds"])],
        drawn="Matrices by depth",
        figures=[x for x in (_errors(result["matrices"]), _shares(result["matrices"])) if x],
        quality=_cells([("", "dense", "pruned"), *_figures(result)]),
        matrices=_matrices(result["matrices"]),
    )


def curve_table(result: Result) -> str:
    """The points of a curve as text, and its knee."""
    return "\n".join([*aligned(_points(result)), curve_answer(result)])


def curve_answer(result: Result) -> str:
    """Where the knee of a curve lies, as a sentence."""
    points, most = result["points"], percent(result["tolerance"], 0)
    figure = "cosine" if "cosine" in points[0] else "perplexity"
    if result["knee"] is None:
        first = percent(points[0]["sparsity"])
        return f"Already at {first} zeros, the {figure} is more than {most} worse than dense."
    return f"Up to {percent(result['knee'])} zeros, the {figure} is within {most} of dense."


def write_curve(result: Result, path: str | os.PathLike[str]) -> None:
    """Writes the report of a curve, as :func:`write_report` does."""
    with theme.style():
        html = page.fill(
            "pruning.html.j2",
            name=f"{Path(result['settings']['model']).name}, pruned to many sparsities",
            answer=curve_answer(result),
            question="How many weights go almost for nothing?",
            chips=_chips(result),
            drawn="Quality against sparsity",
            figures=[x for x in (_curve(result["points"]),) if x],
            quality=_cells(_points(result)),
            matrices=None,
        )
    page.write(Path(path), html)


def _points(result: Result) -> list[tuple[str, ...]]:
    points = result["points"]
    if "cosine" in points[0]:
        cosines = [(percent(x["zeros"]), decimals(x["cosine"], 4)) for x in points]
        return [("zeros", "mean cosine"), *cosines]
    dense = points[0]["against"]["perplexity"]
    rows = [(0.0, dense), *((x["zeros"], x["perplexity"]) for x in points)]
    cells = [(percent(z), decimals(p, 3), decimals(_ratio(p, dense), 3)) for z, p in rows]
    return [("zeros", "perplexity", "times dense"), *cells]


def _ratio(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one / other


def _curve(points: Sequence[Mapping[str, Any]]) -> plots.Plot | None:
    key = "cosine" if "cosine" in points[0] else "perplexity"
    dense = 1.0 if key == "cosine" else points[0]["against"]["perplexity"]
    known = [p for p in points if p[key] is not None]
    if not known or dense is None:
        return None
    x, y = ([p[name] for p in known] for name in ("zeros", key))
    line = plots.Line(
        "pruned", np.array([0.0, *x]), np.array([dense, *y]), theme.SERIES[0], points=True
    )
    flat = plots.Line(
        "dense", np.array([0.0, x[-1]]), np.array([dense] * 2), theme.SERIES[7], dash=1
    )
    title = "Mean cosine of embeddings" if key == "cosine" else "Perplexity"
    return plots.lines(title, [line, flat], x_label="share of zeros", may_log=key != "cosine")


def _chips(result: Result) -> list[str]:
    unset = ("None", "False", "()", "[]")
    return [
        f"{key} {' x '.join(map(str, x)) if key == 'windows' else x}"
        for key, x in result["settings"].items()
        if key != "model" and str(x) not in unset
    ]


def _figures(result: Result) -> list[tuple[str, str, str]]:
    rows = [("zeros of the pruned matrices", "", percent(result["sparsity"]))]
    quality = result["quality"]
    if "cosine" in quality:
        return [*rows, ("mean cosine of embeddings", "1.0000", decimals(quality["cosine"], 4))]
    before = quality["against"]
    for key, words in (("perplexity", "perplexity"), ("bits_per_byte", "bits per byte")):
        rows.append((words, decimals(before[key], 3), decimals(quality[key], 3)))
    return [
        *rows,
        ("same most likely token", "", percent(quality["agreement"])),
        ("KL(dense || pruned), nats", "", decimals(quality["kl"], 4)),
    ]


def _cells(rows: Sequence[Sequence[str]]) -> Table:
    heads, *others = rows
    return Table(heads, [[Cell(text, text) for text in row] for row in others])


def _matrices(matrices: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for x in matrices:
        error = x["error"]
        rows.append(
            [
                Cell(x["name"], x["name"]),
                Cell(percent(x["sparsity"]), str(x["sparsity"])),
                Cell("–" if error is None else f"{error:.2e}", "" if error is None else str(error)),
                Cell(f"{x['seconds']:.2f}", str(x["seconds"])),
            ]
        )
    return Table(("matrix", "zeros", "relative error", "seconds"), rows)


def _errors(matrices: Sequence[Mapping[str, Any]]) -> plots.Plot | None:
    return plots.lines(
        "Relative error of the outputs",
        _lines(matrices, "error"),
        caption="|X dW|² / |X W|² of every matrix, over the calibration text.",
        x_label="block",
        may_log=True,
    )


def _shares(matrices: Sequence[Mapping[str, Any]]) -> plots.Plot | None:
    shares = {round(x["sparsity"], 3) for x in matrices}
    if len(shares) == 1:
        return None
    return plots.lines("Zeros", _lines(matrices, "sparsity"), percent=True, x_label="block")


def _lines(matrices: Sequence[Mapping[str, Any]], key: str) -> list[plots.Line]:
    """A line over the blocks for every kind of matrix."""
    kinds: dict[str, list[tuple[int, float]]] = {}
    for x in matrices:
        number = re.search(r"\[(\d+)\]$|/(\d+)/", x["name"])  # of a stacked leaf, of a list
        if number and x[key] is not None:
            kind = x["name"].removesuffix(number[0]).removesuffix("/kernel").rpartition("/")[2]
            block = int(number[1] or number[2])
            kinds.setdefault(kind, []).append((block, x[key]))
    return [
        plots.Line(
            kind,
            np.array([b for b, _ in points], float),
            np.array([y for _, y in points], float),
            theme.SERIES[i % len(theme.SERIES)],
            points=True,
            dash=i // len(theme.SERIES),
        )
        for i, (kind, points) in enumerate(kinds.items())
    ]
