"""The plan of a sparse training run: per leaf, what is masked and how many weights are active.

Everything here is host arithmetic on shapes, exact, and done once per set of shapes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import jax
import numpy as np

from dst.core import checks
from dst.core.text import aligned
from dst.core.tree import Leaf
from dst.rules.allocation import Allocation, Global, Layer, Uniform, allocator, zeros
from dst.rules.counts import fixed_point
from dst.rules.rule import Rule
from dst.rules.schedule import Schedule, exact
from dst.rules.structure import Layout

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
    """All leaves in the order of the tree, and the plans of the sparse ones by path.

    ``shares`` are the drop fractions, uint32 in units of 2^-31, of every topology step (one entry
    where all are equal), for rules whose counts are found at the topology step.
    """

    leaves: tuple[Leaf, ...]
    sparse: Mapping[str, LeafPlan]
    allocation: Allocation
    shares: np.ndarray

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
            lines.append(
                f"selected: {active} of {selected} weights active at the end, "
                f"sparsity {1 - active / selected:.4f}"
            )
        return "\n".join(lines)


def make(leaves: Sequence[Leaf], rule: Rule, masks: Mapping[str, Any] | None = None) -> Plan:
    """The plan of a rule for surveyed leaves.

    Args:
      leaves: of :func:`dst.core.tree.survey`.
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
        _check_given(rule)
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
    structures = {x.path: (x.settings or {}).get("structure") or rule.structure for x in sparse}
    layers = {
        leaf.path: Layer(
            shape=leaf.layer_shape if isinstance(allocate, Uniform) else leaf.merged_shape,
            layers=leaf.layers,
            sparsity=_own_sparsity(leaf, structures[leaf.path]),
        )
        for leaf in sparse
        if masks is None
    }
    allocation = allocate(layers, rule.sparsity) if layers else Allocation({})
    first = allocation
    if layers and rule.first_allocation is not None:
        due = 1 if rule.ramp is None else exact(rule.ramp(-1))
        first = allocator(rule.first_allocation)(layers, float(exact(rule.sparsity) * due))
    layouts = {leaf.path: structures[leaf.path].layout(leaf) for leaf in sparse}
    if allocation.before:
        _check_competition(layouts)

    plans = {}
    for leaf in sparse:
        given = None if masks is None else np.asarray(masks[leaf.path], bool)
        plans[leaf.path] = _leaf_plan(leaf, layouts[leaf.path], allocation, first, given, rule)
    if isinstance(allocate, Global) and masks is None:
        _check_floor(allocate.floor, plans)
    _check_exchange(rule, plans)
    varying = any((p.counts != p.counts[:1]).any() for p in plans.values())
    if not varying:
        plans = {path: replace(p, counts=p.counts[:1]) for path, p in plans.items()}
    shares = np.array([fixed_point(rule.fraction(t)) for t in _steps(rule) or [0]], np.uint32)
    if (shares == shares[:1]).all():
        shares = shares[:1]
    return Plan(tuple(leaves), plans, allocation, shares)


def _own_sparsity(leaf: Leaf, structure: Any) -> Any:
    """The sparsity that does not come from the allocation: of the pattern, or of an override."""
    own = (leaf.settings or {}).get("sparsity")
    fixed = getattr(structure, "sparsity", None)
    if fixed is not None and own is not None and exact(own) != fixed:
        raise ValueError(
            f"overrides of {leaf.path}: sparsity must be {float(fixed):g}, the only one that "
            f"{structure} has, got {own}."
        )
    return own if fixed is None else float(fixed)


