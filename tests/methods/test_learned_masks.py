"""Continuous sparsification: numbers by hand, a NumPy twin, and autodiff through soft masks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dst
from tests.methods.latent import (
    column,
    drawn,
    equal,
    follow,
    momentum,
    slopes,
    trained,
)
from tests.reference import learned


def test_continuous_sparsification_by_hand():
    """Descent at the rate 1, from scores 0: masks of 1/2, doubled."""
    method = dst.ContinuousSparsification(0.5, start=0.0, last_beta=4.0, penalty=0.1, stop=2)
    weight = column([1.0, -2.0])
    grads = jnp.stack([column([1.0, 1.0]), column([0.0, 0.0])])
    params, masks, kept = trained(method, weight, grads, optax.sgd(1.0))
    # 2 * (g w + 0.1) / 4
    np.testing.assert_allclose(kept["scores"][1, :, 0], [-0.55, 0.95], atol=1e-6)
    np.testing.assert_allclose(kept["latent"][1, :, 0], [0.0, -3.0], atol=1e-6)
    np.testing.assert_allclose(params[1, :, 0], [0, -6 / (1 + np.exp(-1.9))], atol=1e-5)
    assert masks[:, :, 0].tolist() == [[True, True], [True, True], [False, True]]
    np.testing.assert_allclose(params[2, :, 0], [0, -6.0], rtol=1e-6)


@pytest.mark.parametrize("start", [-0.2, 0.1])
def test_continuous_sparsification_equals_its_twin(start):
    weights, grads = drawn(9)
    method = dst.ContinuousSparsification(0.5, start, last_beta=30.0, penalty=0.05, stop=12)
    twin = learned.ContinuousSparsification(
        weights.astype(np.float64), start, 30.0, 0.05, 12, momentum(), momentum()
    )
    found = trained(method, weights, grads)
    follow(found, twin, grads, lambda x: {"latent": x.weights, "scores": x.scores}, grows=False)
    assert found[1][:12].all() and (found[1][12:] == found[1][12]).all()


def test_continuous_sparsification_learns_as_autodiff_says():
    weights, grads = drawn(10)
    scores, grad = jnp.asarray(grads[1]), grads[0]
    method = dst.ContinuousSparsification(0.5, -0.3, last_beta=9.0, penalty=0.2, stop=10)

    def loss(w, s):
        mask = jax.nn.sigmoid(3.0 * s) / jax.nn.sigmoid(-0.3)
        return (grad * w * mask).sum() + 0.2 * mask.sum()

    found = slopes(method, jnp.asarray(weights), scores, grad, scores > 0, count=5)
    equal(found, jax.grad(loss, (0, 1))(weights, scores))


def test_beta_rises():
    with pytest.raises(ValueError, match=r"last_beta must be at least 1, got 0.5"):
        dst.ContinuousSparsification(0.5, last_beta=0.5, stop=9)
