"""DSR: a threshold of all layers, and growth where connections survive."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import dst
from dst.rules.accumulators import Observation
from tests.following import EVERY, RATE, SHAPES, STOP, draw, follow
from tests.reference.dsr import DSR
from tests.runs import quick

SIZES = {"a": (400, 100), "b": (600, 20), "c": (200, 80)}  # active, and of these below 1e-3


def test_dsr_equals_its_twin():
    settings = {"exchanged": 20, "threshold": 0.25}
    state, twin = follow(
        dst.DSR(sparsity=0.6, **settings, every=EVERY, stop=STOP),
        lambda layers: DSR(layers, **settings, every=EVERY, stop=STOP, rate=RATE, draw=draw),
    )
    total = sum(a * b - a * b * 6 // 10 for a, b in SHAPES.values())
    assert sum(int(m.sum()) for m in dst.masks(state).values()) == total
    assert len(set(twin.thresholds)) > 2


@pytest.mark.parametrize(("target", "factor"), [(200, 1), (100, 0.5), (250, 2), (182, 1)])
def test_layers_share_the_growth_by_what_survives(target, factor):
    """300, 580 and 120 survive, so 200 new ones are 60, 116 and 24. More than 1.1 times the target
    halves the threshold, fewer than 0.9 times doubles it."""
    params, masks = {}, {}
    for name, (n, small) in SIZES.items():
        weights = np.zeros(2 * n, np.float32)
        weights[:n] = 1.0
        weights[:small] = 1e-4
        params[name] = jnp.asarray(weights.reshape(-1, 20))
        masks[name] = params[name] != 0
    method = dst.DSR(0.5, target, every=1, stop=9)
    tx = quick(dst.sparsify(optax.sgd(0.0), method, initial=masks))
    state = tx.init(params)
    updates, state = tx.update(params, state, params, topology=True)
    found = {name: int(n) for name, n in state.active.items()}
    assert found == {"a": 360, "b": 696, "c": 144}
    for name, mask in dst.masks(state).items():
        grown = mask & ~masks[name]
        assert int(grown.sum()) == int(state.topology.grown[name])
    params = optax.apply_updates(params, updates)
    dst.check_invariants(state, params)
    assert float(state.variables["a"]) == np.float32(1e-3)
    _, state = tx.update(params, state, params, topology=False)
    assert float(state.variables["a"]) == pytest.approx(factor * 1e-3)
    _, state = tx.update(params, state, params, topology=False)
    assert float(state.variables["c"]) == pytest.approx(factor * 1e-3)


def test_a_layer_below_the_threshold_keeps_its_largest_weight():
    params = {"a": jnp.full((4, 4), 1e-4).at[1, 1].set(2e-4), "b": jnp.ones((4, 4))}
    method = dst.DSR(0.5, 4, every=1, stop=9)
    tx = quick(dst.sparsify(optax.sgd(0.0), method, initial="magnitude"))
    state = tx.init(params)
    params = dst.apply_masks(params, state)
    _, after = tx.update(params, state, params, topology=True)
    assert dst.masks(after)["a"][1, 1] and int(after.topology.dropped["a"]) == 7
    assert int(sum(after.active.values())) == 16


def test_dsr_needs_as_many_places_as_it_may_drop():
    with pytest.raises(ValueError, match="at least 0.5, got 0.4"):
        dst.DSR(0.4, 10, every=1)


def test_masks_that_leave_too_few_places_are_refused():
    """Connections that are dropped could not all grow elsewhere, and would be lost."""
    masks = {"a": jnp.ones((4, 4), bool), "b": jnp.eye(4, dtype=bool)}
    params = {name: jnp.ones((4, 4)) for name in masks}
    tx = dst.sparsify(optax.sgd(0.1), dst.DSR(0.5, 4, every=1, stop=9), initial=masks)
    with pytest.raises(ValueError, match="could drop 18 of 20 .* only 12 places are free"):
        tx.init(params)


def test_any_number_of_connections_may_be_the_target():
    observe = dst.DSR(0.5, 2**31 - 1, every=1, stop=9).rule().which.accumulator.observe
    zero = jnp.zeros(())
    now = Observation(zero, zero, zero > 0, jnp.int32(0), jnp.int32(2**31 - 1))
    assert float(observe(jnp.float32(0.5), now)) == 0.5
    assert float(observe(jnp.float32(0.5), now._replace(dropped=jnp.int32(9)))) == 1.0


def test_the_threshold_never_leaves_the_numbers_from_which_it_can_return():
    observe = dst.DSR(0.5, 10, every=1, stop=9).rule().which.accumulator.observe
    zero = jnp.zeros(())
    many = Observation(zero, zero, zero > 0, jnp.int32(0), jnp.int32(100))
    few = many._replace(dropped=jnp.int32(0))

    def after(now, times=300):
        return lax.fori_loop(0, times, lambda _, h: observe(h, now), jnp.float32(1e-3))

    assert float(observe(after(many), few)) > float(after(many)) > 0
    assert np.isfinite(float(after(few)))
