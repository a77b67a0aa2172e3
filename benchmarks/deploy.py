"""What a deployed matrix of 1024 x 4096 gains over the dense one: time of a product, and bytes.

    python benchmarks/deploy.py

The condensed and the N:M form run under JAX, CSR under SciPy on one core. Masks are random. Those
of the condensed form have constant fan-in, those of CSR are unstructured. Patterns of N:M are the
nearest to each sparsity that divide the inputs, and 2:4.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from timing import interleaved, ratio

import dst

INPUTS, OUTPUTS = 1024, 4096
BATCHES = (1, 256)
# Of each sparsity, the pattern that is nearest.
PATTERNS = {0.5: "2:4", 0.9: "26:256", 0.95: "13:256", 0.99: "3:256"}


def fan_in_mask(random: np.random.Generator, sparsity: float) -> np.ndarray:
    """A mask with the same number of weights in every output."""
    fan_in = round(INPUTS * (1 - sparsity))
    return random.random((INPUTS, OUTPUTS)).argsort(axis=0) < fan_in


def pattern_mask(random: np.random.Generator, pattern: str) -> np.ndarray:
    """A mask of an N:M pattern."""
    n, m = map(int, pattern.split(":"))
    groups = random.random((INPUTS // m, m, OUTPUTS)).argsort(axis=1) < n
    return groups.reshape(INPUTS, OUTPUTS)


def matrices(sparsity: float) -> dict[str, Any]:
    """The forms of a sparsity, by name."""
    random = np.random.default_rng(0)
    weight = random.normal(size=(INPUTS, OUTPUTS)).astype(np.float32)
    pattern = PATTERNS[sparsity]
    found = {pattern: dst.deploy(weight * pattern_mask(random, pattern), pattern)}
    if sparsity > 0.5:
        unstructured = random.random(weight.shape) >= sparsity
        found = {
            "condensed": dst.deploy(weight * fan_in_mask(random, sparsity), "condensed"),
            "condensed, unstructured": dst.deploy(weight * unstructured, "condensed"),
            "CSR": dst.deploy(weight * unstructured, "csr"),
        } | found
    return {"dense": dst.deploy(weight, "dense")} | found


def product(matrix: Any, x: np.ndarray) -> Callable[[], Any]:
    """A function that multiplies; compiled where the form is one of JAX."""
    if isinstance(matrix, dst.forms.CSRMatrix):
        return lambda: matrix(x)
    compiled, on_device = jax.jit(lambda matrix, x: x @ matrix), jnp.asarray(x)
    return lambda: compiled(matrix, on_device)


def bench_deploy(rounds: int) -> list[tuple[str, str, str]]:
    """Rows: what, how much, no goal.

    Args:
      rounds: of interleaved products with batch 1; a quarter of them with batch 256.
    """
    rows = []
    for sparsity in PATTERNS:
        forms = matrices(sparsity)
        dense = forms["dense"]
        for batch in BATCHES:
            x = np.random.default_rng(1).normal(size=(batch, INPUTS)).astype(np.float32)
            runs = {name: product(matrix, x) for name, matrix in forms.items()}
            s = interleaved(runs, rounds if batch == 1 else max(rounds // 4, 5))
            if sparsity == min(PATTERNS):
                ms = float(np.median(s["dense"])) * 1e3
                name = f"product, {INPUTS} x {OUTPUTS}, dense, batch {batch}"
                rows.append((name, f"{ms:.2f} ms", ""))
            for name in list(forms)[1:]:
                gain = ratio(s, "dense", name)
                rows.append((f"  {sparsity:.0%}, batch {batch}, dense / {name}", f"{gain:.2f}", ""))
        for name in list(forms)[1:]:
            share = forms[name].nbytes / dense.nbytes
            rows.append((f"  {sparsity:.0%}, bytes, {name} / dense", f"{share:.3f}", ""))
    return rows


if __name__ == "__main__":
    for name, value, goal in bench_deploy(int(sys.argv[1]) if sys.argv[1:] else 60):
        print(f"{name:<60} {value:>14}  {goal}")
