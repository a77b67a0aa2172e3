"""Laws of ``sparsify``: one Optax transformation that keeps a network exactly sparse."""

from __future__ import annotations

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import dst
from dst.engine.state import sparse_states
from tests.runs import QUICK, DictRun, X, compilations, error, forward, initial_params, quick

RIGL = dst.RigL(0.75, allocation="uniform", every=4, stop=100)
SET = dst.SET(0.75, allocation="uniform", every=4, stop=100)


def loss(params):
    return error(forward(params, X))


def stepper(tx, **update):
    """A jitted step; ``topology`` is static."""

    @partial(jax.jit, static_argnames="topology", compiler_options=QUICK)
    def step(params, state, topology=None):
        updates, state = tx.update(
            jax.grad(loss)(params), state, params, topology=topology, **update
        )
        return optax.apply_updates(params, updates), state

    return step


def start(tx, params=None):
    params = initial_params() if params is None else params
    state = tx.init(params)
    return dst.apply_masks(params, state), state


def train(tx, steps, flags=True, params=None):
    """Parameters and state after some steps; with static flags, or by the count."""
    params, state = start(tx, params)
    step = stepper(tx)
    for count in range(steps):
        params, state = step(params, state, topology=tx.fires(count) if flags else None)
    return params, state


def assert_equal_trees(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


# Exact zeros


def test_inactive_weights_are_exactly_zero_whatever_the_update_is():
    """``p + (-p)`` is zero for every finite weight, after any inner optimizer."""
    noise = optax.stateless(lambda updates, params: jax.tree.map(lambda u: u + 0.1, updates))
    tx = dst.sparsify(optax.chain(optax.sgd(0.1), noise), RIGL)
    params, state = train(tx, 6)
    for path, mask in dst.masks(state).items():
        weights = params[path.split("/")[0]]["kernel"]
        assert bool(jnp.all(weights[~mask] == 0))
        assert bool(jnp.all(weights[mask] != 0))


@pytest.mark.parametrize("scale", [1e-38, 1.0, 1e30])
def test_a_forgotten_apply_masks_heals_at_the_first_update(scale):
    tx = quick(dst.sparsify(optax.sgd(0.1), dst.Static(0.75)))
    params = jax.tree.map(lambda x: x * scale, initial_params())
    state = tx.init(params)
    grads = jax.tree.map(jnp.ones_like, params)
    updates, state = tx.update(grads, state, params)
    dst.check_invariants(state, optax.apply_updates(params, updates))


def test_apply_masks_zeroes_the_inactive_and_touches_nothing_else():
    tx = dst.sparsify(optax.sgd(0.1), dst.Static(0.75))
    params = initial_params()
    state = tx.init(params)
    sparse = dst.apply_masks(params, state)
    for name in ("hidden", "out"):
        mask = dst.masks(state)[f"{name}/kernel"]
        wanted = np.where(mask, params[name]["kernel"], 0)
        np.testing.assert_array_equal(sparse[name]["kernel"], wanted)
        np.testing.assert_array_equal(sparse[name]["bias"], params[name]["bias"])


def test_averages_of_parameters_pass_through_apply_masks():
    tx = dst.sparsify(optax.sgd(0.1, momentum=0.9), RIGL)
    params, state = start(tx)
    step, average = stepper(tx), params
    for count in range(10):
        params, state = step(params, state, topology=tx.fires(count))
        average = optax.incremental_update(params, average, 0.1)
    with pytest.raises(dst.InvariantError, match="averages"):
        dst.check_invariants(state, average)
    dst.check_invariants(state, dst.apply_masks(average, state))


# Growth


WITH_MOMENTS = {
    "adam": optax.adam(1e-2),
    "momentum": optax.sgd(0.1, momentum=0.9),
    "lion": optax.lion(1e-3),
    "amsgrad": optax.amsgrad(1e-2),
}


@pytest.mark.parametrize(
    ("inner", "update_weights"),
    [
        pytest.param(x, weights, marks=[] if x == "adam" else pytest.mark.evidence)
        for x in WITH_MOMENTS
        for weights in (True, False)
    ],
)
def test_grown_weights_start_at_zero_with_zero_moments(inner, update_weights):
    method = dst.SET(0.75, every=4, stop=100, drop_fraction=0.5, update_weights=update_weights)
    tx = dst.sparsify(WITH_MOMENTS[inner], method)
    step = stepper(tx)
    params, state = train(tx, 4)
    before = dst.masks(state)
    params, state = step(params, state, topology=True)
    grown = 0
    for path, mask in dst.masks(state).items():
        new = mask & ~before[path]
        grown += int(new.sum())
        name = path.split("/")[0]
        assert bool(jnp.all(params[name]["kernel"][new] == 0))
        slots = [x for x in jax.tree.leaves(state.inner_state) if x.shape == mask.shape]
        assert slots
        for slot in slots:
            assert bool(jnp.all(slot[new] == 0))
    assert grown > 10


def test_moments_of_dropped_weights_do_not_return_with_them():
    """A weight that is grown again must not move along momentum from its former life."""
    params = {"w": jnp.array([[1.0, 2.0, 3.0, 4.0]])}
    first = {"w": jnp.array([[True, True, True, False]])}
    method = dst.RigL(0.25, drop_fraction=0.34, every=1, stop=100, decay="constant")
    tx = quick(dst.sparsify(optax.sgd(1e-3, momentum=0.9), method, initial=first))
    params, state = start(tx, params)

    def move(gradient, topology):
        nonlocal params, state
        grads = {"w": jnp.array([gradient])}
        updates, state = tx.update(grads, state, params, topology=topology)
        params = optax.apply_updates(params, updates)

    move([5.0, 0.0, 0.0, 0.0], False)  # momentum at weight 0
    move([0.0, 0.0, 0.0, 9.0], True)  # weight 0 is the smallest: dropped; weight 3 grows
    assert dst.masks(state)["w"].tolist() == [[False, True, True, True]]
    move([9.0, 0.0, 0.0, 0.0], True)  # weight 3, still zero, is dropped; weight 0 grows again
    assert dst.masks(state)["w"].tolist() == [[True, True, True, False]]
    move([0.0, 0.0, 0.0, 0.0], False)
    assert float(params["w"][0, 0]) == 0.0


@pytest.mark.parametrize("regrown", ["keep", "zero"])
def test_a_weight_dropped_and_grown_at_once_keeps_its_value_or_starts_at_zero(regrown):
    params = {"w": jnp.array([[0.5, 2.0, 3.0, 0.0]])}
    method = dst.RigL(
        0.25, drop_fraction=0.34, every=1, stop=100, decay="constant", regrow_value=regrown
    )
    tx = quick(dst.sparsify(optax.sgd(0.1), method, initial={"w": params["w"] != 0}))
    state = tx.init(params)
    updates, state = tx.update({"w": jnp.array([[9.0, 0.0, 0.0, 1.0]])}, state, params)
    updates, state = tx.update(
        {"w": jnp.array([[9.0, 0.0, 0.0, 1.0]])}, state, params, topology=True
    )
    weights = optax.apply_updates(params, updates)["w"]
    assert dst.masks(state)["w"].tolist() == [[True, True, True, False]]
    np.testing.assert_array_equal(weights, [[0.5 if regrown == "keep" else 0.0, 2.0, 3.0, 0.0]])


def test_kept_weights_with_zero_score_stay():
    """An active weight that is exactly zero is no candidate for growth, and is not lost."""
    weights = jnp.zeros((4, 4)).at[0, 0].set(1.0)
    mask = jnp.arange(16).reshape(4, 4) % 2 == 0
    method = dst.SET(0.5, drop_fraction=0.25, every=1, stop=100)
    tx = quick(dst.sparsify(optax.sgd(0.0), method, initial={"w": mask}))
    params, state = {"w": weights}, tx.init({"w": weights})
    for _ in range(6):
        before = dst.masks(state)["w"]
        updates, state = tx.update({"w": jnp.zeros((4, 4))}, state, params, topology=True)
        after = dst.masks(state)["w"]
        assert int(after.sum()) == 8
        assert int((after & before).sum()) >= 6
        assert bool(after[0, 0])


# Counts and cadence


def test_counts_are_those_of_the_schedule_at_every_step():
    method = dst.GMP(0.9, every=3, start=2, stop=10)
    tx = dst.sparsify(optax.sgd(0.1), method)
    params, state = start(tx)
    step = stepper(tx)
    counts = iter(tx.plan(params).sparse["hidden/kernel"].counts[:, 1].tolist())
    expected, history = 128, []
    for count in range(13):
        params, state = step(params, state, topology=tx.fires(count))
        expected = next(counts) if count in (2, 5, 8, 10) else expected
        assert int(dst.masks(state)["hidden/kernel"].sum()) == expected
        assert int(state.active["hidden"]["kernel"]) == expected
        history.append(expected)
    # floor(s 128) of s = 0, .9 (1 - (5/8)^3), .9 (1 - (2/8)^3), .9
    assert history[2:] == [128, 128, 128, 41, 41, 41, 15, 15, 13, 13, 13]
    dst.check_invariants(state, params)


@pytest.mark.parametrize("method", [RIGL, SET, dst.GMP(0.75, every=4, start=4, stop=12)])
def test_the_static_flag_equals_the_cond_path(method):
    tx = dst.sparsify(optax.sgd(0.1, momentum=0.9), method)
    params, state = train(tx, 14, flags=True)
    by_count, other = train(tx, 14, flags=False)
    assert_equal_trees(state.masks, other.masks)
    assert_equal_trees(state.topology, other.topology)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), params, by_count)
    dst.check_invariants(other, by_count)


