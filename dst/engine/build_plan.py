"""From surveyed leaves and the targets of a rule to the plan: exact counts for every leaf."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from dst.core import checks
from dst.core.tree import Leaf
from dst.core.typing import ArrayLike
from dst.engine.plan import LeafPlan, Plan
from dst.engine.user_masks import counts_of_masks, leaves_of_masks
from dst.rules.allocation import Allocation, Allocator, Global, Layer, Uniform, allocator, zeros
from dst.rules.counts import fixed_point
from dst.rules.layout import Layout
from dst.rules.schedule import exact
from dst.rules.structure import Structure, structure_of

_OVERRIDES = ("sparsity", "structure")


class Targets(NamedTuple):
    """What a plan needs to know of a rule, whichever kind it is.

    Attributes:
      sparsity: global, in [0, 1).
      structure: of leaves without one of their own.
      allocation: of the sparsity among layers.
      first_allocation: the same for the start, where it is another one.
      steps: topology steps (or stages) that have a row of counts of their own.
      share: ``share(step)`` of each layer's sparsity is reached at a step; ``share(-1)`` before
        the first.
      survivors: ``survivors(active, active_at)``: int32 units that dropping keeps per group, for
        all steps at once; ``active``, before each of them, has a row per step.
        ``active_at(share)`` counts the active units at a share of the sparsity.
      only_falls: whether counts never rise, because nothing grows.
      fractions: drop fractions of the steps.
    """

    sparsity: float
    structure: Structure
    allocation: str | Allocator
    first_allocation: str | Allocator | None
    steps: Sequence[int]
    share: Callable[[int], Any]
    survivors: Callable[[np.ndarray, Callable[[Fraction], np.ndarray]], np.ndarray]
    only_falls: bool
    fractions: Sequence[float]


def build_plan(
    leaves: Sequence[Leaf], targets: Targets, masks: Mapping[str, ArrayLike] | None = None
) -> Plan:
    """The plan of surveyed leaves.

    Args:
      leaves: of :func:`dst.core.tree.survey`.
      targets: of the rule.
      masks: bool arrays by leaf path, connections to start from. Their counts replace the
        allocation; leaves without a mask are dense.

    Raises:
      ValueError: unknown overrides, masks that do not fit, a layer that would lose all its
        weights, no leaf to make sparse.
    """
    leaves = selected(leaves, targets.sparsity, masks)
    sparse = [leaf for leaf in leaves if leaf.sparse]
    allocate = allocator(targets.allocation)
    structures = {x.path: structure_of(x, targets.structure) for x in sparse}
    layers = {
        leaf.path: Layer(
            shape=leaf.layer_shape if isinstance(allocate, Uniform) else leaf.merged_shape,
            layers=leaf.layers,
            sparsity=own_sparsity(leaf, structures[leaf.path]),
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

    plans, shares_of_steps = {}, [exact(targets.share(step)) for step in targets.steps]
    for leaf in sparse:
        mask = None if masks is None else np.asarray(masks[leaf.path], bool)
        unit = structures[leaf.path], layouts[leaf.path]
        plans[leaf.path] = _leaf_plan(
            leaf, *unit, allocation, first, mask, targets, shares_of_steps
        )
    if isinstance(allocate, Global) and masks is None:
        _check_min_active(allocate.min_active, plans)
    varying = any((p.counts != p.counts[:1]).any() for p in plans.values())
    if not varying:
        plans = {path: replace(p, counts=p.counts[:1]) for path, p in plans.items()}
    shares = np.array([fixed_point(f) for f in targets.fractions], np.uint32)
    if (shares == shares[:1]).all():
        shares = shares[:1]
    return Plan(tuple(leaves), plans, allocation, shares)


def selected(
    leaves: Sequence[Leaf], sparsity: float, masks: Mapping[str, ArrayLike] | None = None
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
    elif sparsity == 0 and not any((x.settings or {}).get("sparsity") for x in leaves):
        leaves = [replace(x, sparse=False, why="sparsity 0") if x.sparse else x for x in leaves]
    wanted = sparsity > 0 or masks is not None
    if leaves and wanted and not any(leaf.sparse for leaf in leaves):
        reasons = "\n  ".join(f"{x.path} {x.shape}: {x.why}" for x in leaves)
        raise ValueError(
            f"no parameter is left to make sparse. Use select=. The leaves are:\n  {reasons}"
        )
    return leaves


def own_sparsity(leaf: Leaf, structure: Structure) -> Any:
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
    structure: Structure,
    layout: Layout,
    allocation: Allocation,
    first_allocation: Allocation,
    mask: np.ndarray | None,
    targets: Targets,
    shares: Sequence[Fraction],
) -> LeafPlan:
    if layout.units > checks.LARGEST:
        raise ValueError(
            f"{leaf.path} of shape {leaf.shape} has {layout.units} weights in a layer, more than "
            f"the {checks.LARGEST} that 32-bit counts can hold. Split the array, or name axes that "
            "enumerate layers: stacked=."
        )
    slices, units = math.prod(layout.counts), layout.units
    # Where layers share a budget: the units of all slices before each slice.
    first = allocation.before.get(leaf.path)
    starts = [
        0 if first is None else first // layout.unit_size + i * layout.units for i in range(slices)
    ]
    sparsity = [allocation.sparsity.get(leaf.path, Fraction(0))] * slices
    if mask is not None:
        initial = counts_of_masks(leaf, layout, mask)
        sparsity = [1 - Fraction(int(n), layout.units) for n in initial.flat]

    @cache  # many steps have the same share
    def active_at(share: Fraction) -> np.ndarray:
        active = [
            units + zeros(n, part) - zeros(n + units, part)
            for n, part in zip(starts, [s * share for s in sparsity], strict=True)
        ]
        return np.array(active, np.int32).reshape(layout.counts)

    if mask is None and first_allocation is not allocation:
        own = first_allocation.sparsity[leaf.path]
        initial = np.full(layout.counts, layout.units - zeros(layout.units, own), np.int32)
    elif mask is None:
        initial = active_at(exact(targets.share(-1)))
    levels = np.stack([initial, *map(active_at, shares)])
    if targets.only_falls and not allocation.before:  # of competing layers only the sum falls
        levels = np.minimum.accumulate(levels)
    if shares:
        active, aims = levels[:-1], levels[1:]
        kept = np.maximum(targets.survivors(active, active_at), 0)
    else:
        active = aims = kept = levels
    if (aims[-1] == 0).any() and not allocation.before:
        raise ValueError(
            f"{leaf.path} of shape {leaf.shape} would lose all its weights. Lower the sparsity, or "
            f"leave it dense: overrides={{{leaf.path!r}: {{'sparsity': 0}}}}."
        )
    rows = np.stack([np.minimum(np.minimum(kept, active), aims), aims], axis=1)
    layout.check_counts(leaf.path, np.append(rows, initial))
    return LeafPlan(leaf, structure, layout, initial, rows.astype(np.int32))
