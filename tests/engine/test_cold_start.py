"""What the inner optimizer remembers of grown weights, and their first steps under Adam."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import dst
from dst.engine import cold_start
from dst.engine.masks import active, age, explored, first_masks, next_masks
from tests.runs import initial_params

ADAM = {"b1": 0.9, "b2": 0.999}
PATHS = {"hidden/kernel", "hidden/bias", "out/kernel", "out/bias"}

ADAM_LIKE = {
    "adam": optax.adam(1e-3),
    "adamw": optax.adamw(1e-3),
    "chain": optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3)),
    "inject": optax.inject_hyperparams(optax.adamw)(learning_rate=1e-3),
    "nadam": optax.nadam(1e-3),
    "schedule_free": optax.contrib.schedule_free(optax.adam(1e-3), learning_rate=1e-3),
    "schedule": optax.adam(optax.cosine_decay_schedule(1e-3, 100)),
}

NOT_ADAM_LIKE = {
    "sgd": optax.sgd(1e-3, momentum=0.9),
    "lion": optax.lion(1e-3),
    "adafactor": optax.adafactor(1e-3),
    "adamax": optax.adamax(1e-3),
}


@pytest.mark.parametrize("name", ADAM_LIKE)
def test_decays_of_adam_like_rules_are_measured(name):
    decays = cold_start.adam_decays(ADAM_LIKE[name], initial_params())
    assert decays.keys() == PATHS
    for b1, b2 in decays.values():
        assert b1 == pytest.approx(0.9, abs=1e-6) and b2 == pytest.approx(0.999, abs=1e-6)


@pytest.mark.parametrize(("b1", "b2"), [(0.9, 0.95), (0.5, 0.98), (0.95, 0.9999)])
def test_decays_are_those_that_were_chosen(b1, b2):
    rates = cold_start.adam_decays(optax.adamw(3.0, b1=b1, b2=b2), initial_params())
    for decays in rates.values():
        np.testing.assert_allclose(decays, (b1, b2), rtol=1e-5)


@pytest.mark.parametrize("name", NOT_ADAM_LIKE)
def test_no_decays_are_measured_where_the_rule_is_not_adams(name):
    assert cold_start.adam_decays(NOT_ADAM_LIKE[name], initial_params()) == {}


def test_each_part_of_a_partition_has_its_own_decays():
    labels = {"hidden": {"kernel": "a", "bias": "c"}, "out": {"kernel": "b", "bias": "c"}}
    parts = {"a": optax.adam(1e-3), "b": optax.adam(1e-3, b2=0.95), "c": optax.sgd(1e-3)}
    decays = cold_start.adam_decays(optax.partition(parts, labels), initial_params())
    assert decays.keys() == {"hidden/kernel", "out/kernel"}
    np.testing.assert_allclose(decays["hidden/kernel"], (0.9, 0.999), rtol=1e-5)
    np.testing.assert_allclose(decays["out/kernel"], (0.9, 0.95), rtol=1e-5)


SLOTS = {
    "momentum": (optax.sgd(1e-3, momentum=0.9), 1),
    "adam": (optax.adam(1e-3), 2),
    "lion": (optax.lion(1e-3), 1),
    "amsgrad": (optax.amsgrad(1e-3), 3),
    "nested": (optax.chain(optax.clip(1.0), optax.inject_hyperparams(optax.adam)(1e-3)), 2),
    "schedule_free": (optax.contrib.schedule_free(optax.sgd(1e-3), learning_rate=1e-3), 1),
    "multi_steps": (optax.MultiSteps(optax.adam(1e-3), 4).gradient_transformation(), 3),
    "partition": (
        optax.partition(
            {"a": optax.adam(1e-3), "b": optax.sgd(1e-3)},
            {"hidden": {"kernel": "a", "bias": "b"}, "out": {"kernel": "b", "bias": "b"}},
        ),
        2,
    ),
}


@pytest.mark.parametrize("name", SLOTS)
def test_every_slot_of_a_parameters_shape_is_zeroed(name):
    inner, slots = SLOTS[name]
    params = initial_params()
    state = jax.tree.map(lambda x: jnp.ones_like(x), inner.init(params))
    where = {
        "hidden": {"kernel": jnp.arange(128).reshape(8, 16) % 3 == 0, "bias": optax.MaskedNode()},
        "out": {"kernel": optax.MaskedNode(), "bias": optax.MaskedNode()},
    }
    after = cold_start.reset(inner, state, where)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    checked = 0
    for value in jax.tree.leaves(after):
        if value.shape == (8, 16):
            checked += 1
            np.testing.assert_array_equal(value, ~where["hidden"]["kernel"])
        else:
            assert bool(jnp.all(value == 1)), "a slot of another parameter was touched"
    assert checked == slots


def test_factored_slots_are_left_alone():
    inner = optax.adafactor(1e-3, min_dim_size_to_factor=4)
    params = initial_params()
    state = jax.tree.map(jnp.ones_like, inner.init(params))
    kernels = {"kernel": True, "bias": False}
    where = jax.tree.map(
        lambda x, sparse: jnp.ones(x.shape, bool) if sparse else optax.MaskedNode(),
        params,
        {"hidden": kernels, "out": kernels},
    )
    for before, after in zip(
        jax.tree.leaves(state), jax.tree.leaves(cold_start.reset(inner, state, where)), strict=True
    ):
        np.testing.assert_array_equal(after, before)


# Moments of weights that are dropped


def after_an_exchange(inner, **changes):
    """Parameters, states before and after a topology step, and the transformation."""
    params = initial_params()
    method = dst.RigL(0.5, drop_fraction=0.5, every=4, stop=100, **changes)
    tx = dst.sparsify(inner, method)
    state = tx.init(params)
    params = dst.apply_masks(params, state)
    before, grads = state, jax.tree.map(jnp.cos, params)
    for count in range(5):
        before = state
        updates, state = tx.update(grads, state, params, topology=tx.fires(count))
        params = optax.apply_updates(params, updates)
    return params, before, state, tx


def trace_of(state):
    return next(x for x in jax.tree.leaves(state.inner_state) if x.shape == (8, 16))


@pytest.mark.parametrize("update_weights", [True, False])
def test_moments_of_dropped_weights_are_zero_or_decay(update_weights):
    """To zero, as ITOP, GraNet and SRigL multiply their buffer by the mask; or by the momentum in
    every optimizer step, as in RigL's TF1 code."""
    inner, settings = optax.sgd(0.1, momentum=0.5), {"update_weights": update_weights}
    for moments, left in (("changed", 0.0), ("grown", 0.5 if update_weights else 1.0)):
        params, before, state, tx = after_an_exchange(inner, moments=moments, **settings)
        old, new = (dst.masks(x)["hidden/kernel"] for x in (before, state))
        dropped = old & ~new
        assert int(dropped.sum()) > 10 and bool(jnp.all(trace_of(before)[dropped] != 0))
        expected = left * trace_of(before)[dropped]
        np.testing.assert_array_equal(trace_of(state)[dropped], expected)
        _, state = tx.update(jax.tree.map(jnp.cos, params), state, params, topology=False)
        np.testing.assert_array_equal(trace_of(state)[dropped], 0.5 * expected)


