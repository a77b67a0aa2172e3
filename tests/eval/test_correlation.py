"""Spearman's correlation is that of SciPy, also of resamples."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dst.eval.correlation import spearman


@pytest.mark.parametrize("levels", [3, 1000])
def test_it_is_that_of_scipy_with_ties_and_without(levels):
    random = np.random.default_rng(levels)
    one = random.integers(0, levels, 60).astype(float)
    other = one + random.integers(0, levels, 60)
    expected = stats.spearmanr(one, other).statistic
    np.testing.assert_allclose(spearman(one, other), [expected], rtol=1e-12)
    np.testing.assert_allclose(spearman(np.exp(one / levels), -other), [-expected], rtol=1e-12)


def test_resamples_are_those_that_are_written_out():
    random = np.random.default_rng(0)
    one, other = random.integers(0, 8, 20).astype(float), random.normal(size=20)
    counts = np.stack([np.bincount(random.integers(0, 20, 20), minlength=20) for _ in range(9)])
    found = spearman(one, other, counts)
    for row, value in zip(counts, found, strict=True):
        expected = stats.spearmanr(np.repeat(one, row), np.repeat(other, row)).statistic
        np.testing.assert_allclose(value, expected, rtol=1e-12)


def test_equal_values_and_nan_have_no_correlation():
    some = np.arange(4.0)
    assert np.isnan(spearman(np.ones(4), some)).all()
    assert np.isnan(spearman(some, np.array([1, 2, np.nan, 3]))).all()
    counts = np.array([[4, 0, 0, 0], [1, 1, 1, 1]])
    found = spearman(some, some, counts)
    assert np.isnan(found[0]) and found[1] == 1