def test_a_flag_on_the_device_decides_too():
    tx = dst.sparsify(optax.sgd(0.1), RIGL)
    params, state = start(tx)
    step = jax.jit(lambda p, s, flag: tx.update(jax.grad(loss)(p), s, p, topology=flag))
    for flag in (False, True, False, True):
        updates, state = step(params, state, jnp.array(flag))
        params = optax.apply_updates(params, updates)
    assert int(state.topology.done) == 2


def test_nothing_is_compiled_after_the_first_two_programs():
    run = DictRun(dst.sparsify(optax.adam(1e-2), RIGL))
    run.step(False)
    run.step(True)
    with compilations() as compiled:
        for count in range(2, 12):
            run.step(count % 4 == 0)
    assert compiled.count == 0
    assert run.program._cache_size() <= 2


def test_the_hot_step_contains_no_selection():
    tx = dst.sparsify(optax.adam(1e-2), RIGL)
    params, state = start(tx)
    grads = jax.tree.map(jnp.ones_like, params)

    def text(topology):
        step = jax.jit(partial(tx.update, topology=topology))
        return step.lower(grads, state, params).as_text()

    assert "while" in text(True)
    assert "while" not in text(False)


def test_donation_works_from_the_very_first_state():
    """No buffer is in the state twice."""
    for method in (RIGL, dst.GMP(0.75, every=4, start=4, stop=12), dst.Static(0.75), dst.Dense()):
        tx = dst.sparsify(optax.adam(1e-2), method)
        params, state = start(tx)
        leaves = jax.tree.leaves((params, state))
        assert len({x.unsafe_buffer_pointer() for x in leaves}) == len(leaves)


