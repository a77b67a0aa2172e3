"""The plan of a latent-weight method, and how sparse its run is on average."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from dst.core.tree import Leaf
from dst.engine.build_plan import Targets, build_plan
from dst.engine.plan import Plan, Usage
from dst.engine.usage import mean_sparsity, sparsity_at_end
from dst.rules.latent import Latent


def plan_of(leaves: Sequence[Leaf], latent: Latent) -> Plan:
    """The plan of a method for surveyed leaves: row ``k`` has the counts of stage ``k``.

    Raises:
      ValueError: as :func:`dst.engine.build_plan.build_plan`.
    """
    plan = build_plan(leaves, _targets(latent, latent.sparsity))
    return replace(plan, usage=partial(_usage, latent, plan), exact=latent.counts is None)


def backward_plan_of(leaves: Sequence[Leaf], latent: Latent) -> Plan:
    """The plan of the larger set that gradients reach; of the active one where there is none."""
    sparsity = latent.backward_sparsity
    return build_plan(leaves, _targets(latent, latent.sparsity if sparsity is None else sparsity))


def _targets(latent: Latent, sparsity: float) -> Targets:
    ramp, stages = latent.ramp, range(len(latent.stages) + 1)
    return Targets(
        sparsity=sparsity,
        structure=latent.structure,
        allocation=latent.allocation,
        first_allocation=None,
        steps=stages,
        share=lambda k: 1 if ramp is None else ramp(max(k, 0)),
        survivors=lambda active, active_at: active,
        only_falls=False,
        fractions=[0.0],
    )


def _usage(latent: Latent, plan: Plan, steps: int) -> Usage:
    edges = [0, *(min(s, steps) for s in latent.stages), steps]
    turns = np.array([0.0, *np.diff(edges)])
    hard = 1.0
    if (softness := latent.softness) is not None:
        soft = bisect_left(range(steps), True, key=lambda t: bool(softness(t) <= 0))
        hard = 1 - soft / steps
    used = {path: hard * s for path, s in mean_sparsity(plan, turns).items()}
    if latent.backward_sparsity is None:
        return Usage(used, dict.fromkeys(used, 0.0))
    return Usage(used, sparsity_at_end(backward_plan_of(plan.leaves, latent)))
