"""The plan of a sparse training run: per leaf, what is masked and how many weights are active.

Everything here is host arithmetic on shapes, exact, and done once per set of shapes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from dst import checks
from dst.allocation import Allocation, Layer, Uniform, allocator, zeros
from dst.rule import Rule
from dst.schedule import exact
from dst.structure import Layout
from dst.tree import Leaf

_OVERRIDES = ("sparsity", "structure")


@dataclass(frozen=True)
class LeafPlan:
    """What happens to one sparse leaf.

    Attributes:
      leaf: path, shape and the reason why it is sparse.
      layout: how the structure reads it.
      initial: int32 active units per group at the start, of shape ``layout.counts``.
      counts: int32 ``[topology step, (kept after dropping, active afterwards), *layout.counts]``;
        one row where all would be equal.
    """

    leaf: Leaf
    layout: Layout
    initial: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class Plan:
    """All leaves in the order of the tree, and the plans of the sparse ones by path."""

    leaves: tuple[Leaf, ...]
    sparse: Mapping[str, LeafPlan]
    allocation: Allocation

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
        lines = _aligned(rows)
        if selected:
            lines.append(
                f"selected: {active} of {selected} weights active at the end, "
                f"sparsity {1 - active / selected:.4f}"
            )
        return "\n".join(lines)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]


def make(leaves: Sequence[Leaf], rule: Rule, masks: Mapping[str, Any] | None = None) -> Plan:
    """The plan of a rule for surveyed leaves.

    Args:
      leaves: of :func:`dst.tree.survey`.
      rule: with all durations resolved.
      masks: connections to start from, by leaf path: their counts replace the allocation, and
        leaves that are missing among them are dense.

    Raises:
      ValueError: overrides that mean nothing, masks that do not fit, a layer that would lose all
        its weights, nothing to make sparse.
    """
    for leaf in leaves:
        settings = leaf.settings or {}
        unknown = set(settings) - set(_OVERRIDES)
        if unknown:
            raise ValueError(
                f"overrides of {leaf.path}: unknown {sorted(unknown)}; known are {_OVERRIDES}."
            )
        if "sparsity" in settings:
            found = settings["sparsity"]
            checks.fraction(f"overrides of {leaf.path}: sparsity", found, below_one=True)
    if masks is not None:
        leaves = _from_masks(leaves, masks)
    elif rule.sparsity == 0 and not any((x.settings or {}).get("sparsity") for x in leaves):
        leaves = [replace(x, sparse=False, why="sparsity 0") if x.sparse else x for x in leaves]
    sparse = [leaf for leaf in leaves if leaf.sparse]
    wanted = rule.sparsity > 0 or masks is not None
    if leaves and wanted and not sparse:
        reasons = "\n  ".join(f"{x.path} {x.shape}: {x.why}" for x in leaves)
        raise ValueError(
            f"no parameter is left to make sparse. Use select=. The leaves are:\n  {reasons}"
        )

    allocate = allocator(rule.allocation)
    layers = {
        leaf.path: Layer(
            shape=leaf.layer_shape if isinstance(allocate, Uniform) else leaf.merged_shape,
            layers=leaf.layers,
            sparsity=(leaf.settings or {}).get("sparsity"),
        )
        for leaf in sparse
        if masks is None
    }
    allocation = allocate(layers, rule.sparsity) if layers else Allocation({})

    plans = {}
    for leaf in sparse:
        structure = (leaf.settings or {}).get("structure") or rule.structure
        layout = structure.layout(leaf)
        given = None if masks is None else np.asarray(masks[leaf.path], bool)
        plans[leaf.path] = _leaf_plan(leaf, layout, allocation.sparsity.get(leaf.path), given, rule)
    varying = any((p.counts != p.counts[:1]).any() for p in plans.values())
    if not varying:
        plans = {path: replace(p, counts=p.counts[:1]) for path, p in plans.items()}
    return Plan(tuple(leaves), plans, allocation)


def _leaf_plan(
    leaf: Leaf, layout: Layout, sparsity: Any, given: np.ndarray | None, rule: Rule
) -> LeafPlan:
    def target(count: int) -> np.ndarray:
        if given is not None:
            return initial
        due = sparsity if rule.ramp is None else sparsity * exact(rule.ramp(count))
        return np.full(layout.counts, layout.units - zeros(layout.units, due), np.int32)

    if given is not None:
        axes = tuple(range(leaf.stacked, len(leaf.shape)))
        initial = np.asarray(given.sum(axes) // layout.weights_per_count, np.int32)
    else:
        initial = target(0)
    rows, active = [], initial
    for count in _steps(rule):
        aim = target(count)
        if rule.grow is None:
            aim = np.minimum(aim, active)
        exchanged = np.vectorize(lambda n, t=count: rule.exchanged(int(n), t), otypes=[np.int32])
        kept = np.minimum(active - exchanged(active), aim)
        rows.append(np.stack([kept, aim]))
        active = aim
    if not rows:
        rows.append(np.stack([initial, initial]))
    if (active == 0).any():
        raise ValueError(
            f"{leaf.path} of shape {leaf.shape} would lose all its weights. Lower the sparsity, or "
            f"leave it dense: overrides={{{leaf.path!r}: {{'sparsity': 0}}}}."
        )
    return LeafPlan(leaf, layout, initial, np.stack(rows).astype(np.int32))


def _steps(rule: Rule) -> list[int]:
    """Topology steps for which counts may differ."""
    if rule.cadence is None:
        return []
    if not rule.cadence.endless:
        return rule.cadence.steps()
    first, every = rule.cadence.first, rule.cadence.every
    probes = [first, first + every, first + 1000 * every]
    values = {(float(rule.fraction(t)), rule.ramp and float(rule.ramp(t))) for t in probes}
    if len(values) > 1:
        raise ValueError(
            "a drop fraction or sparsity that changes over time needs a last topology step. "
            "Give `stop`, or use a constant."
        )
    return [first]


def _from_masks(leaves: Sequence[Leaf], masks: Mapping[str, Any]) -> list[Leaf]:
    known = {leaf.path: leaf for leaf in leaves}
    for path, mask in masks.items():
        if path not in known:
            raise ValueError(f"masks: {path!r} is no parameter. The paths are: {', '.join(known)}.")
        if not isinstance(mask, (np.ndarray, jax.Array)) or mask.dtype != bool:
            kind = getattr(mask, "dtype", type(mask).__name__)
            raise ValueError(f"masks: {path!r} must be a bool array, got {kind}.")
        if tuple(mask.shape) != known[path].shape:
            raise ValueError(
                f"masks: {path!r} has shape {tuple(mask.shape)}, its parameter {known[path].shape}."
            )
    return [
        replace(x, sparse=x.path in masks, why="mask given" if x.path in masks else "no mask given")
        for x in leaves
    ]
