"""L0 regularisation: gates by hand, a NumPy twin, autodiff, and what can have a gate."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dst
from dst.engine.masks import keys
from tests.methods.latent import (
    SHAPE,
    column,
    drawn,
    equal,
    follow,
    momentum,
    slopes,
    trained,
)
from tests.reference import learned
from tests.reference.draws import uniforms
from tests.runs import quick


def numbers(shape):
    """The uniform numbers of the gates of the leaf "w" under the seed 3."""

    def u(count):
        (key,) = keys(["w"], jnp.uint32(3), count)
        return uniforms(jax.random.fold_in(key, 2), shape).astype(np.float64)

    return u


def test_gates_without_noise_by_hand():
    """``1.2 sigmoid(log alpha) - 0.1``, cut off at 0 and 1."""
    tx = quick(dst.sparsify(optax.sgd(1.0), dst.L0(0.5, penalty=0.0, stop=0)))
    weight = column([1.0, 2.0, -1.0, 1.0, -3.0])
    state = tx.init({"w": weight})
    gates = {"latent": weight, "scores": column([-2.0, 0.0, 2.0, -4.0, 4.0])}
    state = state._replace(variables={"w": gates})
    updates, state = tx.update({"w": jnp.zeros((5, 1))}, state, {"w": weight})
    params = optax.apply_updates({"w": weight}, updates)
    expected = [0.043044, 2 * 0.5, -0.956956, 0.0, -3.0]
    np.testing.assert_allclose(params["w"][:, 0], expected, atol=2e-6)
    assert dst.masks(state)["w"][:, 0].tolist() == [True, True, True, False, True]


STRUCTURES = {
    "weights": (dst.Unstructured(), SHAPE),
    "inputs": (dst.InputChannel(), (6, 1)),
    "outputs": (dst.OutputChannel(), (1, 5)),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_l0_equals_its_twin(name):
    weights, grads = drawn(11)
    structure, shape = STRUCTURES[name]
    method = dst.L0(0.5, penalty=0.02, drop_rate=0.6, stop=15, structure=structure)
    found = trained(method, weights, grads)
    log_alpha = found[2]["scores"][0].astype(np.float64)
    assert log_alpha.shape == shape and abs(log_alpha - np.log(0.4 / 0.6)).max() < 0.05
    twin = learned.L0(
        weights.astype(np.float64),
        log_alpha,
        0.02,
        2 / 3,
        15,
        numbers(shape),
        momentum(),
        momentum(),
    )
    follow(found, twin, grads, lambda x: {"latent": x.weights, "scores": x.log_alpha})


@pytest.mark.parametrize("count", [4, 20])
def test_l0_learns_as_autodiff_says(count):
    """With noise before ``stop``, without from there on."""
    weights, grads = drawn(12)
    log_alpha, grad = jnp.asarray(grads[1]), grads[0]
    method = dst.L0(0.5, penalty=0.1, stop=10)
    u = jnp.clip(numbers(SHAPE)(count), 1e-6, 1 - 1e-6).astype(jnp.float32)

    def gate(x):
        if count < 10:
            x = (jnp.log(u / (1 - u)) + x) * 1.5
        return jnp.clip(jax.nn.sigmoid(x) * 1.2 - 0.1, 0, 1)

    def loss(w, x):
        alive = jax.nn.sigmoid(x - 2 / 3 * jnp.log(0.1 / 1.1))
        return (grad * w * gate(x)).sum() + 0.1 * alive.sum()

    expected = jax.grad(loss, (0, 1))(weights, log_alpha)
    found = slopes(method, jnp.asarray(weights), log_alpha, grad, gate(log_alpha) > 0, count)
    inside = jnp.abs(log_alpha - expected[1]) < 4.6  # where steps are not cut off
    equal([x * inside for x in found], [x * inside for x in expected])
    assert inside.sum() > 25


def test_a_strong_penalty_closes_all_gates():
    weights, grads = drawn(13)
    found = trained(dst.L0(0.5, penalty=100.0, stop=19), weights, grads)
    np.testing.assert_allclose(found[2]["scores"][-1], np.log(1e-2), rtol=1e-6)
    assert not found[1][-1].any()


def test_parts_of_axes_have_no_gate():
    with pytest.raises(ValueError, match="w: a gate belongs to a weight, an input or an output"):
        method = dst.L0(0.5, penalty=0.1, stop=9, structure=dst.Block(2, 2))
        dst.sparsify(optax.sgd(0.1), method).init({"w": jnp.ones((4, 4))})
    with pytest.raises(ValueError, match="drop_rate must lie between 0 and 1, got 1"):
        dst.L0(0.5, penalty=0.1, drop_rate=1.0, stop=9)
