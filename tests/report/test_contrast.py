"""Differences between settings are judged by intervals that know how often they are compared."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from dst.report.collect import Trial
from dst.report.contents import Run
from dst.report.contrast import contrast, fitted
from dst.report.groups import Group, grouped


def trial(value: float | None, **settings) -> Trial:
    """A run that has ended, with a figure."""
    summary = {} if value is None else {"accuracy": value}
    return Trial("x", None, "done", run=Run("x", summary=summary), settings=settings)  # type: ignore[arg-type]


def groups(trials, *keys) -> list[Group]:
    return grouped(trials, keys)


def test_two_levels_with_common_seeds_have_students_paired_interval():
    one, two = np.array([0.90, 0.95, 0.91, 0.99]), np.array([0.88, 0.94, 0.88, 0.97])
    trials = [
        trial(value, method=name, seed=seed)
        for name, values in (("one", one), ("two", two))
        for seed, value in enumerate(values)
    ]
    found = contrast(groups(trials, "method"), "method", "accuracy")
    low, high = stats.ttest_rel(one, two).confidence_interval()
    distance = float(found.means[0] - found.means[1])
    np.testing.assert_allclose([distance - found.half, distance + found.half], [low, high], 1e-6)
    assert (found.n, found.unit) == (4, "seed")
    assert found.clear(0, 1, least=0.0) and not found.clear(0, 1, least=0.03)
    assert found.within(0, 1) == pytest.approx(high)


def test_levels_without_common_seeds_have_tukeys_interval_of_independent_runs():
    samples = [[0.90, 0.92, 0.97], [0.88, 0.89, 0.93], [0.7, 0.72, 0.73]]
    trials = [
        trial(value, method=i, seed=10 * i + j)
        for i, values in enumerate(samples)
        for j, value in enumerate(values)
    ]
    found = contrast(groups(trials, "method"), "method", "accuracy")
    interval = stats.tukey_hsd(*samples).confidence_interval(0.95)
    half = (interval.high - interval.low)[0, 1] / 2
    assert found.half == pytest.approx(half, rel=1e-5) and found.values is None
    assert found.clear(0, 2, 0.0) and not found.clear(0, 1, 0.0)


def test_fewer_than_three_seeds_have_no_interval_and_must_agree():
    values = {("a", 0): 0.9, ("a", 1): 0.8, ("b", 0): 0.85, ("b", 1): 0.81, ("c", 0): 0.5}
    values["c", 1] = 0.4
    trials = [trial(value, method=name, seed=seed) for (name, seed), value in values.items()]
    found = contrast(groups(trials, "method"), "method", "accuracy")
    assert found.half is None and found.n == 2
    assert not found.clear(0, 1, 0.0), "the two seeds disagree"
    assert found.clear(0, 2, 0.0) and found.within(0, 1) == pytest.approx(0.05)


def test_values_are_compared_at_equal_values_of_the_other_settings():
    # Method b was run at the easy sparsity only. Its mean over all runs is higher; it is worse.
    trials = [trial(0.9 + s / 100, method="a", sparsity=0.5, seed=s) for s in range(3)]
    trials += [trial(0.5 + s / 100, method="a", sparsity=0.9, seed=s) for s in range(3)]
    trials += [trial(0.8 + s / 100, method="b", sparsity=0.5, seed=s) for s in range(3)]
    found = contrast(groups(trials, "method", "sparsity"), "method", "accuracy")
    np.testing.assert_allclose(found.means, [0.91, 0.81])


def test_settings_stand_for_seeds_where_seeds_are_few():
    trials = [
        trial(0.9 + 0.05 * a + b / 100 + 0.001 * (a * b == 2), a=a, b=b, seed=0)
        for a, b in product(range(2), range(4))
    ]
    found = contrast(groups(trials, "a", "b"), "a", "accuracy")
    assert (found.unit, found.n) == ("setting", 4) and found.clear(0, 1, 0.0)


def test_noise_is_called_a_difference_as_rarely_as_promised():
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(200):
        trials = [trial(rng.normal(), a=a, seed=s) for a in range(5) for s in range(4)]
        found = contrast(groups(trials, "a"), "a", "accuracy")
        order = np.argsort(found.means)
        wrong += found.clear(order[-1], order[0], 0.0)
    assert wrong <= 20, "the best of five is not ahead of the worst in 19 of 20 cases"


def test_what_cannot_be_compared_has_no_contrast():
    alone = [trial(0.9, a=0, b=0, seed=0), trial(0.8, a=1, b=1, seed=0)]
    assert contrast(groups(alone, "a", "b"), "a", "accuracy") is None
    assert contrast(groups(alone[:1], "a", "b"), "a", "accuracy") is None
    other = [trial(0.9, a=0, seed=0), trial(0.8, a=1, seed=1)]
    assert contrast(groups(other, "a"), "a", "accuracy") is None
    assert contrast(groups([trial(None, a=0), trial(0.8, a=1)], "a"), "a", "accuracy") is None


def test_a_fit_finds_what_matters_among_random_settings():
    rng = np.random.default_rng(1)
    trials = []
    for seed in range(24):
        rate, drop = 10 ** rng.uniform(-4, -1), rng.uniform(0.1, 0.5)
        value = 0.9 - 0.2 * (np.log10(rate) + 2.5) ** 2 + rng.normal(scale=0.01)
        trials.append(trial(value, rate=rate, drop=drop, method=["a", "b"][seed % 2], seed=0))
    keys = ("rate", "drop", "method")
    effects = fitted(groups(trials, *keys), keys, "accuracy")
    assert [x.key for x in effects][0] == "rate"
    assert effects[0].p < 1e-6 and -3 < np.log10(effects[0].best) < -2, "in the middle"
    assert all(x.p > 0.05 for x in effects[1:])
    assert fitted(groups(trials[:6], *keys), keys, "accuracy") == []


def test_runs_of_other_origin_have_no_fit_in_common():
    trials = [trial(0.5 + i / 100, **{f"rate_{i}": 0.1}) for i in range(8)]
    assert fitted(groups(trials, "rate_0", "rate_1"), ["rate_0", "rate_1"], "accuracy") == []
    same = [trial(0.5 + i / 100, rate=0.1 * i, same=3) for i in range(12)]
    (effect,) = fitted(groups(same, "rate", "same"), ["rate", "same"], "accuracy")
    assert effect.key == "rate" and effect.p < 0.01
