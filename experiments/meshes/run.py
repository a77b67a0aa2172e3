"""The same run on several meshes: when masks part from those of one device, and by how much.

    python experiments/meshes/run.py

Eight devices of the host are made up for it. At the end the table in this folder is rewritten.
"""

from __future__ import annotations

import os

# Before JAX is imported. With XLA's usual order of work, made-up devices of a grid can each wait
# in another sum for ever.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8 "
    "--xla_cpu_enable_concurrency_optimized_scheduler=false",
)

import argparse
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np

import dst
from dst.report import markdown
from dst.train import setup
from dst.train.config import run as config

HERE = Path(__file__).parent
ALONE = "1"
MESHES = {
    ALONE: "{data: 1}",
    "8 data parallel": "{data: 8}",
    "8 fully sharded": "{data: 8, fully_sharded: true}",
    "4 x 2": "{data: 4, model: 2}",
    "4 x 2 fully sharded": "{data: 4, model: 2, fully_sharded: true}",
}
METHODS = {
    "RigL": "{name: rigl, sparsity: 0.9, every: 20, stop: 280}",
    "SET": "{name: set, sparsity: 0.9, every: 20, stop: 280}",
    "GMP": "{name: gmp, sparsity: 0.9, start: 20, every: 20, stop: 280}",
    "RigL 2:4": "{name: rigl, sparsity: 0.5, every: 20, stop: 280, allocation: uniform,"
    " structure: {name: nm, n: 2, m: 4}, rounding: ceil}",
}
FIRST = 10  # steps at whose losses rounding is all that differs


class Course(NamedTuple):
    """What a run leaves: the loss of each step, and the masks after each topology step."""

    losses: np.ndarray
    masks: list[dict[str, np.ndarray]]


def course(method: str, mesh: str, compute: str) -> Course:
    """Trains one run and checks its counts at the end.

    Raises:
      InvariantError: a count that is not exact.
    """
    changes = [f"method={METHODS[method]}", f"mesh={MESHES[mesh]}", f"train.compute={compute}"]
    made = setup.make(config.load(HERE / "base.yaml", changes))
    state, losses, masks = made.begin(), [], []
    with closing(made.batches(0)) as batches:
        for count in range(made.config.train.steps):
            topology = made.fires(count)
            state, metrics = made.step(state, *next(batches), topology=topology)
            losses.append(float(metrics["loss"]))
            if topology:
                found = dst.masks(state.opt_state).items()
                masks.append({path: np.asarray(mask) for path, mask in found})
    dst.check_invariants(state.opt_state, state.params)
    return Course(np.array(losses), masks)


def overlap(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """The fraction of the active connections of one that the other has too."""
    common = sum(int((one[path] & other[path]).sum()) for path in one)
    return common / sum(int(mask.sum()) for mask in one.values())


def row(found: Course, alone: Course) -> list[str]:
    """How a run differs from the one of one device."""
    counts = [
        [{path: int(mask.sum()) for path, mask in masks.items()} for masks in run.masks]
        for run in (found, alone)
    ]
    apart = np.abs(found.losses / alone.losses - 1)
    shared = [overlap(a, b) for a, b in zip(alone.masks, found.masks, strict=True)]
    first = next((i for i, share in enumerate(shared) if share < 1), None)
    return [
        f"{apart[:FIRST].max():.1e}",
        "none" if first is None else f"{first + 1} of {len(shared)}",
        "" if first is None else f"{shared[first]:.4f}",
        f"{shared[-1]:.4f}",
        f"{alone.losses[-50:].mean():.4f}",
        f"{found.losses[-50:].mean():.4f}",
        "equal" if counts[0] == counts[1] else "DIFFERENT",
    ]


def main() -> None:
    """Trains every run and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compute", nargs="+", default=["float32", "bfloat16"])
    options = parser.parse_args()
    heads = ["compute", "method", "mesh", f"losses of the first {FIRST} steps differ by"]
    heads += ["first topology step with other masks", "overlap after it", "overlap at the end"]
    heads += ["last 50 losses, 1 device", "the same, mesh", "counts"]
    rows = []
    for compute in options.compute:
        for method in METHODS:
            alone = course(method, ALONE, compute)
            for mesh in [mesh for mesh in MESHES if mesh != ALONE]:
                rows.append([compute, method, mesh, *row(course(method, mesh, compute), alone)])
                print(*rows[-1], sep=" | ", flush=True)
    markdown.write_between(HERE / "README.md", "table", markdown.table(heads, rows))


if __name__ == "__main__":
    main()
