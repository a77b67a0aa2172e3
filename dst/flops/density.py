"""How dense a run is, step by step: from its plan, on the host, before it begins."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dst.engine.plan import LeafPlan, Plan, make
from dst.rules import scores
from dst.rules.latent import Latent
from dst.rules.rule import Rule


def sparsity_at_end(plan: Plan) -> dict[str, float]:
    """Sparsity by leaf path after the last topology step of a plan."""
    return {p: 1 - float(_active(x)[-1]) / x.leaf.size for p, x in plan.sparse.items()}


def reads_gradient(score: scores.Score) -> bool:
    """Whether a score depends on the gradient, of inactive weights too: found by tracing it."""
    weight = jax.ShapeDtypeStruct((2, 2), jnp.float32)
    mask = jax.ShapeDtypeStruct((2, 2), jnp.bool_)
    key = jax.eval_shape(lambda: jax.random.key(0, impl="threefry2x32"))
    leaf = (weight, weight, mask, mask, key)
    program = jax.make_jaxpr(lambda *fields: score(scores.Connections(*fields)))(*leaf).jaxpr
    gradient = program.invars[1]
    consumed = [x for equation in program.eqns for x in equation.invars] + list(program.outvars)
    return any(gradient is x for x in consumed)


def dense_gradients(rule: Rule, changes: np.ndarray, steps: int) -> float:
    """The share of steps that need the gradient of inactive weights too."""
    times = changes.sum()
    if rule.memory is not None:
        return 1.0 if rule.memory.window is None else min(1.0, times * rule.memory.window / steps)
    if rule.grow is None or not times or not reads_gradient(rule.grow):
        return 0.0
    return times / steps


def latent_average(plan: Plan, rule: Latent, steps: int) -> dict[str, Any]:
    """Mean sparsity over all steps by leaf path, of weights that follow from latent ones."""
    edges = [0, *(min(s, steps) for s in rule.stages), steps]
    turns = np.array([0.0, *np.diff(edges)])
    hard = 1.0
    if rule.softness is not None:
        hard = float(np.mean(np.asarray(rule.softness(np.arange(steps))) <= 0))
    return {path: hard * s for path, s in average(plan, turns).items()}


def reached(plan: Plan, rule: Latent) -> dict[str, float]:
    """Sparsity of the weight gradients of a latent-weight method, by leaf path."""
    if rule.wide is None:
        return {}
    return sparsity_at_end(make(plan.leaves, rule.table_rule(rule.wide)))


def occupation(plan: Plan, rule: Rule, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """How many steps are taken with each row of the table of counts, the initial one first; and
    how many topology steps start from it."""
    rows = 1 + max((len(x.counts) for x in plan.sparse.values()), default=0)
    turns, changes = np.zeros(rows), np.zeros(rows)
    cadence, row, start = rule.cadence, 0, 0
    if cadence is not None:
        last = min(cadence.last, steps - 1)
        times = [] if last < cadence.first else list(range(cadence.first, last + 1, cadence.every))
        if times and last == cadence.last != times[-1]:
            times.append(last)
        for count in times:  # the step at this count still uses the masks before
            turns[row] += count + 1 - start
            changes[row] += 1
            row, start = min(row + 1, rows - 1), count + 1
    turns[row] += steps - start
    return turns, changes


def average(plan: Plan, weights: np.ndarray) -> dict[str, float]:
    """Sparsity by leaf path, averaged over rows of the table of counts."""
    found = {}
    for path, leaf in plan.sparse.items():
        active = _active(leaf)
        # Tables without change have one row however many topology steps there are.
        active = np.concatenate([active, np.full(len(weights) - len(active), active[-1])])
        found[path] = 1 - float(weights @ active / weights.sum()) / leaf.leaf.size
    return found


def _active(leaf: LeafPlan) -> np.ndarray:
    """Active weights at the start and after each topology step of the table."""
    counts = [leaf.initial, *leaf.counts[:, 1]]
    return np.array([int(x.sum(dtype=np.int64)) for x in counts]) * leaf.layout.weights_per_count