def test_a_state_passes_through_lax_scan():
    tx = dst.sparsify(optax.adam(1e-2), RIGL)
    params, state = start(tx)

    def body(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), state.topology.done

    (params, state), done = jax.jit(
        lambda c: jax.lax.scan(body, c, length=14), compiler_options=QUICK
    )((params, state))
    assert done.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 2
    dst.check_invariants(state, params)


def test_runs_with_many_seeds_share_one_program():
    """Under vmap, with the flag, each run is the one that its seed gives alone."""

    def begin(seed):
        params = initial_params()
        state = dst.sparsify(optax.sgd(0.1), SET, seed=seed).init(params)
        return dst.apply_masks(params, state), state

    tx = dst.sparsify(optax.sgd(0.1), SET)
    step = stepper(tx)

    def masks(begin, step, seed):
        params, state = begin(seed)
        for count in range(9):
            params, state = step(params, state, tx.fires(count))
        return dst.masks(state)

    seeds = jnp.arange(3, dtype=jnp.uint32)
    together = masks(
        jax.vmap(begin),
        lambda params, state, flag: jax.vmap(partial(step, topology=flag))(params, state),
        seeds,
    )
    for i, seed in enumerate(seeds):
        alone = masks(begin, step, seed)
        assert_equal_trees({path: mask[i] for path, mask in together.items()}, alone)
    assert not np.array_equal(together["hidden/kernel"][0], together["hidden/kernel"][1])


