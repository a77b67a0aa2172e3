"""Why short intervals are worse: what becomes of connections that have just been grown.

    python experiments/rigl_interval/cause.py

RigL on digits at 98 % sparsity as in `sweep.yaml`, drop fraction .3, at an interval of 10 and of
100 steps: as it is; with weights that take an optimizer step at topology steps, too; and at ten
times the learning rate, with which a grown weight moves ten times as far before it is judged. At
the end the second table of the README is rewritten.
"""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import dst
from dst.report import markdown
from dst.report.spread import spread
from dst.studies import sweep
from dst.train import setup
from dst.train.config import run as config

HERE = Path(__file__).parent
TRAINED = "weights move at topology steps, too"
CHANGES = {
    "as in the sweep": [],
    TRAINED: ["method.update_weights=True"],
    "learning rate 1e-2": ["optimizer.learning_rate=1e-2"],
}


class Found(NamedTuple):
    """What a run has come to.

    Attributes:
      accuracy: in percent.
      explored: R_s.
      young: share of the dropped connections that the topology step before had grown.
      tried: share of the grown connections that had not been active before.
    """

    accuracy: float
    explored: float
    young: float
    tried: float


def masks(state: Any) -> np.ndarray:
    """All sparse leaves in one row."""
    return np.concatenate([np.ravel(x) for x in dst.masks(state.opt_state).values()])


def train(changes: list[str]) -> Found:
    """Trains a run and follows its connections from one topology step to the next."""
    planned = sweep.load(HERE / "sweep.yaml")
    made = setup.make(
        config.load(planned.config, [*planned.fixed, *changes, "train.steps_per_call=1"])
    )
    state = made.begin()
    now = masks(state)
    grown, ever = np.zeros_like(now), now.copy()
    counts = dict.fromkeys(("dropped", "young", "grown", "tried"), 0)
    with closing(made.batches(0)) as batches:
        for count in range(made.config.train.steps):
            topology = made.fires(count)
            state, _ = made.step(state, *next(batches), topology=topology)
            if not topology:
                continue
            before, now = now, masks(state)
            dropped = before & ~now
            counts["dropped"] += int(dropped.sum())
            counts["young"] += int((dropped & grown).sum())
            grown = now & ~before
            counts["grown"] += int(grown.sum())
            counts["tried"] += int((grown & ~ever).sum())
            ever |= now
    return Found(
        100 * float(made.evaluate(state)["accuracy"]),
        float(ever.mean()),
        counts["young"] / counts["dropped"],
        counts["tried"] / counts["grown"],
    )


def main() -> None:
    """Trains all variants and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--compiled", type=Path, default=Path("runs/compiled"))
    options = parser.parse_args()
    jax.config.update("jax_compilation_cache_dir", str(options.compiled.absolute()))
    rows = []
    for name, changes in CHANGES.items():
        for every in (10,) if name == TRAINED else (10, 100):
            own = [*changes, f"method.every={every}", "method.drop_fraction=0.3"]
            runs = [train([*own, f"seed={seed}"]) for seed in range(options.seeds)]
            accuracy, explored, young, tried = (spread(x) for x in zip(*runs, strict=True))
            cells = [f"{explored.mean:.3f}", f"{young.mean:.0%}", f"{tried.mean:.0%}"]
            rows.append([name, every, accuracy.words(), *cells])
            print(*rows[-1], sep=" | ", flush=True)
    heads = ["", "every", "accuracy, %", "R_s"]
    heads += ["of the dropped, grown one step before", "of the grown, never tried before"]
    markdown.write_between(HERE / "README.md", "cause", markdown.table(heads, rows))


if __name__ == "__main__":
    main()
