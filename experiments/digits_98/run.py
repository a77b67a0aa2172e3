"""Test accuracy of LeNet-300-100 on digits at 98 % sparsity, by method, five seeds each.

    python experiments/digits_98/run.py

Every run is an ordinary run directory below ``runs/digits_98``. Finished runs are not repeated and
interrupted ones are resumed, so the command can be stopped and started again. At the end the
table and the picture in this folder are rewritten from the run directories.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from pathlib import Path

from matplotlib.figure import Figure

from dst.report import markdown
from dst.train import loop
from dst.train.config import run as config

HERE = Path(__file__).parent
SPARSITY = 0.98
METHODS = {
    "dense": {"name": "dense"},
    "static": {"name": "static", "sparsity": SPARSITY},
    "SET": {"name": "set", "sparsity": SPARSITY, "every": 100, "stop": "75%", "decay": "cosine"},
    "RigL": {"name": "rigl", "sparsity": SPARSITY, "every": 100},
    "RigL-ITOP": {"name": "rigl-itop", "sparsity": SPARSITY, "every": 200},
}


def run(method: str, seed: int, where: Path) -> dict:
    """The summary of one run; trains, resumes or just reads it."""
    target = where / f"{method.lower()}-{seed}"
    changes = [f"name={target.name}", f"seed={seed}", f"method={METHODS[method]}"]
    return loop.finish(config.load(HERE / "base.yaml", changes), target)


def table(found: dict[str, list[dict]]) -> str:
    """Mean, standard deviation and distance from static training, as Markdown."""
    heads = ["method", "accuracy, %", "std", "seeds"]
    heads += ["standard errors above static", "active", "R_s"]
    rows = []
    static = [100 * s["accuracy"] for s in found["static"]]
    for method, summaries in found.items():
        scores = [100 * s["accuracy"] for s in summaries]
        mean, std = statistics.mean(scores), statistics.stdev(scores)
        error = math.sqrt((std**2 + statistics.stdev(static) ** 2) / len(scores))
        apart = "" if method == "static" else f"{(mean - statistics.mean(static)) / error:+.1f}"
        layers = [x for x in summaries[0]["layers"] if x["explored"] is not None]
        active = sum(x["active"] for x in layers) if layers else "all"
        tried = statistics.mean(s["explored"] for s in summaries) if layers else 1.0
        cells = [method, f"{mean:.2f}", f"{std:.2f}", len(scores), apart, active, f"{tried:.3f}"]
        rows.append(cells)
    return markdown.table(heads, rows)


def picture(found: dict[str, list[dict]], path: Path) -> None:
    """Every seed as a dot, the mean as a bar."""
    figure = Figure(figsize=(6.4, 2.6), layout="constrained")
    axes = figure.subplots()
    for i, summaries in enumerate(found.values()):
        scores = [100 * s["accuracy"] for s in summaries]
        axes.plot(scores, [i] * len(scores), "o", color="#2a6f97", alpha=0.55, markersize=6)
        axes.plot([statistics.mean(scores)] * 2, [i - 0.3, i + 0.3], color="#c1121f", linewidth=2)
    axes.set_yticks(range(len(found)), list(found))
    axes.invert_yaxis()
    axes.set_xlabel("test accuracy, %")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Trains what is missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--dir", type=Path, default=Path("runs/digits_98"))
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error(f"--seeds must be at least 2, got {options.seeds}: a spread needs two runs.")
    found: dict[str, list[dict]] = {}
    for method in METHODS:
        for seed in range(options.seeds):
            start = time.perf_counter()
            summary = run(method, seed, options.dir)
            found.setdefault(method, []).append(summary)
            print(
                f"{method}, seed {seed}: {summary['accuracy']:.4f} "
                f"({time.perf_counter() - start:.0f} s)",
                flush=True,
            )
    text = table(found)
    print(text)
    markdown.write_between(HERE / "README.md", "table", text)
    picture(found, HERE / "accuracy.svg")


if __name__ == "__main__":
    main()
