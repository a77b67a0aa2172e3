"""Keeping and checking what must hold: exact zeros, exact counts, no lost topology step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from dst.core import tree
from dst.core.typing import Array, OptState, Params
from dst.engine.masks import active
from dst.engine.state import SparsifyState, by_path, sparse_states


class InvariantError(ValueError):
    """Raised by :func:`check_invariants`; the message lists everything that is wrong."""


def check_invariants(opt_state: OptState, params: Params) -> None:
    """Raises when a sparse run is not what it should be; on the host, between steps.

    Checks that off-mask weights are exactly zero, that masks have as many active weights as the
    state counts and the schedule says, that every scheduled topology step took place, and that no
    score was NaN.

    Args:
      opt_state: state of an optimizer that contains :func:`dst.sparsify`.
      params: the parameters after the last ``apply_updates`` (or ``apply_masks``).

    Raises:
      InvariantError: with one line for each thing that is wrong.
    """
    paths, leaves, _ = tree.flatten(params)
    weights = dict(zip(paths, leaves, strict=True))
    problems: list[str] = []
    for state in sparse_states(opt_state):
        problems += _zeros(state, weights) + _counts(state)
        if by_path(state.masks):  # at sparsity 0 no topology step has anything to do
            problems += _steps(state)
        problems += [
            f"{path}: {int(n)} scores were NaN at the last topology step. Where they leave too few "
            "candidates, connections stay as they were"
            for path, n in by_path(state.topology.unscored).items()
            if int(n)
        ]
    if problems:
        raise InvariantError("\n".join(problems))


def _zeros(state: SparsifyState, weights: dict[str, Array]) -> list[str]:
    problems = []
    for path, mask in by_path(state.masks).items():
        if path not in weights:
            problems.append(f"{path}: has a mask but no parameter")
            continue
        off = jnp.where(active(mask), 0, jnp.abs(weights[path].astype(jnp.float32)))
        worst = float(jnp.max(off, initial=0.0))
        if not np.isfinite(worst):
            problems.append(
                f"{path}: inactive weights are {worst}. Their update -p gives zero for finite "
                "weights only. Find the step at which weights stop being finite, then go on from "
                "a state before it; dst.apply_masks sets inactive weights to zero."
            )
        elif worst != 0:
            problems.append(
                f"{path}: inactive weights of up to {worst:.3g} are not zero. Something rewrites "
                "updates after sparsify: put dst.sparsify outermost (MultiSteps, apply_if_finite "
                "and partition may go around it), or call dst.apply_masks on copies and averages."
            )
    return problems


def _counts(state: SparsifyState) -> list[str]:
    recorded = by_path(jax.device_get(state.active))
    of_schedule = by_path(jax.device_get(state.topology.scheduled))
    problems = []
    for path, mask in by_path(state.masks).items():
        stated, scheduled = np.asarray(recorded[path]), np.asarray(of_schedule[path])
        axes = tuple(range(stated.ndim, mask.ndim))
        counted = np.asarray(active(mask)).sum(axes)
        if (counted != stated).any():
            problems.append(f"{path}: {counted} weights are active, the state counts {stated}")
        if (stated != scheduled).any():
            problems.append(f"{path}: {stated} weights are active, the schedule says {scheduled}")
    return problems


def _steps(state: SparsifyState) -> list[str]:
    hyper, log = jax.device_get((state.hyper, state.topology))
    first, every, last = int(hyper.first), int(hyper.every), int(hyper.last)
    newest = min(int(state.count) - 1, last)
    scheduled = 0
    if newest >= first:
        scheduled = (newest - first) // every + 1
        scheduled += newest == last and (last - first) % every != 0
    if int(log.done) >= scheduled:
        return []
    return [
        f"{scheduled} topology steps were scheduled in {int(state.count)} updates, "
        f"{int(log.done)} took place. Under MultiSteps pass topology=True on the micro-step that "
        "emits the update (or leave it None); elsewhere pass topology=tx.fires(count) with the "
        "number of updates so far as count."
    ]
