"""Laws of ADMM: a twin in NumPy from the authors' code; its end is better than one-shot pruning."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dst
from tests.runs import QUICK

RANDOM = np.random.default_rng(19)
W = RANDOM.normal(size=(8, 5)).astype(np.float32)
GRADS = RANDOM.normal(size=(9, 8, 5)).astype(np.float32)


def nearest(values, structure):
    """Half of the weights: of all, or of every four inputs."""
    flat = values.T.reshape(-1, 4) if structure else values.reshape(1, -1)
    order = np.argsort(np.argsort(-abs(flat), axis=1, kind="stable"), axis=1)
    kept = np.where(order < flat.shape[1] // 2, flat, 0)
    return kept.reshape(values.T.shape).T if structure else kept.reshape(values.shape)


@pytest.mark.parametrize("structure", [None, dst.NM(2, 4)], ids=["weights", "2:4"])
def test_updates_are_those_of_the_authors_code(structure):
    """``g + penalty (w - z + u)``, SGD with momentum, and every third step ``z`` and ``u``."""
    options = {"structure": structure} if structure else {}
    inner = optax.sgd(0.1, momentum=0.5)
    tx = dst.admm(inner, 0.5, penalty=0.3, every=3, **options)
    params = {"w": jnp.asarray(W), "b": jnp.ones(5)}
    state, step = tx.init(params), jax.jit(tx.update, compiler_options=QUICK)
    w, u, trace = W.astype(float), np.zeros(W.shape), np.zeros(W.shape)
    z = nearest(w, structure)
    np.testing.assert_array_equal(state.split["w"], nearest(W, structure))
    for count, grad in enumerate(GRADS, 1):
        updates, state = step({"w": jnp.asarray(grad), "b": jnp.ones(5)}, state, params)
        params = optax.apply_updates(params, updates)
        trace = 0.5 * trace + grad + 0.3 * (w - z + u)
        w = w - 0.1 * trace
        if count % 3 == 0:
            z = nearest(w + u, structure)
            u = u + w - z
        np.testing.assert_allclose(params["w"], w, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(state.split["w"], z, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(state.dual["w"], u, rtol=1e-4, atol=1e-5)
    assert int(np.count_nonzero(state.split["w"])) == 20
    plain, _ = inner.update({"b": jnp.ones(5)}, inner.init({"b": jnp.ones(5)}))
    assert isinstance(state.split["b"], optax.MaskedNode) and plain["b"].shape == (5,)


def test_its_end_is_better_than_pruning_the_optimum():
    """Least squares with inputs that are alike: which weights are needed depends on the others."""
    mixed = RANDOM.normal(size=(64, 3)) @ RANDOM.normal(size=(3, 12))
    x = (mixed + 0.3 * RANDOM.normal(size=(64, 12))).astype(np.float32)
    y = (x @ RANDOM.normal(size=(12, 4))).astype(np.float32)

    def loss(w):
        return jnp.square(x @ w - y).mean()

    def trained(tx, steps):
        params = {"w": jnp.zeros((12, 4))}
        state = tx.init(params)

        def step(carry, _):
            params, state = carry
            updates, state = tx.update({"w": jax.grad(loss)(params["w"])}, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), None, steps)[0][0]

    pruned = [
        dst.prune(jax.jit(lambda tx=tx: trained(tx, 1500))(), 0.75)[0]["w"]
        for tx in (optax.adam(0.02), dst.admm(optax.adam(0.02), 0.75, penalty=0.5, every=16))
    ]
    assert all(int(np.count_nonzero(w)) == 12 for w in pruned)
    assert float(loss(pruned[1])) < 0.7 * float(loss(pruned[0]))


def test_bad_input_is_named():
    for settings in ({"penalty": 0.0}, {"every": 0}):
        with pytest.raises(ValueError, match="of admm must be"):
            dst.admm(optax.sgd(0.1), 0.5, **settings)
    with pytest.raises(ValueError, match="sparsity must be"):
        dst.admm(optax.sgd(0.1), 1.0)
    with pytest.raises(ValueError, match="layer by layer"):
        dst.admm(optax.sgd(0.1), 0.5, allocation="global")
    tx = dst.admm(optax.sgd(0.1), 0.5)
    params = {"w": jnp.ones((4, 2))}
    with pytest.raises(ValueError, match="admm needs the parameters"):
        tx.update(params, tx.init(params))
    with pytest.raises(ValueError, match="needs inputs in multiples of 4"):
        dst.admm(optax.sgd(0.1), 0.5, structure=dst.NM(2, 4)).init({"w": jnp.ones((6, 2))})
