"""Pruning before training: in one round or many, by gradients or by what stands in their place."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import dst
import dst.nnx
from tests.following import RATE, SHAPES, draw, follow
from tests.reference.before_training import Rounds
from tests.runs import QUICK, NnxNet, error, forward
from tests.runs import X as NUMBERS

# Twins


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (dst.iterative_snip(0.7, rounds=5), {"rounds": 5}),
        (dst.FORCE(0.7, rounds=5), {"rounds": 5, "score": "force"}),
        (dst.GraSP(0.7), {"rounds": 1, "score": "grasp"}),
        (dst.SynFlow(0.7, rounds=5), {"rounds": 5}),
        (dst.SNIPRatio(0.7), {"rounds": 1, "draw": draw}),
    ],
    ids=["iterative-snip", "force", "grasp", "synflow", "snip-ratio"],
)
def test_rounds_equal_their_twin(method, settings):
    """Layers compete; whatever is given as gradients multiplies the weights."""
    rounds = settings["rounds"]
    state, twin = follow(
        method,
        lambda layers: Rounds(layers, 0.7, rate=RATE, **settings),
        changes=rounds,
        steps=rounds + 3,
    )
    size = sum(a * b for a, b in SHAPES.values())
    assert sum(int(m.sum()) for m in dst.masks(state).values()) == size - size * 7 // 10
    assert (twin.returned > 0) == (settings.get("score") == "force")


@pytest.mark.parametrize("make", [dst.iterative_snip, dst.FORCE, dst.SynFlow])
def test_every_round_takes_the_same_share_of_what_is_left(make):
    """Tanaka et al., arXiv 2006.05467: after round k of n the density is rho ** (-k / n)."""
    rule = make(0.9, rounds=5).rule()
    left = [1 - float(rule.how_many.ramp(count)) * 0.9 for count in range(-1, 5)]
    assert left == pytest.approx([1, 0.630957, 0.398107, 0.251189, 0.158489, 0.1], abs=1e-6)
    assert [rule.fires(count) for count in range(6)] == [True] * 5 + [False]


# GraSP

compiled = partial(jax.jit, compiler_options=QUICK)


def after(tx, grads, params):
    """Updates and state of a topology step at the start."""
    step = compiled(lambda g, p: tx.update(g, tx.init(p), p, topology=True))
    return step(grads, params)


X, Y = jnp.array([[1.0, 1], [2, -1]]), jnp.array([[0.0, 1], [1, 0]])


def loss(params):
    """Half the mean squared error of a linear layer."""
    return jnp.sum((X @ params["w"] - Y) ** 2) / 4


def test_grasp_removes_what_the_gradient_flow_can_do_without():
    """The Hessian of each column is X'X / N. alecwangcq/GraSP removes the largest -w (H g)."""
    params = {"w": jnp.array([[1.0, -2], [0.5, 3]])}
    tx = dst.sparsify(optax.sgd(0.1), dst.GraSP(0.5))
    products = compiled(lambda p: tx.topology_gradients(loss, p))(params)
    gradient = compiled(jax.grad(loss))(params)["w"]
    np.testing.assert_allclose(products["w"], X.T @ X / 2 @ gradient, rtol=1e-6)
    scores = -params["w"] * products["w"]
    np.testing.assert_allclose(scores, [[-2.875, -38.5], [0.0625, -21]], rtol=1e-6)
    updates, state = after(tx, products, params)
    np.testing.assert_array_equal(dst.masks(state)["w"], [[0, 1], [0, 1]])
    np.testing.assert_array_equal(params["w"] + updates["w"], [[0, -2], [0, 3]])


