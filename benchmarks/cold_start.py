"""What sparsity adds to the time until the first step: tracing and compilation.

    python benchmarks/cold_start.py

A step is traced and compiled anew in every round, with sparsity and without, in turns. No result of
an earlier compilation is used. Models: the MLP of ``bench.py`` and a decoder of four layers, as a
list of blocks and as one scanned block.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from bench import BATCH, WIDTHS, initial_params, loss
from flax import nnx
from timing import heading, show

import dst
from dst import models


class Model(NamedTuple):
    """What a step needs of a network.

    Attributes:
      params: its parameters.
      loss: of them and a batch.
      batch: the arrays that the loss takes after the parameters.
      roles: what the axes of its leaves are; None: as their names say.
    """

    params: Any
    loss: Callable[..., jax.Array]
    batch: tuple[jax.Array, ...]
    roles: Any = None


def mlp() -> Model:
    """That of ``bench.py``."""
    x = jax.random.normal(jax.random.key(1), (BATCH, WIDTHS[0]))
    return Model(initial_params(), loss, (x, jnp.arange(BATCH) % WIDTHS[-1]))


def decoder(scan: bool) -> Model:
    """Four layers, as a list or as one scanned block."""
    model = models.Decoder((128,), 256, scan=scan, rngs=nnx.Rngs(0))
    graph, params = nnx.split(model)
    tokens = jnp.arange(4 * 129).reshape(4, 129) % 256

    def of_text(params: Any, tokens: jax.Array) -> jax.Array:
        logits = nnx.merge(graph, params)(tokens[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    return Model(nnx.as_pure(params), of_text, (tokens,), dst.roles(model))


def seconds(model: Model, method: Any = None, **update: Any) -> Callable[[], float]:
    """A function that traces and compiles a step and says how long that took."""
    tx = optax.adam(1e-3)
    if method is not None:
        tx = dst.sparsify(tx, method, roles=model.roles)
    opt_state = tx.init(model.params)

    def once() -> float:
        def step(params: Any, opt_state: Any, *batch: jax.Array) -> Any:
            grads = jax.grad(model.loss)(params, *batch)
            updates, opt_state = tx.update(grads, opt_state, params, **update)
            return optax.apply_updates(params, updates), opt_state

        jax.clear_caches()
        began = time.perf_counter()
        jax.jit(step).lower(model.params, opt_state, *model.batch).compile()
        return time.perf_counter() - began

    return once


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)
    print(heading(options.rounds))
    rigl = dst.RigL(0.9, every=100, stop=7500)
    cases = {
        "hot step": {"topology": False},
        "topology step": {"topology": True},
        "step that asks the schedule": {},
    }
    rows = []
    for name, model in {
        "MLP": mlp(),
        "decoder, list": decoder(False),
        "decoder, scanned": decoder(True),
    }.items():
        runs = {"plain": seconds(model)}
        runs |= {case: seconds(model, rigl, **update) for case, update in cases.items()}
        found = {case: [] for case in runs}
        for _ in range(options.rounds):
            for case, run in runs.items():
                found[case].append(run())
        rows.append((f"{name}: plain step, compiled", f"{np.median(found['plain']):.2f} s", ""))
        for case in cases:
            ratio = float(np.median(np.divide(found[case], found["plain"])))
            goal = "at most 1.3" if case == "hot step" else ""
            rows.append((f"  {case}, RigL / plain", f"{ratio:.2f}", goal))
    show(rows)


if __name__ == "__main__":
    main()