# Densities without zeros


DENSE = {
    "Dense": dst.Dense(),
    "static": dst.Static(0.0),
    "rigl": dst.RigL(0.0, every=2, stop=100),
    "gmp": dst.GMP(0.0, every=2, start=2, stop=100),
}


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize(
    "inner", [optax.adamw(1e-2), optax.sgd(0.1, momentum=0.9), optax.lion(1e-3)]
)
def test_density_one_equals_the_inner_optimizer_bit_for_bit(name, inner):
    tx = dst.sparsify(inner, DENSE[name])
    params = expected = initial_params()
    state, bare = tx.init(params), inner.init(expected)
    gradient = jax.jit(jax.grad(loss))
    for _ in range(4):
        updates, state = tx.update(gradient(params), state, params)
        params = optax.apply_updates(params, updates)
        updates, bare = inner.update(gradient(expected), bare, expected)
        expected = optax.apply_updates(expected, updates)
    assert_equal_trees(params, expected)
    assert_equal_trees(state.inner_state, bare)
    assert dst.masks(state) == {}


def test_masks_that_are_all_true_equal_the_inner_optimizer_bit_for_bit():
    inner = optax.adamw(1e-2)
    params = expected = initial_params()
    full = {f"{name}/kernel": jnp.ones(params[name]["kernel"].shape, bool) for name in params}
    tx = dst.sparsify(inner, dst.FromMasks(full))
    state, bare = tx.init(params), inner.init(expected)
    for _ in range(4):
        grads = jax.tree.map(jnp.sin, params)
        updates, state = tx.update(grads, state, params)
        expected_updates, bare = inner.update(grads, bare, expected)
        assert_equal_trees(updates, expected_updates)
        params = optax.apply_updates(params, updates)
        expected = optax.apply_updates(expected, expected_updates)


# Initial connections


def test_a_run_may_start_from_the_largest_weights_of_a_checkpoint():
    params = initial_params()
    tx = dst.sparsify(optax.sgd(0.1), dst.Static(0.75, allocation="uniform"), initial="magnitude")
    mask = dst.masks(tx.init(params))["hidden/kernel"]
    size = jnp.abs(params["hidden"]["kernel"])
    assert int(mask.sum()) == 32
    assert float(size[mask].min()) >= float(size[~mask].max())


def test_a_run_may_start_from_masks_whose_counts_it_keeps():
    initial = {"hidden/kernel": np.random.default_rng(0).random((8, 16)) < 0.4}
    tx = dst.sparsify(optax.sgd(0.1), SET, initial=initial)
    params, state = start(tx)
    np.testing.assert_array_equal(dst.masks(state)["hidden/kernel"], initial["hidden/kernel"])
    assert dst.masks(state).keys() == initial.keys(), "leaves without a mask are dense"
    params, state = train(tx, 9)
    assert int(dst.masks(state)["hidden/kernel"].sum()) == int(initial["hidden/kernel"].sum())
    assert not np.array_equal(dst.masks(state)["hidden/kernel"], initial["hidden/kernel"])


def test_random_connections_differ_by_seed_and_by_leaf():
    params = {"a": jnp.ones((8, 8)), "b": jnp.ones((8, 8))}

    def masks(seed):
        return dst.masks(dst.sparsify(optax.sgd(0.1), dst.Static(0.5), seed=seed).init(params))

    assert not np.array_equal(masks(0)["a"], masks(0)["b"])
    assert not np.array_equal(masks(0)["a"], masks(1)["a"])
    assert_equal_trees(masks(0), masks(0))


# Randomness


def test_randomness_does_not_depend_on_the_default_generator():
    params = initial_params()
    tx = dst.sparsify(optax.sgd(0.0), SET, seed=3)
    step = jax.jit(partial(tx.update, topology=True), compiler_options=QUICK)

    def masks():
        state = tx.init(params)
        for _ in range(2):
            _, state = step(params, state, params)
        return dst.masks(state)

    usual = masks()
    with jax.default_prng_impl("unsafe_rbg"):
        assert_equal_trees(masks(), usual)