def test_grasp_looks_at_the_gradient_flow_of_selected_weights_alone():
    """alecwangcq/GraSP takes gradient and Hessian of the weights of layers, not of their biases."""
    params = {"w": jnp.array([[1.0, -2], [0.5, 3]]), "b": jnp.array([0.5, -1])}
    tx = dst.sparsify(optax.sgd(0.1), dst.GraSP(0.5))

    def biased(params):
        return jnp.sum((X @ params["w"] + params["b"][None] - Y) ** 2) / 4

    products = compiled(lambda p: tx.topology_gradients(biased, p))(params)
    gradient = compiled(jax.grad(biased))(params)["w"]
    np.testing.assert_allclose(products["w"], X.T @ X / 2 @ gradient, rtol=1e-6)


def test_flax_models_give_what_replaces_gradients():
    model = NnxNet()
    plain = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    optimizer = dst.nnx.Optimizer(model, optax.sgd(0.1), dst.GraSP(0.5))
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def of_model(params):
        return error(nnx.merge(graph, params, rest)(NUMBERS))

    found = compiled(lambda p: optimizer.tx.topology_gradients(of_model, p))(params)
    tx = dst.sparsify(optax.sgd(0.1), dst.GraSP(0.5))
    of_dict = compiled(lambda p: tx.topology_gradients(lambda q: error(forward(q, NUMBERS)), p))
    expected = of_dict(plain)
    for layer in ("hidden", "out"):
        np.testing.assert_allclose(
            found[layer]["kernel"].get_value(), expected[layer]["kernel"], rtol=1e-4, atol=1e-6
        )
    optimizer.update(model, found, topology=True)
    size = sum(x.size for x in (plain["hidden"]["kernel"], plain["out"]["kernel"]))
    assert int(model.hidden.kernel_mask[...].sum() + model.out.kernel_mask[...].sum()) == size // 2


@pytest.mark.parametrize("method", [dst.GraSP(0.0), dst.SynFlow(0.0, rounds=2)])
@pytest.mark.parametrize("traced", [False, True])
def test_at_sparsity_zero_nothing_is_trained_on_what_replaces_gradients(method, traced):
    params = {"w": jnp.ones((4, 4))}
    tx = dst.sparsify(optax.adam(0.1), method)
    step = compiled(lambda g, s, p, topology: tx.update(g, s, p, topology=topology))
    if not traced:
        step = jax.jit(tx.update, static_argnames="topology", compiler_options=QUICK)
    state = tx.init(params)
    for count in range(3):
        given = jnp.bool_(tx.fires(count)) if traced else tx.fires(count)
        updates, state = step(params, state, params, topology=given)
        assert bool(jnp.any(updates["w"] != 0)) == (not tx.fires(count))
        assert int(state.inner_state[0].count) == max(count + 1 - (tx.rule.when.last + 1), 0)
    dst.check_invariants(state, params)


@pytest.mark.parametrize(
    "method",
    [dst.SNIP(0.5), dst.SNIPRatio(0.5), dst.GraSP(0.5), dst.FORCE(0.5, rounds=1)],
    ids=["snip", "snip-ratio", "grasp", "force"],
)
@pytest.mark.parametrize("names", ["a", "ab"])
def test_layers_without_numbers_keep_their_connections(method, names):
    """Layers compete by scores of the first batch, whatever then chooses within them."""
    params = {"a": jnp.ones((4, 4)), "b": jnp.ones((4, 4))}
    tx = dst.sparsify(optax.sgd(0.1), method)
    grads = {n: jnp.full((4, 4), jnp.nan if n in names else 1.0) for n in params}
    updates, state = after(tx, grads, params)
    for name in names:
        assert dst.masks(state)[name].all()
        assert int(state.topology.unscored[name]) >= 16
    with pytest.raises(dst.InvariantError, match=r"a: \d+ scores were NaN"):
        dst.check_invariants(state, optax.apply_updates(params, updates))


def test_more_rounds_than_a_plan_has_rows_for_are_refused():
    with pytest.raises(ValueError, match=r"rounds must be an integer >= 1 and <= 100000"):
        dst.SynFlow(0.5, rounds=100_001)


