"""With 64-bit types enabled every method trains, with a state of the types that it has without."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dst
from tests.engine.test_conformance import EVERYTHING
from tests.runs import X, error, forward, initial_params

STEPS, LENGTH = 20, 40


def trained(method, dtype):
    """Parameters and states of the README's loop, whose steps ask the schedule where they can."""
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), initial_params())
    x = jnp.asarray(X, dtype)
    tx = dst.sparsify(optax.adamw(1e-2), EVERYTHING[method].method(LENGTH), steps=LENGTH)
    first = state = tx.init(params)
    params = dst.apply_masks(params, state)

    @partial(jax.jit, static_argnums=2)
    def step(params, state, topology):
        find = tx.topology_gradients if topology else lambda f, p: jax.grad(f)(p)
        grads = find(lambda p: error(forward(p, x)), params)
        updates, state = tx.update(grads, state, params, topology=topology)
        return optax.apply_updates(params, updates), state

    for count in range(STEPS):
        params, state = step(params, state, None if tx.derivative is None else tx.fires(count))
    return params, first, state


def types(state):
    return [(x.dtype, x.shape) for x in jax.tree.leaves(state._replace(inner_state=None))]


def cases():
    """float32 weights are what the flag endangers: Python numbers become 64 bits wide beside them.
    Weights of 64 bits are evidence but for a few."""
    for method in EVERYTHING:
        yield pytest.param(method, np.float32)
        few = method in ("rigl", "gmp", "sr-ste")
        yield pytest.param(method, np.float64, marks=() if few else pytest.mark.evidence)


@pytest.mark.parametrize(("method", "dtype"), list(cases()))
def test_every_method_trains_with_64_bit_types(method, dtype):
    expected = types(jax.eval_shape(lambda: trained(method, np.float32))[2])
    with jax.enable_x64(True):
        params, first, state = trained(method, dtype)
        assert types(first) == types(state) == expected
        assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype(dtype)}
        dst.check_invariants(state, params)
        metrics = dst.metrics(state, params)
        assert {x.dtype for x in metrics.values()} <= {np.dtype(np.int32), np.dtype(np.float32)}