def test_dropped_weights_do_not_steer_the_others_under_muon():
    """Muon makes one matrix of all moments, so those of dropped weights move the others."""
    steps = {}
    for moments in ("changed", "grown"):
        params, _, state, tx = after_an_exchange(optax.contrib.muon(0.1), moments=moments)
        mask = dst.masks(state)["hidden/kernel"]
        grads = jax.tree.map(jnp.cos, params)
        steps[moments] = tx.update(grads, state, params, topology=False)[0]["hidden"]["kernel"]
    slots = jax.tree.map(
        lambda x: jnp.where(mask, x, 0) if x.shape == mask.shape else x, state.inner_state
    )
    state = state._replace(inner_state=slots)
    masked = tx.update(grads, state, params, topology=False)[0]["hidden"]["kernel"]
    np.testing.assert_array_equal(steps["changed"], masked)
    moved = np.linalg.norm((steps["grown"] - masked)[mask]) / np.linalg.norm(masked[mask])
    assert moved > 0.05


# The size of the step at a weight grown after 5000 updates, in learning rates.

STEPS = 20


def multipliers(method: dst.RigL, count: int = 5000) -> np.ndarray:
    """Updates, in learning rates, of a weight that grows at update ``count``.

    Under a constant gradient of 1. The counts of the run are set, not run through.
    """
    params = {"w": jnp.array([[0.5, 0.25], [0.0, 0.0]])}
    tx = dst.sparsify(optax.adam(1.0), method, initial={"w": params["w"] != 0})
    state = tx.init(params)
    adam, *rest = state.inner_state
    ones = jax.tree.map(jnp.ones_like, params)
    adam = adam._replace(count=jnp.int32(count), mu=ones, nu=ones)
    state = state._replace(count=jnp.int32(count), inner_state=(adam, *rest))
    step = jax.jit(tx.update, static_argnames="topology")
    # The inactive weight (1, 0) has the largest gradient and grows; (0, 1) is dropped.
    grads = {"w": jnp.array([[1.0, 1.0], [9.0, 0.0]])}
    updates, state = step(grads, state, params, topology=True)
    params = optax.apply_updates(params, updates)
    assert bool(dst.masks(state)["w"][1, 0]) and float(params["w"][1, 0]) == 0
    sizes = []
    for _ in range(STEPS):
        updates, state = step(ones, state, params, topology=False)
        params = optax.apply_updates(params, updates)
        sizes.append(-float(updates["w"][1, 0]))
    return np.array(sizes)


