"""Laws of SparseGPT: numbers by hand, and five identities, against NumPy in float64."""

from __future__ import annotations

from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest

import dst
from dst.oneshot import Matrix, Statistics
from dst.oneshot.solve import factor, precise

# Rows are outputs and tokens here; the matrices of the library are [inputs, outputs].
W = np.array([[0.9, -0.1, 0.4, 0.3], [-0.2, 0.8, 0.25, -0.7]])
X = np.array(
    [[1, 2, 0, 1], [0, 1, 3, -1], [2, 0, 1, 1], [-1, 1, 0, 2], [0, -2, 1, 0], [1, 0, 0, 4]], float
)
UPPER = [
    [0.30135, -0.002255, -0.066654, -0.070621],
    [0, 0.228294, -0.026247, -0.031883],
    [0, 0, 0.213643, 0.018475],
    [0, 0, 0, 0.147035],
]


def matrix(w, x, sparsity=0.5, structure=None, preserve=False, scale=1.0):
    x = x * np.sqrt(scale)
    statistics = Statistics(
        rows=jnp.array([len(x)], jnp.float32),
        sums=jnp.asarray(x.sum(0)[None], jnp.float32),
        squares=jnp.asarray((x**2).sum(0)[None], jnp.float32),
        gram=jnp.asarray((x.T @ x)[None], jnp.float32),
    )
    return Matrix(
        "w",
        jnp.asarray(w.T[None], jnp.float32),
        statistics,
        Fraction(sparsity).limit_denominator(1000),
        structure or dst.Unstructured(),
        preserve,
    )


def damped(x, dampening=0.01):
    h = x.T @ x
    h = h + np.diag((np.diag(h) == 0).astype(float))
    return h + dampening * np.diag(h).mean() * np.eye(len(h))


def test_the_factor_is_that_of_the_inverse():
    with precise() as dtype:
        gram = jnp.asarray((2 * X.T @ X)[None], dtype)
        upper, dead = factor(gram, 0.01, "w")
    np.testing.assert_allclose(upper[0], UPPER, atol=6e-6)
    np.testing.assert_allclose(
        np.asarray(upper[0]).T @ np.asarray(upper[0]), np.linalg.inv(damped(X * np.sqrt(2)))
    )
    assert not dead.any()


TABLE = {
    "one block": ({"block": 4}, None, [[0, 1, 1, 0], [1, 0, 1, 0]], 0.252438, 2.433392, 2.397826),
    "two blocks": ({"block": 2}, None, [[0, 1, 1, 0], [1, 0, 1, 0]], 0.252438, 2.433392, 2.397826),
    "2:4": ({}, dst.NM(2, 4), [[0, 1, 1, 0], [1, 0, 1, 0]], 0.252438, 2.433392, 2.397826),
    "the mask of Wanda": (
        {"mask": dst.Wanda()},
        None,
        [[0, 1, 1, 0], [1, 0, 1, 0]],
        0.252438,
        2.433392,
        2.397826,
    ),
    "single inputs": ({"block": 1}, None, [[0, 1, 0, 1], [1, 0, 1, 0]], 0, 2.672161, 2.645792),
}


@pytest.mark.parametrize("case", TABLE)
def test_small_matrices_come_out_as_by_hand(case):
    settings, structure, lost, last, loss, error = TABLE[case]
    method, given = dst.SparseGPT(**settings), matrix(W, X, structure=structure, scale=2)
    chosen = None if method.mask is None else method.mask(given)[1]
    weight, mask, found = method.solve(given, chosen)
    np.testing.assert_array_equal(~mask[0].T, np.array(lost, bool))
    middle = 0.388503 if case == "single inputs" else 0
    expected = [[0.9, 0, middle, last], [0, 0.798504, 0, -0.764664]]
    np.testing.assert_allclose(weight[0].T, expected, atol=1e-6)
    assert float(found[0]) == pytest.approx(loss, abs=2e-6)
    change = np.asarray(weight[0], float).T - W
    assert ((change @ X.T) ** 2).sum() == pytest.approx(error, abs=1e-5)


def test_an_input_that_is_always_zero_loses_its_weights_first():
    x = X.copy()
    x[:, 1] = 0
    weight, mask, loss = dst.SparseGPT(block=4).solve(matrix(W, x, scale=2))
    np.testing.assert_array_equal(~mask[0].T, [[0, 1, 0, 0], [1, 1, 1, 0]])
    expected = [[0.9, 0, 0.4, 0.3], [0, 0, 0, -0.764925]]
    np.testing.assert_allclose(weight[0].T, expected, atol=1e-6)
    assert float(loss[0]) == pytest.approx(0.680748, abs=1e-6)


RANDOM = np.random.default_rng(0)
LARGE = RANDOM.normal(size=(16, 48))
ROWS = RANDOM.normal(size=(200, 48)) @ (np.eye(48) + 0.3 * RANDOM.normal(size=(48, 48)))
CASES = {
    "one block": ({"block": 48}, None),
    "blocks that do not divide": ({"block": 20}, None),
    "2:4": ({"block": 16}, dst.NM(2, 4)),
    "4:8": ({"block": 13}, dst.NM(4, 8)),
    "given": ({"block": 16, "mask": dst.Wanda()}, None),
}


