"""Laws of the solver: float32 gives what float64 gives; dampening is raised where it must be."""

from __future__ import annotations

import warnings

import jax.numpy as jnp
import numpy as np
import pytest

import dst
from dst.oneshot import solve
from tests.oneshot.test_sparsegpt import LARGE, ROWS, damped, matrix

GRAM = (ROWS.T @ ROWS)[None].astype(np.float32)
CASES = {"50 %": (0.5, None), "70 %": (0.7, None), "2:4": (0.5, dst.NM(2, 4))}


def in_float32(method, given):
    """As on an accelerator: without 64-bit numbers."""
    if isinstance(method, dst.ALPS):
        return method._solved(given, jnp.float32)
    chosen = None if method.mask is None else method.mask(given)[1]
    return method._solved(given, chosen, jnp.float32)[:2]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "method",
    [dst.SparseGPT(block=16), dst.SparseGPT(mask=dst.Wanda()), dst.ALPS()],
    ids=["sparsegpt", "given", "alps"],
)
def test_float32_gives_the_masks_and_weights_of_float64(method, case):
    given = matrix(LARGE, ROWS, *CASES[case])
    weight, mask = method(given)
    other, other_mask = in_float32(method, given)
    np.testing.assert_array_equal(other_mask, mask)
    assert other.dtype == weight.dtype == jnp.float32
    np.testing.assert_allclose(other, weight, atol=1e-4)
    assert (np.asarray(other) != np.asarray(weight)).any()  # it did run in float32


@pytest.mark.parametrize("method", [dst.SparseGPT(block=16), dst.ALPS()], ids=["sparsegpt", "alps"])
def test_float32_loses_no_more_of_the_output_where_the_gram_is_singular(method):
    random = np.random.default_rng(0)
    turned = np.linalg.qr(random.normal(size=(48, 48)))[0]
    x = (random.normal(size=(30, 48)) * np.logspace(0, -3, 48)) @ turned
    given, lost = matrix(LARGE, x, 0.7), []
    for weight, _ in (method(given), in_float32(method, given)):
        lost.append((((np.asarray(weight[0], float).T - LARGE) @ x.T) ** 2).sum())
    assert lost[1] == pytest.approx(lost[0], rel=0.05)


def test_the_factor_in_float32_is_that_of_the_inverse():
    upper, _ = solve.factor(jnp.asarray(GRAM), 0.01, "w")
    assert upper.dtype == jnp.float32
    inverse = np.linalg.inv(damped(ROWS))
    np.testing.assert_allclose(upper[0].T @ upper[0], inverse, atol=1e-5 * abs(inverse).max())


def attempts(residuals, dampening):
    """The dampenings that were tried while the residuals were so large, and what was said."""
    tried, left = [], iter(residuals)

    def attempt(value):
        tried.append(value)
        return value, jnp.asarray(next(left))

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            result = solve.dampened(attempt, dampening, "blocks/3/kernel")
        except ValueError as error:
            result = error
    return tried, [str(x.message) for x in said], result


@pytest.mark.parametrize("bad", [2e-3, np.inf, np.nan])
def test_a_bad_residual_raises_the_dampening_tenfold_three_times_then_names_the_matrix(bad):
    assert attempts([1e-6], 0.01) == ([0.01], [], 0.01)
    tried, said, result = attempts([bad, bad, 1e-6], 0.01)
    np.testing.assert_allclose(tried, [0.01, 0.1, 1.0])
    assert result == tried[-1] and len(said) == 2
    assert said[0] == (
        "blocks/3/kernel: its Gram matrix could not be factorised with dampening 0.01; trying 0.1."
    )
    tried, said, result = attempts([bad] * 4, 0.01)
    np.testing.assert_allclose(tried, [0.01, 0.1, 1.0, 10.0])
    assert len(said) == 3 and said[2].endswith("with dampening 1; trying 10.")
    assert str(result).startswith("blocks/3/kernel: expected a Gram matrix that can be factorised")
    assert "none up to dampening 10." in str(result)
    np.testing.assert_allclose(attempts([bad] * 4, 0.0)[0], [0, 1e-4, 1e-3, 1e-2])


@pytest.mark.parametrize("method", [dst.SparseGPT(block=16), dst.ALPS()], ids=["sparsegpt", "alps"])
def test_float32_raises_the_dampening_of_a_gram_with_a_negative_eigenvalue(method):
    given = matrix(LARGE, ROWS)
    root = np.linalg.eigh(ROWS.T @ ROWS)
    values = np.where(np.arange(48) == 0, -0.05 * root[0].mean(), root[0])
    gram = jnp.asarray((root[1] * values @ root[1].T)[None], jnp.float32)
    worse = given.statistics._replace(gram=gram)
    given = dst.oneshot.Matrix("w", given.weight, worse, given.sparsity)
    with pytest.warns(UserWarning, match=r"w: .* dampening 0.01; trying 0.1"):
        weight, mask = in_float32(method, given)
    assert jnp.isfinite(weight).all() and int(mask.sum()) == LARGE.size // 2
    broken = worse._replace(gram=gram.at[0, 2, 2].set(jnp.nan))
    given = dst.oneshot.Matrix("w", given.weight, broken, given.sparsity)
    with pytest.warns(UserWarning, match="trying"):
        with pytest.raises(ValueError, match=r"^w: expected a Gram matrix .* up to dampening 10\."):
            in_float32(method, given)
