"""Bits per byte of a small decoder on Python's standard library, by method.

    python experiments/methods_stdlib/run.py

Every run is an ordinary run directory below ``runs/methods_stdlib``; finished runs are not repeated
and interrupted ones are resumed. At the end the table in this folder is rewritten from the runs
that are there.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import jax

from dst.report import markdown
from dst.report.spread import spread
from dst.train import loop
from dst.train.config import run as config

HERE = Path(__file__).parent
SPARSITIES = (0.8, 0.9)
EVERY = {"every": 20, "start": "10%"}  # of 400 steps; the papers' 100 are too few topology steps

# By the name of the row: plain data for the key `method`, by sparsity.
METHODS: dict[str, Any] = {
    "static": lambda s: {"name": "static"},
    "SET": lambda s: {"name": "set", "decay": "cosine", **EVERY},
    "SET, no Adam correction": lambda s: {
        "name": "set",
        "decay": "cosine",
        "cold_start": "off",
        **EVERY,
    },
    "SMET": lambda s: {"name": "smet", **EVERY},
    "RigL": lambda s: {"name": "rigl", **EVERY},
    "RigL, no Adam correction": lambda s: {"name": "rigl", "cold_start": "off", **EVERY},
    "SNFS": lambda s: {"name": "snfs", **EVERY},
    "MEST (EM&S)": lambda s: {
        "name": "mest",
        "extra": [(1 - s) / 2, (1 - s) / 4, 0.0],
        "soft_bound": True,
        **EVERY,
    },
    "SRigL": lambda s: {"name": "srigl", "gamma": 0.95, **EVERY},
    "Top-KAST": lambda s: {"name": "top-kast", "backward_sparsity": round(2 * s - 1, 6)},
    "top-k weights": lambda s: {"name": "top-k-weights"},
    "GMP": lambda s: {"name": "gmp", "every": 10},
    "25-75 % of compute": lambda s: {"name": "journey", "every": 10},
    "GraNet": lambda s: {"name": "granet", **EVERY},
    "AC/DC": lambda s: {"name": "ac-dc"},
}


def run(name: str, method: dict, seed: int, where: Path) -> dict:
    """The summary of one run; trains, resumes or just reads it."""
    target = where / f"{name}-{seed}"
    changes = [f"name={name}-{seed}", f"seed={seed}", f"method={method}"]
    return loop.finish(config.load(HERE / "base.yaml", changes), target)


def row(name: str, found: list[dict]) -> list[str]:
    """Mean and standard error of the bits per byte, cost and R_s."""
    bits = spread(x["bits_per_byte"] for x in found)
    explored = "" if name == "dense" else f"{statistics.mean(x['explored'] for x in found):.2f}"
    cost = statistics.mean(x["training_cost"] for x in found)
    return [name, bits.words(3), f"{cost:.3f}", explored]


def main() -> None:
    """Trains what is missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--dir", type=Path, default=Path("runs/methods_stdlib"))
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error(f"--seeds must be at least 2, got {options.seeds}: a spread needs two runs.")
    # Seeds and sparsities are data of a compiled program: it is compiled once for all of them.
    jax.config.update("jax_compilation_cache_dir", str(options.dir.absolute() / "compiled"))
    seeds = range(options.seeds)
    dense = [run("dense", {"name": "dense"}, seed, options.dir) for seed in seeds]
    tables = []
    for sparsity in SPARSITIES:
        rows = [row("dense", dense)]
        for method, settings in METHODS.items():
            plain = {"sparsity": sparsity, **settings(sparsity)}
            name = f"{method}-{sparsity:g}".lower()
            for old, new in ((" ", "-"), (",", ""), ("/", "-"), ("%", ""), ("(", ""), (")", "")):
                name = name.replace(old, new)
            name = name.replace("&", "-and-")
            rows.append(row(method, [run(name, plain, seed, options.dir) for seed in seeds]))
        heads = [f"{sparsity:.0%} sparsity", "bits per byte", "training cost", "R_s"]
        tables.append(markdown.table(heads, rows))
    text = "\n\n".join(tables)
    print(text)
    markdown.write_between(HERE / "README.md", "table", text)


if __name__ == "__main__":
    main()