def _check_competition(layouts: Mapping[str, Layout]) -> None:
    sizes = {path: x.unit_size for path, x in layouts.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(
            "a global allocation lets units of all layers compete, so they must be of one size; "
            f"the weights per unit are {sizes}. Use 'erk' or 'uniform' with this structure."
        )
    for path, layout in layouts.items():
        if len(layout.groups) > len(layout.counts):
            raise ValueError(
                f"a global allocation moves weights freely, but the structure of {path} fixes the "
                "count of every group. Use 'erk' or 'uniform' with this structure."
            )


def _check_floor(floor: int, plans: Mapping[str, LeafPlan]) -> None:
    slices = sum(math.prod(p.layout.counts) for p in plans.values())
    steps = zip(*(p.counts[:, 1] for p in plans.values()), strict=True)
    least = min((sum(int(n.sum()) for n in step) for step in steps), default=0)
    if plans and least < floor * slices:
        raise ValueError(
            f"a global allocation leaves {least} active units to {slices} layers, of which each "
            f"keeps floor={floor}. Lower the sparsity or the floor."
        )


def _check_given(rule: Rule) -> None:
    if rule.ramp is not None and rule.low is None:
        raise ValueError(
            "masks: the counts of given masks replace the allocation, but this method has a "
            "schedule of its own for the sparsity. Leave `initial` out, or use a method that keeps "
            "the sparsity."
        )


def _check_exchange(rule: Rule, plans: Mapping[str, LeafPlan]) -> None:
    """A drop fraction that rounds to nothing everywhere is a mistake that nobody would see."""
    if rule.grow is None or rule.cadence is None or rule.budget or rule.keep or not plans:
        return
    fraction = float(rule.fraction(rule.cadence.first))
    if fraction == 0 and rule.low is None:
        return
    same = all(
        (p.counts[:, 0] == p.counts[:, 1]).all() and (p.counts == p.initial).all()
        for p in plans.values()
    )
    if same:
        path, plan = next(iter(plans.items()))
        what = f"a drop fraction of {fraction:g}" if rule.low is None else "the share to drop"
        raise ValueError(
            f"no connection would ever be exchanged: {what} of the {int(plan.initial.flat[0])} "
            f"active units per group of {path} is rounded to none (rounding={rule.rounding!r}). "
            "Drop more, or use rounding='ceil' where the method has it."
        )


def _leaf_plan(
    leaf: Leaf,
    layout: Layout,
    allocation: Allocation,
    first_allocation: Allocation,
    given: np.ndarray | None,
    rule: Rule,
) -> LeafPlan:
    slices = math.prod(layout.counts)
    # Where layers share a budget, the units before a slice: counts are differences of its counts.
    first = allocation.before.get(leaf.path)
    starts = [
        0 if first is None else first // layout.unit_size + i * layout.units for i in range(slices)
    ]
    sparsity = [allocation.sparsity.get(leaf.path, Fraction(0))] * slices
    if given is not None:
        initial = _given_counts(leaf, layout, given)
        sparsity = [1 - Fraction(int(n), layout.units) for n in initial.flat]

    def share(schedule: Schedule | None, count: int) -> np.ndarray:
        part = 1 if schedule is None else exact(schedule(count))
        active = [
            layout.units + zeros(n, s * part) - zeros(n + layout.units, s * part)
            for n, s in zip(starts, sparsity, strict=True)
        ]
        return np.array(active, np.int32).reshape(layout.counts)

    if given is None and first_allocation is not allocation:
        due = first_allocation.sparsity[leaf.path]
        initial = np.full(layout.counts, layout.units - zeros(layout.units, due), np.int32)
    elif given is None:
        initial = share(rule.ramp, -1)
    rows, active = [], initial
    for count in _steps(rule):
        aim = share(rule.ramp, count)
        if rule.grow is None and not allocation.before:  # where layers compete, their sum falls
            aim = np.minimum(aim, active)
        if rule.low is None:
            exchanged = np.vectorize(
                lambda n, t=count: rule.exchanged(int(n), t), otypes=[np.int32]
            )
            kept = active - exchanged(active)
        else:
            kept = np.maximum(share(rule.low, count), 0)
        rows.append(np.stack([np.minimum(np.minimum(kept, active), aim), aim]))
        active = aim
    if not rows:
        rows.append(np.stack([initial, initial]))
    if (active == 0).any() and not allocation.before:
        raise ValueError(
            f"{leaf.path} of shape {leaf.shape} would lose all its weights. Lower the sparsity, or "
            f"leave it dense: overrides={{{leaf.path!r}: {{'sparsity': 0}}}}."
        )
    return LeafPlan(leaf, layout, initial, np.stack(rows).astype(np.int32))


def _given_counts(leaf: Leaf, layout: Layout, given: np.ndarray) -> np.ndarray:
    """Units per group of masks that were given, checked against the structure."""
    split = given.reshape(layout.split)
    if layout.members:
        units = np.asarray(split.any(axis=layout.members))
        if (units != split.all(axis=layout.members)).any():
            raise ValueError(
                f"masks: {leaf.path} is not constant within the units of its structure."
            )
        split = units
    ranked = tuple(a for a in range(split.ndim) if a not in layout.group_axes)
    per_group = split.sum(axis=ranked)
    inner = tuple(range(len(layout.counts), per_group.ndim))
    counts = per_group.max(axis=inner) if inner else per_group
    if inner and (per_group.min(axis=inner) != counts).any():
        raise ValueError(
            f"masks: {leaf.path} has groups with {per_group.min()} to {per_group.max()} active "
            "units, but its structure has equally many in each."
        )
    return np.asarray(counts, np.int32)


def _steps(rule: Rule) -> list[int]:
    """Topology steps for which counts may differ."""
    if rule.cadence is None:
        return []
    if not rule.cadence.endless:
        return rule.cadence.steps()
    first, every = rule.cadence.first, rule.cadence.every
    probes = [first, first + every, first + 1000 * every]
    curves = [rule.fraction, *(x for x in (rule.ramp, rule.low) if x is not None)]
    values = {tuple(float(curve(t)) for curve in curves) for t in probes}
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