def test_randomness_of_a_leaf_does_not_depend_on_other_leaves():
    params = {"a": jnp.ones((8, 8)), "b": jnp.ones((8, 8))}
    method = dst.SET(0.5, allocation="uniform", every=1, stop=10)

    def masks(params, **options):
        tx = quick(dst.sparsify(optax.sgd(0.0), method, **options))
        state = tx.init(params)
        for _ in range(3):
            _, state = tx.update(params, state, params, topology=True)
        return dst.masks(state)

    both = masks(params)
    assert_equal_trees(masks({"b": params["b"]})["b"], both["b"])
    assert_equal_trees(masks(params, select="b")["b"], both["b"])
    parts = {"train": dst.sparsify(optax.sgd(0.0), method), "freeze": optax.set_to_zero()}
    frozen = quick(optax.partition(parts, {"a": "freeze", "b": "train"}))
    state = frozen.init(params)
    for _ in range(3):
        _, state = frozen.update(params, state, params, topology=True)
    assert_equal_trees(dst.masks(state)["b"], both["b"])


# Types and trees


HALF_INNERS = {"adamw": optax.adamw(1e-2), "sgd": optax.sgd(0.1, momentum=0.9)}
HALF = list(itertools.product(("float32", "bfloat16"), (True, False), HALF_INNERS))
HALF_SHORT = [("float32", False, "sgd"), ("bfloat16", True, "adamw")]  # compilation costs


@pytest.mark.parametrize(
    ("weights", "update_weights", "inner"),
    [pytest.param(*x, marks=[] if x in HALF_SHORT else pytest.mark.evidence) for x in HALF],
)
def test_half_precision_stays_exactly_sparse(weights, update_weights, inner):
    params = jax.tree.map(lambda x: x.astype(weights), initial_params())
    method = dst.RigL(0.75, every=2, stop=100, update_weights=update_weights)
    tx = dst.sparsify(HALF_INNERS[inner], method)
    params, state = start(tx, params)

    @partial(jax.jit, compiler_options=QUICK)
    def step(params, state):
        grads = jax.tree.map(lambda g: g.astype(jnp.bfloat16), jax.grad(loss)(params))
        updates, state = tx.update(grads, state, params)  # both branches of the cond
        return optax.apply_updates(params, updates), state

    for _ in range(6):
        params, state = step(params, state)
        dst.check_invariants(state, params)
    assert int(state.topology.done) == 2
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype(weights)}


def test_counts_are_exact_where_half_precision_could_not_count():
    """Beyond 256, bf16 has no odd integers; 2048 ties of equal weights go to the lowest index."""
    params = {"w": jnp.full((64, 64), 0.5, jnp.bfloat16)}
    tx = dst.sparsify(optax.sgd(0.1), dst.Static(0.5), initial="magnitude")
    mask = dst.masks(tx.init(params))["w"].reshape(-1)
    assert bool(mask[:2048].all()) and not bool(mask[2048:].any())


def test_none_leaves_are_left_alone():
    params = {"w": jnp.ones((4, 4)), "gone": None, "b": jnp.zeros(4)}
    for method in (dst.RigL(0.5, every=1, stop=10), dst.SET(0.5, every=1, stop=10)):
        tx = quick(dst.sparsify(optax.adam(0.1), method))
        params_, state = start(tx, params)
        for flag in (False, True):
            updates, state = tx.update(params_, state, params_, topology=flag)
            params_ = optax.apply_updates(params_, updates)
        assert params_["gone"] is None
        dst.check_invariants(state, params_)


def test_integer_leaves_are_left_alone():
    params = {"w": jnp.ones((4, 4)), "table": jnp.arange(16).reshape(4, 4)}
    tx = dst.sparsify(optax.sgd(0.1), dst.Static(0.5))
    assert dst.masks(tx.init(params)).keys() == {"w"}


