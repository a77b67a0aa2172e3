"""A method and its twin in plain loops, side by side: masks, weights and explored sets.

All numbers are small multiples of powers of two, so that both sides compute without rounding,
ties are common, and equal means equal bit for bit.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import dst
from tests.reference.draws import uniforms
from tests.reference.exchange import Layer
from tests.runs import QUICK

RATE = 0.25
EVERY, STOP, STEPS = 2, 42, 42  # topology steps at 2, 4, ..., 40
# In the order of the tree. Equal shapes compile faster.
SHAPES = {"equal": (8, 6), "ties": (8, 6), "varied": (8, 6), "zeros": (12, 6)}


def weights() -> dict[str, np.ndarray]:
    """All equal, with ties, varied, and mostly zero."""
    random = np.random.default_rng(11)
    return {
        "equal": np.full(SHAPES["equal"], 0.5, np.float32),
        "ties": (random.integers(-2, 3, SHAPES["ties"]) / 2).astype(np.float32),
        "varied": (random.integers(-64, 65, SHAPES["varied"]) / 32).astype(np.float32),
        "zeros": np.where(random.random(SHAPES["zeros"]) < 0.7, -0.0, 0.25).astype(np.float32),
    }


def gradients(steps: int = STEPS) -> Iterator[dict[str, np.ndarray]]:
    """One gradient per step, of the same kinds."""
    random = np.random.default_rng(12)
    for _ in range(steps):
        yield {
            "equal": np.full(SHAPES["equal"], 0.25, np.float32),
            "ties": (random.integers(-2, 3, SHAPES["ties"]) / 4).astype(np.float32),
            "varied": (random.integers(-64, 65, SHAPES["varied"]) / 64).astype(np.float32),
            "zeros": np.where(random.random(SHAPES["zeros"]) < 0.9, 0, -0.5).astype(np.float32),
        }


SEED = 3


def draw(name: str, count: int, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """As ``dst.engine.masks.keys`` documents: seed, then count + 1, then a hash of the path."""
    key = jax.random.fold_in(jax.random.key(SEED, impl="threefry2x32"), count + 1)
    key = jax.random.fold_in(key, zlib.crc32(name.encode()))
    return uniforms(key, shape or SHAPES[name])


def follow(
    method: Any,
    make_twin: Callable[[dict[str, Layer]], Any],
    *,
    changes: int = 20,
    steps: int = STEPS,
    **options: Any,
) -> tuple[dst.SparsifyState, Any]:
    """Trains with the method and with its twin; masks, weights and explored sets stay equal.

    ``changes``: topology steps that must change the masks, at the least.
    """
    tx = dst.sparsify(optax.sgd(RATE), method, seed=SEED, **options)
    quick = partial(jax.jit, compiler_options=QUICK, static_argnames="topology")
    params = jax.tree.map(jnp.asarray, weights())
    state = jax.jit(tx.init, compiler_options=QUICK)(params)
    params = dst.apply_masks(params, state)
    layers = {k: Layer.start(w, np.asarray(dst.masks(state)[k])) for k, w in weights().items()}
    twin = make_twin(layers)

    @quick
    def step(grads, state, params, topology=None):
        updates, state = tx.update(grads, state, params, topology=topology)
        return optax.apply_updates(params, updates), state, dst.masks(state), dst.explored(state)

    results = []
    for count, grads in enumerate(gradients(steps)):
        # Where something else stands in the place of gradients, the caller decides.
        topology = None if tx.derivative is None else tx.fires(count)
        params, state, *sets = step(grads, state, params, topology)
        results.append((params, *sets))
    changed = 0
    for grads, (params_then, masks, explored) in zip(
        gradients(steps), jax.device_get(results), strict=True
    ):
        before = {name: list(layer.mask) for name, layer in layers.items()}
        twin.step(grads)
        for name, layer in layers.items():
            where = f"{name} after {twin.count} updates"
            assert masks[name].reshape(-1).tolist() == layer.mask, where
            assert explored[name].reshape(-1).tolist() == layer.explored, where
            np.testing.assert_array_equal(
                params_then[name].reshape(-1), layer.weights, err_msg=where
            )
            changed += layer.mask != before[name]
    dst.check_invariants(state, params)
    assert int(state.topology.done) == len(twin.changed_at) >= changes
    assert changed >= changes  # the comparison would be empty if nothing moved
    return state, twin
