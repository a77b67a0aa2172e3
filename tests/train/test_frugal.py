"""Laws of FRUGAL: Adam on a part of every matrix, signs elsewhere, a new part now and then."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dst
from dst.train import optimizer
from dst.train.config.run import OPTIMIZER

RATE = 0.1


def made(**settings):
    section = OPTIMIZER.read({"name": "frugal", "learning_rate": RATE, **settings}, "optimizer")
    return optimizer.make(section, 100)


def test_the_worked_step():
    """The first step of Adam is a sign, too: only a weight without a gradient stays."""
    params = {"w": jnp.array([[1.0], [2], [3], [4]])}
    grads = {"w": jnp.array([[0.2], [-0.4], [0.0], [0.1]])}
    tx = made()
    updates, state = tx.update(grads, tx.init(params), params)
    new = optax.apply_updates(params, updates)["w"].ravel()
    np.testing.assert_allclose(new, [0.9, 2.1, 3.0, 3.9], rtol=1e-6)
    assert state[0].mu["w"].shape == (1, 1)


@pytest.mark.parametrize("unit", ["input", "output", "entry"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_steps_are_those_of_a_loop_in_numpy(unit, decay):
    random = np.random.default_rng(0)
    start = {"w": random.normal(size=(6, 4)), "b": random.normal(size=4)}
    params = {k: jnp.asarray(x, jnp.float32) for k, x in start.items()}
    tx = made(unit=unit, every=3, density=0.5, free_scale=0.5, weight_decay=decay)
    state = tx.init(params)
    twin = {k: x.copy() for k, x in start.items()}
    moments, parts = {}, []
    for count in range(7):
        grads = {k: random.normal(size=x.shape) for k, x in start.items()}
        updates, state = jax.jit(tx.update)(
            {k: jnp.asarray(x, jnp.float32) for k, x in grads.items()}, state, params
        )
        params = optax.apply_updates(params, updates)
        at = np.asarray(state[0].chosen["w"])
        if count % 3 == 0:
            part = np.zeros((6, 4), bool)
            index = {"input": (at,), "output": (slice(None), at)}
            if unit == "entry":
                part.ravel()[at] = True
            else:
                part[index[unit]] = True
            assert part.mean() == 0.5
            parts.append(part)
            moments["w"] = np.zeros((2, 6, 4))
        moments.setdefault("b", np.zeros((2, 4)))
        for key, g in grads.items():
            m, v = moments[key]
            m[...], v[...] = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            n = (count % 3 if key == "w" else count) + 1
            adam = (m / (1 - 0.9**n)) / (np.sqrt(v / (1 - 0.999**n)) + 1e-8)
            step = adam if key == "b" else np.where(parts[-1], adam, 0.5 * np.sign(g))
            shrink = decay * twin[key] if key == "w" else 0
            twin[key] = twin[key] - RATE * (step + shrink)
            np.testing.assert_allclose(params[key], twin[key], rtol=2e-4, atol=1e-5)
    assert not (parts[0] == parts[1]).all() or not (parts[1] == parts[2]).all()


def test_inactive_weights_stay_zero_and_state_is_small():
    params = {"w": jax.random.normal(jax.random.key(0), (16, 8)), "embedding": jnp.ones((4, 8))}
    tx = dst.sparsify(made(), dst.Static(0.5))
    state = tx.init(params)
    params = dst.apply_masks(params, state)
    for _ in range(3):
        updates, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
        params = optax.apply_updates(params, updates)
    dst.check_invariants(state, params)
    inner = state.inner_state[0]
    assert inner.mu["w"].shape == (4, 8) and inner.mu["embedding"].shape == (4, 8)
