"""Methods against their twins in plain loops and against runs worked by hand."""

from __future__ import annotations

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dst
from dst.rules.layout import Layout
from dst.rules.rule import HowMany, Reset, Rule, Which
from dst.rules.schedule import UpdateSchedule
from dst.rules.scores import gradient
from tests.engine.test_plan import Block, NOfM
from tests.following import EVERY, RATE, SHAPES, STOP, draw, follow
from tests.reference.canonical import M, W
from tests.reference.gmp import GMP
from tests.reference.rigl import RigL
from tests.reference.set import SET

# Twins


@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"regrow": "forbid", "update_weights": True, "rounding": "ceil"},
        {"regrow_value": "zero", "update_weights": True, "rounding": "round"},
    ],
    ids=["paper", "forbid", "zero"],
)
def test_rigl_equals_its_twin(choice):
    method = dst.RigL(sparsity=0.6, drop_fraction=0.5, every=EVERY, stop=STOP, **choice)
    follow(
        method,
        lambda layers: RigL(layers, drop_fraction=0.5, every=EVERY, stop=STOP, rate=RATE, **choice),
    )


@pytest.mark.parametrize("signed", [False, True])
def test_set_equals_its_twin(signed):
    method = dst.SET(sparsity=0.6, drop_fraction=0.3, every=EVERY, stop=STOP, signed=signed)
    follow(
        method,
        lambda layers: SET(
            layers, drop_fraction=0.3, every=EVERY, stop=STOP, rate=RATE, draw=draw, signed=signed
        ),
    )


def test_gmp_equals_its_twin():
    state, _ = follow(
        dst.GMP(sparsity=0.9, start=1, stop=41, every=2),
        lambda layers: GMP(layers, sparsity=Fraction(9, 10), start=1, stop=41, every=2, rate=RATE),
    )
    for name, shape in SHAPES.items():
        size = int(np.prod(shape))
        assert int(dst.masks(state)[name].sum()) == size - size * 9 // 10


# Worked runs

X = np.array([[1, 0, 1], [0, 1, 1], [1, 1, 0], [1, -1, 1]], np.float32)
Y = np.array([[1, 0, -1, 0], [0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 1, -1]], np.float32)


def loss_of(params):
    return 0.5 * jnp.mean(jnp.sum((X @ params["w"] - Y) ** 2, axis=1))


