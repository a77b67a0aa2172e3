"""N:M training on digits: SR-STE, mask decay and structure decay beside static N:M masks.

    python experiments/nm_digits/run.py

Every run is an ordinary run directory below ``runs/nm_digits``; finished runs are not repeated and
interrupted ones are resumed. At the end every group of every layer is checked, and the table in
this folder is rewritten.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import numpy as np

import dst
from dst.report import markdown
from dst.train import loop
from dst.train.config import run as config
from dst.train.records import run_dir

HERE = Path(__file__).parent
PATTERNS = {"2:4": (2, 4), "1:8": (1, 8)}
METHODS = {
    "static": lambda n, m: {
        "name": "static",
        "sparsity": 1 - n / m,
        "allocation": "uniform",
        "structure": {"name": "nm", "n": n, "m": m},
    },
    "SR-STE, decay 2e-4": lambda n, m: {"name": "sr-ste", "n": n, "m": m},
    "SR-STE, decay 1e-2": lambda n, m: {"name": "sr-ste", "n": n, "m": m, "decay": 1e-2},
    "straight through": lambda n, m: {"name": "sr-ste", "n": n, "m": m, "decay": 0.0},
    "mask decay": lambda n, m: {"name": "mask-decay", "n": n, "m": m},
    "structure decay": lambda n, m: {"name": "structure-decay", "n": n, "m": m},
}


def run(name: str, method: dict, seed: int, where: Path) -> dict:
    """The summary of one run; trains, resumes or just reads it."""
    target = where / f"{name}-{seed}"
    changes = [f"name={name}-{seed}", f"seed={seed}", f"method={method}"]
    return loop.finish(config.load(HERE / "base.yaml", changes), target)


def invalid_groups(target: Path, n: int, m: int) -> int:
    """Groups of a finished run that do not have exactly n active weights of m."""
    wrong = 0
    for mask in dst.load_masks(target / run_dir.MASKS_FINAL).values():
        groups = np.asarray(mask).reshape(-1, m, mask.shape[-1])
        wrong += int((groups.sum(axis=1) != n).sum())
    return wrong


def main() -> None:
    """Trains what is missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--dir", type=Path, default=Path("runs/nm_digits"))
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error(f"--seeds must be at least 2, got {options.seeds}: a spread needs two runs.")
    heads = ["pattern", "method", "test loss", "std", "accuracy, %", "std", "invalid groups"]
    rows = []
    for pattern, (n, m) in PATTERNS.items():
        for method, settings in METHODS.items():
            name = f"{method} {n}-{m}".lower().replace(",", "").replace(" ", "-")
            found = [run(name, settings(n, m), s, options.dir) for s in range(options.seeds)]
            wrong = sum(
                invalid_groups(options.dir / f"{name}-{s}", n, m) for s in range(options.seeds)
            )
            losses = [x["loss"] for x in found]
            scores = [100 * x["accuracy"] for x in found]
            cells = [
                pattern,
                method,
                f"{statistics.mean(losses):.4f}",
                f"{statistics.stdev(losses):.4f}",
                f"{statistics.mean(scores):.2f}",
                f"{statistics.stdev(scores):.2f}",
                str(wrong),
            ]
            rows.append(cells)
    text = markdown.table(heads, rows)
    print(text)
    markdown.write_between(HERE / "README.md", "table", text)


if __name__ == "__main__":
    main()
