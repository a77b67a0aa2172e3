"""The k best of n by sorting: what ``dst.core.selection`` must equal without sorting."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np


def best(scores: np.ndarray, candidates: np.ndarray, k: int) -> np.ndarray:
    """bool: the ``k`` candidates of highest score; ties to the lowest index, NaN never."""
    flat = np.asarray(scores).astype(np.float32).reshape(-1)
    allowed = np.asarray(candidates, bool).reshape(-1) & ~np.isnan(flat)
    places = np.flatnonzero(allowed)
    order = places[np.argsort(-flat[places], kind="stable")]
    chosen = np.zeros(flat.size, bool)
    chosen[order[: max(k, 0)]] = True
    return chosen.reshape(np.shape(scores))


def top_k_mask(
    scores: np.ndarray,
    k: int | np.ndarray,
    where: np.ndarray | None = None,
    group_axes: Sequence[int] = (),
) -> np.ndarray:
    """:func:`best` of every group, one group after the other."""
    scores = np.asarray(scores)
    allowed = np.ones(scores.shape, bool) if where is None else np.asarray(where, bool)
    counts = np.broadcast_to(k, [scores.shape[a] for a in group_axes])
    chosen = np.zeros(scores.shape, bool)
    for at in itertools.product(*(range(scores.shape[a]) for a in group_axes)):
        one: list = [slice(None)] * scores.ndim
        for axis, i in zip(group_axes, at, strict=True):
            one[axis] = i
        group = tuple(one)
        chosen[group] = best(scores[group], allowed[group], int(counts[at]))
    return chosen
