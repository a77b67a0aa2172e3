"""Methods that learn thresholds or masks: numbers by hand, NumPy twins, and autodiff through the
plain formula of the weights in use."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import dst
from tests.methods.latent import SHAPE, column, drawn, equal, follow, momentum, slopes, trained
from tests.reference import learned


def logit(p):
    return math.log(p / (1 - p))


def test_str_by_hand():
    """One step of gradient descent at the rate 1: both in use pull at s, from two sides."""
    weight, grad = column([0.5, -0.3, 0.05]), column([1.0, 0.5, 2.0])
    method = dst.STR(0.5, start=logit(0.1))
    params, masks, kept = trained(method, weight, grad[None], optax.sgd(1.0))
    assert masks[:, :, 0].tolist() == [[True, True, False]] * 2
    assert kept["scores"].shape == (2, 1, 1)
    # -0.1 * 0.9 * (1 * 1 + 0.5 * -1)
    np.testing.assert_allclose(kept["scores"][1], logit(0.1) + 0.045, rtol=1e-6)
    np.testing.assert_allclose(kept["latent"][1, :, 0], [-0.5, -0.8, 0.05], atol=1e-7)
    shrinks = 1 / (1 + 9 * math.exp(-0.045))  # 0.104124
    np.testing.assert_allclose(params[1, :, 0], [shrinks - 0.5, shrinks - 0.8, 0], atol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_str_equals_its_twin(decay):
    weights, grads = drawn(0)
    method = dst.STR(0.5, start=-0.5, decay=decay)
    twin = learned.STR(weights.astype(np.float64), -0.5, decay, momentum(), momentum())
    found = trained(method, weights, grads)
    follow(found, twin, grads, lambda x: {"latent": x.weights, "scores": x.s})


def test_str_learns_as_autodiff_says():
    weights, grads = drawn(1)
    stacked, grad = jnp.stack([weights, weights / 2]), jnp.stack(grads[:2])  # a threshold each
    s = jnp.array([-1.0, -0.3])[:, None, None]

    def loss(w, s):
        return (grad * jnp.sign(w) * jax.nn.relu(jnp.abs(w) - jax.nn.sigmoid(s))).sum()

    active = jnp.abs(stacked) > jax.nn.sigmoid(s)
    found = slopes(dst.STR(0.5), stacked, s, grad, active, stacked={"w": 1})
    equal(found, jax.grad(loss, (0, 1))(stacked, s))


def test_decay_alone_makes_weights_sparse():
    """From the start of the paper on, where the threshold is zero in float32."""
    weights, _ = drawn(2)
    method = dst.STR(0.5, start=-3200.0, decay=1.0)
    inner = optax.sgd(0.5)
    params, masks, kept = trained(method, weights, np.zeros((30, *SHAPE), np.float32), inner)
    sums = masks.sum((1, 2))
    assert sums[0] == 30 and (np.diff(sums) <= 0).all() and 0 < sums[-1] < 30
    np.testing.assert_allclose(kept["scores"][4, 0, 0], -200.0)
    np.testing.assert_array_equal(params[0], weights)


def test_the_plan_says_that_training_decides():
    params = {"w": jnp.ones((4, 5))}
    plan = dst.sparsify(optax.sgd(0.1), dst.STR(0.75)).plan(params)
    assert "selected: 5 of 20 weights expected to be active; training decides" in str(plan)
    assert "active at the end" in str(dst.sparsify(optax.sgd(0.1), dst.SRSTE()).plan(params))
    assert not plan.exact


def test_soft_movement_by_hand():
    """One step of gradient descent at the rate 1: those that move away from zero gain."""
    weight, grad = column([1.0, -1.0, 0.5, -0.5]), column([0.2, 0.2, -0.4, 0.1])
    method = dst.SoftMovement(0.5, threshold=0.52, penalty=0.0, start=0, stop=1)
    _, masks, kept = trained(method, weight, grad[None], optax.sgd(1.0))
    np.testing.assert_allclose(kept["scores"][1, :, 0], [-0.2, 0.2, 0.2, 0.05], atol=1e-7)
    assert masks[0].all()  # 0.450, 0.550, 0.550, 0.512
    assert masks[1, :, 0].tolist() == [False, True, True, False]


@pytest.mark.parametrize("threshold", [0.45, 0.99])
def test_soft_movement_equals_its_twin(threshold):
    """Above all scores the threshold leaves one weight and one in 200."""
    weights, grads = drawn(4)
    method = dst.SoftMovement(0.5, threshold=threshold, penalty=2.0, start=2, stop=12)

    def risen(count):
        return 1 - (1 - min(max(count - 2, 0) / 10, 1)) ** 3

    twin = learned.SoftMovement(
        weights.astype(np.float64), risen, threshold, 2.0, momentum(), momentum()
    )
    found = trained(method, weights, grads)
    follow(found, twin, grads, lambda x: {"latent": x.weights, "scores": x.scores})
    assert found[1].sum((1, 2)).min() >= 1


def test_soft_movement_learns_as_autodiff_says():
    weights, grads = drawn(6)
    scores, grad = jnp.asarray(grads[1]), grads[0]
    method = dst.SoftMovement(0.5, threshold=0.5, penalty=3.0, start=0, stop=10)
    active = jax.nn.sigmoid(scores) > 0.5

    def loss(w, s):
        through = active + s - lax.stop_gradient(s)
        return (grad * w * through).sum() + 3.0 * jax.nn.sigmoid(s).mean()

    found = slopes(method, jnp.asarray(weights), scores, grad, active, count=10)
    equal(found, jax.grad(loss, (0, 1))(weights, scores))


def test_trainable_thresholds_by_hand():
    """The slopes of the step are 0.4, 0.8 and 0 at 0.5, 0.3 and 2. Descent at the rate 1."""
    weight, grad = column([0.5, -0.3, 2.0]), column([1.0, 1.0, 1.0])
    method = dst.TrainableThresholds(0.5, penalty=0.1)
    _, masks, kept = trained(method, weight, grad[None], optax.sgd(1.0))
    # g (1 + |w| H); and for t: -(0.5 * 0.4 - 0.3 * 0.8) - 0.1
    np.testing.assert_allclose(kept["latent"][1, :, 0], [-0.7, -1.54, 1.0], atol=1e-6)
    np.testing.assert_allclose(kept["scores"][1], [[0.06]], atol=1e-7)
    assert masks[0].all() and masks[1].all()


@pytest.mark.parametrize("penalty", [0.5, 20.0])
def test_trainable_thresholds_equal_their_twin(penalty):
    """A large penalty empties the layer again and again, and its thresholds start anew."""
    weights, grads = drawn(7, 0.5)
    method = dst.TrainableThresholds(0.5, penalty=penalty)
    twin = learned.TrainableThresholds(weights.astype(np.float64), penalty, momentum(), momentum())
    found = trained(method, weights, grads)
    follow(found, twin, grads, lambda x: {"latent": x.weights, "scores": x.thresholds})
    renewed = (found[2]["scores"][1:] == 0).all((1, 2))
    assert renewed.any() == (penalty > 1) and found[1].any((1, 2)).all()


def test_trainable_thresholds_learn_as_autodiff_says():
    weights, grads = drawn(8)
    t, grad = jnp.linspace(-0.2, 0.8, 5)[None], grads[0]

    @jax.custom_jvp
    def above(x):
        return (x > 0).astype(jnp.float32)

    @above.defjvp
    def _(primals, tangents):
        x, size = primals[0], jnp.abs(primals[0])
        slope = jnp.where(size > 1, 0.0, jnp.where(size > 0.4, 0.4, 2 - 4 * size))
        return above(x), slope * tangents[0]

    def loss(w, t):
        return (grad * w * above(jnp.abs(w) - t)).sum() + 0.3 * jnp.exp(-t).sum()

    active = jnp.abs(weights) > t
    method = dst.TrainableThresholds(0.5, penalty=0.3)
    found = slopes(method, jnp.asarray(weights), t, grad, active)
    equal(found, jax.grad(loss, (0, 1))(weights, t))