def test_stacked_slices_are_layers_of_their_own():
    params = {"layers": jax.random.normal(jax.random.key(0), (3, 8, 8)), "w": jnp.ones((8, 8))}
    method = dst.RigL(0.5, allocation="uniform", every=1, stop=100)
    tx = quick(dst.sparsify(optax.sgd(0.1), method, stacked={"layers": 1}))
    params, state = start(tx, params)
    for flag in (True, False, True):
        grads = jax.tree.map(lambda x: jnp.cos(3 * x), params)
        updates, state = tx.update(grads, state, params, topology=flag)
        params = optax.apply_updates(params, updates)
        assert dst.masks(state)["layers"].sum((1, 2)).tolist() == [32, 32, 32]
    assert state.active["layers"].tolist() == [32, 32, 32]
    assert state.topology.grown["layers"].shape == (3,)
    dst.check_invariants(state, params)


# What goes around and inside


def test_extra_arguments_reach_the_inner_optimizer():
    plateau = optax.contrib.reduce_on_plateau(factor=0.5, patience=1)
    inner = optax.chain(optax.sgd(0.1), plateau)
    tx = quick(dst.sparsify(inner, RIGL))
    params, state = start(tx)
    for flag in (False, False, True, False):
        grads = jax.tree.map(jnp.ones_like, params)
        updates, state = tx.update(grads, state, params, topology=flag, value=1.0)
        params = optax.apply_updates(params, updates)
    assert float(optax.tree.get(state, "scale")) < 1.0
    dst.check_invariants(state, params)


def multi_steps_run(flags, updates=9, every=3):
    method = dst.RigL(0.75, allocation="uniform", every=every, stop=100)
    tx = dst.sparsify(optax.adam(1e-2), method)
    accumulated = optax.MultiSteps(tx, 2)
    params, state = start(accumulated)
    step = stepper(accumulated)
    for micro in range(2 * updates):
        params, state = step(params, state, topology=flags(tx, *divmod(micro, 2)))
    return params, state


def test_every_topology_step_takes_place_under_multi_steps_by_the_count():
    params, state = multi_steps_run(lambda tx, count, rest: None)
    assert int(sparse_states(state)[0].topology.done) == 2
    dst.check_invariants(state, params)


def test_every_topology_step_takes_place_under_multi_steps_with_the_flag():
    params, state = multi_steps_run(lambda tx, count, rest: rest == 1 and tx.fires(count))
    assert int(sparse_states(state)[0].topology.done) == 2
    dst.check_invariants(state, params)


def test_a_flag_lost_inside_multi_steps_is_reported():
    params, state = multi_steps_run(lambda tx, count, rest: rest == 0 and tx.fires(count))
    with pytest.raises(dst.InvariantError, match="2 topology steps were scheduled in 9 updates, 0"):
        dst.check_invariants(state, params)


def test_accumulated_gradients_are_those_of_all_weights():
    """Growth ranks the mean gradient of the micro-steps, inactive weights included."""
    params = {"w": jnp.array([[1.0, 0.0, 0.0, 0.0]])}
    method = dst.RigL(0.75, drop_fraction=1.0, every=1, stop=10, decay="constant")
    tx = dst.sparsify(optax.sgd(0.1), method, initial={"w": params["w"] != 0})
    tx = quick(optax.MultiSteps(tx, 2))
    state = tx.init(params)
    for gradient, flag in (([[0.0, 3.0, 2.0, 0.0]], False), ([[0.0, -3.0, 2.0, 0.0]], True)):
        updates, state = tx.update({"w": jnp.array(gradient)}, state, params, topology=flag)
        params = optax.apply_updates(params, updates)
    assert dst.masks(state)["w"].tolist() == [[False, False, True, False]]


def test_updates_that_are_not_finite_are_held_back_around_it():
    tx = quick(optax.apply_if_finite(dst.sparsify(optax.sgd(0.1), RIGL), max_consecutive_errors=3))
    params, state = start(tx)
    for value in (1.0, jnp.nan, 1.0):
        grads = jax.tree.map(lambda x, v=value: jnp.full_like(x, v), params)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    assert int(sparse_states(state)[0].count) == 2
    dst.check_invariants(state, params)


