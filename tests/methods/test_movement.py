"""Movement pruning: scores by hand, and the loop with a forward hook that it replaces."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import dst
from tests.runs import QUICK, X, error, forward, initial_params, quick


def test_scores_by_hand():
    """One step of gradient descent at the rate 1: those that move away from zero gain."""
    tx = quick(dst.sparsify(optax.sgd(1.0), dst.Movement(0.5, start=0, stop=1)))
    params = {"w": jnp.array([[1.0], [-1], [0.5], [-0.5]])}
    state = tx.init(params)
    assert dst.masks(state)["w"].all() and not state.variables["w"]["scores"].any()
    grads = {"w": jnp.array([[0.2], [0.2], [-0.4], [0.1]])}
    _, state = tx.update(grads, state, params)
    scores = state.variables["w"]["scores"][:, 0]
    np.testing.assert_allclose(scores, [-0.2, 0.2, 0.2, 0.05], atol=1e-7)
    assert dst.masks(state)["w"].all()  # the sparsity rises from the count of the first stage on
    _, state = tx.update(jax.tree.map(jnp.zeros_like, grads), state, params)
    assert dst.masks(state)["w"][:, 0].astype(int).tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("inner", ["sgd", "adamw"])
def test_movement_equals_a_loop_with_a_forward_hook(inner):
    """``w (mask + s - stop(s))``: one optimizer trains weights and scores, one mask per layer."""
    optimizer = optax.sgd(0.05, momentum=0.9) if inner == "sgd" else optax.adamw(1e-2)
    method = dst.Movement(0.75, start=2, stop=10)
    tx = dst.sparsify(optimizer, method)
    rule, names = method.rule(), ("hidden", "out")

    def kept(size, count):
        share = rule.ramp(sum(count >= s for s in rule.stages))
        return size - int(share * size * 3 / 4)

    def hooked(params, masks):
        used = {}
        for n, x in params.items():
            through = masks[n] + x["scores"] - lax.stop_gradient(x["scores"])
            used[n] = {"kernel": x["kernel"] * through, "bias": x["bias"]}
        return error(forward(used, X))

    @partial(jax.jit, compiler_options=QUICK)
    def hook_step(params, state, masks):
        grads = jax.grad(hooked)(params, masks)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    @partial(jax.jit, compiler_options=QUICK)
    def our_step(params, state):
        grads = jax.grad(lambda p: error(forward(p, X)))(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    first = initial_params()
    theirs = {n: x | {"scores": jnp.zeros_like(x["kernel"])} for n, x in first.items()}
    their_state = optimizer.init(theirs)
    masks = {n: jnp.ones_like(first[n]["kernel"]) for n in names}
    ours, state = first, tx.init(first)
    for count in range(14):
        theirs, their_state = hook_step(theirs, their_state, masks)
        for n in names:
            s = np.asarray(theirs[n]["scores"])
            order = np.argsort(-s.ravel(), kind="stable")[: kept(s.size, count)]
            flat = np.zeros(s.size, np.float32)
            flat[order] = 1
            masks[n] = jnp.asarray(flat.reshape(s.shape))
        ours, state = our_step(ours, state)
        for n in names:
            np.testing.assert_array_equal(dst.masks(state)[f"{n}/kernel"], masks[n] > 0)
            np.testing.assert_allclose(
                ours[n]["kernel"], theirs[n]["kernel"] * masks[n], rtol=2e-5, atol=1e-6
            )
            np.testing.assert_allclose(ours[n]["bias"], theirs[n]["bias"], rtol=2e-5, atol=1e-6)
    assert float(dst.metrics(state, ours)["sparsity"]) == 0.75
    dst.check_invariants(state, ours)


def test_trained_scores_need_latent_weights_that_stay():
    rule = dst.Movement(0.5, start=0, stop=9).rule()
    for changes in ({"backward_sparsity": 0.2}, {"keep_latent": False}):
        with pytest.raises(ValueError, match="trained scores need latent variables"):
            replace(rule, **changes)
