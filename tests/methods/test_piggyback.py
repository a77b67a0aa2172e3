"""Piggyback: numbers by hand, a loop with a forward hook, autodiff through the mask."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import dst
from tests.runs import quick

RATE = 0.02


def trained(method, weight, grads, inner):
    """Parameters, masks and real masks, before the first step and after each."""
    tx = dst.sparsify(inner, method)

    def seen(params, state):
        return params["w"], dst.masks(state)["w"], state.variables["w"]["latent"]

    def run(weight, grads):
        state = tx.init({"w": weight})
        params = dst.apply_masks({"w": weight}, state)

        def step(carry, grad):
            params, state = carry
            updates, state = tx.update({"w": grad}, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), seen(params, state)

        _, rest = lax.scan(step, (params, state), grads)
        start = seen(params, state)
        return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), start, rest)

    return jax.device_get(jax.jit(run)(weight, grads))


def test_two_steps_by_hand():
    """m falls by rate g w: 0.01 - 0.02 * (0.5, -0.5, 0.2), then back up for the first."""
    weight = jnp.array([[0.5], [-1.0], [0.1]])
    grads = jnp.array([[[1.0], [0.5], [2.0]], [[-1.0], [0.0], [1.0]]])
    params, masks, real = trained(dst.Piggyback(0.5), weight, grads, optax.sgd(RATE))
    np.testing.assert_allclose(real[1, :, 0], [0.0, 0.02, 0.006], atol=1e-8)
    assert masks[1, :, 0].tolist() == [False, True, True]
    np.testing.assert_allclose(real[2, :, 0], [0.01, 0.02, 0.004], atol=1e-8)
    assert masks[2, :, 0].tolist() == [True, True, False]
    for used, mask in zip(params, masks, strict=True):
        np.testing.assert_array_equal(used, np.where(mask, weight, 0))
    assert masks[0].all()


def test_a_loop_with_a_forward_hook_learns_the_same():
    random = np.random.default_rng(0)
    weight = random.normal(size=(6, 5)).astype(np.float32)
    grads = random.normal(size=(20, 6, 5)).astype(np.float32)
    params, masks, real = trained(
        dst.Piggyback(0.5), jnp.asarray(weight), jnp.asarray(grads), optax.sgd(0.002, momentum=0.5)
    )
    m, sum_of_grads = np.full(weight.shape, 0.01), np.zeros(weight.shape)
    for step, grad in enumerate(grads):
        sum_of_grads = 0.5 * sum_of_grads + grad.astype(np.float64) * weight
        m = m - 0.002 * sum_of_grads
        np.testing.assert_allclose(real[step + 1], m, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(masks[step + 1], m > 0.005)
        np.testing.assert_array_equal(params[step + 1], np.where(m > 0.005, weight, 0))
    assert (masks[:-1] & ~masks[1:]).any() and (masks[1:] & ~masks[:-1]).any()


def test_the_gradient_is_that_of_autodiff_through_a_mask_of_slope_one():
    random = np.random.default_rng(1)
    weight, grad = (jnp.asarray(random.normal(size=(4, 3)), jnp.float32) for _ in range(2))
    m = jnp.full(weight.shape, 0.01)
    slope = jax.grad(lambda m: (grad * weight * m).sum())(m)
    _, _, real = trained(dst.Piggyback(0.5), weight, grad[None], optax.sgd(1.0))
    np.testing.assert_allclose(m - real[1], slope, rtol=1e-4, atol=1e-6)


def test_only_heads_are_trained_beside_masks_where_the_optimizer_says_so():
    params = {"hidden": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}, "out": jnp.ones(4)}
    for train_dense in (True, False):
        tx = quick(dst.sparsify(optax.sgd(0.1), dst.Piggyback(0.5, train_dense=train_dense)))
        updates, _ = tx.update(params, tx.init(params), params)
        moved = bool(jnp.any(updates["out"] != 0))
        assert moved == train_dense == bool(jnp.any(updates["hidden"]["bias"] != 0))


def test_a_start_below_the_threshold_is_refused():
    with pytest.raises(ValueError, match="start must be above threshold=0.02, .* got 0.01"):
        dst.Piggyback(0.5, threshold=0.02)
