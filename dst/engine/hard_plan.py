"""The plan of a drop-and-grow rule, and how sparse its run is on average."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import chain, islice

import jax
import jax.numpy as jnp
import numpy as np

from dst.core import checks
from dst.core.tree import Leaf
from dst.core.typing import ArrayLike
from dst.engine.build_plan import Targets, build_plan
from dst.engine.plan import LeafPlan, Plan, Usage
from dst.engine.usage import mean_sparsity
from dst.rules.rule import Rule
from dst.rules.schedule import exact
from dst.rules.scores import Connections, Score


def plan_of(
    leaves: Sequence[Leaf], rule: Rule, masks: Mapping[str, ArrayLike] | None = None
) -> Plan:
    """The plan of a rule for surveyed leaves.

    Args:
      leaves: of :func:`dst.core.tree.survey`.
      rule: with all durations in steps.
      masks: connections to start from, by leaf path; see :func:`dst.engine.build_plan.build_plan`.

    Raises:
      ValueError: as :func:`dst.engine.build_plan.build_plan`; masks for a rule that schedules its
        sparsity; a drop fraction that rounds to nothing everywhere.
    """
    if masks is not None and rule.how_many.ramp is not None and rule.how_many.drop_to is None:
        raise ValueError(
            "masks: their counts replace the allocation, but this method has a schedule of its own "
            "for the sparsity. Leave `initial` out, or use a method that keeps the sparsity."
        )
    plan = build_plan(leaves, _targets(rule), masks)
    _check_exchange(rule, plan.sparse)
    _check_places(rule, plan.sparse)
    return replace(plan, usage=partial(_usage, rule, plan))


def _targets(rule: Rule) -> Targets:
    how_many, steps = rule.how_many, _steps(rule)
    fractions = [float(how_many.fraction(t)) for t in steps or [0]]
    for step, fraction in zip(steps, fractions, strict=False):
        checks.fraction(f"drop fraction at step {step}", fraction)

    def survivors(active: np.ndarray, active_at: Callable[[Fraction], np.ndarray]) -> np.ndarray:
        if how_many.drop_to is not None:
            return np.stack([active_at(exact(how_many.drop_to(step))) for step in steps])
        shares = np.reshape(fractions, (-1, *[1] * (active.ndim - 1)))
        return active - how_many.exchanged(active, shares)

    return Targets(
        sparsity=rule.sparsity,
        structure=rule.structure,
        allocation=how_many.allocation,
        first_allocation=rule.start.allocation,
        steps=steps,
        share=how_many.ramp or (lambda step: 1),
        survivors=survivors,
        only_falls=rule.which.grow is None,
        fractions=fractions,
    )


def _steps(rule: Rule) -> list[int]:
    """Topology steps for which counts may differ."""
    if rule.when is None:
        return []
    if not rule.when.endless:
        return rule.when.steps()
    first, every = rule.when.first, rule.when.every
    probes = [first, first + every, first + 1000 * every]
    how_many = rule.how_many
    curves = [x for x in (how_many.fraction, how_many.ramp, how_many.drop_to) if x is not None]
    values = {tuple(float(curve(t)) for curve in curves) for t in probes}
    if len(values) > 1:
        raise ValueError(
            "a drop fraction or sparsity that changes over time needs a last topology step. "
            "Give `stop`, or use a constant."
        )
    return [first]


def _check_exchange(rule: Rule, plans: Mapping[str, LeafPlan]) -> None:
    """Raises where the drop fraction rounds to nothing everywhere: training would hide it."""
    how_many, which = rule.how_many, rule.which
    if which.grow is None or rule.when is None or how_many.counts or which.keep or not plans:
        return
    fraction = float(how_many.fraction(rule.when.first))
    if fraction == 0 and how_many.drop_to is None:
        return
    same = all(
        (p.counts[:, 0] == p.counts[:, 1]).all() and (p.counts == p.initial).all()
        for p in plans.values()
    )
    if same:
        path, plan = next(iter(plans.items()))
        what = f"a drop fraction of {fraction:g}" if how_many.drop_to is None else "what is dropped"
        raise ValueError(
            f"no connection would ever be exchanged: {what} of the {int(plan.initial.flat[0])} "
            f"active units per group of {path} is rounded to none "
            f"(rounding={how_many.rounding!r}). Drop more, or use rounding='ceil' where the method "
            "has it."
        )


def _check_places(rule: Rule, plans: Mapping[str, LeafPlan]) -> None:
    """Raises where a rule that says itself what stays could drop more connections than can grow in
    places that were inactive: the rest would be lost."""
    counted = rule.how_many.counts is not None and rule.which.keep is not None
    if not counted or rule.which.regrow != "forbid":
        return
    active = sum(int(p.initial.sum()) * p.layout.weights_per_count for p in plans.values())
    droppable = active - sum(math.prod(p.layout.counts) for p in plans.values())  # each keeps one
    free = sum(p.leaf.size for p in plans.values()) - active
    if droppable > free:
        raise ValueError(
            f"a topology step could drop {droppable} of {active} active connections, but only "
            f"{free} places are free for as many to grow. Start from sparser masks, raise the "
            "sparsity, or use another method."
        )


def _usage(rule: Rule, plan: Plan, steps: int) -> Usage:
    turns, changes = _turns(rule, plan, steps)
    used = mean_sparsity(plan, turns)
    dense = _dense_gradients(rule, changes, steps)
    if not dense:
        return Usage(used, used)
    # Those steps need the gradients of inactive weights too. The sparsity of the weights in use at
    # that step does not count for them.
    then = used if rule.which.accumulator is not None else mean_sparsity(plan, changes)
    return Usage(used, {path: max(s - dense * then[path], 0.0) for path, s in used.items()})


def _turns(rule: Rule, plan: Plan, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """How many optimizer steps use each row of the table of counts, and how many topology steps
    start from it. The initial counts are the first row."""
    rows = 1 + max((len(x.counts) for x in plan.sparse.values()), default=0)
    turns, changes = np.zeros(rows), np.zeros(rows)
    when, times, off_grid = rule.when, range(0), []
    if when is not None:
        last = min(when.last, steps - 1)
        times = range(when.first, last + 1, when.every)  # there may be billions
        off_grid = [last] if times and last == when.last != times[-1] else []
    # A topology step itself still uses the old masks. The last row stands for all later ones.
    ends = [t + 1 for t in islice(chain(times, off_grid), rows - 1)]
    turns[: len(ends) + 1] = np.diff([0, *ends, steps])
    changes[: len(ends)] = 1
    changes[-1] += len(times) + len(off_grid) - len(ends)
    return turns, changes


def _dense_gradients(rule: Rule, changes: np.ndarray, steps: int) -> float:
    """The share of steps that need the gradient of inactive weights too."""
    times, accumulator, grow = changes.sum(), rule.which.accumulator, rule.which.grow
    if accumulator is not None:
        return 1.0 if accumulator.window is None else min(1.0, times * accumulator.window / steps)
    if grow is None or not times or not reads_gradient(grow):
        return 0.0
    return float(times / steps)


def reads_gradient(score: Score) -> bool:
    """Whether a score depends on the gradient: whether its trace reads it."""
    weight = jax.ShapeDtypeStruct((2, 2), jnp.float32)
    mask = jax.ShapeDtypeStruct((2, 2), jnp.bool_)
    key = jax.eval_shape(lambda: jax.random.key(0, impl="threefry2x32"))
    leaf = (weight, weight, mask, mask, key)
    program = jax.make_jaxpr(lambda *fields: score(Connections(*fields)))(*leaf).jaxpr
    gradient = program.invars[1]
    consumed = [x for equation in program.eqns for x in equation.invars] + list(program.outvars)
    return any(gradient is x for x in consumed)
