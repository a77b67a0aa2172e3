"""Laws of N:M methods that train dense latent weights: steps worked out by hand."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optax

import dst
from tests.reference import transposable as loops
from tests.runs import quick

BLOCK = np.array([[7, 3, 1, 7], [5, 0, 0, 7], [8, 1, 8, 9], [1, 1, 1, 3]], np.float32) / 10
BEST = np.array([[1, 1, 0, 0], [1, 0, 0, 1], [0, 0, 1, 1], [0, 1, 1, 0]], bool)
# After a step of SGD with rate 1, gradients 0.1 and decay 0.1: active weights lose 0.1, pruned ones
# 0.1 + 0.1 w.
MOVED = [
    [0.6, 0.2, -0.01, 0.53],
    [0.4, -0.1, -0.1, 0.6],
    [0.62, -0.01, 0.7, 0.8],
    [-0.01, 0, 0, 0.17],
]


def test_t_sr_ste_moves_dense_weights_as_worked_out_by_hand():
    """And keeps its mask until ``every`` steps are done."""
    tx = quick(dst.sparsify(optax.sgd(1.0), dst.TSRSTE(decay=0.1, every=2)))
    params = {"w": jnp.asarray(BLOCK)}
    state = tx.init(params)
    params = dst.apply_masks(params, state)
    np.testing.assert_array_equal(params["w"], np.where(BEST, BLOCK, 0))
    updates, state = tx.update({"w": jnp.full((4, 4), 0.1)}, state, params)
    params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(state.variables["w"]["latent"], MOVED, atol=1e-6)
    np.testing.assert_allclose(params["w"], np.where(BEST, MOVED, 0), atol=1e-6)
    # A pruned weight that becomes large comes in at the second step, and others make room.
    updates, state = tx.update({"w": jnp.zeros((4, 4)).at[0, 3].set(-1)}, state, params)
    params = optax.apply_updates(params, updates)
    dense = np.where(BEST, MOVED, np.float32(0.9) * np.float32(MOVED))
    dense[0, 3] += 1
    mask = loops.exact(np.abs(dense), 2)
    assert mask[0, 3] and not BEST[0, 3] and (BEST & ~mask).any()
    np.testing.assert_array_equal(dst.masks(state)["w"], mask)
    np.testing.assert_allclose(params["w"], np.where(mask, dense, 0), atol=1e-6)
    assert (mask.sum(0) == 2).all() and (mask.sum(1) == 2).all()
