"""Intervals: Wilson's is that of SciPy; the bootstrap agrees with the normal approximation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from dst.eval import intervals
from dst.eval.intervals import bootstrap, wilson
from dst.eval.tasks.task import mean


@pytest.mark.parametrize(("right", "count"), [(0, 7), (3, 10), (50, 200), (200, 200)])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_of_a_share_is_that_of_scipy(right, count, level):
    expected = stats.binomtest(right, count).proportion_ci(level, "wilson")
    found = wilson(right / count, count, level=level)
    np.testing.assert_allclose(found, (expected.low, expected.high), rtol=1e-9, atol=1e-12)


def test_a_paired_difference_has_the_interval_of_the_normal_approximation():
    random = np.random.default_rng(0)
    dense = random.random(500) < 0.7
    model = np.where(random.random(500) < 0.8, dense, random.random(500) < 0.5)
    difference = model.astype(float) - dense
    error = difference.std() / np.sqrt(500)

    def paired(counts):
        return mean(model.astype(float), counts) - mean(dense.astype(float), counts)

    found = bootstrap(paired, 500, resamples=20_000)
    expected = difference.mean() + np.array([-1, 1]) * 1.959964 * error
    np.testing.assert_allclose(found, expected, atol=0.06 * error)
    # Two samples that are not paired would have a much wider one.
    alone = np.sqrt(model.var() / 500 + dense.var() / 500)
    assert found[1] - found[0] < 0.7 * 2 * 1.96 * alone


def test_identical_outcomes_differ_by_exactly_zero():
    outcomes = np.random.default_rng(0).random(77)
    zero = bootstrap(lambda counts: mean(outcomes, counts) - mean(outcomes.copy(), counts), 77)
    assert zero == (0.0, 0.0)


def test_resamples_have_as_many_items_and_each_item_equally_often(monkeypatch):
    seen = []

    def statistic(counts):
        seen.append(counts)
        return counts[:, 0] / counts.sum(axis=1)

    whole = bootstrap(statistic, 10, resamples=4000, seed=3)
    (counts,) = seen
    assert counts.shape == (4000, 10) and (counts.sum(axis=1) == 10).all()
    # Binomial(10, 1/10): mean 1, variance 0.9.
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=4 * math.sqrt(0.9 / 4000))
    np.testing.assert_allclose(counts.var(axis=0), 0.9, rtol=0.12)
    monkeypatch.setattr(intervals, "_AT_ONCE", 70)  # in pieces: the same resamples
    assert bootstrap(statistic, 10, resamples=4000, seed=3) == whole
    np.testing.assert_array_equal(np.concatenate(seen[1:]), counts)
    bootstrap(statistic, 10, resamples=7, seed=4)
    assert (seen[-1] != counts[:7]).any()


def test_resamples_without_a_figure_are_left_out():
    def statistic(counts):
        return np.where(counts[:, 0] > 0, 2.0, np.nan)

    assert bootstrap(statistic, 3, resamples=50) == (2.0, 2.0)
    assert all(map(math.isnan, bootstrap(lambda counts: np.full(len(counts), np.nan), 3)))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: wilson(1.5, 3), "share must be a number in"),
        (lambda: wilson(0.5, 0), "count must be an integer >= 1, got 0"),
        (lambda: wilson(0.5, 3, level=1), "level must be a number in"),
        (lambda: bootstrap(len, 0), "items must be an integer >= 1, got 0"),
        (lambda: bootstrap(len, 3, resamples=0), "resamples must be an integer >= 1, got 0"),
        (lambda: bootstrap(len, 3, seed=-1), "seed must be an integer >= 0, got -1"),
        (lambda: bootstrap(len, 3, level=0), "level must be a finite number > 0, got 0"),
    ],
)
def test_values_out_of_range_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
