"""The step that asks the schedule does what the two programs of the caller do."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dst

METHODS = {
    "RigL, which takes no optimizer step": dst.RigL(0.5, every=3, stop=10),
    "RigL, moments of grown weights alone": dst.RigL(0.5, every=3, stop=10, moments="grown"),
    "SET": dst.SET(0.5, every=3, stop=10),
    "GMP": dst.GMP(0.5, every=3, start=3, stop=9),
    "AC/DC, which forgets all moments": dst.ACDC(0.5, every=3, start=3, stop=9),
}


@pytest.mark.parametrize("name", METHODS)
def test_weights_masks_and_optimizer_state_are_those_of_the_callers_programs(name):
    params = {"w": jax.random.normal(jax.random.key(0), (8, 8)), "b": jnp.zeros(8)}
    tx = dst.sparsify(optax.adam(0.05), METHODS[name], steps=20)
    asking = telling = tx.init(params)
    one = other = dst.apply_masks(params, asking)
    asked = jax.jit(lambda g, s, p: tx.update(g, s, p))
    told = jax.jit(
        lambda g, s, p, topology: tx.update(g, s, p, topology=topology), static_argnums=3
    )
    for count in range(12):
        grads = jax.tree.map(lambda x, n=count: jnp.sin(x + n), params)
        updates, asking = asked(grads, asking, one)
        one = optax.apply_updates(one, updates)
        updates, telling = told(grads, telling, other, tx.fires(count))
        other = optax.apply_updates(other, updates)
        for x, y in zip(
            jax.tree.leaves((one, asking)), jax.tree.leaves((other, telling)), strict=True
        ):
            assert x.dtype == y.dtype
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
