"""Growth among a random sample: by gradient within it (GSE), or by chances of a graph (CHTs)."""

from __future__ import annotations

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dst
from dst.rules.graph import ch3_l3
from dst.rules.scores import Connections, sampled_gradient
from tests.following import EVERY, RATE, SEED, SHAPES, STOP, draw, follow
from tests.reference import sampled
from tests.reference.draws import uniforms
from tests.runs import QUICK

TWIN = {"every": EVERY, "stop": STOP, "rate": RATE}


def test_gse_equals_its_twin():
    settings = {"subset": 0.75, "drop_fraction": 0.5}
    state, twin = follow(
        dst.GSE(sparsity=0.6, allocation="uniform", **settings, every=EVERY, stop=STOP),
        lambda layers: sampled.GSE(layers, **settings, **TWIN, draw=draw),
        changes=15,
    )
    total = sum(a * b - a * b * 6 // 10 for a, b in SHAPES.values())
    assert sum(int(m.sum()) for m in dst.masks(state).values()) == total
    assert twin.moved > 5  # budgets move between layers


def test_gse_looks_at_about_as_many_connections_as_it_draws():
    """With replacement: 1 - (1 - 1 / N) ** n of all. At least half active: all of them."""
    weight = jnp.ones((100, 100))
    few = jnp.zeros((100, 100), bool).at[:10].set(True)
    score = sampled_gradient(2.0)
    seen = score(Connections(weight, weight, few, few, jax.random.key(0))) >= 0
    expected = 1 - (1 - 1e-4) ** 2000
    assert float(seen.mean()) == pytest.approx(expected, abs=5 * (expected / 10_000) ** 0.5)
    many = ~few
    assert (score(Connections(weight, weight, many, many, jax.random.key(0))) >= 0).all()


@pytest.mark.parametrize("min_active", [1, 3])
def test_gse_keeps_its_number_of_connections_where_layers_are_tiny(min_active):
    """Two of sixteen in each layer: most of them are the last that their layer keeps."""
    params = {f"layer{i}": jax.random.normal(jax.random.key(i), (4, 4)) for i in range(6)}
    settings = {"drop_fraction": 0.9, "every": 1, "stop": 10, "allocation": "uniform"}
    tx = dst.sparsify(optax.sgd(0.1), dst.GSE(0.87, min_active=min_active, **settings))
    step = jax.jit(tx.update, compiler_options=QUICK)
    state = jax.jit(tx.init, compiler_options=QUICK)(params)
    total = sum(map(int, state.active.values()))
    for count in range(4):
        grads = {n: jax.random.normal(jax.random.key(count), (4, 4)) for n in params}
        params = dst.apply_masks(params, state)
        before = state.active
        updates, state = step(grads, state, params)
        params = optax.apply_updates(params, updates)
        assert sum(map(int, state.active.values())) == total
        for name, n in state.active.items():
            kept = int(before[name]) - int(state.topology.dropped[name])
            assert kept >= min(min_active, int(before[name])) and int(n) >= kept
    dst.check_invariants(state, params)


def test_chts_never_chooses_what_is_no_number_and_says_so():
    params = {"w": jnp.ones((6, 6)).at[0].set(jnp.nan)}
    tx = dst.sparsify(optax.sgd(0.0), dst.CHTs(0.5, every=1, stop=9), initial="magnitude")
    state = tx.init({"w": jnp.ones((6, 6))})
    change = jax.jit(lambda p, s: tx.update(p, s, p, topology=True), compiler_options=QUICK)
    _, state = change(params, state)
    assert int(state.topology.unscored["w"]) == 6


def draw_again(name, count):
    key = jax.random.fold_in(jax.random.key(SEED, impl="threefry2x32"), count + 1)
    key = jax.random.fold_in(key, zlib.crc32(name.encode()))
    return uniforms(jax.random.fold_in(key, 1), SHAPES[name])


def test_chts_equals_its_twin():
    state, _ = follow(
        dst.CHTs(sparsity=0.6, drop_fraction=0.5, every=EVERY, stop=STOP),
        lambda layers: sampled.CHTs(
            layers, SHAPES, drop_fraction=0.5, **TWIN, draw=draw, draw_again=draw_again
        ),
    )
    for name, (a, b) in SHAPES.items():
        assert int(dst.masks(state)[name].sum()) == a * b - a * b * 6 // 10


GRAPH = jnp.array([[1, 1, 0, 0, 1], [0, 1, 1, 0, 0], [1, 0, 1, 1, 0], [0, 1, 0, 1, 0]], bool)


def test_ch3_l3_of_a_graph_by_hand():
    """Four inputs, five outputs. The transposed graph has the transposed scores."""
    found = jnp.where(GRAPH, 0, ch3_l3(GRAPH))
    expected = [[0, 0, 3, 3, 0], [2.5, 0, 0, 3, 1], [0, 5.5, 0, 0, 1.5], [2.5, 0, 3, 0, 1]]
    np.testing.assert_allclose(found, expected)
    np.testing.assert_allclose(ch3_l3(GRAPH.T).T, ch3_l3(GRAPH))
    stacked = ch3_l3(jnp.stack([GRAPH, ~GRAPH]), stacked=1)
    np.testing.assert_allclose(stacked[0], ch3_l3(GRAPH))


def test_chts_wants_matrices():
    with pytest.raises(ValueError, match=r"expected a matrix, got the shape \(3, 4, 2\)"):
        ch3_l3(jnp.ones((3, 4, 2), bool))
