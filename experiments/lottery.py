"""Lottery tickets: accuracy against remaining weights, over the seeds of one study.

Every seed is a study of its own below ``runs``. Finished runs are not repeated and interrupted ones
are resumed, so the program can be stopped and started again. At the end the table and the picture
of the experiment are rewritten, and one report over all seeds stands in the first study's
directory.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dst.report import markdown
from dst.report.spread import spread
from dst.studies.lottery import load, resume, run, write_report
from dst.train.records import run_dir

TICKS = [100, 50, 20, 10, 5, 3]
COLUMNS = {
    "ticket": ("tickets", "#2a6f97"),
    "reinit": ("same masks, new weights", "#c1121f"),
    "random_masks": ("random masks", "#8d99ae"),
}


def accuracies(studies: Sequence[dict[str, Any]], number: int, column: str) -> list[float]:
    """Test accuracy in percent, by seed; none where a round has no such run."""
    rows = [study["rows"][number] for study in studies]
    return [100 * row[column]["accuracy"] for row in rows if column in row]


def costs(studies: Sequence[dict[str, Any]], paths: Sequence[Path]) -> list[float]:
    """Multiply-adds of a ticket by round, relative to dense training: of all rounds up to it."""
    by_study = []
    for study, where in zip(studies, paths, strict=True):
        runs = [where / row["ticket"]["run"] / run_dir.SUMMARY for row in study["rows"]]
        found = [json.loads(x.read_text(encoding="utf-8"))["training_cost"] for x in runs]
        by_study.append(np.cumsum(found))
    return [float(x) for x in np.mean(by_study, axis=0)]


def table(studies: Sequence[dict[str, Any]], paths: Sequence[Path]) -> str:
    """A row per round: remaining weights, cost, and accuracy of the ticket and its controls."""
    heads = ["round", "active", "remaining", "cost", *(label for label, _ in COLUMNS.values())]
    rows, spent = [], costs(studies, paths)
    for i, row in enumerate(studies[0]["rows"]):
        found = [accuracies(studies, i, column) for column in COLUMNS]
        cells = [spread(x).words() if x else "" for x in found]
        rows.append([i, row["remaining"], f"{row['share']:.1%}", f"{spent[i]:.2f}", *cells])
    return markdown.table(heads, rows)


def picture(studies: Sequence[dict[str, Any]], path: Path) -> None:
    """Mean and standard error against the share of remaining weights."""
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    for column, (label, color) in COLUMNS.items():
        found = {
            100 * row["share"]: spread(values)
            for i, row in enumerate(studies[0]["rows"])
            if (values := accuracies(studies, i, column))
        }
        means, errors = zip(*found.values(), strict=True)
        axes.errorbar(
            list(found), means, yerr=errors, marker="o", ms=3, lw=1.2, color=color, label=label
        )
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.set_xticks(TICKS, [f"{x} %" for x in TICKS])
    axes.minorticks_off()
    axes.set_xlabel("remaining weights")
    axes.set_ylabel("test accuracy, %")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def main(folder: Path, config: Path) -> None:
    """Runs what is missing; writes table, picture and report.

    Args:
      folder: of the experiment.
      config: of the study.
    """
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="how many; from 0 on")
    parser.add_argument("--dir", type=Path, default=Path("runs") / folder.name)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_args()
    if args.seeds < 2:
        parser.error(f"--seeds must be at least 2, got {args.seeds}: a spread needs two studies.")
    paths, studies = [args.dir / f"seed-{seed}" for seed in range(args.seeds)], []
    for seed, where in enumerate(paths):
        if (where / run_dir.CONFIG).is_file():
            studies.append(resume(where))
        else:
            changes = [f"seed={seed}", f"name=seed-{seed}", *args.overrides]
            studies.append(run(load(config, changes), where))
    print(table(studies, paths))
    print(write_report(paths[0], paths[1:]))
    if not args.overrides:
        markdown.write_between(folder / "README.md", "table", table(studies, paths))
        picture(studies, folder / "accuracy.svg")
