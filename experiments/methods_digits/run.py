"""Test accuracy of LeNet-300-100 on digits for every method at 90, 95 and 98 % sparsity.

    python -m experiments.methods_digits.run

All seeds and sparsities of a method train at once: runs that differ in values only (seed,
counts) are one program under ``jax.vmap``. Finished methods are kept below
``runs/methods_digits`` and not repeated. At the end the table and the picture in this folder are
rewritten.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from dst.report import markdown
from dst.report.spread import spread
from dst.train.config import run as config
from experiments import together
from experiments.methods import METHODS, MOMENTUM, ONE_BY_ONE
from experiments.together import Run

HERE = Path(__file__).parent
SPARSITIES = (0.9, 0.95, 0.98)
RATE, MOMENTUM_RATE = 1e-3, 0.1


def method_records(name: str, seeds: int, where: Path) -> list[dict]:
    """The runs of a method: read where they are, trained where not."""
    groups, rate, changes = [SPARSITIES], RATE, []
    if name in ONE_BY_ONE:
        groups = [(s,) for s in (SPARSITIES[:1] if name.startswith("Dense") else SPARSITIES)]
    if name in MOMENTUM:
        rate = MOMENTUM_RATE
        changes = [f"optimizer={{'name': 'momentum', 'learning_rate': {rate}, 'decay': 'cosine'}}"]
    settings = config.load(HERE / "base.yaml", changes)
    return together.kept(
        where / (name.lower().replace(" ", "-").replace("/", "-").replace(",", "") + ".json"),
        lambda: [
            record
            for group in groups
            for record in together.train(
                settings,
                METHODS[name],
                [Run(s, seed, rate) for s in group for seed in range(seeds)],
            )
        ],
    )


def cells(records: list[dict], sparsity: float) -> tuple[str, str, str]:
    """Accuracy with its standard error, cost and R_s of one method at one sparsity."""
    some = [r for r in records if r["sparsity"] == sparsity] or records
    scores = spread(100 * r["accuracy"] for r in some)
    cost = statistics.mean(r["training_cost"] for r in some)
    tried = statistics.mean(r["explored"] for r in some)
    return scores.words(), f"{cost:.3f}", f"{tried:.2f}"


def table(found: dict[str, list[dict]]) -> str:
    """A row per method: per sparsity accuracy, training cost and explored fraction."""
    heads = ["method"]
    for s in SPARSITIES:
        heads += [f"{s:.0%}: accuracy, %", "cost", "R_s"]
    rows = ([name, *(c for s in SPARSITIES for c in cells(x, s))] for name, x in found.items())
    return markdown.table(heads, rows)


def picture(found: dict[str, list[dict]], path: Path) -> None:
    """Mean and standard error of every method at every sparsity."""
    figure = Figure(figsize=(6.4, 0.26 * len(found) + 1), layout="constrained")
    axes = figure.subplots()
    colors = ["#8ecae6", "#2a6f97", "#c1121f"]
    for s, color in zip(SPARSITIES, colors, strict=True):
        some = [[r for r in x if r["sparsity"] == s] or x for x in found.values()]
        wrong = [spread(100 - 100 * r["accuracy"] for r in x) for x in some]
        means, errors = zip(*wrong, strict=True)
        axes.errorbar(means, range(len(means)), xerr=errors, fmt="o", color=color, label=f"{s:.0%}")
    axes.set_yticks(range(len(found)), list(found))
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xticks(ticks := [2, 3, 5, 10, 20, 50], [str(x) for x in ticks])
    axes.minorticks_off()
    axes.set_xlabel("test error, %")
    axes.legend(title="sparsity", frameon=False)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right", "left"]].set_visible(False)
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Trains what is missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="*", help="methods to train; the table needs all")
    parser.add_argument("--dir", type=Path, default=Path("runs/methods_digits"))
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error(f"--seeds must be at least 2, got {options.seeds}: a spread needs two runs.")
    names = options.only or list(METHODS)
    found = {name: method_records(name, options.seeds, options.dir) for name in names}
    print(table(found))
    if not options.only:
        markdown.write_between(HERE / "README.md", "table", table(found))
        picture(found, HERE / "accuracy.svg")


if __name__ == "__main__":
    main()
