"""How sparse a run will be on average, from the rows of its plan."""

from __future__ import annotations

import numpy as np

from dst.engine.plan import LeafPlan, Plan


def sparsity_at_end(plan: Plan) -> dict[str, float]:
    """Sparsity by leaf path after the last topology step of a plan."""
    return {p: 1 - float(_active(x)[-1]) / x.leaf.size for p, x in plan.sparse.items()}


def mean_sparsity(plan: Plan, weights: np.ndarray) -> dict[str, float]:
    """Sparsity by leaf path, averaged over rows of the table of counts, the initial one first.

    Args:
      plan: with the table.
      weights: float64 ``[rows]``, of each row.
    """
    means = {}
    for path, leaf in plan.sparse.items():
        active = _active(leaf)
        # A table whose counts never change has one row, whatever the number of topology steps.
        active = np.concatenate([active, np.full(len(weights) - len(active), active[-1])])
        means[path] = 1 - float(weights @ active / weights.sum()) / leaf.leaf.size
    return means


def _active(leaf: LeafPlan) -> np.ndarray:
    """Active weights at the start and after each topology step of the table."""
    counts = [leaf.initial, *leaf.counts[:, 1]]
    return np.array([int(x.sum(dtype=np.int64)) for x in counts]) * leaf.layout.weights_per_count
