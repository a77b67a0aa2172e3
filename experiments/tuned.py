"""Accuracy against sparsity for every method, each at the learning rate that is best for it.

For every method and sparsity, learning rates are tried with a few seeds on a tenth of the training
data, at full length. The best one then trains on all of them, with other seeds, and is tested once.
"""

from __future__ import annotations

import argparse
import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from dst.report import markdown
from dst.report.spread import spread
from dst.train.config import run as config
from experiments import together
from experiments.methods import METHODS, MOMENTUM, ONE_BY_ONE
from experiments.rows import merged
from experiments.together import Run

VALIDATION = 0.1
SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
TRIES, AT_ONCE = 1, 64
ADAMW = {"name": "adamw", "decay": "cosine", "weight_decay": 1e-4}
SGD = {"name": "momentum", "decay": "cosine", "weight_decay": 1e-4}
RATES = {
    "adamw": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    "momentum": (0.01, 0.03, 0.1, 0.3, 1.0),
}
COLORS = ["#2a6f97", "#c1121f", "#588157", "#f4a261", "#6d597a", "#8ecae6", "#343a40"]
SHOWN = ("Static", "SET", "RigL", "GMP, ERK", "GraNet", "Edge-popup", "AC/DC, momentum")

Records = list[dict[str, Any]]
Rows = list[list[str]]
Table = tuple[list[str], Rows]


def section_of(name: str) -> dict[str, Any]:
    """The optimizer of a method, without a learning rate."""
    return SGD if name in MOMENTUM else ADAMW


@dataclass(frozen=True)
class Plan:
    """What is trained for a method.

    Attributes:
      config: file of model, data and length.
      where: the directory of the records.
      sparsities: of which each is tuned.
      seeds: of every tested setting.
      tries: seeds of every learning rate tried.
      at_once: runs in one program, at most.
      rates: learning rates that are tried, by optimizer.
      changes: overrides of the config.
    """

    config: Path
    where: Path
    sparsities: tuple[float, ...] = SPARSITIES
    seeds: int = 5
    tries: int = TRIES
    at_once: int = AT_ONCE
    rates: Mapping[str, tuple[float, ...]] = field(default_factory=lambda: RATES)
    changes: tuple[str, ...] = ()

    def settings(self, name: str, validation: float | None = None) -> config.Config:
        """The config with the optimizer of a method, at a learning rate of 1."""
        optimizer = {**section_of(name), "learning_rate": 1.0}
        more = [f"data.validation={validation}"] if validation else []
        return config.load(self.config, [f"optimizer={optimizer}", *more, *self.changes])


def file_of(name: str) -> str:
    """The name of a method in those of files."""
    return re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")


def of_method(name: str, plan: Plan) -> tuple[Records, Records]:
    """The tuning runs and the tested runs of a method; read where they are, trained where not."""
    sparsities = (0.0,) if name.startswith("Dense") else plan.sparsities

    def trained(file: str, runs: list[Run], validation: float | None = None) -> Records:
        settings = plan.settings(name, validation)

        def make(runs: list[Run]) -> Records:
            groups = [[r for r in runs if r.sparsity == s] for s in sparsities]
            if name not in ONE_BY_ONE:
                groups = [runs]
            n = plan.at_once
            parts = [g[i : i + n] for g in groups for i in range(0, len(g), n)]
            return [r for part in parts for r in together.train(settings, METHODS[name], part)]

        return together.completed(plan.where / f"{file}.json", runs, make)

    seeds = range(1000, 1000 + plan.tries)  # that no tested run has
    rates = plan.rates[section_of(name)["name"]]
    tries = [Run(s, seed, rate) for s in sparsities for rate in rates for seed in seeds]
    tuning = trained(f"{file_of(name)}-tuning", tries, VALIDATION)
    best = together.best_rates(tuning)
    runs = [Run(s, n, best[s]) for s in sparsities for n in range(plan.seeds)]
    return tuning, trained(file_of(name), runs)


def accuracies(records: Records, sparsity: float) -> list[float]:
    """In percent."""
    return [100 * r["accuracy"] for r in records if r["sparsity"] == sparsity]


