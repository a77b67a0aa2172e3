"""What sparsity does beside accuracy: calibration, wrong labels, corrupted inputs, few examples.

    python -m experiments.beyond_accuracy.run

The learning rates are those that the table of MNIST-1D has chosen for method and sparsity.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter1d

from dst.report import markdown
from dst.report.spread import spread
from dst.train import data
from dst.train.data.dataset import Batch, Dataset, Images
from experiments import together, tuned
from experiments.methods import METHODS
from experiments.together import Run

HERE = Path(__file__).parent
CONFIG = HERE.parent / "methods_mnist1d" / "mlp.yaml"
SPARSITIES = (0.8, 0.9, 0.95, 0.98)
COMPARED = ("Dense", "Static", "RigL", "GMP, ERK")
# What the networks learn from: (share of wrong labels, share of the examples).
TAUGHT = {
    "clean": (0.0, 1.0),
    "20 % wrong labels": (0.2, 1.0),
    "40 % wrong labels": (0.4, 1.0),
    "a quarter of the examples": (0.0, 0.25),
    "a tenth of the examples": (0.0, 0.1),
}


def taught(dataset: Dataset, wrong: float, share: float) -> Dataset:
    """The data set with fewer examples to learn from, some of them with another label."""
    random = np.random.default_rng(0)
    images, labels = dataset.train.take(np.arange(len(dataset.train)))
    n = round(share * len(labels))
    images, labels = images[:n], labels[:n].copy()
    bad = random.permutation(n)[: round(wrong * n)]
    labels[bad] = (labels[bad] + random.integers(1, dataset.classes, len(bad))) % dataset.classes
    return replace(dataset, train=Images(images, labels.astype(np.int32)))


def corrupted(test: Batch) -> dict[str, Batch]:
    """The test split under noise, blur and a change of height."""
    random, (x, y) = np.random.default_rng(1), test
    noise = random.normal(size=x.shape).astype(np.float32)
    return {
        "noise 0.25": (x + 0.25 * noise, y),
        "noise 0.5": (x + 0.5 * noise, y),
        "blur 1": (gaussian_filter1d(x, 1.0, axis=1).astype(np.float32), y),
        "height 0.5": (0.5 * x, y),
    }


def records(name: str, plan: tuned.Plan, out: Path) -> list[dict[str, Any]]:
    """The runs of a method under everything that it is taught."""
    tuning, _ = tuned.of_method(name, plan)
    rates = together.best_rates(tuning)
    settings = plan.settings(name)
    whole = data.load(settings.data)
    tests = corrupted(whole.test.take(np.arange(len(whole.test))))

    def make(wrong: float, share: float) -> list[dict[str, Any]]:
        sparsities = [s for s in rates if s in (0.0, *SPARSITIES)]
        runs = [Run(s, seed, rates[s]) for s in sparsities for seed in range(plan.seeds)]
        given = taught(whole, wrong, share)
        return together.train(settings, METHODS[name], runs, dataset=given, tests=tests)

    found = []
    for i, (how, (wrong, share)) in enumerate(TAUGHT.items()):
        path = out / f"{tuned.file_of(name)}-{i}.json"
        found += [{**r, "taught": how} for r in together.kept(path, partial(make, wrong, share))]
    return found


def cell(found: Iterable[dict[str, Any]], how: str, figure: str, sparsity: float) -> str:
    """A figure in percent with its standard error."""
    some = [r[figure] for r in found if r["taught"] == how and r["sparsity"] == sparsity]
    return spread(100 * x for x in some).words(1) if some else ""


def main() -> None:
    """Trains what is missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--dir", type=Path, default=Path("runs/methods_mnist1d/mlp"))
    parser.add_argument("--out", type=Path, default=Path("runs/beyond_accuracy"))
    options = parser.parse_args()
    plan = tuned.Plan(CONFIG, options.dir, seeds=options.seeds)
    found = {name: records(name, plan, options.out) for name in COMPARED}
    figures = [(how, "accuracy", how) for how in TAUGHT]
    figures += [("clean", "calibration_error", "calibration error")]
    names = ("noise 0.25", "noise 0.5", "blur 1", "height 0.5")
    figures += [("clean", f"accuracy, {x}", x) for x in names]
    rows = []
    for how, figure, head in figures:
        for name in COMPARED[1:]:
            dense = cell(found["Dense"], how, figure, 0.0)
            rest = (cell(found[name], how, figure, s) for s in SPARSITIES)
            rows.append([head, name, dense, *rest])
    text = markdown.table(["what", "method", "0%", *(f"{s:.0%}" for s in SPARSITIES)], rows)
    print(text)
    markdown.write_between(HERE / "README.md", "table", text)


if __name__ == "__main__":
    main()
