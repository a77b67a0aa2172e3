"""What the packed form saves and costs beside the dense one: the MLP of ``bench.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from timing import interleaved, ratio

import dst

SPARSITIES = (0.9, 0.95, 0.99)

Loss = Callable[[Any, jax.Array, jax.Array], jax.Array]


def method(sparsity: float) -> dst.RigL:
    """RigL whose table of counts has the length of a real run."""
    return dst.RigL(sparsity, every=100, stop=7_500)


class Packed:
    """A jitted step with donated values and state, and where they are."""

    def __init__(self, loss: Loss, params: Any, batch: tuple[Any, Any], topology: bool):
        tx = dst.sparsify(optax.adam(1e-3), method(0.9), form="packed")
        self.values, self.state = dst.pack(params, tx)

        def hot(values: Any, state: Any) -> Any:
            grads = jax.grad(lambda v: loss(dst.unpack(v, state), *batch))(values)
            updates, state = tx.update(grads, state, values, topology=False)
            return optax.apply_updates(values, updates), state

        def change(values: Any, state: Any) -> Any:
            grads = jax.grad(loss)(dst.unpack(values, state), *batch)
            return tx.retopologise(grads, state, values)

        self.step = jax.jit(change if topology else hot, donate_argnums=(0, 1))

    def __call__(self) -> Any:
        self.values, self.state = self.step(self.values, self.state)
        return self.values

    def peak(self) -> float:
        """Bytes of arguments and temporaries of a compiled step."""
        return peak(self.step, self.values, self.state)


def peak(step: Any, *arguments: Any) -> float:
    """Bytes of arguments and temporaries of a compiled function."""
    memory = step.lower(*arguments).compile().memory_analysis()
    return float(memory.argument_size_in_bytes + memory.temp_size_in_bytes)


def size(tree: Any) -> int:
    """Bytes of all arrays."""
    return sum(x.nbytes for x in jax.tree.leaves(tree))


def bench_packed(
    loss: Loss, make: Callable[[], Any], batch: tuple[Any, Any], plain: Any, rounds: int
) -> list[tuple[str, str, str]]:
    """Rows: what, how much, the goal.

    Args:
      loss: of parameters and a batch.
      make: new parameters.
      batch: inputs and labels.
      plain: the dense trainer of ``bench.py``.
      rounds: of the interleaved steps.
    """
    weights = sum(x.size for x in jax.tree.leaves(make()))
    rows = []
    for sparsity, goal in zip(SPARSITIES, ("2.0", "1.1", "0.4"), strict=True):
        tx = dst.sparsify(optax.adam(1e-3), method(sparsity), form="packed")
        held = size(dst.pack(make(), tx)) / weights
        name = f"packed train state, RigL {sparsity:.0%}, bytes per weight (dense 12)"
        rows.append((name, f"{held:.2f}", f"at most {goal}"))
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), make())
    tx = dst.sparsify(optax.adam(1e-3, mu_dtype=jnp.float32), method(0.9), form="packed")
    held = size(dst.pack(half, tx)) / weights
    rows.append(("  90%, weights in bfloat16", f"{held:.2f}", ""))

    runs = {
        "plain": plain,
        "hot": Packed(loss, make(), batch, False),
        "topology": Packed(loss, make(), batch, True),
    }
    before = peak(plain.step, plain.params, plain.opt_state, plain.x, plain.y)
    peaks = {name: runs[name].peak() / before for name in ("hot", "topology")}
    s = interleaved(runs, rounds)
    return [
        *rows,
        ("packed hot step / plain", f"{ratio(s, 'hot', 'plain'):.3f}", "at most 1.10"),
        ("  its peak / plain", f"{peaks['hot']:.2f}", "at most 0.52"),
        ("packed topology step, RigL / plain", f"{ratio(s, 'topology', 'plain'):.2f}", "at most 4"),
        ("  its peak / plain", f"{peaks['topology']:.2f}", "at most 1.5"),
    ]