def test_hyperparameters_may_be_injected_around_a_factory_of_scalars():
    factory = optax.inject_hyperparams(lambda rate: dst.sparsify(optax.sgd(rate), RIGL))
    tx = quick(factory(rate=0.1))
    params, state = start(tx)
    for _ in range(6):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
    assert int(sparse_states(state)[0].topology.done) == 1
    dst.check_invariants(state, params)


def test_several_sparse_states_are_collected_and_merged():
    parts = {
        "a": dst.sparsify(optax.sgd(0.1), dst.Static(0.5)),
        "b": dst.sparsify(optax.adam(0.1), dst.RigL(0.75, every=1, stop=10)),
    }
    tx = quick(optax.partition(parts, {"hidden": "a", "out": "b"}))
    params, state = start(tx)
    assert dst.masks(state).keys() == {"hidden/kernel", "out/kernel"}
    updates, state = tx.update(params, state, params, topology=True)
    dst.check_invariants(state, optax.apply_updates(params, updates))


def outside(wrapper):
    tx = quick(wrapper(dst.sparsify(optax.sgd(0.1), SET)))
    params, state = start(tx)
    updates, state = tx.update(jax.grad(loss)(params), state, params, topology=True)
    return state, optax.apply_updates(params, updates)


@pytest.mark.parametrize(
    "wrapper",
    [
        lambda tx: optax.chain(tx, optax.scale(0.5)),
        lambda tx: optax.chain(tx, optax.add_noise(0.1, 0.5, 0)),
        lambda tx: optax.chain(tx, optax.clip_by_global_norm(1e-3)),
    ],
    ids=["scale", "noise", "clip"],
)
def test_what_rewrites_updates_outside_is_reported(wrapper):
    state, params = outside(wrapper)
    with pytest.raises(dst.InvariantError, match="put dst.sparsify outermost"):
        dst.check_invariants(state, params)


def test_lookahead_outside_is_reported():
    fast = dst.sparsify(optax.sgd(0.5), SET)
    tx = optax.lookahead(fast, sync_period=3, slow_step_size=0.5)
    params = optax.LookaheadParams.init_synced(initial_params())
    state = tx.init(params)
    update = jax.jit(tx.update, compiler_options=QUICK)
    for _ in range(8):
        grads = jax.grad(loss)(params.fast)
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
    with pytest.raises(dst.InvariantError, match="outermost"):
        dst.check_invariants(state, params.slow)


# Looking


def test_the_plan_is_a_printable_start_table():
    tx = dst.sparsify(optax.sgd(0.1), dst.Static(0.75, allocation="uniform"))
    text = str(tx.plan(initial_params()))
    assert "hidden/kernel" in text and "8x16" in text and "32" in text
    assert "bias (by name)" in text and "2 dimensions" in text, "why a leaf is what it is"
    assert "selected: 48 of 192 weights active" in text


def test_explored_connections_only_ever_grow_in_number():
    tx = dst.sparsify(optax.sgd(0.1), SET)
    params, state = start(tx)
    step, before = stepper(tx), dst.explored(state)
    for count in range(13):
        params, state = step(params, state, topology=tx.fires(count))
        after = dst.explored(state)
        for path, mask in dst.masks(state).items():
            assert bool(jnp.all(after[path] | ~before[path]))
            assert bool(jnp.all(after[path] | ~mask))
        before = after
    assert float(dst.metrics(state)["explored"]) > 0.25


def test_nan_scores_are_never_chosen_and_are_reported():
    params = {"w": jnp.ones((4, 4))}
    method = dst.RigL(0.5, drop_fraction=0.5, every=1, stop=10, decay="constant")
    tx = quick(
        dst.sparsify(optax.sgd(0.1), method, initial={"w": jnp.arange(16).reshape(4, 4) < 8})
    )
    params, state = start(tx, params)
    grads = {"w": jnp.ones((4, 4)).at[2:, :2].set(jnp.nan)}
    updates, state = tx.update(grads, state, params, topology=True)
    assert not bool(dst.masks(state)["w"][2:, :2].any())
    assert int(dst.masks(state)["w"].sum()) == 8
    assert int(dst.metrics(state)["unscored"]) == 4
    with pytest.raises(dst.InvariantError, match="w: 4 scores were NaN"):
        dst.check_invariants(state, optax.apply_updates(params, updates))
