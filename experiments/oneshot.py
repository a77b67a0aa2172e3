"""A pretrained model pruned by every one-shot method: what it lost, and the seconds that it took.

Records are kept; what is there is not computed again.
"""

from __future__ import annotations

import argparse
import itertools
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import dst
import dst.nnx
from dst import eval as judging
from dst.models import load, tokenizer
from dst.oneshot import named
from dst.report import markdown
from experiments import together

# method, allocation; the rows of the table
ROWS = {
    "Magnitude": ("magnitude", "uniform"),
    "Wanda": ("wanda", "uniform"),
    "DSnoT": ("dsnot", "uniform"),
    "DSnoT, swaps that reduce": ("dsnot(accept='reduce')", "uniform"),
    "Wanda, then update": ("sparsegpt(mask=wanda)", "uniform"),
    "SparseGPT": ("sparsegpt", "uniform"),
    "ALPS": ("alps", "uniform"),
    "Wanda, OWL": ("wanda", "owl"),
    "SparseGPT, OWL": ("sparsegpt", "owl"),
}
PATTERNS = ("50%", "60%", "70%", "2:4", "4:8")
COUNT, LENGTH, BATCH = 32, 256, 8


@dataclass(frozen=True)
class Figure:
    """By what a pruned model is judged.

    Attributes:
      name: of the figure.
      of: from the pruned model, the dense one and held-out windows.
      digits: in the table.
      select: the matrices that it sees; None: all.
    """

    name: str
    of: Callable[[Any, Any, np.ndarray], float]
    digits: int
    select: tuple[str, ...] | None = None


def perplexity(model: Any, dense: Any, windows: np.ndarray) -> float:
    """Of a decoder."""
    return judging.language(model, windows).perplexity


PERPLEXITY = Figure("perplexity", perplexity, 2)
# Embeddings are means over tokens; the pooler is not used.
COSINE = Figure("cosine", judging.cosine, 4, ("!pooler/kernel",))


def inside(package: str, *parts: str) -> Path:
    """A file or a directory of an installed package of a pretrained model."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{package} is not installed. Run `make pretrained`.")
    return Path(spec.origin).parent.joinpath(*parts)


class Text:
    """Windows of tokens to calibrate and to judge by."""

    def __init__(self, file: Path):
        words, sides = tokenizer(file), judging.sides("topics")
        self.calibration = judging.tokens(words, sides.calibration)
        self.held_out = judging.consecutive(judging.tokens(words, sides.held_out), LENGTH, COUNT)

    def batches(self, seed: int) -> list[Any]:
        """Calibration batches of a seed."""
        windows = judging.drawn(self.calibration, LENGTH, COUNT, seed)
        return [jnp.asarray(x) for x in np.split(windows, COUNT // BATCH)]


def record(
    model: Any, text: Text, figure: Figure, row: str, pattern: str, seed: int
) -> dict[str, Any]:
    """The figure of the model pruned in one way, and the seconds of the pruning."""
    method, allocation = ROWS[row]
    graph, state = nnx.split(model)
    pruned = nnx.merge(graph, jax.tree.map(lambda x: x, state))
    structure = named.structure(pattern if ":" in pattern else None)
    sparsity = (
        float(structure.sparsity) if isinstance(structure, dst.NM) else float(pattern[:-1]) / 100
    )
    start = time.perf_counter()
    masks = dst.nnx.prune(
        pruned,
        sparsity,
        method=named.method(method),
        structure=structure,
        allocation=named.allocation(allocation),
        batches=text.batches(seed),
        select=figure.select,
        attach_masks=False,
    )
    jax.block_until_ready(nnx.state(pruned))
    seconds = time.perf_counter() - start
    kept, weights = (sum(f(x) for x in masks.values()) for f in (np.sum, np.size))
    return {
        "row": row,
        "pattern": pattern,
        "seed": seed,
        "zeros": 1 - int(kept) / weights,
        figure.name: figure.of(pruned, model, text.held_out),
        "seconds": seconds,
    }


def table(figure: Figure, dense: float, records: list[dict[str, Any]]) -> str:
    """A row per method: the figure by pattern, of all seeds from the lowest to the highest."""
    rows = [["Dense", *[f"{dense:.{figure.digits}f}"] * len(PATTERNS), ""]]
    for row in ROWS:
        cells = []
        for pattern in PATTERNS:
            where = row, pattern
            some = [r[figure.name] for r in records if (r["row"], r["pattern"]) == where]
            ends = [f"{x:.{figure.digits}f}" for x in (min(some), max(some))] if some else []
            cells.append(" to ".join(dict.fromkeys(ends)))
        times = [r["seconds"] for r in records if r["row"] == row]
        rows.append([row, *cells, f"{statistics.median(times):.0f}" if times else ""])
    return markdown.table(["method", *PATTERNS, "seconds"], rows)


def main(folder: Path, about: str, file: Path, figure: Figure) -> None:
    """Prunes what is missing, and writes the table of a folder.

    Args:
      folder: of the experiment.
      about: the docstring of the program.
      file: of the dense model.
      figure: by which pruned models are judged.
    """
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--patterns", nargs="+", choices=PATTERNS, default=list(PATTERNS))
    parser.add_argument("--seeds", type=int, default=3, help="of the calibration text")
    parser.add_argument("--dir", type=Path, default=Path("runs"))
    options = parser.parse_args()
    where = options.dir / folder.name
    model, text = load(file), Text(file)

    def of_dense() -> list[dict[str, Any]]:
        return [{figure.name: figure.of(model, model, text.held_out)}]

    dense = together.kept(where / "dense.json", of_dense)[0][figure.name]
    found = []
    for seed, row, pattern in itertools.product(range(options.seeds), ROWS, PATTERNS):
        if ":" in pattern and "OWL" in row:
            continue  # OWL gives blocks other sparsities, N:M has one
        if row == "Magnitude" and seed:
            continue  # it sees no data
        path = where / f"{re.sub('[^a-z0-9]+', '-', f'{row} {pattern} {seed}'.lower())}.json"
        if path.exists() or (row in options.rows and pattern in options.patterns):
            make = partial(record, model, text, figure, row, pattern, seed)
            found += together.kept(path, lambda make=make: [make()])
    result = table(figure, dense, found)
    print(result)
    markdown.write_between(folder / "README.md", "table", result)
