"""The plan of a sparse training run: per leaf, what is masked and how many weights are active.

Everything here is host arithmetic on shapes, exact, and done once per set of shapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from dst.core import checks, tree
from dst.core.text import aligned
from dst.core.tree import Leaf
from dst.engine.given_masks import counts_of_masks, leaves_of_masks
from dst.rules.allocation import Allocation, Allocator, Global, Layer, Uniform, allocator, zeros
from dst.rules.counts import fixed_point
from dst.rules.schedule import exact
from dst.rules.structure import Layout, Structure

_OVERRIDES = ("sparsity", "structure")


class Targets(NamedTuple):
    """What a plan needs to know of a rule, whichever kind it is.

    Attributes:
      sparsity: global, in [0, 1).
      structure: of leaves without one of their own.
      allocation: of the sparsity among layers.
      first_allocation: the same for the start, where it is another one.
      steps: topology steps (or stages) that have a row of counts of their own.
      share: of each layer's sparsity that is reached at a step; at -1, before the first.
      survivors: ``(active, step, active_at)``: int32 units that dropping keeps per group, where
        ``active_at(share)`` counts those of a share of the sparsity.
      only_falls: whether counts never rise, because nothing grows.
      fractions: drop fractions of the steps.
    """

    sparsity: float
    structure: Structure
    allocation: str | Allocator
    first_allocation: str | Allocator | None
    steps: Sequence[int]
    share: Callable[[int], Any]
    survivors: Callable[[np.ndarray, int, Callable[[Any], np.ndarray]], np.ndarray]
    only_falls: bool
    fractions: Sequence[float]


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
    """What happens to a parameter tree; printed, it is the start table.

    Attributes:
      leaves: in the order of the tree.
      sparse: the plans of the sparse leaves, by path.
      allocation: the sparsity of each layer.
      shares: drop fractions, uint32 in units of 2^-31, of every topology step (one entry where all
        are equal), for rules that count connections at the topology step.
      usage: ``usage(steps)``: how sparse weights and their gradients are on average over so many
        optimizer steps.
    """

    leaves: tuple[Leaf, ...]
    sparse: Mapping[str, LeafPlan]
    allocation: Allocation
    shares: np.ndarray
    usage: Callable[[int], Usage] = _no_usage

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


class Planner:
    """The plan of a parameter tree, computed once per set of shapes.

    Args:
      make: from surveyed leaves to their plan; leaves are empty for a tree without arrays.
      options: ``select``, ``overrides``, ``stacked`` and ``axes`` of :func:`dst.core.tree.survey`.
    """

    def __init__(self, make: Callable[[Sequence[Leaf]], Plan], options: Mapping[str, Any]):
        self._make, self._options = make, options
        self._plans: dict[Any, Plan] = {}

    def __call__(self, params: Any) -> Plan:
        """The plan of a tree of arrays or shapes."""
        paths, leaves, _ = tree.flatten(params)
        return self.of(paths, leaves, params)

    def of(self, paths: Sequence[str], leaves: Sequence[Any], params: Any) -> Plan:
        """The same of a tree that has been flattened."""
        key = tuple((p, tuple(x.shape), str(x.dtype)) for p, x in zip(paths, leaves, strict=True))
        if key not in self._plans:
            self._plans[key] = self._make(tree.survey(params, **self._options))
        return self._plans[key]


def make(leaves: Sequence[Leaf], targets: Targets, masks: Mapping[str, Any] | None = None) -> Plan:
    """The plan of surveyed leaves.

    Args:
      leaves: of :func:`dst.core.tree.survey`.
      targets: of the rule.
      masks: connections to start from, by leaf path: their counts replace the allocation, and
        leaves that are missing among them are dense.

    Raises:
      ValueError: overrides that mean nothing, masks that do not fit, a layer that would lose all
        its weights, nothing to make sparse.
    """
    leaves = _selected(leaves, targets, masks)
    sparse = [leaf for leaf in leaves if leaf.sparse]
    allocate = allocator(targets.allocation)
    structures = {x.path: (x.settings or {}).get("structure") or targets.structure for x in sparse}
    layers = {
        leaf.path: Layer(
            shape=leaf.layer_shape if isinstance(allocate, Uniform) else leaf.merged_shape,
            layers=leaf.layers,
            sparsity=_own_sparsity(leaf, structures[leaf.path]),
        )
        for leaf in sparse
        if masks is None
    }
    allocation = first = allocate(layers, targets.sparsity) if layers else Allocation({})
    if layers and targets.first_allocation is not None:
        reached = float(exact(targets.sparsity) * exact(targets.share(-1)))
        first = allocator(targets.first_allocation)(layers, reached)
    layouts = {leaf.path: structures[leaf.path].layout(leaf) for leaf in sparse}
    if allocation.before:
        _check_competition(layouts)

    plans = {}
    for leaf in sparse:
        given = None if masks is None else np.asarray(masks[leaf.path], bool)
        plans[leaf.path] = _leaf_plan(leaf, layouts[leaf.path], allocation, first, given, targets)
    if isinstance(allocate, Global) and masks is None:
        _check_min_active(allocate.min_active, plans)
    varying = any((p.counts != p.counts[:1]).any() for p in plans.values())
    if not varying:
        plans = {path: replace(p, counts=p.counts[:1]) for path, p in plans.items()}
    shares = np.array([fixed_point(f) for f in targets.fractions], np.uint32)
    if (shares == shares[:1]).all():
        shares = shares[:1]
    return Plan(tuple(leaves), plans, allocation, shares)


def _selected(
    leaves: Sequence[Leaf], targets: Targets, masks: Mapping[str, Any] | None
) -> Sequence[Leaf]:
    """The leaves, sparse where masks or sparsities say so; overrides are checked."""
    for leaf in leaves:
        settings = leaf.settings or {}
        unknown = set(settings) - set(_OVERRIDES)
        if unknown:
            raise ValueError(
                f"overrides of {leaf.path}: unknown {sorted(unknown)}; known are {_OVERRIDES}."
            )
        if "sparsity" in settings:
            own = settings["sparsity"]
            checks.fraction(f"overrides of {leaf.path}: sparsity", own, below_one=True)
    if masks is not None:
        leaves = leaves_of_masks(leaves, masks)
    elif targets.sparsity == 0 and not any((x.settings or {}).get("sparsity") for x in leaves):
        leaves = [replace(x, sparse=False, why="sparsity 0") if x.sparse else x for x in leaves]
    wanted = targets.sparsity > 0 or masks is not None
    if leaves and wanted and not any(leaf.sparse for leaf in leaves):
        reasons = "\n  ".join(f"{x.path} {x.shape}: {x.why}" for x in leaves)
        raise ValueError(
            f"no parameter is left to make sparse. Use select=. The leaves are:\n  {reasons}"
        )
    return leaves


def _own_sparsity(leaf: Leaf, structure: Structure) -> Any:
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


def _check_min_active(min_active: int, plans: Mapping[str, LeafPlan]) -> None:
    slices = sum(math.prod(p.layout.counts) for p in plans.values())
    steps = zip(*(p.counts[:, 1] for p in plans.values()), strict=True)
    least = min((sum(int(n.sum()) for n in step) for step in steps), default=0)
    if plans and least < min_active * slices:
        raise ValueError(
            f"a global allocation leaves {least} active units to {slices} layers, of which each "
            f"keeps min_active={min_active}. Lower the sparsity or min_active."
        )


def _leaf_plan(
    leaf: Leaf,
    layout: Layout,
    allocation: Allocation,
    first_allocation: Allocation,
    given: np.ndarray | None,
    targets: Targets,
) -> LeafPlan:
    slices = math.prod(layout.counts)
    # Where layers share a budget, the units before a slice: counts are differences of its counts.
    first = allocation.before.get(leaf.path)
    starts = [
        0 if first is None else first // layout.unit_size + i * layout.units for i in range(slices)
    ]
    sparsity = [allocation.sparsity.get(leaf.path, Fraction(0))] * slices
    if given is not None:
        initial = counts_of_masks(leaf, layout, given)
        sparsity = [1 - Fraction(int(n), layout.units) for n in initial.flat]

    def active_at(share: Any) -> np.ndarray:
        part = exact(share)
        active = [
            layout.units + zeros(n, s * part) - zeros(n + layout.units, s * part)
            for n, s in zip(starts, sparsity, strict=True)
        ]
        return np.array(active, np.int32).reshape(layout.counts)

    if given is None and first_allocation is not allocation:
        own = first_allocation.sparsity[leaf.path]
        initial = np.full(layout.counts, layout.units - zeros(layout.units, own), np.int32)
    elif given is None:
        initial = active_at(targets.share(-1))
    rows, active = [], initial
    for step in targets.steps:
        aim = active_at(targets.share(step))
        if targets.only_falls and not allocation.before:  # where layers compete, their sum falls
            aim = np.asarray(np.minimum(aim, active))
        kept = np.maximum(targets.survivors(active, step, active_at), 0)
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
