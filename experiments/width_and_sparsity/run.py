"""Large and sparse against small and dense at equal weights; and what little sparsity does.

python -m experiments.width_and_sparsity.run
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from dst.report import markdown
from dst.report.spread import spread
from experiments import tuned

HERE = Path(__file__).parent
SMALL, FACTORS = (25, 50, 100), (2, 4, 8)
COMPARED = ("Static", "RigL", "GMP, ERK")
WIDEST = 200
HILL, MILD = 100, (0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9)
COLORS = {"Static": "#8d99ae", "RigL": "#c1121f", "GMP, ERK": "#2a6f97"}


def weights(width: int) -> int:
    """Of the network of a width: those that can be pruned."""
    return 40 * width + width * width + 10 * width


def sparsity_of(width: int, small: int) -> float:
    """At which a network has the weights of a smaller dense one; rounded to four digits."""
    return round(1 - weights(small) / weights(width), 4)


def records(name: str, width: int, sparsities: tuple[float, ...], where: Path, seeds: int) -> list:
    """The tested runs of a method at a width."""
    plan = tuned.Plan(
        HERE / "base.yaml",
        where / str(width),
        sparsities,
        seeds,
        changes=(f"model.width={width}",),
    )
    return tuned.of_method(name, plan)[1]


def cell(found: list, sparsity: float) -> str:
    """Accuracy with its standard error."""
    return spread(tuned.accuracies(found, sparsity)).words(1)


def picture(dense: str, found: dict[str, list], path: Path) -> None:
    """Accuracy against mild sparsity, beside the dense network."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.axhline(float(dense.split()[0]), color="black", linestyle="--", linewidth=1, label="Dense")
    for name, some in found.items():
        spreads = [spread(tuned.accuracies(some, s)) for s in MILD]
        axes.errorbar(
            MILD,
            [x.mean for x in spreads],
            yerr=[x.error for x in spreads],
            color=COLORS[name],
            label=name,
        )
    axes.set_xlabel("sparsity")
    axes.set_ylabel("test accuracy, %")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Trains what is missing and writes tables and picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--dir", type=Path, default=Path("runs/width_and_sparsity"))
    options = parser.parse_args()
    widths = sorted(w for s in SMALL for f in FACTORS if (w := s * f) <= WIDEST)
    dense = {
        w: cell(records("Dense", w, (0.0,), options.dir, options.seeds), 0.0)
        for w in {*SMALL, HILL}
    }
    asked = {
        w: tuple(sparsity_of(w, s) for s in SMALL if w // s in FACTORS and w % s == 0)
        for w in widths
    }
    rows, hills = [], {}
    for name in COMPARED:
        found = {
            w: records(name, w, s, options.dir / "equal", options.seeds) for w, s in asked.items()
        }
        for small in SMALL:
            wide = [f * small for f in FACTORS]
            cells = [cell(found[w], sparsity_of(w, small)) if w in found else "" for w in wide]
            rows.append([f"{weights(small):,}", name, dense[small], *cells])
        hills[name] = records(name, HILL, MILD, options.dir / "mild", options.seeds)
    heads = ["weights", "method", "dense", *(f"{f} times as wide" for f in FACTORS)]
    equal = markdown.table(heads, sorted(rows, key=lambda x: int(x[0].replace(",", ""))))
    mild = markdown.table(
        [f"width {HILL}", "dense", *(f"{s:.0%}" for s in MILD)],
        [[name, dense[HILL], *(cell(x, s) for s in MILD)] for name, x in hills.items()],
    )
    print(f"{equal}\n\n{mild}")
    markdown.write_between(HERE / "README.md", "equal", equal)
    markdown.write_between(HERE / "README.md", "mild", mild)
    picture(dense[HILL], hills, HERE / "mild.svg")


if __name__ == "__main__":
    main()