def solved(method, given):
    chosen = None if method.mask is None else method.mask(given)[1]
    weight, mask, loss = method.solve(given, chosen)
    return np.asarray(weight[0], float).T, np.asarray(mask[0]).T, float(loss[0])


@pytest.mark.parametrize("case", CASES)
def test_the_loss_is_the_damped_output_error(case):
    settings, structure = CASES[case]
    weight, mask, loss = solved(dst.SparseGPT(**settings), matrix(LARGE, ROWS, 0.5, structure))
    change = weight - LARGE
    expected = 0.5 * np.trace(change @ damped(ROWS) @ change.T)
    assert loss == pytest.approx(expected, rel=1e-4)
    assert (weight[~mask] == 0).all() and (~mask).sum() == LARGE.size // 2
    if structure is not None:
        groups = mask.reshape(16, -1, structure.m).sum(-1)
        assert (groups == structure.n).all()


def test_one_weight_lost_is_constrained_least_squares():
    w, x = np.array([[1.0, 2.0, -1.0]]), [[1, 0.5, 0], [0, 1, 0.2], [0.3, 0, 1], [1, 1, 1]]
    given = matrix(w, np.array(x))
    chosen = jnp.array([False, True, True])[None, :, None]
    weight, _, loss = dst.SparseGPT(dampening=0.0).solve(given, chosen)
    np.testing.assert_allclose(weight[0, :, 0], [0, 2.47619048, -0.64285714], atol=1e-6)
    inverse = np.linalg.inv(np.array(x).T @ np.array(x))
    assert float(loss[0]) == pytest.approx(1 / (2 * inverse[0, 0]), abs=1e-6)


def test_inputs_before_the_first_lost_weight_stay_as_they_are():
    weight, mask, _ = solved(dst.SparseGPT(block=16), matrix(LARGE, ROWS, 0.3))
    for row, kept, before in zip(weight, mask, LARGE, strict=True):
        first = int(np.argmin(kept))
        np.testing.assert_array_equal(row[:first], before[:first].astype(np.float32))


def test_the_size_of_blocks_matters_to_the_choice_only():
    results = [
        solved(dst.SparseGPT(block=n, mask=dst.Wanda()), matrix(LARGE, ROWS))[0] for n in (1, 7, 48)
    ]
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], rtol=1e-5, atol=1e-6)


def test_the_error_lies_between_least_squares_and_plain_masking():
    method = dst.SparseGPT(block=16, mask=dst.Wanda())
    weight, mask, _ = solved(method, matrix(LARGE, ROWS))

    def error(found):
        return (((found - LARGE) @ ROWS.T) ** 2).sum()

    best = np.zeros_like(LARGE)
    for i, kept in enumerate(mask):
        best[i, kept] = np.linalg.lstsq(ROWS[:, kept], ROWS @ LARGE[i], rcond=None)[0]
    assert error(best) <= error(weight) < error(np.where(mask, LARGE, 0))
    adaptive, _, _ = solved(dst.SparseGPT(block=16), matrix(LARGE, ROWS))
    magnitude = np.where(abs(LARGE) >= np.median(abs(LARGE)), LARGE, 0)
    assert error(adaptive) < error(weight) < error(magnitude)


def test_counts_are_exact_for_every_size_of_block():
    for n in (1, 5, 16, 48, 128):
        for sparsity in (0.1, 0.37, 0.9):
            _, mask, _ = solved(dst.SparseGPT(block=n), matrix(LARGE, ROWS, sparsity))
            assert (~mask).sum() == int(Fraction(sparsity).limit_denominator() * LARGE.size)


def test_zeros_are_preserved_where_asked():
    w = np.where(RANDOM.random(LARGE.shape) < 0.4, 0, LARGE)
    for structure in (None, dst.NM(2, 4)):
        weight, _, _ = solved(
            dst.SparseGPT(block=16), matrix(w, ROWS, 0.5, structure, preserve=True)
        )
        assert (weight[w == 0] == 0).all()
    weight, mask, _ = solved(dst.SparseGPT(block=16), matrix(w, ROWS, 0.5, preserve=True))
    assert (~mask).sum() >= w.size // 2


def test_a_gram_matrix_without_a_factor_raises_the_dampening_then_names_the_leaf():
    gram = np.diag([1.0, -0.05, 1.0])[None]
    with precise() as dtype, pytest.warns(UserWarning, match="w: .*dampening 0.01; trying 0.1"):
        factor(jnp.asarray(gram, dtype), 0.01, "w")
    with precise() as dtype, pytest.warns(UserWarning, match="trying"):
        with pytest.raises(ValueError, match="w: expected a Gram matrix .* up to dampening 10"):
            factor(jnp.asarray(-1e6 * gram * gram, dtype), 0.01, "w")


def test_other_structures_need_a_mask():
    given = matrix(LARGE, ROWS, 0.5, dst.Block(4, 2))
    with pytest.raises(ValueError, match="SparseGPT prunes single weights or N:M"):
        dst.SparseGPT()(given)
    _, mask = dst.SparseGPT(mask=dst.Wanda())(given)
    assert int(mask.sum()) == LARGE.size // 2
    with pytest.raises(ValueError, match="w of shape .* multiples of 7"):
        dst.SparseGPT()(matrix(LARGE, ROWS, 4 / 7, dst.NM(3, 7)))
    with pytest.raises(ValueError, match="mask of SparseGPT must be a one-shot method"):
        dst.SparseGPT(mask="wanda")
