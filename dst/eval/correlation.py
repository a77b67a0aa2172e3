"""Rank correlation, also of many resamples at once."""

from __future__ import annotations

import numpy as np

from dst.core.typing import Float, Int


def spearman(
    one: np.ndarray,
    other: np.ndarray,
    counts: Int[np.ndarray, "resamples items"] | None = None,
) -> np.ndarray:
    """Spearman's rank correlation of two lists; in [-1, 1].

    It is Pearson's correlation of ranks, where equal values share the mean of their ranks. An item
    with count ``c`` stands ``c`` times in a resample. Nothing is sorted for each resample.

    Args:
      one: a value of each item, ``[items]``; the order of values is what counts.
      other: another one, ``[items]``.
      counts: how often each resample has each item; None: one resample that has each item once.

    Returns:
      float64 ``[resamples]``; NaN where one list has equal values only, or any value is NaN.

    Example:
      >>> spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 4.0, 9.0]))
      array([1.])

    References: Spearman 1904, The proof and measurement of association between two things.
    Checked against: scipy.stats.spearmanr, with ties and of written-out resamples:
      tests/eval/test_correlation.py.
    """
    counts = np.ones((1, len(one)), np.int64) if counts is None else counts
    if np.isnan(one).any() or np.isnan(other).any():
        return np.full(len(counts), np.nan)
    total = counts.sum(axis=1, keepdims=True)
    centred = [_ranks(x, counts) - (total + 1) / 2 for x in (one, other)]
    (xx, yy), xy = ((counts * x * x).sum(1) for x in centred), counts * centred[0] * centred[1]
    scale = np.sqrt(xx * yy)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(scale > 0, xy.sum(axis=1) / scale, np.nan)


def _ranks(
    values: np.ndarray, counts: Int[np.ndarray, "resamples items"]
) -> Float[np.ndarray, "resamples items"]:
    """The rank of each item in each resample, from 1."""
    distinct, group = np.unique(values, return_inverse=True)
    starts = np.searchsorted(np.sort(group), np.arange(len(distinct)))
    sizes = np.add.reduceat(counts[:, np.argsort(group, kind="stable")], starts, axis=1)
    return (np.cumsum(sizes, axis=1) - (sizes - 1) / 2)[:, group]
