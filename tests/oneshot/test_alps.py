"""Laws of ALPS: a twin in NumPy, least squares on the mask, and less error than other methods."""

from __future__ import annotations

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dst
from dst.oneshot import Statistics
from tests.oneshot.test_sparsegpt import LARGE, ROWS, damped, matrix
from tests.reference.alps import alps

RANDOM = np.random.default_rng(5)
DEAD = np.where(np.isin(np.arange(48), [3, 17]), 0, ROWS)
HOLES = np.where(RANDOM.random(LARGE.shape) < 0.4, 0, LARGE)
TWIN = {
    "50 %": (LARGE, ROWS, 0.5, None, {}),
    "90 %": (LARGE, ROWS, 0.9, None, {"steps": 3}),
    "dense": (LARGE, ROWS, 0.0, None, {}),
    "2:4": (LARGE, ROWS, 0.5, dst.NM(2, 4), {}),
    "rho too large": (LARGE, ROWS, 0.1, None, {"rho": 20.0}),
    "inputs that are always zero": (LARGE, DEAD, 0.7, None, {}),
    "fewer rows than inputs": (LARGE, ROWS[:30], 0.7, None, {"dampening": 0.05}),
    "zeros stay": (HOLES, ROWS, 0.7, None, {"preserve": True}),
    "zeros stay, 2:4": (HOLES, ROWS, 0.5, dst.NM(2, 4), {"preserve": True}),
}


@pytest.fixture(scope="module")
def twins():
    """By case: weights and mask of dst, those of NumPy, and what happened to rho."""
    found = {}
    for case, (w, x, sparsity, structure, options) in TWIN.items():
        settings = {k: v for k, v in options.items() if k != "preserve"}
        preserve = options.get("preserve", False)
        given = matrix(w, x, sparsity, structure, preserve)
        weight, mask = dst.ALPS(**settings)(given)
        keep = structure.n if structure else w.size - int(given.sparsity * w.size)
        m = structure.m if structure else None
        expected = alps(w.T.astype(np.float32).astype(float), x, keep, m, **options)
        found[case] = np.asarray(weight[0]), np.asarray(mask[0]), *expected
    return found


@pytest.mark.parametrize("case", TWIN)
def test_weights_are_those_of_a_twin_in_numpy(twins, case):
    weight, mask, expected, expected_mask, _ = twins[case]
    np.testing.assert_array_equal(mask, expected_mask)
    np.testing.assert_allclose(weight, expected, atol=1e-5)
    assert (weight[~mask] == 0).all()


def test_the_cases_of_the_twin_reach_every_change_of_rho(twins):
    events = {event for *_, happened in twins.values() for event in happened}
    assert events == {"fast", "medium", "slow", "again", "smaller", "stable", "settled"}


def solved(w, x, sparsity, structure=None, **settings):
    weight, mask = dst.ALPS(**settings)(matrix(w, x, sparsity, structure))
    return np.asarray(weight[0], float).T, np.asarray(mask[0]).T


def loss(change, h):
    return np.trace(change @ h @ change.T)


