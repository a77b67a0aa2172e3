"""Powerpropagation against the loop with a forward hook that it replaces."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dst
from tests.runs import QUICK, X, error, forward, initial_params

compiled = partial(jax.jit, compiler_options=QUICK)


@pytest.mark.parametrize("alpha", [1.0, 3.0])
def test_powerprop_equals_a_loop_with_a_forward_hook(alpha):
    """``sign(u) |u| ** (1 / alpha)`` at the start, ``w |w| ** (alpha - 1)`` in the forward pass."""
    optimizer = optax.sgd(0.1, momentum=0.9)
    tx = dst.sparsify(optimizer, dst.Powerprop(0.75, alpha, prune=6))
    first = initial_params()

    def hooked(params, masks):
        used = {}
        for n, x in params.items():
            kernel = x["kernel"] * jnp.abs(x["kernel"]) ** (alpha - 1) * masks[n]
            used[n] = {"kernel": kernel, "bias": x["bias"]}
        return error(forward(used, X)), used

    @compiled
    def hook_step(params, state, masks):
        grads, _ = jax.grad(hooked, has_aux=True)(params, masks)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    @compiled
    def our_step(params, state):
        grads = jax.grad(lambda p: error(forward(p, X)))(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def root(u):
        return jnp.sign(u) * jnp.abs(u) ** (1 / alpha)

    theirs = {n: x | {"kernel": root(x["kernel"])} for n, x in first.items()}
    their_state, masks = (
        optimizer.init(theirs),
        {n: np.ones(x["kernel"].shape, np.float32) for n, x in first.items()},
    )
    ours, state = first, compiled(tx.init)(first)
    for count in range(9):
        theirs, their_state = hook_step(theirs, their_state, masks)
        for n in masks:
            size = np.abs(np.asarray(theirs[n]["kernel"]))
            kept = size.size // 4 if count >= 6 else size.size
            masks[n] = (size >= np.sort(size.ravel())[-kept]).astype(np.float32)
        ours, state = our_step(ours, state)
        _, used = hooked(theirs, masks)
        for n, x in used.items():
            np.testing.assert_array_equal(dst.masks(state)[f"{n}/kernel"], masks[n] > 0)
            np.testing.assert_allclose(ours[n]["kernel"], x["kernel"], rtol=1e-4, atol=1e-6)
    assert float(dst.metrics(state, ours)["sparsity"]) == 0.75
    dst.check_invariants(state, ours)


def test_a_power_below_one_is_refused():
    with pytest.raises(ValueError, match=r"alpha must be at least 1, got 0.5"):
        dst.Powerprop(0.5, alpha=0.5, prune=3)


def test_blocks_are_ranked_by_the_weights_in_use():
    """Of w, 0.81 + 0 is more than 0.36 + 0.36; of theta, 0.9 is less than 1.2."""
    params = {"w": jnp.array([[0.81, 0.0, 0.36, 0.36]])}
    method = dst.Powerprop(0.5, prune=0, structure=dst.Block(1, 2))
    tx = dst.sparsify(optax.sgd(0.0), method)
    state = tx.init(params)
    _, state = compiled(tx.update)(params, state, params)
    assert dst.masks(state)["w"].tolist() == [[True, True, False, False]]
