"""Laws of masks, metrics, tables and comparisons of a state."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dst

PARAMS = {"w": jnp.ones((4, 6)), "v": {"kernel": jnp.ones((5, 4))}, "b": jnp.zeros(4)}
METHOD = dst.SET(sparsity=0.5, allocation="uniform", drop_fraction=0.5, every=1, stop=100)


@pytest.fixture(scope="module")
def run():
    """States of five topology steps of SET, one parameter tree each."""
    tx = dst.sparsify(optax.sgd(0.1), METHOD)
    state = jax.jit(tx.init)(PARAMS)
    params = dst.apply_masks(PARAMS, state)
    step = jax.jit(lambda g, s, p: tx.update(g, s, p, topology=True))
    history = [(state, params)]
    for _ in range(5):
        updates, state = step(params, state, params)
        params = optax.apply_updates(params, updates)
        history.append((state, params))
    return history


def from_bytes(state, masks):
    """The state with other masks, for looks that read nothing else."""
    return state._replace(masks=jax.tree.map(lambda m: jnp.asarray(m, jnp.uint8) * 3, masks))


def test_metrics_are_scalars_and_can_be_compiled(run):
    state, params = run[2]
    compiled = jax.jit(dst.metrics)(state, params)
    plain = dst.metrics(state, params)
    assert compiled.keys() == plain.keys()
    for name, value in compiled.items():
        assert value.shape == () and value.dtype in (jnp.float32, jnp.int32), name
        assert float(value) == pytest.approx(float(plain[name]), rel=1e-6), name


def test_metrics_count_what_the_masks_hold(run):
    state, params = run[1]
    figures = dst.metrics(state, params)
    masks, before = dst.masks(state), dst.masks(run[0][0])
    assert set(masks) == {"v/kernel", "w"}
    for path, mask in masks.items():
        assert float(figures[f"sparsity/{path}"]) == pytest.approx(0.5)
        assert int(figures[f"dropped/{path}"]) == int((before[path] & ~mask).sum())
        assert int(figures[f"grown/{path}"]) == int((mask & ~before[path]).sum())
    assert int(figures["dropped"]) == int(figures["grown"]) > 0
    assert float(figures["sparsity"]) == pytest.approx(0.5)
    assert float(figures["sparsity_model"]) == pytest.approx(22 / 48)
    assert (int(figures["topology_steps"]), int(figures["unscored"])) == (1, 0)


def test_the_explored_share_never_falls(run):
    shares = [float(dst.metrics(state)["explored"]) for state, _ in run]
    assert shares[0] == pytest.approx(0.5)
    assert shares == sorted(shares) and 0.5 < shares[-1] <= 1
    for (old, _), (new, _) in zip(run, run[1:], strict=False):
        for path, mask in dst.explored(new).items():
            np.testing.assert_array_equal(mask, dst.explored(old)[path] | dst.masks(new)[path])


def test_the_explored_share_of_a_static_mask_is_its_density():
    tx = dst.sparsify(optax.sgd(0.1), dst.Static(sparsity=0.75, allocation="uniform"))
    figures = dst.metrics(jax.jit(tx.init)(PARAMS))
    assert float(figures["explored"]) == pytest.approx(0.25)
    assert float(figures["explored/w"]) == pytest.approx(0.25)


def test_a_dense_run_has_metrics_too():
    figures = dst.metrics(dst.sparsify(optax.sgd(0.1), dst.Dense()).init(PARAMS), PARAMS)
    assert float(figures["sparsity"]) == float(figures["sparsity_model"]) == 0


def test_a_state_without_masks_is_an_error():
    with pytest.raises(ValueError, match="no sparse state in this optimizer state"):
        dst.masks(optax.sgd(0.1).init(PARAMS))


def test_the_summary_of_three_small_leaves():
    """jaxpruner/utils_test.py: 7 of 10 weights in use, sparsity .3, also where a leaf has none."""
    params = {"a": jnp.ones((2, 2)), "d": jnp.ones((1, 4)), "e": jnp.ones((2, 1))}
    tx = dst.sparsify(optax.sgd(0.1), dst.Static(sparsity=0.5))
    masks = {"a": np.ones((2, 2)), "d": np.array([[1, 0, 1, 1]]), "e": np.zeros((2, 1))}
    state = from_bytes(jax.jit(tx.init)(params), masks)
    figures = dst.metrics(state, params)
    assert float(figures["sparsity"]) == pytest.approx(0.3)
    assert [float(figures[f"sparsity/{k}"]) for k in "ade"] == [0, 0.25, 1]
    assert [r.active for r in dst.rows(state, params)] == [4, 3, 0]
    assert dst.table(state, params).splitlines()[-1] == "model: 7 of 10 active, sparsity 0.3000"


def test_the_table_prints_integers_for_counts(run):
    state, params = run[-1]
    header, *lines, selected, model = dst.table(state, params).splitlines()
    names = header.split()
    assert names == ["leaf", "shape", "active", "of", "sparsity", "explored", "dropped", "grown"]
    rows = {line.split()[0]: dict(zip(names, line.split(), strict=False)) for line in lines}
    assert list(rows) == ["b", "v/kernel", "w"]
    assert rows["b"]["sparsity"] == "dense" and "explored" not in rows["b"]
    for path, mask in dst.masks(state).items():
        row = rows[path]
        assert all(re.fullmatch(r"\d+", row[k]) for k in ("active", "of", "dropped", "grown"))
        assert int(row["active"]) == int(mask.sum()) and int(row["of"]) == mask.size
    assert selected == "selected: 22 of 44 active, sparsity 0.5000"
    assert model == "model: 26 of 48 active, sparsity 0.4583"


# Comparing masks


def test_the_intersection_of_two_masks():
    """jaxpruner/utils_test.py: shares .5, 1 and 0 of three leaves, .5 of all."""
    first = {"a": np.array([0, 0, 1, 1], bool), "b": np.array([1, 0], bool)}
    second = {"a": np.array([0, 1, 0, 1], bool), "b": np.array([1, 0], bool)}
    first["c"], second["c"] = np.array([1, 0], bool), np.array([0, 1], bool)
    overlaps = dst.compare(first, second)
    assert [overlaps[k].shared / overlaps[k].active[0] for k in "abc"] == [0.5, 1, 0]
    assert [overlaps[k].churn for k in "abc"] == [0.5, 0, 1]
    assert (
        sum(x.shared for x in overlaps.values()) / sum(x.active[0] for x in overlaps.values())
        == 0.5
    )


def test_the_overlap_of_random_masks_is_the_expected_one():
    random = np.random.default_rng(0)
    a = {"w": np.zeros(1000, bool)}
    a["w"][random.permutation(1000)[:300]] = True
    shared = []
    for _ in range(200):
        b = np.zeros(1000, bool)
        b[random.permutation(1000)[:200]] = True
        overlap = dst.compare(a, {"w": b})["w"]
        assert overlap.expected == 300 * 200 / 1000
        shared.append(overlap.shared)
    assert np.mean(shared) == pytest.approx(60, abs=2)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_overlaps_are_counts_within_bounds(pairs):
    a, b = (np.array(x, bool) for x in zip(*pairs, strict=True))
    overlap = dst.compare({"w": a}, {"w": b})["w"]
    assert overlap.active == (a.sum(), b.sum()) and overlap.size == len(pairs)
    assert overlap.shared == (a & b).sum() <= min(overlap.active)
    assert 0 <= overlap.churn <= 1 and 0 <= overlap.expected <= min(overlap.active)
    assert dst.compare({"w": a}, {"w": a})["w"].churn == 0


def test_masks_of_different_networks_cannot_be_compared():
    one = np.ones((2, 2), bool)
    with pytest.raises(ValueError, match=r"only one has \['v'\]"):
        dst.compare({"w": one}, {"w": one, "v": one})
    with pytest.raises(ValueError, match=r"masks of w have shapes \(2, 2\) and \(4,\)"):
        dst.compare({"w": one}, {"w": np.ones(4, bool)})
