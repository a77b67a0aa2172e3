"""Accuracy against sparsity for every method, each at the learning rate that is best for it.

For every method and sparsity, learning rates are tried with a few seeds on a tenth of the training
data, at full length. The best one then trains on all of them, with other seeds, and is tested once.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from dst.report import markdown
from dst.report.spread import spread
from dst.train.config import run as config
from experiments import together
from experiments.methods import METHODS, MOMENTUM, ONE_BY_ONE
from experiments.together import Run

VALIDATION = 0.1
SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
TRIES, AT_ONCE = 2, 64
ADAMW = {"name": "adamw", "decay": "cosine", "weight_decay": 1e-4}
SGD = {"name": "momentum", "decay": "cosine", "weight_decay": 1e-4}
RATES = {"adamw": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2), "momentum": (0.003, 0.01, 0.03, 0.1, 0.3)}
COLORS = ["#2a6f97", "#c1121f", "#588157", "#f4a261", "#6d597a", "#8ecae6", "#343a40"]
SHOWN = ("Static", "SET", "RigL", "GMP, ERK", "GraNet", "Edge-popup", "AC/DC, momentum")

Records = list[dict[str, Any]]


def section_of(name: str) -> dict[str, Any]:
    """The optimizer of a method, without a learning rate."""
    return SGD if name in MOMENTUM else ADAMW


def settings_of(name: str, path: Path, validation: float | None = None) -> config.Config:
    """The config of an experiment with the optimizer of a method, at a learning rate of 1."""
    optimizer = {**section_of(name), "learning_rate": 1.0}
    more = [f"data.validation={validation}"] if validation else []
    return config.load(path, [f"optimizer={optimizer}", *more])


def of_method(name: str, options: argparse.Namespace) -> tuple[Records, Records]:
    """The tuning runs and the tested runs of a method; read where they are, trained where not."""
    section = section_of(name)
    sparsities = (0.0,) if name == "Dense" else options.sparsities
    file = name.lower().replace(" ", "-").replace("/", "-").replace(",", "")

    def trained(validation: float | None, runs: list[Run]) -> Records:
        settings = settings_of(name, options.config, validation)
        groups = [[r for r in runs if r.sparsity == s] for s in sparsities]
        if name not in ONE_BY_ONE:
            groups = [runs]
        parts = [
            g[i : i + options.at_once] for g in groups for i in range(0, len(g), options.at_once)
        ]
        return [r for part in parts for r in together.train(settings, METHODS[name], part)]

    tries = range(1000, 1000 + options.tries)  # seeds that no tested run has
    tuning = together.kept(
        options.dir / f"{file}-tuning.json",
        partial(
            trained,
            VALIDATION,
            [
                Run(s, seed, rate)
                for s in sparsities
                for rate in RATES[section["name"]]
                for seed in tries
            ],
        ),
    )
    rates = together.best_rates(tuning)
    tested = together.kept(
        options.dir / f"{file}.json",
        partial(
            trained,
            None,
            [Run(s, seed, rates[s]) for s in sparsities for seed in range(options.seeds)],
        ),
    )
    return tuning, tested


def accuracies(records: Records, sparsity: float) -> list[float]:
    """In percent."""
    return [100 * r["accuracy"] for r in records if r["sparsity"] == sparsity]


def table(found: Mapping[str, Records], sparsities: tuple[float, ...]) -> str:
    """A row per method: accuracy with its standard error, and the learning rate, by sparsity."""
    rows = []
    for name, records in found.items():
        cells = [name]
        for s in sparsities:
            some = [r for r in records if r["sparsity"] == s]
            if not some:
                cells += ["", ""]
                continue
            cells += [spread(accuracies(records, s)).words(1), f"{some[0]['rate']:g}"]
        rows.append(cells)
    heads = ["method"]
    for s in sparsities:
        heads += [f"{s:.0%}", "rate"]
    return markdown.table(heads, rows)


def costs(found: Mapping[str, Records], sparsities: tuple[float, ...]) -> str:
    """A row per method: multiply-adds of the whole training relative to dense, by sparsity."""
    rows = []
    for name, records in found.items():
        cells = [name]
        for s in sparsities:
            some = [r["training_cost"] for r in records if r["sparsity"] == s]
            cells.append(f"{statistics.mean(some):.3f}" if some else "")
        rows.append(cells)
    return markdown.table(["cost of training", *(f"{s:.0%}" for s in sparsities)], rows)


def picture(found: Mapping[str, Records], sparsities: tuple[float, ...], path: Path) -> None:
    """Mean accuracy of every method against the density; some methods have a colour."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, records in found.items():
        if name == "Dense":
            dense = statistics.mean(accuracies(records, 0.0))
            axes.axhline(dense, color="black", linestyle="--", linewidth=1, label="Dense")
            continue
        xs = [1 - s for s in sparsities if accuracies(records, s)]
        ys = [spread(accuracies(records, s)) for s in sparsities if accuracies(records, s)]
        shown = name in SHOWN
        color = COLORS[SHOWN.index(name)] if shown else "#ced4da"
        axes.errorbar(
            xs,
            [y.mean for y in ys],
            yerr=[y.error for y in ys],
            color=color,
            label=name if shown else None,
            linewidth=1.6 if shown else 0.8,
            zorder=2 if shown else 1,
        )
    axes.set_xscale("log")
    axes.invert_xaxis()
    ticks = [1 - s for s in sparsities if s]
    axes.set_xticks(ticks, [f"{1 - x:.0%}" for x in ticks])
    axes.minorticks_off()
    axes.set_xlabel("sparsity")
    axes.set_ylabel("test accuracy, %")
    axes.legend(frameon=False, fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})


def main(config_file: Path, name: str, about: str) -> None:
    """Trains what is missing, and writes table and picture into the folder of the config."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--seeds", type=int, default=5, help="of every tested setting")
    parser.add_argument(
        "--tries", type=int, default=TRIES, help="seeds of every learning rate tried"
    )
    parser.add_argument("--sparsities", type=float, nargs="+", default=SPARSITIES)
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help="runs in one program, at most")
    parser.add_argument("--only", nargs="*", help="methods to train; the table needs all")
    parser.add_argument("--dir", type=Path, default=Path("runs") / name)
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error(f"--seeds must be at least 2, got {options.seeds}: a spread needs two runs.")
    if unknown := sorted(set(options.only or ()) - set(METHODS)):
        parser.error(f"--only must be among {list(METHODS)}, got {unknown}.")
    options.config, options.sparsities = config_file, tuple(options.sparsities)
    found = {x: of_method(x, options)[1] for x in options.only or METHODS}
    columns = (0.0, *options.sparsities)
    text = f"{table(found, columns)}\n\n{costs(found, columns)}"
    print(text)
    if not options.only:
        folder, stem = config_file.parent, config_file.stem
        markdown.write_between(folder / "README.md", stem, text)
        picture(found, columns, folder / f"{stem}.svg")
