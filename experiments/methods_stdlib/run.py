"""Bits per byte of a small decoder on Python's standard library, by method.

    python -m experiments.methods_stdlib.run

For every method, learning rates are tried with one seed on a part of the training modules: the
three in the middle, and further ones while the best is at an end. It trains with other seeds and
is evaluated once on the held-out modules. Every run is an ordinary run directory; finished runs are
not repeated and interrupted ones are resumed.
"""

from __future__ import annotations

import argparse
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from dst.report import markdown
from dst.report.spread import spread
from dst.train import loop
from dst.train.config import run as config
from experiments.rows import merged

HERE = Path(__file__).parent
SPARSITY = 0.8
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
VALIDATION, TUNING_SEED = 0.05, 1000  # a seed that no reported run has
EVERY = {"every": "5%", "start": "10%"}  # the papers' 100 steps are too few topology steps
S = SPARSITY

# By the name of the row: sections of the config.
METHODS: dict[str, dict[str, Any]] = {
    "dense": {"name": "dense"},
    "static": {"name": "static"},
    "SET": {"name": "set", "decay": "cosine", **EVERY},
    "SET, no Adam correction": {"name": "set", "decay": "cosine", "cold_start": "off", **EVERY},
    "SMET": {"name": "smet", **EVERY},
    "RigL": {"name": "rigl", **EVERY},
    "RigL, no Adam correction": {"name": "rigl", "cold_start": "off", **EVERY},
    "SNFS": {"name": "snfs", **EVERY},
    "MEST (EM&S)": {
        "name": "mest",
        "extra": [(1 - S) / 2, (1 - S) / 4, 0.0],
        "soft_bound": True,
        **EVERY,
    },
    "SRigL": {"name": "srigl", "gamma": 0.95, **EVERY},
    "Top-KAST": {"name": "top-kast", "backward_sparsity": round(2 * S - 1, 6)},
    "top-k weights": {"name": "top-k-weights"},
    "GMP": {"name": "gmp", "every": "2.5%"},
    "25-75 % of compute": {"name": "journey", "every": "2.5%"},
    "GraNet": {"name": "granet", **EVERY},
    "AC/DC": {"name": "ac-dc"},
}
SCALED = ("static", "SET", "RigL")  # again with sparsity-aware scaling
ROWS = {name: (method, "null") for name, method in METHODS.items()} | {
    f"{name}, smupar": (METHODS[name], "smupar") for name in SCALED
}


def run(row: str, rate: float, seed: int, where: Path, changes: list[str]) -> dict[str, Any]:
    """The summary of one run; trains, resumes or just reads it."""
    method, scale = ROWS[row]
    if row != "dense":
        method = {**method, "sparsity": SPARSITY}
    name = re.sub("[^a-z0-9]+", "-", f"{row}-{rate:g}-{seed}".lower())
    named = [f"name={name}", f"seed={seed}", f"method={method}", f"sparsify.scale={scale}"]
    settings = config.load(
        HERE / "base.yaml", [*named, f"optimizer.learning_rate={rate}", *changes]
    )
    return loop.finish(settings, where / name)


def best_rate(bits: Callable[[float], float]) -> tuple[float, dict[float, float]]:
    """The best learning rate, which has tried neighbours; bits per byte by rate."""
    asked, tried = list(RATES[1:-1]), {}
    while asked:
        rate = asked.pop()
        tried[rate] = bits(rate)
        if not asked:
            best = RATES.index(min(tried, key=lambda r: tried[r]))
            asked = [r for r in RATES[max(best - 1, 0) : best + 2] if r not in tried]
    return RATES[best], tried


def cells(row: str, seeds: range, where: Path, changes: list[str]) -> list[str]:
    """Bits per byte with their standard error, the rate, all rates tried, cost, explored share."""
    tuning = [f"data.validation={VALIDATION}", *changes]
    rate, tried = best_rate(lambda r: run(row, r, TUNING_SEED, where, tuning)["bits_per_byte"])
    found = [run(row, rate, seed, where, changes) for seed in seeds]
    bits = spread(x["bits_per_byte"] for x in found).words(3)
    cost = statistics.mean(x["training_cost"] for x in found)
    shown = [f"{tried[r]:.3f}" if r in tried else "" for r in RATES]
    explored = "" if row == "dense" else f"{statistics.mean(x['explored'] for x in found):.2f}"
    return [row, bits, f"{rate:g}", *shown, f"{cost:.3f}", explored]


def main() -> None:
    """Trains what is missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--rows", nargs="+", choices=ROWS, default=list(ROWS), help="to train; the others stay"
    )
    parser.add_argument("--set", nargs="+", default=[], help="overrides of base.yaml")
    parser.add_argument("--dir", type=Path, default=Path("runs/methods_stdlib"))
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error(f"--seeds must be at least 2, got {options.seeds}: a spread needs two runs.")
    # Seeds and rates are data of a compiled program: it is compiled once for all of them.
    jax.config.update("jax_compilation_cache_dir", str(options.dir.absolute() / "compiled"))
    rows = [cells(row, range(options.seeds), options.dir, options.set) for row in options.rows]
    tried = [f"validation at {r:g}" for r in RATES]
    heads = [f"{SPARSITY:.0%} sparsity", "bits per byte", "rate", *tried, "training cost", "R_s"]
    there = markdown.read_between(HERE / "README.md", "table")
    text = markdown.table(heads, merged(there, heads, rows, ROWS))
    print(text)
    markdown.write_between(HERE / "README.md", "table", text)


if __name__ == "__main__":
    main()
