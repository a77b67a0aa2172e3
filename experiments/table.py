"""The table and the picture of an experiment, from the directory of its sweep.

    dst sweep experiments/rigl_interval/sweep.yaml --engine vectorised
    python experiments/table.py experiments/rigl_interval runs/rigl-interval \\
        --x method.every --lines method.drop_fraction

A row is a setting: trials that differ in nothing but the seed. Its figures are means with their
standard errors; a figure that is the same in every row is left out. The table is written to the
experiment's README between its markers, the picture beside it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from dst.report import markdown
from dst.report.spread import Spread, spread
from dst.studies.sweep import RESULTS
from dst.train.records import run_dir

Setting = tuple[tuple[str, Any], ...]

# By the figure's name: its head, what it is multiplied with, its decimals.
FIGURES = {
    "accuracy": ("accuracy, %", 100, 2),
    "bits_per_byte": ("bits per byte", 1, 3),
    "loss": ("test loss", 1, 3),
    "explored": ("R_s", 1, 3),
    "active": ("active weights", 1, 0),
    "training_cost": ("training cost", 1, 3),
}
COLORS = ["#2a6f97", "#c1121f", "#8d99ae", "#f4a261", "#588157", "#6d597a"]


def leaves(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with its dotted key."""
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def setting(trial: Mapping[str, Any]) -> Setting:
    """What the sweep chooses for a trial, but for the seed."""
    return tuple((k, str(v)) for k, v in leaves(trial["settings"]) if k != "seed")


def short(key: str) -> str:
    """A key as a person would say it."""
    return key.split(".")[-1].replace("_", " ")


def figures(run: Path) -> dict[str, float]:
    """Those of a finished run that a table may show."""
    found = json.loads((run / run_dir.SUMMARY).read_text(encoding="utf-8"))
    found["active"] = sum(x["active"] for x in found["layers"] if len(x["shape"]) > 1)
    if all(x["explored"] is None for x in found["layers"]):
        del found["explored"]  # a dense network has tried nothing else
    return {k: scale * found[k] for k, (_, scale, _) in FIGURES.items() if k in found}


def read(sweep: Path) -> dict[Setting, dict[str, Spread]]:
    """The figures of every setting, in the order of the sweep.

    Raises:
      ValueError: a sweep with trials that are not done.
    """
    trials = json.loads((sweep / RESULTS).read_text(encoding="utf-8"))["trials"]
    if missing := [x["number"] for x in trials if x["state"] != "done"]:
        raise ValueError(f"trials {missing} of {sweep} are not done. Run `dst sweep` again.")
    runs: dict[Setting, list[dict[str, float]]] = {}
    for trial in trials:
        found = figures(sweep / trial["directory"])
        runs.setdefault(setting(trial), []).append(found)
    return {
        key: {name: spread(run[name] for run in some) for name in some[0]}
        for key, some in runs.items()
    }


def table(found: Mapping[Setting, Mapping[str, Spread]]) -> str:
    """A row for every setting."""
    keys = [key for key, _ in next(iter(found))]
    names = [n for n in FIGURES if len({x[n] for x in found.values() if n in x}) > 1]
    heads = list(map(short, keys))
    rows = []
    for chosen, values in found.items():
        cells = [value for _, value in chosen]
        for name in names:
            digits, each = FIGURES[name][2], values.get(name)
            certain = each is not None and each.error < 0.5 * 10**-digits
            words = each and (f"{each.mean:.{digits}f}" if certain else each.words(digits))
            cells.append(words or "")
        rows.append(cells)
    return markdown.table([*heads, *(FIGURES[n][0] for n in names)], rows)


def picture(
    found: Mapping[Setting, Mapping[str, Spread]], x: str, lines: Sequence[str], y: str, path: Path
) -> None:
    """A figure against a setting or another figure, with standard errors.

    Args:
      found: from :func:`read`.
      x: a swept key or a figure's name.
      lines: swept keys; a line for each of their values.
      y: a figure's name.
      path: the SVG file to write.
    """
    courses: dict[str, list[tuple[float, Spread]]] = {}
    for chosen, values in found.items():
        own = dict(chosen)
        at = values[x].mean if x in values else float(own[x].strip("[]%").split(",")[0])
        name = ", ".join(f"{short(key)} {own[key]}" for key in lines)
        courses.setdefault(name, []).append((at, values[y]))
    style = {"svg.fonttype": "none", "svg.hashsalt": path.parent.name, "font.family": "sans-serif"}
    with matplotlib.rc_context({**style, "font.sans-serif": ["DejaVu Sans", "sans-serif"]}):
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.subplots()
        for (name, course), color in zip(courses.items(), COLORS, strict=False):
            places, spreads = zip(*course, strict=True)
            means, errors = zip(*spreads, strict=True)
            axes.errorbar(
                places, means, yerr=errors, marker="o", ms=4, lw=1.2, capsize=2, color=color
            ).set_label(name)
        if x not in FIGURES:
            axes.set_xscale("log")
            ticks = sorted({place for course in courses.values() for place, _ in course})
            axes.set_xticks(ticks, [f"{place:g}" for place in ticks])
            axes.minorticks_off()
        axes.set_xlabel(FIGURES[x][0] if x in FIGURES else short(x))
        axes.set_ylabel(FIGURES[y][0])
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if lines:
            axes.legend(frameon=False)
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Writes table and picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", type=Path, help="its folder")
    parser.add_argument("sweep", type=Path, help="the directory of its sweep")
    parser.add_argument("--x", required=True, help="a swept key, or a figure")
    parser.add_argument("--y", default="accuracy", choices=FIGURES)
    parser.add_argument("--lines", nargs="*", default=[], help="swept keys: a line for each value")
    parser.add_argument("--name", default="table", help="of the markers and the picture")
    options = parser.parse_args()
    found = read(options.sweep)
    print(table(found))
    markdown.write_between(options.experiment / "README.md", options.name, table(found))
    path = options.experiment / f"{options.name}.svg"
    picture(found, options.x, options.lines, options.y, path)


if __name__ == "__main__":
    main()