def table(found: Mapping[str, Records], sparsities: tuple[float, ...]) -> Table:
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
    return heads, rows


def costs(found: Mapping[str, Records], sparsities: tuple[float, ...]) -> Table:
    """A row per method: multiply-adds of the whole training relative to dense, by sparsity."""
    rows = []
    for name, records in found.items():
        cells = [name]
        for s in sparsities:
            some = [r["training_cost"] for r in records if r["sparsity"] == s]
            cells.append(f"{statistics.mean(some):.3f}" if some else "")
        rows.append(cells)
    return ["cost of training", *(f"{s:.0%}" for s in sparsities)], rows


def picture(rows: Rows, sparsities: tuple[float, ...], path: Path) -> None:
    """Mean accuracy of every method against the density; some methods have a colour.

    Args:
      rows: as :func:`table` makes them.
      sparsities: of their columns, the first of which is 0.
      path: the SVG file to write.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, *cells in rows:
        if name.startswith("Dense"):
            dense, style = float(cells[0].split()[0]), ":" if "," in name else "--"
            axes.axhline(dense, color="black", linestyle=style, linewidth=1, label=name)
            continue
        there = [(1 - s, x) for s, x in zip(sparsities, cells[::2], strict=True) if x]
        means, errors = zip(*(map(float, x.split(" ± ")) for _, x in there), strict=True)
        shown = name in SHOWN
        color = COLORS[SHOWN.index(name)] if shown else "#ced4da"
        axes.errorbar(
            [x for x, _ in there],
            means,
            yerr=errors,
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


def write_rows(found: Mapping[str, Records], columns: tuple[float, ...], path: Path) -> None:
    """Writes rows into the two tables of a network, and the picture of all its rows.

    Args:
      found: the tested runs of the methods whose rows are new; the other rows stay.
      columns: sparsities.
      path: README; the picture lies beside it.
    """
    network = path.stem
    readme = path.with_name("README.md")
    there = markdown.read_between(readme, network).strip().split("\n\n")
    new = table(found, columns), costs(found, columns)
    rows = [merged(old, *x, METHODS) for old, x in zip_longest(there[:2], new, fillvalue="")]
    text = "\n\n".join(markdown.table(heads, x) for (heads, _), x in zip(new, rows, strict=True))
    print(text)
    markdown.write_between(readme, network, text)
    picture(rows[0], columns, path)


def main(folder: Path, about: str, defaults: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """Trains what is missing, and writes tables and picture of a network into a folder.

    Args:
      folder: with a config for every network.
      about: the docstring of the program.
      defaults: of options, by network, where they are others than here.
    """
    networks = sorted(x.stem for x in folder.glob("*.yaml"))
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("network", choices=networks)
    parser.add_argument("--seeds", type=int, default=5, help="of every tested setting")
    parser.add_argument(
        "--tries", type=int, default=TRIES, help="seeds of every learning rate tried"
    )
    parser.add_argument("--sparsities", type=float, nargs="+", default=SPARSITIES)
    for optimizer, rates in RATES.items():
        parser.add_argument(
            f"--{optimizer}", type=float, nargs="+", default=rates, help="learning rates to try"
        )
    parser.add_argument(
        "--methods", nargs="+", default=list(METHODS), help="to train; other rows stay"
    )
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help="runs in one program, at most")
    parser.add_argument("--dir", type=Path, default=Path("runs"))
    parser.set_defaults(**(defaults or {}).get(parser.parse_known_args()[0].network, {}))
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error(f"--seeds must be at least 2, got {options.seeds}: a spread needs two runs.")
    if unknown := sorted(set(options.methods) - set(METHODS)):
        parser.error(f"methods must be among {list(METHODS)}, got {unknown}.")
    plan = Plan(
        folder / f"{options.network}.yaml",
        options.dir / folder.name / options.network,
        tuple(options.sparsities),
        options.seeds,
        options.tries,
        options.at_once,
        {optimizer: tuple(getattr(options, optimizer)) for optimizer in RATES},
    )
    found = {x: of_method(x, plan)[1] for x in options.methods}
    write_rows(found, (0.0, *plan.sparsities), folder / f"{options.network}.svg")
