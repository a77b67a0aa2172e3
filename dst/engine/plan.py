"""The plan of a sparse training run: per leaf, what is masked and how many weights are active.

A plan is host arithmetic on shapes, exact, and computed once per set of shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from dst.core import tree
from dst.core.text import aligned
from dst.core.tree import Leaf
from dst.core.typing import ArrayLike, Params
from dst.rules.allocation import Allocation
from dst.rules.layout import Layout
from dst.rules.structure import Structure


class Usage(NamedTuple):
    """How sparse a run is on average over its optimizer steps, by path of the sparse leaves.

    Attributes:
      weights: mean sparsity, in [0, 1], of the weights in use.
      gradients: mean sparsity of the weight gradients that are needed.
    """

    weights: Mapping[str, float]
    gradients: Mapping[str, float]


def _no_usage(steps: int) -> Usage:
    return Usage({}, {})


@dataclass(frozen=True)
class LeafPlan:
    """What happens to one sparse leaf.

    Attributes:
      leaf: path, shape and the reason why it is sparse.
      structure: the unit that is switched.
      layout: how the structure reads the leaf.
      initial: int32 active units per group at the start, of shape ``layout.counts``.
      counts: int32 ``[topology step, (kept after dropping, active afterwards), *layout.counts]``;
        one row where all would be equal.
    """

    leaf: Leaf
    structure: Structure
    layout: Layout
    initial: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class Plan:
    """What happens to a parameter tree; printed, it is the start table.

    Attributes:
      leaves: in the order of the tree.
      sparse: the plans of the sparse leaves, by path.
      allocation: the sparsity of each layer.
      shares: drop fractions of every topology step, uint32 in units of 2^-31; one entry where all
        are equal. Rules that count connections at the topology step read them.
      usage: ``usage(steps)``: how sparse weights and their gradients are, averaged over
        ``steps`` optimizer steps.
      exact: whether the counts will be these. Otherwise training decides, and they are expected.
    """

    leaves: tuple[Leaf, ...]
    sparse: Mapping[str, LeafPlan]
    allocation: Allocation
    shares: np.ndarray
    usage: Callable[[int], Usage] = _no_usage
    exact: bool = True

    def __str__(self) -> str:
        rows = [("leaf", "shape", "axes", "active", "sparsity", "why")]
        active = selected = 0
        for leaf in self.leaves:
            shape = "x".join(map(str, leaf.shape)) or "scalar"
            plan = self.sparse.get(leaf.path)
            if plan is None:
                rows.append((leaf.path, shape, leaf.axes or "?", str(leaf.size), "dense", leaf.why))
                continue
            n = int(plan.counts[-1, 1].sum()) * plan.layout.weights_per_count
            active, selected = active + n, selected + leaf.size
            why = leaf.why + (", saturated" if leaf.path in self.allocation.saturated else "")
            why += f", {leaf.layers} stacked layers" if leaf.stacked else ""
            rows.append(
                (leaf.path, shape, leaf.axes or "?", str(n), f"{1 - n / leaf.size:.4f}", why)
            )
        lines = aligned(rows, left=len(rows[0]))
        if selected:
            known = "active at the end" if self.exact else "expected to be active; training decides"
            lines.append(
                f"selected: {active} of {selected} weights {known}, "
                f"sparsity {1 - active / selected:.4f}"
            )
        return "\n".join(lines)


class Planner:
    """The plan of a parameter tree, computed once per set of shapes.

    Args:
      make: computes the plan of surveyed leaves; they are empty for a tree without arrays.
      options: ``select``, ``overrides``, ``stacked`` and ``axes`` of :func:`dst.core.tree.survey`.
    """

    def __init__(self, make: Callable[[Sequence[Leaf]], Plan], options: Mapping[str, Any]):
        self._make, self._options = make, options
        self._plans: dict[Any, Plan] = {}

    def __call__(self, params: Params) -> Plan:
        """The plan of a tree of arrays or shapes."""
        paths, leaves, _ = tree.flatten(params)
        return self.of(paths, leaves, params)

    def of(self, paths: Sequence[str], leaves: Sequence[ArrayLike], params: Params) -> Plan:
        """The same of a tree that has been flattened."""
        tree.check_arrays(paths, leaves)
        key = tuple((p, tuple(x.shape), str(x.dtype)) for p, x in zip(paths, leaves, strict=True))
        if key not in self._plans:
            self._plans[key] = self._make(tree.survey(params, **self._options))
        return self._plans[key]
