"""Laws of N:M methods that train dense latent weights: steps worked out by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

import dst
from dst.core.tree import Leaf
from dst.methods.s_ste import shrunk
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


# Two groups; the second smallest sizes are 0.3 and 0.2, and beta = 0.85 / 0.54.
ROW = np.array([[0.1, -0.9, 0.4, 0.3, -0.05, 0.2, -0.3, 0.6]], np.float32).T
SHRUNK = np.array([[0, -0.6, 0.1, 0, 0, 0, -0.1, 0.4]], np.float32).T
BETA = 0.85 / 0.54


def test_s_ste_shrinks_groups_as_worked_out_by_hand():
    tx = quick(dst.sparsify(optax.sgd(1.0), dst.SSTE()))
    params = {"w": jnp.asarray(ROW)}
    state = tx.init(params)
    params = dst.apply_masks(params, state)
    np.testing.assert_array_equal(params["w"], np.where(SHRUNK, ROW, 0))
    np.testing.assert_allclose(state.variables["w"]["fixed"], [[BETA]], rtol=1e-6)
    updates, state = tx.update({"w": jnp.zeros((8, 1))}, state, params)
    params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["w"], BETA * SHRUNK, atol=1e-6)
    assert abs(float(params["w"][1, 0]) + 0.944444) < 1e-5
    # The first group becomes 0.8, -0.9, 0.4, 0.7: 0.4 leaves, 0.8 enters, and 0.7 is the threshold.
    grads = np.zeros((8, 1), np.float32)
    grads[0], grads[3] = -0.7, -0.4
    updates, state = tx.update({"w": grads}, state, params)
    params = optax.apply_updates(params, updates)
    expected = np.concatenate([[[0.1], [-0.2], [0], [0]], SHRUNK[4:]])
    np.testing.assert_allclose(params["w"], BETA * expected, atol=1e-6)
    np.testing.assert_array_equal(dst.masks(state)["w"][:4, 0], [True, True, False, False])


def test_weights_of_s_ste_do_not_jump_where_connections_change():
    """Two weights of one group exchange their rank; SR-STE's weights jump by 0.5 there."""
    layout = dst.NM(2, 4).layout(leaf_of((4, 1)))

    @jax.jit
    def used(change):
        weight = jnp.stack([1.0, 0.5 + change, 0.5 - change, jnp.float32(0.1)])[:, None]
        size = jnp.abs(layout.pool(weight))
        best = dst.top_k_mask(size, 2, group_axes=layout.group_axes)
        return shrunk(weight, layout.spread(best), layout)

    for change in (1e-2, 1e-4, 1e-6):
        assert float(jnp.abs(used(change) - used(-change)).max()) <= 4 * change


def test_equal_weights_of_s_ste_are_zero_and_their_scale_is_a_number():
    tx = quick(dst.sparsify(optax.sgd(1.0), dst.SSTE()))
    params = {"w": jnp.full((4, 2), 0.4)}
    state = tx.init(params)
    np.testing.assert_array_equal(state.variables["w"]["fixed"], [[1.0]])
    updates, state = tx.update({"w": jnp.zeros((4, 2))}, state, dst.apply_masks(params, state))
    assert not (dst.apply_masks(params, state)["w"] + updates["w"]).any()
    assert dst.masks(state)["w"].sum() == 4


def test_every_layer_of_a_stack_has_its_scale():
    weight = jnp.stack([jnp.asarray(ROW), 3 * jnp.asarray(ROW) + 1])
    tx = quick(dst.sparsify(optax.sgd(1.0), dst.SSTE(), stacked={"w": 1}))
    fixed = tx.init({"w": weight}).variables["w"]["fixed"]
    assert fixed.shape == (2, 1, 1)
    alone = quick(dst.sparsify(optax.sgd(1.0), dst.SSTE()))
    for i in range(2):
        own = alone.init({"w": weight[i]}).variables["w"]["fixed"]
        np.testing.assert_array_equal(fixed[i], own)


def leaf_of(shape):
    return Leaf("w", shape, jnp.float32, True, "", axes="i o")
