"""The best learning rate at every width and sparsity, with SmuPar and without.

    python -m experiments.smupar.run

Widths follow muP in both halves: the rates of the second and the third layer, and the initial
weights of the third, are divided by the width over 64. What differs is ``scale``. Dense networks as
narrow as the fan-in of sparse ones show what the fan-in does by itself.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

import dst
from dst.core.tree import flatten
from dst.report import markdown
from dst.train.config import run as config
from experiments import together
from experiments.together import Run

HERE = Path(__file__).parent
BASE, WIDTHS = 64, (64, 128, 256, 512)
SPARSITIES = (0.0, 0.5, 0.8, 0.9, 0.95)
RATES = tuple(2.0**-n for n in range(12, 0, -1))
SCALES = ("null", "smupar")
COLORS = ["#343a40", "#8ecae6", "#2a6f97", "#f4a261", "#c1121f"]


def start(width: int, params: Any) -> Any:
    """New weights with muP's output layer: smaller by the root of the width over 64."""
    _, leaves, treedef = flatten(params)
    ends = [x.shape == (width, 10) for x in leaves]
    scaled = [
        x * math.sqrt(BASE / width) if end else x for x, end in zip(leaves, ends, strict=True)
    ]
    return treedef.unflatten(scaled)


def records(
    width: int, scale: str, seeds: int, file: Path, sparsities: Sequence[float] = SPARSITIES
) -> list[dict[str, Any]]:
    """The runs of one width and one parametrisation."""
    changes = [f"model.hidden=[{width}, {width}]", f"sparsify.scale={scale}"]
    settings = config.load(HERE / "base.yaml", changes)

    def method(sparsity: float) -> dst.Static:
        return dst.Static(sparsity, allocation="uniform")

    def share(path: str, shape: tuple[int, ...]) -> float:
        """What muP leaves a layer of the learning rate: it falls with a fan-in that is a width."""
        return BASE / width if len(shape) == 2 and shape[0] == width else 1.0

    def make() -> list[dict[str, Any]]:
        found = []
        for sparsity in sparsities:
            runs = [Run(sparsity, seed, rate) for rate in RATES for seed in range(seeds)]
            found += together.train(
                settings, method, runs, share=share, start=partial(start, width)
            )
        return found

    return together.kept(file, make)


def losses(found: list[dict[str, Any]], sparsity: float) -> dict[float, float]:
    """Mean training loss at the end, by learning rate; runs that diverged count as infinite."""
    by_rate: dict[float, list[float]] = {}
    for r in found:
        if r["sparsity"] == sparsity:
            loss = r["training_loss"]
            by_rate.setdefault(r["rate"], []).append(loss if math.isfinite(loss) else math.inf)
    return {rate: statistics.mean(x) for rate, x in by_rate.items()}


def best(found: list[dict[str, Any]], sparsity: float) -> float:
    """log2 of the best learning rate: the lowest point of a parabola through the three lowest."""
    by_rate = losses(found, sparsity)
    rates = sorted(by_rate)
    i = min(range(len(rates)), key=lambda n: by_rate[rates[n]])
    x = math.log2(rates[i])
    if not 0 < i < len(rates) - 1:
        return x
    left, middle, right = (math.log(by_rate[rates[n]]) for n in (i - 1, i, i + 1))
    bend = left - 2 * middle + right
    return x + (left - right) / (2 * bend) if math.isfinite(bend) and bend > 0 else x


def picture(found: dict[tuple[int, str], list[dict[str, Any]]]) -> None:
    """Loss against learning rate: a row per parametrisation, a column per width."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    grid = figure.subplots(len(SCALES), len(WIDTHS), sharex=True, sharey=True)
    for row, scale in zip(grid, SCALES, strict=True):
        for axes, width in zip(row, WIDTHS, strict=True):
            for sparsity, color in zip(SPARSITIES, COLORS, strict=True):
                by_rate = losses(found[width, scale], sparsity)
                axes.plot(
                    list(by_rate), list(by_rate.values()), color=color, label=f"{sparsity:.0%}"
                )
                axes.axvline(2 ** best(found[width, scale], sparsity), color=color, linewidth=0.6)
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_ylim(0.02, 3)
            axes.set_title(f"width {width}, scale {scale}", fontsize="small")
            axes.spines[["top", "right"]].set_visible(False)
    grid[0][0].legend(title="sparsity", frameon=False, fontsize="x-small")
    figure.supxlabel("learning rate")
    figure.supylabel("training loss")
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(HERE / "transfer.svg", metadata={"Date": None})


def main() -> None:
    """Trains what is missing and writes table and picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--dir", type=Path, default=Path("runs/smupar"))
    options = parser.parse_args()
    where = options.dir
    found = {
        (width, scale): records(width, scale, options.seeds, where / f"{width}-{scale}.json")
        for scale in SCALES
        for width in WIDTHS
    }
    rows = []
    for scale in SCALES:
        for width in WIDTHS:
            at = [best(found[width, scale], s) for s in SPARSITIES]
            cells = [f"{x:.1f}" for x in (*at, max(at) - min(at))]
            rows.append([scale, str(width), *cells])
    for width in WIDTHS[-2:]:
        cells = []
        for fan_in in (round(width * (1 - s)) for s in SPARSITIES):
            file = where / f"{fan_in}-dense.json"
            some = records(fan_in, "null", options.seeds, file, (0.0,))
            cells.append(f"{best(some, 0.0):.1f}")
        rows.append(["dense, as narrow", str(width), *cells, ""])
    heads = ["scale", "width", *(f"{s:.0%}" for s in SPARSITIES), "spread"]
    text = markdown.table(heads, rows)
    print(text)
    markdown.write_between(HERE / "README.md", "table", text)
    picture(found)


if __name__ == "__main__":
    main()
