"""Bits per byte of sparse and dense decoders, with and without sparsity-aware scaling.

    python -m experiments.smupar_stdlib.run short
    python -m experiments.smupar_stdlib.run long

Every run is an ordinary run directory; finished runs are not repeated and interrupted ones are
resumed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import jax

from dst.report import markdown
from dst.report.spread import spread
from dst.train import loop
from dst.train.config import run as config

HERE = Path(__file__).parent
SPARSITY = 0.8
MOVES = {"every": "5%", "start": "10%", "stop": "75%"}
METHODS: dict[str, dict[str, Any]] = {
    "static": {"name": "static"},
    "SET": {"name": "set", "decay": "cosine", **MOVES},
    "RigL": {"name": "rigl", **MOVES},
    "GMP": {"name": "gmp", "every": "2.5%"},
}
SCALES = ("null", "smupar")


def bits(name: str, changes: list[str], seeds: range, file: Path, where: Path) -> str:
    """Mean and standard error over the seeds, which are trained, resumed or just read."""
    found = []
    for seed in seeds:
        more = [f"name={name}-{seed}", f"seed={seed}", *changes]
        found.append(loop.finish(config.load(file, more), where / f"{name}-{seed}"))
    return spread(x["bits_per_byte"] for x in found).words(3)


def main() -> None:
    """Trains what is missing and writes a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("length", choices=("short", "long"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", nargs="+", choices=["dense", *METHODS], help="of the table")
    parser.add_argument("--train-only", action="store_true", help="write no table")
    parser.add_argument("--dir", type=Path, default=Path("runs/smupar_stdlib"))
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error(f"--seeds must be at least 2, got {options.seeds}: a spread needs two runs.")
    where, file = options.dir / options.length, HERE / f"{options.length}.yaml"
    # Seeds are data of a compiled program: it is compiled once for all of them.
    jax.config.update("jax_compilation_cache_dir", str(options.dir.absolute() / "compiled"))
    seeds = range(options.seeds)
    rows, wanted = [], options.rows or ["dense", *METHODS]
    if "dense" in wanted:
        dense = bits("dense", ["method.name=dense"], seeds, file, where)
        rows.append(["dense", *[dense] * len(SCALES)])
    for name, method in METHODS.items():
        if name not in wanted:
            continue
        cells = []
        for scale in SCALES:
            changes = [
                f"method={ {**method, 'sparsity': SPARSITY} }",
                f"sparsify.scale={scale}",
            ]
            cells.append(bits(f"{name.lower()}-{scale}", changes, seeds, file, where))
        rows.append([name, *cells])
    text = markdown.table([f"{SPARSITY:.0%} sparsity", "as it is", "scale smupar"], rows)
    print(text)
    if not options.train_only:
        markdown.write_between(HERE / "README.md", options.length, text)


if __name__ == "__main__":
    main()
