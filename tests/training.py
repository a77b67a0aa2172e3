"""A run that takes seconds, and what tests of the trainer share."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dst.studies import directories
from dst.train import setup
from dst.train.config import run as config
from dst.train.records import checkpoint, run_dir

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "configs").rglob("*.yaml"))
STUDIES = {
    kind: [path for path in FILES if f"\n{kind}:" in path.read_text(encoding="utf-8")]
    for kind in directories.PACKAGES
}
SWEEPS = [
    path
    for path in [*FILES, *sorted((ROOT / "experiments").rglob("*.yaml"))]
    if "\nparameters:" in path.read_text(encoding="utf-8")
]
CONFIGS = [path for path in FILES if path not in [*chain(*STUDIES.values()), *SWEEPS]]

# One device: the tests run under eight, and most laws here are not about devices.
SMALL = """
name: small
model: {name: mlp, hidden: [16]}
data: {name: digits, batch_size: 64}
optimizer: {name: adamw, learning_rate: 3e-3, warmup: 4, decay: cosine, clip: 1.0}
method: {name: rigl, sparsity: 0.8, every: 10, stop: 75%}
train: {steps: 40, log_every: 5, eval_every: 20, checkpoint_every: 10}
mesh: {data: 1}
"""


def write_small(folder: Path) -> Path:
    """The small config as a file."""
    path = folder / "small.yaml"
    path.write_text(SMALL, encoding="utf-8")
    return path


def small(folder: Path, *overrides: str) -> config.Config:
    """The small config with overrides."""
    return config.load(write_small(folder), overrides)


def batch(pieces: setup.Setup, count: int) -> tuple[jax.Array, jax.Array]:
    """The training batch after ``count`` updates."""
    with closing(pieces.batches(count)) as batches:
        inputs, labels = next(batches)
    return jnp.asarray(inputs), jnp.asarray(labels)


def states_in(run: Path) -> dict[int, Any]:
    """The states in a run's checkpoints, by step."""
    saved = run / run_dir.CHECKPOINTS
    like = setup.make(config.load(run / run_dir.CONFIG)).begin()
    return {n: checkpoint.restore(saved, n, like) for n in checkpoint.steps(saved)}


def saved(where: Path, states: Mapping[int, Any], keep: int = 3) -> None:
    """Writes the checkpoints of states, by step."""
    with checkpoint.Writer(where, keep) as writer:
        for step, state in states.items():
            writer.save(step, state, {})
            writer.finish()


def assert_same(first: Any, second: Any) -> None:
    """Two states are equal, bit for bit."""
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