def test_rigl_in_nine_steps_worked_by_hand():
    """As in google-research/rigl, rigl/sparse_optimizers_base.py: a topology step replaces the step
    of the optimizer. There it does not count; here it does, so the topology steps of counts 0, 2,
    4 are 0, 3, 6.
    """
    fractions = {0: 0.6, 3: 0.45, 6: 0.15}
    rule = Rule(
        sparsity=5 / 12,
        when=UpdateSchedule(first=0, every=3, last=6),
        how_many=HowMany(fraction=lambda count: fractions[count]),
        which=Which(grow=gradient),
        reset=Reset(update_weights=False),
    )
    tx = dst.sparsify(optax.sgd(0.1, momentum=0.9), rule, initial={"w": M})
    params = {"w": jnp.asarray(W)}
    state = jax.jit(tx.init)(params)

    @jax.jit
    def step(params, state):
        loss, grads = jax.value_and_grad(loss_of)(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    rows = []
    for _ in range(9):
        before = dst.masks(state)["w"]
        params, state, loss = step(params, state)
        w, new = params["w"], np.argwhere(np.asarray(dst.masks(state)["w"] & ~before))
        explored = float(dst.metrics(state)["explored"])
        numbers = (float(loss), explored, float(w.sum()), float(jnp.abs(w).sum()))
        rows.append((numbers, [tuple(map(int, place)) for place in new]))
    expected = [
        ((1.120000, 0.750000, 0.800000, 2.400000), [(1, 3), (2, 1)]),
        ((1.205000, 0.750000, 0.895000, 2.375000), []),
        ((1.076994, 0.750000, 1.065250, 2.329250), []),
        ((0.872339, 0.833333, 0.991812, 2.236438), [(1, 0), (2, 3)]),
        ((0.888475, 0.833333, 1.067814, 2.234742), []),
        ((0.684788, 0.833333, 1.164866, 2.259674), []),
        ((0.518405, 0.833333, 1.233618, 2.190922), [(0, 1)]),
        ((0.520663, 0.833333, 1.415125, 2.470346), []),
        ((0.408745, 0.833333, 1.622348, 2.997573), []),
    ]
    for (numbers, new), (wanted, places) in zip(rows, expected, strict=True):
        assert new == places
        assert numbers == pytest.approx(wanted, abs=2e-6)
    np.testing.assert_allclose(
        params["w"],
        [[0.671960, 0.070625, 0, -0.365924], [0.201225, 0.678311, -0.321689, 0.687839], [0] * 4],
        atol=2e-6,
    )
    assert dst.masks(state)["w"].tolist() == [[1, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]]
    assert float(loss_of(params)) == pytest.approx(0.366437, abs=2e-6)


def test_inactive_weights_have_a_gradient():
    """Weights that are zero in a dense array, not weights times a mask."""
    x, target = jnp.array([[1.0, 2.0, -1.0]]), jnp.array([[1.0, 0.0]])
    params = {"w": jnp.asarray(W[:, :2])}
    method = dst.RigL(sparsity=0.9, every=1, stop=10, drop_fraction=0.5)
    tx = dst.sparsify(optax.sgd(0.1), method, initial={"w": M[:, :2]})
    state = jax.jit(tx.init)(params)
    params = dst.apply_masks(params, state)
    np.testing.assert_allclose(x @ params["w"], [[0.3, 0.5]], atol=1e-6)
    grads = jax.grad(lambda p: 0.5 * jnp.sum((x @ p["w"] - target) ** 2))(params)
    np.testing.assert_allclose(grads["w"], [[-0.7, 0.5], [-1.4, 1.0], [0.7, -0.5]], atol=1e-6)
    _, state = tx.update(grads, state, params, topology=True)
    # The smallest of four active weights goes, the steepest inactive one comes.
    assert dst.masks(state)["w"].tolist() == [[True, False], [True, True], [True, False]]


@pytest.mark.parametrize(
    ("make", "every", "floor"), [(dst.set_itop, 1500, 0.005), (dst.rigl_itop, 4000, 0.005)]
)
def test_itop_has_the_settings_of_its_paper(make, every, floor):
    """README of the authors' code: long intervals, no freeze, a drop fraction of .5 to .005."""
    method = make(0.9)
    rule = method.rule(steps=100_000)
    assert (method.every, method.rounding, method.update_weights) == (every, "ceil", True)
    assert rule.when.last >= 100_000 - every - 1
    assert rule.how_many.fraction(0) == 0.5
    assert rule.how_many.fraction(100_000) == pytest.approx(floor)
    assert make(0.9, every=7).every == 7


# Leaves of every kind, through the whole transformation


def test_dense_and_missing_leaves_pass_through():
    """None leaves and leaves without mask break RigL and SET of JaxPruner."""
    params = {
        "w": jnp.ones((4, 4)),
        "b": jnp.ones(4),
        "none": None,
        "n": {"scale": jnp.ones((2, 2))},
    }
    tx = dst.sparsify(optax.sgd(0.5), dst.RigL(sparsity=0.5, every=1, stop=9), select="w")
    state = jax.jit(tx.init)(params)
    params = dst.apply_masks(params, state)
    grads = jax.tree.map(jnp.ones_like, params)
    updates, state = tx.update(grads, state, params, topology=True)
    after = optax.apply_updates(params, updates)
    assert after["none"] is None and list(dst.masks(state)) == ["w"]
    updates, state = tx.update(grads, state, after, topology=False)
    assert float(updates["b"][0]) == -0.5 and float(updates["n"]["scale"][0, 0]) == -0.5


def test_a_dense_method_is_the_bare_optimizer():
    params = {"w": jnp.ones((4, 4)), "b": jnp.ones(4)}
    grads = jax.tree.map(lambda p: 0.3 * p, params)
    inner = optax.adam(0.1)
    tx = dst.sparsify(inner, dst.Dense())
    updates, state = tx.update(grads, tx.init(params), params)
    expected, _ = inner.update(grads, inner.init(params), params)
    jax.tree.map(np.testing.assert_array_equal, updates, expected)
    assert dst.masks(state) == {}


def test_a_static_mask_never_changes():
    method = dst.Static(sparsity=0.75)
    params = {"w": jnp.ones((4, 6))}
    tx = dst.sparsify(optax.sgd(0.1), method, seed=1)
    state = start = jax.jit(tx.init)(params)
    params = dst.apply_masks(params, state)
    for _ in range(3):
        updates, state = tx.update(params, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(dst.masks(state)["w"], dst.masks(start)["w"])
    assert int(dst.masks(state)["w"].sum()) == 6


def test_initial_masks_stay_and_other_leaves_are_dense():
    mask = np.eye(4, dtype=bool)
    params = {"v": jnp.ones((4, 4)), "w": jnp.ones((4, 4))}
    tx = dst.sparsify(optax.sgd(0.1), dst.FromMasks(masks={"w": mask}))
    state = jax.jit(tx.init)(params)
    np.testing.assert_array_equal(dst.masks(state)["w"], mask)
    assert list(dst.masks(state)) == ["w"]
    with pytest.raises(ValueError, match="FromMasks has no masks"):
        dst.sparsify(optax.sgd(0.1), dst.FromMasks())


def test_a_dense_checkpoint_keeps_its_largest_weights():
    values = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    tx = dst.sparsify(optax.sgd(0.1), dst.Static(sparsity=0.8), initial="magnitude")
    mask = np.asarray(dst.masks(tx.init({"w": jnp.asarray(values)}))["w"])
    assert mask.sum() == 6
    assert np.abs(values)[mask].min() > np.abs(values)[~mask].max()


def test_first_masks_are_exact_and_differ_by_seed_only():
    params = {"a": jnp.ones((8, 9)), "b": jnp.zeros((8, 9))}

    @jax.jit
    def first(seed):
        tx = dst.sparsify(optax.sgd(0.1), dst.Static(sparsity=0.9, allocation="uniform"), seed=seed)
        return dst.masks(tx.init(params))

    masks = first(0)
    assert [int(m.sum()) for m in masks.values()] == [72 - 64] * 2
    assert (masks["a"] != masks["b"]).any()
    np.testing.assert_array_equal(first(0)["a"], masks["a"])
    assert (first(1)["a"] != masks["a"]).any()


# Structures that the library does not know


@pytest.mark.parametrize("name", ["rigl", "gmp"])
def test_methods_work_with_any_structure_unchanged(name):
    settings = {"sparsity": 0.5, "allocation": "uniform", "every": 1, "structure": NOfM(4)}
    method = {
        "rigl": lambda: dst.RigL(stop=9, **settings),
        "gmp": lambda: dst.GMP(start=0, stop=2, **settings),
    }[name]()
    random = np.random.default_rng(0)
    params = {
        "blocks": jnp.asarray(random.normal(size=(6, 8)), jnp.float32),
        "groups": jnp.asarray(random.normal(size=(3, 8, 5)), jnp.float32),
    }
    tx = dst.sparsify(
        optax.sgd(0.1),
        method,
        overrides={"blocks": {"structure": Block(2, 2)}},
        stacked={"groups": 1},
    )
    state = jax.jit(tx.init)(params)
    params = dst.apply_masks(params, state)
    changed = jax.jit(lambda g, s, p: tx.update(g, s, p, topology=True))
    history = []
    for _ in range(3):
        grads = jax.tree.map(lambda p: jnp.asarray(random.normal(size=p.shape), p.dtype), params)
        updates, state = changed(grads, state, params)
        params = optax.apply_updates(params, updates)
        dst.check_invariants(state, params)
        history.append({k: np.asarray(m) for k, m in dst.masks(state).items()})
    assert any((history[0][k] != history[-1][k]).any() for k in history[0])
    groups = history[-1]["groups"].reshape(3, 2, 4, 5)
    blocks = history[-1]["blocks"].reshape(3, 2, 4, 2)
    assert (groups.sum(2) == 2).all()
    assert (blocks == blocks[:, :1, :, :1]).all() and blocks[:, 0, :, 0].sum() == 6
    assert state.active["groups"].tolist() == [20, 20, 20] and int(state.active["blocks"]) == 24


def test_layouts_are_all_that_a_structure_needs():
    """Rows of a matrix, each with a count of its own: constant fan-out in four lines."""

    class Rows:
        def layout(self, leaf):
            return Layout(shape=leaf.shape, split=leaf.shape, groups=(0,))

    method = dst.Static(sparsity=0.75, structure=Rows())
    state = dst.sparsify(optax.sgd(0.1), method).init({"w": jnp.ones((5, 8))})
    assert dst.masks(state)["w"].sum(1).tolist() == [2] * 5
