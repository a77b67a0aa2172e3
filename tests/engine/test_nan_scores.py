"""A layer whose scores are no numbers keeps its connections, under every method."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dst
from dst.core.selection import top_k_masks_and_short
from dst.engine.state import by_path
from tests.engine.test_conformance import EVERY, EVERYTHING
from tests.runs import SHAPES

POISONED = next(iter(SHAPES))


def poisoned(tree):
    """The same with one layer that is all NaN."""
    return tree | {POISONED: jnp.full_like(tree[POISONED], jnp.nan)}


@pytest.mark.parametrize("where", ["gradients", "weights"])
@pytest.mark.parametrize("method", sorted(set(EVERYTHING) - {"dense", "from_masks", "static"}))
def test_no_layer_loses_its_connections(method, where):
    steps = 4 * EVERY
    tx = dst.sparsify(optax.sgd(0.05, momentum=0.9), EVERYTHING[method].method(steps))
    rng = np.random.default_rng(0)
    params = {p: jnp.asarray(rng.normal(size=s), jnp.float32) for p, s in SHAPES.items()}
    state = tx.init(params)
    params = dst.apply_masks(params, state)
    update = jax.jit(tx.update, static_argnames="topology")
    bad = False
    for count in range(steps):
        grads = {p: jnp.asarray(rng.normal(size=s), jnp.float32) for p, s in SHAPES.items()}
        bad |= count >= 2 * EVERY - 2
        if bad and where == "gradients":
            grads = poisoned(grads)
        if bad and where == "weights":
            params = poisoned(params)
        before = dst.masks(state)
        updates, state = update(grads, state, params, topology=tx.fires(count))
        params = optax.apply_updates(params, updates)
        unscored, scheduled = by_path(state.topology.unscored), by_path(state.topology.scheduled)
        for path, mask in dst.masks(state).items():
            assert int(mask.sum()) > 0, (path, count)
            if int(mask.sum()) != int(scheduled[path].sum()):
                assert int(unscored[path]) > 0, (path, count)
                np.testing.assert_array_equal(mask, before[path], err_msg=f"{path} at {count}")


def test_the_report_says_that_connections_stayed():
    method = dst.GMP(0.5, allocation="uniform", every=1, start=0, stop=2)
    tx = dst.sparsify(optax.sgd(0.1), method)
    params = {"w": jnp.full((4, 4), jnp.nan)}
    _, state = tx.update({"w": jnp.ones((4, 4))}, tx.init(params), params, topology=True)
    assert dst.masks(state)["w"].all()
    with pytest.raises(dst.InvariantError, match="w: 16 scores were NaN .* connections stay"):
        dst.check_invariants(state, {"w": jnp.ones((4, 4))})


def test_a_group_without_enough_candidates_is_named():
    """By pairs (groups of 4) and by counting (groups of 40) alike."""
    for size in (4, 40):
        scores = jnp.ones((3, size)).at[1, : size - 1].set(jnp.nan)
        masks, short = top_k_masks_and_short([scores], [2], [None], [(0,)])
        np.testing.assert_array_equal(short[0].ravel(), [False, True, False])
        np.testing.assert_array_equal(masks[0].sum(1), [2, 1, 2])


def test_of_stacked_layers_only_the_one_without_numbers_stays():
    method = dst.RigL(0.5, drop_fraction=0.5, every=1, stop=10, decay="constant")
    tx = dst.sparsify(optax.sgd(0.1), method, stacked={"w": 1})
    params = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8)), jnp.float32)}
    state = tx.init(params)
    grads = {"w": jnp.ones((2, 8, 8)).at[0].set(jnp.nan)}
    _, after = tx.update(grads, state, params, topology=True)
    moved = dst.masks(after)["w"] != dst.masks(state)["w"]
    np.testing.assert_array_equal(moved.any((1, 2)), [False, True])
    assert int(dst.metrics(after)["dropped"]) == int(dst.metrics(after)["grown"]) > 0
