"""Laws of soft thresholds: numbers by hand, exact zeros, everything else as the optimizer says."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dst

GATES = jnp.array([0.5, -0.3, 1e-4, -2e-4, 3e-4], jnp.float32)


def test_gates_shrink_as_worked_out_by_hand():
    tx = dst.soft_threshold(optax.sgd(0.1), 3e-4)
    params = {"layer": {"gate": GATES, "lora_a": GATES}}
    updates, state = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    after = optax.apply_updates(params, updates)["layer"]
    np.testing.assert_allclose(after["gate"], [0.4997, -0.2997, 0, 0, 0], rtol=1e-6)
    assert (np.asarray(after["gate"]) == 0).tolist() == [False, False, True, True, True]
    np.testing.assert_array_equal(after["lora_a"], GATES)
    assert int(state.count) == 1


def test_it_is_the_proximal_step_of_an_absolute_value():
    """Adam, then ``argmin (x - p)^2 / 2 + amount |x|``, with an amount that grows."""
    random = np.random.default_rng(23)
    grads = random.normal(size=(6, 40)).astype(np.float32)
    start = random.normal(size=40).astype(np.float32) * 0.05
    inner = optax.adam(1e-2)
    tx = dst.soft_threshold(inner, lambda count: 1e-3 * (1 + count), "gate")
    params, state = {"gate": jnp.asarray(start)}, tx.init({"gate": jnp.asarray(start)})
    plain, plain_state = jnp.asarray(start), inner.init(jnp.asarray(start))
    for count, grad in enumerate(grads):
        updates, state = tx.update({"gate": jnp.asarray(grad)}, state, params)
        params = optax.apply_updates(params, updates)
        move, plain_state = inner.update(jnp.asarray(grad), plain_state, plain)
        p, amount = np.asarray(plain + move, np.float64), 1e-3 * (1 + count)
        grid = np.stack([np.zeros_like(p), p - amount, p + amount])
        cost = (grid - p) ** 2 / 2 + amount * abs(grid)
        plain = jnp.asarray(grid[cost.argmin(0), np.arange(40)], jnp.float32)
        np.testing.assert_allclose(params["gate"], plain, atol=1e-6)
    zeros = np.asarray(params["gate"]) == 0
    assert 0 < zeros.sum() < 40
    np.testing.assert_array_equal(zeros, np.asarray(plain) == 0)


def test_what_is_no_number_is_not_hidden_by_a_zero():
    tx = dst.soft_threshold(optax.sgd(1.0), 0.25, "gate")
    params = {"gate": jnp.array([1.0, -0.5])}
    updates, _ = tx.update({"gate": jnp.array([jnp.nan, 0.0])}, tx.init(params), params)
    after = optax.apply_updates(params, updates)["gate"]
    np.testing.assert_array_equal(after, [np.nan, -0.25])


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="select of soft_threshold must be a list of at least"):
        dst.soft_threshold(optax.sgd(0.1), 1.0, [])
    with pytest.raises(ValueError, match="amount of soft_threshold must be"):
        dst.soft_threshold(optax.sgd(0.1), -1.0)
    with pytest.raises(ValueError, match="select"):
        dst.soft_threshold(optax.sgd(0.1), 0.1).init({"w": jnp.ones(2)})
    tx = dst.soft_threshold(optax.sgd(0.1), 0.1, "w")
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update({"w": jnp.ones(2)}, tx.init({"w": jnp.ones(2)}))