@pytest.mark.parametrize("sparsity", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("seed", range(3))
def test_the_error_is_never_above_plain_masking_by_its_mask(seed, sparsity):
    random = np.random.default_rng(seed)
    w, x = random.normal(size=(16, 48)), random.normal(size=(100, 48)) + 0.5
    weight, mask = solved(w, x, sparsity)
    masked = np.where(mask, w, 0)
    assert loss(weight - w, damped(x)) <= loss(masked - w, damped(x))


def test_enough_steps_give_least_squares_on_the_mask():
    losses = []
    for steps in (0, 1, 3, 10, 100):
        weight, mask = solved(LARGE, ROWS, 0.7, steps=steps)
        losses.append(loss(weight - LARGE, damped(ROWS)))
    assert losses == sorted(losses, reverse=True)
    h = damped(ROWS)
    gradient = np.where(mask, (weight - LARGE) @ h, 0)
    assert abs(gradient).max() < 1e-5 * abs(LARGE @ h).max()
    for i, kept in enumerate(mask):
        best = np.linalg.solve(h[np.ix_(kept, kept)], (LARGE[i] @ h)[kept])
        np.testing.assert_allclose(weight[i, kept], best, atol=1e-5)


def test_correlated_inputs_lose_less_than_by_other_methods():
    turned = np.linalg.qr(RANDOM.normal(size=(48, 48)))[0]
    x = (RANDOM.normal(size=(400, 48)) * np.logspace(0, -1.5, 48)) @ turned
    for sparsity, structure in ((0.7, None), (0.5, dst.NM(2, 4))):
        given = matrix(LARGE, x, sparsity, structure)
        lost = []
        for method in (dst.Wanda(), dst.SparseGPT(block=16), dst.ALPS()):
            change = np.asarray(method(given)[0][0], float).T - LARGE
            lost.append(loss(change, x.T @ x))
        assert lost[2] < 0.5 * min(lost[:2])


def test_counts_are_exact():
    for sparsity in (0.1, 0.37, 0.9):
        _, mask = solved(LARGE, ROWS, sparsity)
        assert (~mask).sum() == int(Fraction(sparsity).limit_denominator() * LARGE.size)
    _, mask = solved(LARGE, ROWS, 0.5, dst.NM(4, 8))
    assert (mask.reshape(16, 6, 8).sum(-1) == 4).all()


def test_inputs_that_are_always_zero_need_no_dampening():
    weight, mask = solved(LARGE, DEAD, 0.5, dampening=0.0)
    assert np.isfinite(weight).all() and (weight[:, [3, 17]] == 0).all()
    assert (~mask).sum() == LARGE.size // 2
    for dampening in (0.0, 0.01):
        weight, mask = solved(LARGE, np.zeros((5, 48)), 0.5, dampening=dampening)
        assert (weight == 0).all() and (~mask).sum() == LARGE.size // 2


def test_groups_are_pruned_as_if_each_were_alone():
    parts = [matrix(LARGE, ROWS, 0.7), matrix(LARGE[::-1] * 3, DEAD, 0.7)]
    both = dst.oneshot.Matrix(
        "w",
        jnp.concatenate([p.weight for p in parts]),
        Statistics(*map(jnp.concatenate, zip(*(p.statistics for p in parts), strict=True))),
        parts[0].sparsity,
    )
    weight, mask = dst.ALPS()(both)
    for i, part in enumerate(parts):
        alone, own = dst.ALPS()(part)
        np.testing.assert_array_equal(mask[i], own[0])
        np.testing.assert_array_equal(weight[i], alone[0])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("structure", [dst.Unstructured(), dst.NM(2, 4)])
def test_a_network_is_pruned_in_its_own_dtype(dtype, structure):
    params = {
        "hidden": jnp.asarray(RANDOM.normal(size=(16, 24)), dtype),
        "out": jnp.asarray(RANDOM.normal(size=(24, 8)), dtype),
    }
    x = jnp.asarray(RANDOM.normal(size=(64, 16)), dtype)

    def forward(p, x):
        return jax.nn.relu(x @ p["hidden"]) @ p["out"]

    errors = {}
    for method in (dst.Wanda(), dst.ALPS()):
        pruned, masks = dst.prune(
            params, 0.5, method=method, structure=structure, forward=forward, batches=[x, x + 1]
        )
        change = forward(pruned, x).astype(jnp.float32) - forward(params, x).astype(jnp.float32)
        errors[type(method)] = float(jnp.sum(change**2))
    assert errors[dst.ALPS] < errors[dst.Wanda]
    for name, mask in masks.items():
        assert pruned[name].dtype == dtype and int(mask.sum()) == mask.size // 2
        assert (pruned[name][~mask] == 0).all() and (pruned[name][mask] != 0).all()


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"rho": 0.0}, "rho of ALPS"),
        ({"every": 0}, "every of ALPS"),
        ({"iterations": 0}, "iterations of ALPS"),
        ({"steps": -1}, "steps of ALPS"),
        ({"dampening": -0.1}, "dampening of ALPS"),
    ],
)
def test_settings_out_of_range_are_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        dst.ALPS(**settings)


def test_other_structures_are_refused():
    with pytest.raises(ValueError, match=r"w: ALPS prunes single weights or N:M, got Block"):
        dst.ALPS()(matrix(LARGE, ROWS, 0.5, dst.Block(4, 2)))
    with pytest.raises(ValueError, match=r"w of shape .* multiples of 7"):
        dst.ALPS()(matrix(LARGE, ROWS, 4 / 7, dst.NM(3, 7)))