def rigl(**changes) -> dst.RigL:
    settings = {"sparsity": 0.5, "drop_fraction": 0.5, "decay": "constant", "every": 100}
    return dst.RigL(**{**settings, "stop": None, **changes})


def global_correction(steps: np.ndarray, count: int) -> np.ndarray:
    """At a finite count: moments of ``steps`` updates, corrected as if of ``count``."""
    b1, b2 = ADAM["b1"], ADAM["b2"]
    return (1 - b1**steps) / (1 - b1**count) * np.sqrt(1 - b2**count) / np.sqrt(1 - b2**steps)


def test_adam_moves_a_grown_weight_several_learning_rates_without_the_remedy():
    factors = multipliers(rigl(cold_start="off", update_weights=True))
    # P1, at a global count of 5000.
    np.testing.assert_allclose(factors[:5], [3.1516, 4.2353, 4.9336, 5.4234, 5.7777], atol=2e-3)
    steps = np.arange(1, STEPS + 1)
    np.testing.assert_allclose(factors, global_correction(steps, 5000 + 1 + steps), rtol=1e-4)
    # Where the correction has vanished: 3.162, 4.250, ... and 6.569 at the twelfth step.
    late = multipliers(rigl(cold_start="off", update_weights=True), count=10**6)
    np.testing.assert_allclose(late[[0, 1, 4, 9]], [3.162, 4.250, 5.797, 6.528], atol=1e-3)
    assert late.argmax() == 11 and late.max() == pytest.approx(6.569, abs=1e-3)


@pytest.mark.parametrize("update_weights", [True, False])
@pytest.mark.parametrize("count", [100, 5000, 10**6])
def test_with_the_local_count_a_grown_weight_moves_one_learning_rate(count, update_weights):
    factors = multipliers(rigl(update_weights=update_weights), count=count)
    np.testing.assert_allclose(factors, np.ones(STEPS), atol=1e-4)


@pytest.mark.parametrize("count", [100, 10**6])
def test_the_warm_up_scales_what_the_local_count_gives(count):
    """SMET's code: a step count of their own for grown weights, and a ramp."""
    factors = multipliers(rigl(cold_start=100, update_weights=True), count=count)
    np.testing.assert_allclose(factors, np.arange(1, STEPS + 1) / 100, rtol=2e-4)