@pytest.mark.parametrize("method", [dst.GraSP(0.5), dst.SynFlow(0.5)])
def test_the_caller_must_know_when_something_else_replaces_gradients(method):
    params = {"w": jnp.ones((4, 4))}
    tx = dst.sparsify(optax.sgd(0.1), method)
    with pytest.raises(ValueError, match=r"topology_gradients.*topology=True"):
        jax.eval_shape(lambda p: tx.update(p, tx.init(p), p), params)


def test_other_methods_take_the_gradient_itself():
    params = {"w": jnp.array([[1.0, -2], [0.5, 3]])}
    tx = dst.sparsify(optax.sgd(0.1), dst.SNIP(0.5))
    np.testing.assert_array_equal(
        compiled(lambda p: tx.topology_gradients(loss, p))(params)["w"],
        compiled(jax.grad(loss))(params)["w"],
    )


# SynFlow

NETWORK = {"a": jnp.array([[1.0, -2], [3, 0.5]]), "b": jnp.array([[2.0], [-1]])}


def outputs(params):
    """A linear network on an input of ones."""
    return jnp.ones((1, 2)) @ params["a"] @ params["b"]


def test_synflow_scores_are_what_flows_through_a_weight():
    """Two layers by hand: R is 10.5, and so is the sum of the scores of each layer."""
    tx = dst.sparsify(optax.sgd(0.1), dst.SynFlow(0.5, rounds=1))
    flow = compiled(lambda p: tx.topology_gradients(outputs, p))(NETWORK)
    scores = {name: jnp.abs(w * flow[name]) for name, w in NETWORK.items()}
    np.testing.assert_allclose(scores["a"], [[2, 2], [6, 0.5]])
    np.testing.assert_allclose(scores["b"][:, 0], [8, 2.5])
    _, state = after(tx, flow, NETWORK)
    assert dst.masks(state)["a"].tolist() == [[0, 0], [1, 0]]
    assert dst.masks(state)["b"].tolist() == [[1], [1]]


def test_synflow_conserves_flow_prunes_what_is_left_and_empties_no_layer():
    """1.2 % of a network of three layers, of which one is narrow: the paper's axioms."""
    sizes = (20, 2, 30, 5)
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        f"layer{i}": jax.random.normal(key, (n, m)) / n
        for i, (key, n, m) in enumerate(zip(keys, sizes, sizes[1:], strict=False))
    }
    tx = dst.sparsify(optax.sgd(0.1), dst.SynFlow(0.988, rounds=20, min_active=1))
    state = compiled(tx.init)(params)

    def network(params):
        x = jnp.ones((1, 20))
        for w in params.values():
            x = jax.nn.relu(x @ w)
        return x

    @compiled
    def step(state, params):
        flow = tx.topology_gradients(network, params)
        sums = [jnp.sum(jnp.abs(w) * flow[name]) for name, w in params.items()]
        updates, state = tx.update(flow, state, params, topology=True)
        return state, optax.apply_updates(params, updates), jnp.stack(sums)

    before = dst.masks(state)
    for _ in range(20):
        state, params, sums = step(state, params)
        np.testing.assert_allclose(sums, sums[0], rtol=1e-4)
        masks = dst.masks(state)
        assert not any((masks[name] & ~before[name]).any() for name in masks)
        before = masks
    total = sum(m.size for m in masks.values())
    assert sum(int(m.sum()) for m in masks.values()) == total - int(0.988 * total)
    assert all(m.any() for m in masks.values())
    assert float(network(jax.tree.map(jnp.abs, params)).sum()) > 0
    dst.check_invariants(state, params)


def test_a_flow_that_overflows_prunes_nothing_and_says_so():
    params = {name: 1e30 * w for name, w in NETWORK.items()}
    tx = dst.sparsify(optax.sgd(0.1), dst.SynFlow(0.5, rounds=1))
    flow = compiled(lambda p: tx.topology_gradients(outputs, p))(params)
    _, state = after(tx, flow, params)
    assert all(m.all() for m in dst.masks(state).values())
    with pytest.raises(dst.InvariantError, match="scores were NaN"):
        dst.check_invariants(state, params)
