"""Adversarial training of sparse networks on digits, and HYDRA beside magnitude pruning.

    python -m experiments.robust_digits.run

Every run is an ordinary run directory below ``runs/robust_digits``; finished runs are not repeated
and interrupted ones are resumed. The table in this folder is rewritten at the end.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from dst.eval import robustness
from dst.report import markdown
from dst.report.spread import spread
from dst.train import Run, loop
from dst.train.config import run as config
from dst.train.data import digits
from dst.train.records import run_dir

HERE = Path(__file__).parent
EPSILON, SPARSITY, STEPS = 0.2, 0.9, 1000
OBJECTIVES: dict[str, dict[str, Any]] = {
    "clean": {"name": "classification"},
    "adversarial": {"name": "adversarial", "epsilon": EPSILON, "steps": 7},
    "TRADES": {"name": "adversarial", "epsilon": EPSILON, "steps": 7, "variant": "trades"},
}
FROM_SCRATCH: dict[str, dict[str, Any]] = {
    "dense": {"name": "dense"},
    "static": {"name": "static", "sparsity": SPARSITY},
    "RigL": {"name": "rigl", "sparsity": SPARSITY, "every": 50, "stop": "75%"},
}
STATIC = {"name": "static", "sparsity": SPARSITY, "allocation": "uniform"}
HYDRA = {"name": "hydra", "sparsity": SPARSITY}


def trained(name: str, seed: int, where: Path, *changes: str) -> Path:
    """The directory of a finished run; trains or resumes it."""
    target = where / f"{name}-{seed}".lower().replace(" ", "-").replace(",", "")
    given = [f"name={target.name}", f"seed={seed}", *changes]
    loop.finish(config.load(HERE / "base.yaml", given), target)
    return target


def families(seed: int, where: Path) -> Iterable[tuple[str, str, Path]]:
    """Objective, method and directory of all runs of a seed."""
    for words, objective in OBJECTIVES.items():
        chosen = f"objective={objective}"
        for method, settings in FROM_SCRATCH.items():
            target = trained(f"{words} {method}", seed, where, chosen, f"method={settings}")
            yield words, method, target
    chosen = f"objective={OBJECTIVES['adversarial']}"
    dense = where / f"adversarial-dense-{seed}" / run_dir.weights(STEPS)
    largest = ["sparsify.initial=magnitude", f"start.weights={dense}"]
    yield (
        "adversarial",
        "largest weights, tuned",
        trained("largest", seed, where, chosen, f"method={STATIC}", *largest),
    )
    begin = f"start.weights={dense}"
    hydra = trained("hydra", seed, where, chosen, f"method={HYDRA}", begin)
    yield "adversarial", "HYDRA", hydra
    begins = [
        f"start.weights={hydra / run_dir.weights(STEPS)}",
        f"start.masks={hydra / run_dir.MASKS_FINAL}",
    ]
    yield (
        "adversarial",
        "HYDRA, tuned",
        trained("hydra tuned", seed, where, chosen, f"method={STATIC}", *begins),
    )


def judged(target: Path) -> robustness.Robustness:
    """The figures of a run on the test set."""
    inputs, labels = digits.load().test.take(np.arange(len(digits.load().test)))
    model = Run(target).model(attach_masks=False)
    ball = robustness.Ball(EPSILON)
    return robustness.judge(model, inputs, labels, ball, noise=(0.5,), blur=(0.8,), batch_size=360)


def main() -> None:
    """Trains what is missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--dir", type=Path, default=Path("runs/robust_digits"))
    options = parser.parse_args()
    found: dict[tuple[str, str], list[robustness.Robustness]] = {}
    for seed in range(options.seeds):
        for objective, method, target in families(seed, options.dir):
            found.setdefault((objective, method), []).append(judged(target))
    heads = ["objective", "method", "clean", "FGSM", "PGD", "noise 0.5", "blur 0.8"]
    rows = []
    for (objective, method), several in found.items():
        percents = [
            [x.accuracy for x in several],
            [x.fgsm for x in several],
            [x.pgd for x in several],
            [x.corrupted["noise 0.5"] for x in several],
            [x.corrupted["blur 0.8"] for x in several],
            [x.calibration_error for x in several],
        ]
        cells = [spread(100 * x for x in values).words(1) for values in percents]
        distance = spread(x.distance for x in several).words(3)
        rows.append([objective, method, *cells, distance])
    text = markdown.table([*heads, "calibration error", "distance"], rows)
    print(text)
    markdown.write_between(HERE / "README.md", "table", text)


if __name__ == "__main__":
    main()