def test_the_warm_up_serves_optimizers_that_are_not_adams():
    params = {"w": jnp.array([[0.5, 0.25], [0.0, 0.0]])}
    tx = dst.sparsify(
        optax.sgd(1.0), rigl(cold_start=4, update_weights=True), initial={"w": params["w"] != 0}
    )
    state = tx.init(params)
    grads = {"w": jnp.array([[1.0, 1.0], [9.0, 0.0]])}
    updates, state = tx.update(grads, state, params, topology=True)
    params = optax.apply_updates(params, updates)
    sizes = []
    for _ in range(6):
        updates, state = tx.update(
            jax.tree.map(jnp.ones_like, params), state, params, topology=False
        )
        params = optax.apply_updates(params, updates)
        sizes.append(-float(updates["w"][1, 0]))
    np.testing.assert_allclose(sizes, [0.25, 0.5, 0.75, 1, 1, 1])


def test_weights_that_were_there_from_the_start_are_not_corrected():
    params, grads = initial_params(), jax.tree.map(jnp.ones_like, initial_params())
    method = dst.RigL(0.5, every=100, stop=1000)
    tx, inner = dst.sparsify(optax.adam(1e-2), method), optax.adam(1e-2)
    state, bare = tx.init(params), inner.init(params)
    params = dst.apply_masks(params, state)
    mask = dst.masks(state)["hidden/kernel"]
    for _ in range(3):
        updates, state = tx.update(grads, state, params, topology=False)
        expected, bare = inner.update(grads, bare, params)
        actual, wanted = updates["hidden"]["kernel"], expected["hidden"]["kernel"]
        np.testing.assert_array_equal(actual[mask], wanted[mask])


def test_a_regrown_weight_is_as_old_as_its_last_growth():
    mask = first_masks(jnp.array([True, False, True, False]))
    assert age(mask).tolist() == [63] * 4
    grown = jnp.array([True, True, False, False])
    mask = next_masks(mask, grown, jnp.array([False, True, False, False]))
    assert age(mask).tolist() == [63, 0, 63, 63]
    assert active(mask).tolist() == grown.tolist()
    assert explored(mask).tolist() == [True, True, True, False]
    for _ in range(70):
        mask = next_masks(mask, grown, jnp.zeros(4, bool))
    assert age(mask).tolist() == [63] * 4


def test_the_local_count_outlives_several_topology_steps():
    """A weight that stays ages by the spacing of topology steps; its step stays one rate."""
    params = {"w": jnp.array([[0.5, 0.25], [0.0, 0.0]])}
    inner = optax.adam(1e-3)
    tx = dst.sparsify(inner, rigl(every=5), initial={"w": params["w"] != 0})
    state = tx.init(params)
    step = jax.jit(tx.update, static_argnames="topology")
    ones, sizes = jnp.ones((2, 2)), []
    for count in range(26):
        fires = tx.fires(count)
        # Weight (1, 0) grows at the first topology step, and nothing changes at later ones.
        wanted = ones.at[1, 0].set(9.0) if fires and count == 5 else ones.at[1, 1].set(0.0)
        if fires and count > 5:
            state = state._replace(
                hyper=state.hyper._replace(counts={"w": jnp.full((1, 2), 2, jnp.int32)})
            )
        updates, state = step({"w": wanted}, state, params, topology=fires)
        params = optax.apply_updates(params, updates)
        if count > 5 and not fires:
            sizes.append(-float(updates["w"][1, 0]) / 1e-3)
    assert int(state.topology.done) == 5
    np.testing.assert_allclose(sizes, np.ones(len(sizes)), atol=1e-4)


@pytest.mark.parametrize("method", [dst.RigL, dst.SET, dst.Reset])
def test_the_remedy_is_on_by_default_and_a_visible_field(method):
    fields = {field.name: field.default for field in dataclasses.fields(method)}
    assert fields["cold_start"] == "local_count"
